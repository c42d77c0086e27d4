"""What a trained network loses without one of its weights, and whether |w| tells it.

A weight of a linear or convolutional layer (not a bias) is set to 0 alone, and the mean
cross-entropy and the accuracy are measured anew. The authors of LFP take a weight's importance for
the magnitude of the change of accuracy, and correlate it with |w| by Pearson's coefficient.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call, vmap

from benchmarks.data import Split

PRUNED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: Networks that are evaluated at once, each without another weight of one layer,
CHUNK = 32
#: and for how many pairs of network and example.
PAIRS = 4096
#: Decimal places of a change of the loss; further ones are rounding errors.
PLACES = 12


@dataclass(frozen=True)
class Effects:
    """What is lost without each of n weights alone, in float64.

    Attributes:
        layers: (n,) the number of the layer that a weight is of.
        magnitude: (n,) |w|.
        loss: (n,) by how much the mean cross-entropy grows.
        accuracy: (n,) by how much the accuracy in [0, 1] falls.
    """

    layers: Tensor
    magnitude: Tensor
    loss: Tensor
    accuracy: Tensor

    def of(self, chosen: Tensor) -> "Effects":
        """Return those of the weights that a mask (n,) chooses."""
        return Effects(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True)
class Correlations:
    """Of |w| with what is lost without w; None where one of the two is constant.

    Attributes:
        pearson_accuracy: Pearson's coefficient, with the magnitude of the change of accuracy: the
            authors' metric.
        spearman_accuracy: Spearman's, with the same.
        spearman_loss: Spearman's, with the increase of the loss.
    """

    pearson_accuracy: float | None
    spearman_accuracy: float | None
    spearman_loss: float | None


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of linear and convolutional layers, by the name of their layer."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, PRUNED)}
    return {name: layer.weight for name, layer in layers.items()}


def effects(model: nn.Module, split: Split, drawn: Sequence[int] | None = None) -> Effects:
    """Return what is lost without each of some weights, or of all, alone.

    What lies before a weight's layer is computed once for many weights.

    Args:
        model: stays as it is.
        split: on which losses are measured.
        drawn: numbers of weights, if all layers were one after the other; None for all.
    """
    exact = copy.deepcopy(model).eval().double().requires_grad_(False)
    split, parts, start = Split(split.inputs.double(), split.targets), [], 0
    for number, (layer, weight) in enumerate(weights_of(exact).items()):
        flat = weight.flatten()
        places = torch.arange(len(flat)) if drawn is None else _within(drawn, start, len(flat))
        start += len(flat)
        name = f"{layer}.weight"
        loss, share = _measured(exact, name, weight[None], split)
        for some in filter(len, places.split(CHUNK)):
            removed = flat.repeat(len(some), 1)
            removed[torch.arange(len(some)), some] = 0
            losses, shares = _measured(exact, name, removed.view(-1, *weight.shape), split)
            grown = (losses - loss).round(decimals=PLACES)
            parts.append((torch.full_like(some, number), flat[some].abs(), grown, share - shares))
    return Effects(*(torch.cat(of_parts) for of_parts in zip(*parts, strict=True)))


def _within(drawn: Sequence[int], start: int, size: int) -> Tensor:
    """Return the places in a layer of those weights that are of it."""
    numbers = torch.tensor(drawn)
    return numbers[(numbers >= start) & (numbers < start + size)] - start


@torch.no_grad()
def _measured(model: nn.Module, name: str, values: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and accuracy (n,) of a model with each of n values of a parameter."""

    def outputs(value: Tensor, inputs: Tensor) -> Tensor:
        logits: Tensor = functional_call(model, {name: value}, (inputs,))
        return logits

    loss = torch.zeros(len(values), dtype=torch.float64)
    right = torch.zeros_like(loss)
    size = max(PAIRS // max(len(values), 1), 1)
    for inputs, targets in zip(split.inputs.split(size), split.targets.split(size), strict=True):
        logits = vmap(outputs, in_dims=(0, None))(values, inputs)
        wanted = targets.expand(logits.shape[:-1])
        loss += F.cross_entropy(logits.movedim(-1, 1), wanted, reduction="none").sum(dim=1)
        right += (logits.argmax(dim=-1) == wanted).sum(dim=1)
    return loss / len(split), right / len(split)


def correlations(found: Effects) -> Correlations:
    """Return how |w| correlates with the accuracy and the loss that removing w changes."""
    change = found.accuracy.abs()
    return Correlations(
        pearson(found.magnitude, change),
        spearman(found.magnitude, change),
        spearman(found.magnitude, found.loss),
    )


def pearson(one: Tensor, other: Tensor) -> float | None:
    """Return the correlation of two vectors; None where one of the two is constant."""
    if _constant(one) or _constant(other):
        return None
    return float(stats.pearsonr(one.numpy(), other.numpy()).statistic)


def spearman(one: Tensor, other: Tensor) -> float | None:
    """Return the rank correlation of two vectors; None where one of the two is constant."""
    if _constant(one) or _constant(other):
        return None
    return float(stats.spearmanr(one.numpy(), other.numpy()).statistic)


def _constant(values: Tensor) -> bool:
    return len(values.unique()) < 2


def by_rank(found: Effects, bins: int) -> Iterator[float]:
    """Yield the mean |change of accuracy| of weights of equal rank, from the smallest |w| up.

    Args:
        found: of at least as many weights as there are bins.
        bins: parts of the ranking, of equal size up to one weight.
    """
    ranked = found.accuracy.abs()[found.magnitude.argsort(stable=True)]
    for part in ranked.tensor_split(bins):
        yield float(part.mean())
