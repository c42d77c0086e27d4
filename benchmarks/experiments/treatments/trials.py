"""The trials of an arm, the choice among them, and what the chosen one reaches."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import SeedSequence
from torch import Tensor, nn

from baselines import LFP, SGD, LFPSettings, Settings
from benchmarks.data import Dataset, load
from benchmarks.experiments.treatments.arms import BATCH, CPU, Options
from benchmarks.experiments.treatments.feedback import fill
from benchmarks.experiments.treatments.networks import Build
from benchmarks.runs.training import accuracy, reproducible, train_epoch
from benchmarks.runs.tuning import FIRST_SWEEP_SEED
from benchmarks.storage.provenance import describe
from benchmarks.storage.records import Record, Records


class Trial(NamedTuple):
    """What is tried; the gradient has no epsilon."""

    rate: float
    epsilon: float | None = None


@dataclass(frozen=True)
class Budget:
    """What every arm has for its choice, and for the runs that are reported."""

    optimizer: str
    rates: tuple[float, ...]
    epsilons: tuple[float, ...]
    sweep_epochs: int
    epochs: int
    sweep_seeds: int = 2
    seeds: int = 5

    def trials(self, options: Options | None) -> list[Trial]:
        """Return rates and epsilons, or as many rates over the same range for the gradient."""
        if options is not None:
            return [Trial(*pair) for pair in product(self.rates, self.epsilons)]
        count = len(self.rates) * len(self.epsilons)
        rates = np.geomspace(min(self.rates), max(self.rates), count)
        return [Trial(float(f"{rate:.3g}")) for rate in rates]


class Treated(LFP):
    """LFP with options of its context."""

    def __init__(self, model: nn.Module, settings: Settings, options: Options) -> None:
        super().__init__(model, settings)
        self.options = options

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Propagate the softmax reward."""
        logits = fill(self.model, inputs, targets, self.options, self.settings.epsilon)
        with torch.no_grad():
            return F.cross_entropy(logits, targets)


class Trained(NamedTuple):
    """A network after its training, and the first epoch (from 1) with what is not finite."""

    model: nn.Module
    diverged: int | None


def train(
    build: Build, options: Options | None, settings: Settings, seed: int, epochs: int, data: Dataset
) -> Trained:
    """Train a network from scratch; a divergence ends it."""
    order_seed, weight_seed = (int(s) for s in SeedSequence(seed).generate_state(2))
    order = torch.Generator().manual_seed(order_seed)
    with reproducible(CPU, weight_seed):
        model = build()
        lfps = options is not None
        trainer = Treated(model, settings, options or {}) if lfps else SGD(model, settings)
        for epoch in range(1, epochs + 1):
            losses, norms = train_epoch(trainer.step, data.train, BATCH, order)
            if not np.isfinite([*losses, *norms]).all():
                return Trained(model, epoch)
    return Trained(model, None)


def study(build: Build, options: Options | None, budget: Budget, data: Dataset) -> Record:
    """Return all trials of an arm, the chosen one, and what it reaches; accuracies in [0, 1]."""

    def runs(trial: Trial, seeds: Iterable[int], epochs: int) -> list[Trained]:
        settings = LFPSettings(trial.rate, epsilon=trial.epsilon or 0.0, optimizer=budget.optimizer)
        return [train(build, options, settings, seed, epochs, data) for seed in seeds]

    sweep_seeds = range(FIRST_SWEEP_SEED, FIRST_SWEEP_SEED + budget.sweep_seeds)
    trials = []
    for trial in budget.trials(options):
        tried = runs(trial, sweep_seeds, budget.sweep_epochs)
        # A diverged run counts 0, whatever it reached before.
        found = [0.0 if run.diverged else accuracy(run.model, data.validation) for run in tried]
        trials.append({**trial._asdict(), "validation": found})
    best = max(trials, key=lambda trial: mean(trial["validation"]))  # the first of equals
    finals = runs(Trial(best["rate"], best["epsilon"]), range(budget.seeds), budget.epochs)
    return {
        "options": options,
        "trials": trials,
        "chosen": best,
        "test_accuracy": [accuracy(run.model, data.test) for run in finals],
        "diverged": [run.diverged for run in finals],
        "environment": describe(CPU),
    }


def train_all(
    records: Records,
    networks: Mapping[str, Build],
    arms: Mapping[str, Options | None],
    budget: Budget,
) -> list[Record]:
    """Return a record for every network and arm; make what is missing."""
    data, found = load("digits"), []
    for name, arm in product(networks, arms):
        description = {"network": name, "arm": arm, "budget": as_json(budget)}
        make = partial(study, networks[name], arms[arm], budget, data)
        found.append(records.get(description, make))
    return found


def as_json(budget: Any) -> dict[str, Any]:
    """Return a dataclass as JSON will have it, so that what is stored is found again."""
    plain = asdict(budget).items()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain}
