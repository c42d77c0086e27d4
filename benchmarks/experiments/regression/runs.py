"""The runs, and the learning rate that a sweep chooses."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from numpy.random import SeedSequence
from sklearn.model_selection import train_test_split
from torch import nn

from baselines import Trainer
from benchmarks.data import Dataset, Split
from benchmarks.experiments.regression.data import DATASETS, split
from benchmarks.experiments.regression.methods import METHODS, regressor
from benchmarks.runs.run import Result, Run, Task
from benchmarks.runs.training import train
from benchmarks.runs.tuning import Edge, edge_of
from benchmarks.storage.checkpoint import Checkpoint

TEST_SHARE = 0.3
VALIDATION_SHARE = 0.15  # of the training split, in a sweep
NONE = Split(torch.empty(0), torch.empty(0))


@dataclass(frozen=True, kw_only=True)
class RegressionRun(Run):
    """What decides a run, whose seed is also that of the split."""

    task: ClassVar[Task] = Task("regression", "squared error", "mean squared error")
    methods: ClassVar[Mapping[str, type[Trainer]]] = METHODS


def data_of(run: Run, seed: int) -> Dataset:
    """Return what the run trains on, and the split that its errors are measured on.

    A sweep has a validation split and no test split, a reported run the reverse.
    """
    inputs, targets = DATASETS[run.dataset]()
    if run.kind == "final":
        training, test = split(inputs, targets, TEST_SHARE, seed)
        return Dataset(run.dataset, training, NONE, test, classes=1)
    inputs, _, targets, _ = train_test_split(
        inputs, targets, test_size=TEST_SHARE, random_state=seed
    )
    training, validation = split(inputs, targets, VALIDATION_SHARE, seed)
    return Dataset(run.dataset, training, validation, NONE, classes=1)


def train_regressor(run: Run, device: torch.device, checkpoint: Checkpoint | None = None) -> Result:
    """Return what a run measures: the mean squared error before training and after each epoch."""
    # The first two are of the order of the examples and of dropout.
    _, _, split_seed, model_seed = (int(s) for s in SeedSequence(run.seed).generate_state(4))
    data = data_of(run, split_seed).to(device)
    model = regressor(data.train.inputs.shape[1], model_seed).to(device)
    return train(model, run, data, device, checkpoint, metric=error)


@torch.no_grad()
def error(model: nn.Module, split: Split) -> float:
    """Return the mean squared error in evaluation mode; the model is left in training mode."""
    model.eval()
    found = float(F.mse_loss(model(split.inputs), split.targets))
    model.train()
    return found


def errors(result: Result) -> list[float]:
    """Return the errors of a run before training and after each epoch, while they were finite."""
    split = "test" if result.run.kind == "final" else "validation"
    found = (getattr(epoch, split) for epoch in result.history)
    return [value for value in found if value is not None]


class Choice(NamedTuple):
    """A learning rate; if from a sweep, the best epoch with it, and where the grid ends with it."""

    learning_rate: float
    epoch: int | None = None
    edge: Edge | None = None


def choose(tried: Iterable[Result]) -> Choice:
    """Return the rate with the lowest mean error at the end; one that diverged is the worst.

    Its epoch is that with the lowest mean error, the first of equals; none if the rate diverged.
    """
    curves: dict[float, list[list[float]]] = {}
    for result in tried:
        curve = [math.inf] if result.diverged else errors(result)
        curves.setdefault(result.run.settings.learning_rate, []).append(curve)
    best = min(sorted(curves), key=lambda rate: mean(curve[-1] for curve in curves[rate]))
    means = [mean(at_epoch) for at_epoch in zip(*curves[best], strict=False)]
    lowest = min(means)
    epoch = means.index(lowest) if math.isfinite(lowest) else None
    return Choice(best, epoch, edge_of(curves, best))
