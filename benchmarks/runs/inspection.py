"""What is kept of a trained network instead of its weights: histograms, sparsity, decisions."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.data import Split

#: Bins of the weights of a layer, equally wide from minus to plus its largest magnitude.
WEIGHT_BINS = 40
#: Edges of the bins of log10 |feedback|; what lies outside is counted in the first or last one.
DECADES = np.linspace(-16.0, 4.0, 41)
#: A weight is small below this share of its layer's largest magnitude.
SMALL = 0.25
#: Points of the plane in each direction, and how far they go beyond the data, in its widths.
SIDE = 60
MARGIN = 0.05


@dataclass(frozen=True)
class Layer:
    """The weights of one layer, and what the last step moved them by.

    Attributes:
        name: of the parameter in the model.
        size: number of weights n.
        largest: their largest magnitude m.
        weights: counts of weights, in 40 bins from -m to m.
        small: share of weights with a magnitude below m / 4.
        gini: of the magnitudes (:func:`gini`).
        feedback: counts of log10 |p.grad| between the DECADES, where it is not 0, of the last
            training batch after clipping; None for methods that fill no gradients.
        silent: share of the weights whose gradient is 0; None as for `feedback`.
    """

    name: str
    size: int
    largest: float
    weights: tuple[int, ...]
    small: float
    gini: float
    feedback: tuple[int, ...] | None
    silent: float | None


@dataclass(frozen=True)
class Decisions:
    """The classes of 60 x 60 points of the plane that go a little beyond the training data.

    `classes` has a digit for each point, by rows from the lowest y up, from the lowest x on.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    classes: str


@dataclass(frozen=True)
class Inspection:
    """A network after its training; `decisions` if its inputs are points of the plane."""

    layers: tuple[Layer, ...]
    decisions: Decisions | None


def inspect(model: nn.Module, train: Split, classes: int) -> Inspection:
    """Return what is kept of the model, which stays as it is; its weights must be finite.

    Weights are the parameters with two or more dimensions. A plane with more than 10 classes has no
    digits for them, and no decisions.
    """
    plane = train.inputs.shape[1:] == (2,) and classes <= 10
    return Inspection(tuple(_layers(model)), _decisions(model, train.inputs) if plane else None)


def gini(magnitudes: NDArray[np.float64]) -> float:
    """Return how unequal the magnitudes (n,) >= 0 are: 0 if all are equal, 1 - 1/n if one is not 0.

    ``2 sum_i i x_i / (n sum_i x_i) - (n + 1) / n`` with x_1 <= ... <= x_n (Hurley and Rickard 2009,
    arXiv 0811.4706). Weights drawn uniformly around 0 have 1/3.

    >>> gini(np.array([0.0, 0.0, 0.0, 5.0]))
    0.75
    """
    total, n = magnitudes.sum(), len(magnitudes)
    if total == 0:
        return 0.0
    ranks = np.arange(1, n + 1)
    return float(2 * (ranks * np.sort(magnitudes)).sum() / (n * total) - (n + 1) / n)


def _layers(model: nn.Module) -> Iterator[Layer]:
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        weights = _flat(parameter)
        magnitudes = np.abs(weights)
        largest = float(magnitudes.max())
        feedback = None if parameter.grad is None else np.abs(_flat(parameter.grad))
        yield Layer(
            name=name,
            size=len(weights),
            largest=largest,
            weights=_counts(weights, np.linspace(-1, 1, WEIGHT_BINS + 1) * (largest or 1.0)),
            small=float((magnitudes < SMALL * largest).mean()),
            gini=gini(magnitudes),
            feedback=None if feedback is None else _decades(feedback),
            silent=None if feedback is None else float((feedback == 0).mean()),
        )


def _flat(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().flatten().cpu().numpy()


def _counts(values: NDArray[np.float64], edges: NDArray[np.float64]) -> tuple[int, ...]:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return tuple(int(count) for count in counts)


def _decades(magnitudes: NDArray[np.float64]) -> tuple[int, ...]:
    return _counts(np.log10(magnitudes[magnitudes > 0]), DECADES)


@torch.no_grad()
def _decisions(model: nn.Module, points: Tensor) -> Decisions:
    low, high = points.amin(dim=0), points.amax(dim=0)
    beyond = MARGIN * (high - low)
    (x0, y0), (x1, y1) = (low - beyond).tolist(), (high + beyond).tolist()
    rows, columns = torch.linspace(y0, y1, SIDE), torch.linspace(x0, x1, SIDE)
    grid = torch.cartesian_prod(rows, columns).flip(dims=[1])  # x changes fastest
    training = model.training
    model.eval()
    classes = model(grid.to(points)).argmax(dim=1)
    model.train(training)
    return Decisions((x0, x1), (y0, y1), "".join(str(c) for c in classes.tolist()))
