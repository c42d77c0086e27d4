"""How many of its weights a trained network can lose.

The weights of linear and convolutional layers (not the biases) are ranked once, on the trained
network, over all layers together or layer by layer. Growing parts of the ranking are set to 0, and
the accuracy is measured each time, without any training in between. A batch normalisation becomes a
part of the layer in front of it first, as it would scale what is left. Weights are ranked by

* magnitude, ``|w_ij|``, or
* relevance, what the weight hands down over the training set in total,

  ``R_ij = | sum_n  a_i w_ij / (z_j + eps s(z_j)) r_j |``,

  where rewards r begin at the logits o with ``r_c = o_c`` for the true class and 0 for the others.
  With that reward the shares of LFP-epsilon are the relevances of Layer-wise Relevance Propagation
  (LRP-epsilon), by which the paper prunes (arXiv 2308.12053, section 3.3).

Also measured is what pruning by magnitude relies on: that it tells what is lost without a weight.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

import lfp_core as lfp
from benchmarks.analysis.importance import effects, spearman, weights_of
from benchmarks.data import Split
from benchmarks.runs.training import accuracy

Scope = Literal["global", "layer"]
Weights = Mapping[str, Tensor]  # by the name of the layer
Scores = Mapping[str, Tensor]  # one for each weight: the lowest go first

RELEVANCE_BATCH = 500  # a backward pass needs more memory than an evaluation


def merged(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose normalisations are part of the layers before them.

    It computes the same function. A batch normalisation that does not directly follow a linear or
    convolutional layer stays.
    """
    model = copy.deepcopy(model).eval()
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        return model
    return fuse(model)


# --- which weights go -----------------------------------------------------------------------------


def magnitude(weights: Weights) -> dict[str, Tensor]:
    """Return |w| of every weight."""
    return {name: weight.detach().abs() for name, weight in weights.items()}


def relevance(model: nn.Module, split: Split, epsilon: float) -> dict[str, Tensor]:
    """Return the relevance R (see the module) of every weight over a split, in evaluation mode.

    The feedback that the engine adds up in ``p.grad`` is ``-|w_ij| a_i / (z_j + eps s(z_j)) r_j``.
    A weight has the same sign for every sample, so the magnitudes of the two sums are the same.
    """
    model.zero_grad(set_to_none=True)
    for inputs, targets in _batches(split, RELEVANCE_BATCH):
        with lfp.feedback(epsilon):
            logits = model(inputs)
        true = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
        lfp.backward(logits, logits.detach() * true)
    found = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.abs()
        for name, weight in weights_of(model).items()
    }
    model.zero_grad(set_to_none=True)
    return found


def pruned(scores: Scores, share: float, scope: Scope) -> dict[str, Tensor]:
    """Return a mask for each layer, true where the weight goes.

    Of n weights, all together or of a layer, the round(share * n) lowest go; of equals the first
    in the order of the layers. So what goes at a share also goes at every larger one.

    Raises:
        ValueError: the share does not lie in [0, 1], or a score is not a number.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share}; allowed: 0 to 1")
    for name, score in scores.items():
        if score.isnan().any():
            raise ValueError(f"scores: {name} has one that is not a number")
    flat = {name: score.flatten() for name, score in scores.items()}
    if scope == "layer":
        return {name: _lowest(flat[name], share).view_as(score) for name, score in scores.items()}
    together = _lowest(torch.cat(list(flat.values())), share)
    parts = together.split([score.numel() for score in scores.values()])
    return {
        name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def _lowest(scores: Tensor, share: float) -> Tensor:
    """Return a mask of the round(share * n) lowest of scores (n,)."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[scores.argsort(stable=True)[: round(share * len(scores))]] = True
    return mask


@contextmanager
def without(weights: Weights, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Set the weights to 0 where the mask is true, and give them back their values afterwards."""
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].masked_fill_(mask, 0)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])


def curve(
    model: nn.Module, scores: Scores, scope: Scope, shares: Sequence[float], split: Split
) -> list[float]:
    """Return the accuracy in [0, 1] without each share of the weights, which then are restored."""
    weights, found = weights_of(model), []
    for share in shares:
        with without(weights, pruned(scores, share, scope)):
            found.append(accuracy(model, split))
    return found


# --- whether |w| tells what is lost ---------------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of |w| with what is lost without w, over a sample of weights.

    Attributes:
        loss: with the increase of the mean cross-entropy; None if it is the same for all weights.
        accuracy: with the loss of accuracy, which is coarse: most weights alone cost no example.
    """

    loss: float | None
    accuracy: float | None


def correlation(model: nn.Module, split: Split, sample: int, seed: int) -> Correlation:
    """Remove `sample` weights, drawn evenly from all of the model's, one at a time.

    Returns:
        How the magnitudes go with the effects of the weights
        (:func:`benchmarks.analysis.importance.effects`).
    """
    count = sum(weight.numel() for weight in weights_of(model).values())
    random = torch.Generator().manual_seed(seed)
    found = effects(model, split, torch.randperm(count, generator=random)[:sample].tolist())
    return Correlation(
        spearman(found.magnitude, found.loss), spearman(found.magnitude, found.accuracy)
    )


def _batches(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(split.inputs.split(size), split.targets.split(size), strict=True)
