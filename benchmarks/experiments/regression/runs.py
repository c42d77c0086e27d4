"""The runs, what they measure, and the learning rate that a sweep chooses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from time import perf_counter
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from numpy.random import SeedSequence
from sklearn.model_selection import train_test_split
from torch import nn

from baselines import Settings
from benchmarks.data import Split
from benchmarks.experiments.regression.data import DATASETS, split
from benchmarks.experiments.regression.methods import METHODS, regressor
from benchmarks.runs.training import reproducible, train_epoch
from benchmarks.runs.tuning import Edge, edge_of
from benchmarks.storage.provenance import describe
from benchmarks.storage.records import Record

TEST_SHARE = 0.3
VALIDATION_SHARE = 0.15  # of the training split, in a sweep


@dataclass(frozen=True)
class Run:
    """What decides a run; one of a sweep never sees the test split."""

    kind: Literal["sweep", "final"]
    dataset: str
    method: str
    seed: int  # of the split, the weights, the order of the examples, and dropout
    epochs: int
    batch_size: int
    settings: Settings


def splits(run: Run, seed: int) -> tuple[Split, Split]:
    """Return what the run trains on, and what its errors are measured on."""
    inputs, targets = DATASETS[run.dataset]()
    if run.kind == "final":
        return split(inputs, targets, TEST_SHARE, seed)
    inputs, _, targets, _ = train_test_split(
        inputs, targets, test_size=TEST_SHARE, random_state=seed
    )
    return split(inputs, targets, VALIDATION_SHARE, seed)


def train(run: Run, device: torch.device) -> Record:
    """Return the mean squared errors on the split that is not trained on, before and by epoch.

    They end where one is not finite; ``diverged`` tells whether they do.
    """
    started, environment = perf_counter(), describe(device)
    streams = SeedSequence(run.seed).generate_state(4)
    split_seed, model_seed, order_seed, dropout_seed = (int(s) for s in streams)
    training, held_out = splits(run, split_seed)
    training, held_out = training.to(device), held_out.to(device)
    model = regressor(training.inputs.shape[1], model_seed).to(device)
    errors = [error(model, held_out)]
    with reproducible(device, dropout_seed):
        in_all = run.epochs * math.ceil(len(training) / run.batch_size)
        trainer = METHODS[run.method](model, replace(run.settings, total_steps=in_all))
        order = torch.Generator().manual_seed(order_seed)
        while len(errors) <= run.epochs and math.isfinite(errors[-1]):
            train_epoch(trainer, training, run.batch_size, order)
            errors.append(error(model, held_out))
    finite = [e for e in errors if math.isfinite(e)]
    return {
        "errors": finite,
        "diverged": len(finite) < len(errors),
        "seconds": perf_counter() - started,
        "environment": environment,
    }


@torch.no_grad()
def error(model: nn.Module, split: Split) -> float:
    """Return the mean squared error in evaluation mode; the model is left in training mode."""
    model.eval()
    found = float(F.mse_loss(model(split.inputs), split.targets))
    model.train()
    return found


class Choice(NamedTuple):
    """A learning rate; if from a sweep, the best epoch with it, and where the grid ends with it."""

    learning_rate: float
    epoch: int | None = None
    edge: Edge | None = None


def choose(tried: Sequence[Record]) -> Choice:
    """Return the rate with the lowest mean error at the end; one that diverged is the worst.

    Its epoch is that with the lowest mean error, the first of equals; none if the rate diverged.
    """
    curves: dict[float, list[list[float]]] = {}
    for record in tried:
        curve = [math.inf] if record["diverged"] else record["errors"]
        curves.setdefault(record["run"]["settings"]["learning_rate"], []).append(curve)
    best = min(sorted(curves), key=lambda rate: mean(curve[-1] for curve in curves[rate]))
    means = [mean(errors) for errors in zip(*curves[best], strict=False)]
    lowest = min(means)
    epoch = means.index(lowest) if math.isfinite(lowest) else None
    return Choice(best, epoch, edge_of(curves, best))
