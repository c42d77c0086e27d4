"""The plan of a study (which runs it consists of) and its execution."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import torch

from baselines import METHODS, Settings
from benchmarks.data import DATASETS, Dataset, load
from benchmarks.environment import describe, processor
from benchmarks.models import ACTIVATIONS, MODELS, build
from benchmarks.registry import pick
from benchmarks.runner import Run, execute
from benchmarks.speed import SETTINGS, Cost, Measurement, Workload, measure
from benchmarks.store import Store, Stored, StoredCosts
from benchmarks.sweep import Choice, choose

#: The sweep's seeds start here, so that no reported run was tuned on its own draw or weights.
FIRST_SWEEP_SEED = 1000
COST_REPEATS = 50


class Preset(NamedTuple):
    """What a data set is trained with unless the command says otherwise."""

    model: str
    epochs: int
    sweep_epochs: int
    batch_size: int
    redrawn: bool  # for every seed


PRESETS = {
    "digits": Preset("mlp", epochs=20, sweep_epochs=10, batch_size=64, redrawn=False),
    "blobs": Preset("toy-mlp", epochs=10, sweep_epochs=10, batch_size=128, redrawn=True),
    "circles": Preset("toy-mlp", epochs=10, sweep_epochs=10, batch_size=128, redrawn=True),
    "swirls": Preset("toy-mlp", epochs=15, sweep_epochs=15, batch_size=128, redrawn=True),
    "mnist": Preset("lenet", epochs=5, sweep_epochs=1, batch_size=128, redrawn=False),
    "fashion-mnist": Preset("lenet", epochs=5, sweep_epochs=1, batch_size=128, redrawn=False),
}


class Cell(NamedTuple):
    """One line of the table."""

    activation: str
    method: str


@dataclass(frozen=True)
class Study:
    """Methods x activations x seeds on one data set.

    `rates` are the learning rates of the sweep; `fixed_rates` are of methods that have none.
    """

    dataset: str
    model: str
    methods: tuple[str, ...]
    activations: tuple[str, ...]
    seeds: int
    epochs: int
    batch_size: int
    momentum: float
    clip_norm: float | None
    reduction: Literal["mean", "sum"]
    epsilon: float
    rates: tuple[float, ...]
    fixed_rates: dict[str, float]
    sweep_epochs: int
    sweep_seeds: int

    def __post_init__(self) -> None:
        """Raise `ValueError` naming a field that is wrong, its value and what is allowed."""
        pick("dataset", self.dataset, DATASETS)
        pick("model", self.model, MODELS)
        for field, names, table in (
            ("methods", self.methods, METHODS),
            ("activations", self.activations, ACTIVATIONS),
        ):
            for name in names:
                pick(field, name, table)
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{field}: {names} must not be empty or name one twice")
        for method in self.fixed_rates:
            pick("learning_rate", method, dict.fromkeys(self.methods))
        for field in ("seeds", "epochs", "batch_size", "sweep_epochs", "sweep_seeds"):
            if (number := getattr(self, field)) < 1:
                raise ValueError(f"{field}: {number} is too small; allowed: 1 and above")
        if len(set(self.rates)) < len(self.rates) or not self.rates:
            raise ValueError(f"learning_rates: {self.rates} must hold each rate once, at least one")
        if self.clip_norm == math.inf:
            raise ValueError("clip_norm: inf; allowed: above 0, or 0 for no clipping")
        for rate in (*self.rates, *self.fixed_rates.values()):
            self.settings(rate)

    def settings(self, rate: float) -> Settings:
        """Return the settings of a run with this learning rate."""
        return Settings(rate, self.momentum, self.clip_norm, self.reduction, self.epsilon)

    @property
    def cells(self) -> list[Cell]:
        """The lines of the table, methods and activations each in the order of their registry."""
        return [
            Cell(activation, method)
            for activation in ACTIVATIONS
            for method in METHODS
            if activation in self.activations and method in self.methods
        ]

    def sweep(self, cell: Cell) -> list[Run]:
        """Return the runs that decide the cell's learning rate; none if it is fixed."""
        if cell.method in self.fixed_rates:
            return []
        return [
            self._run(cell, "sweep", seed, self.sweep_epochs, rate)
            for rate in self.rates
            for seed in range(FIRST_SWEEP_SEED, FIRST_SWEEP_SEED + self.sweep_seeds)
        ]

    def final(self, cell: Cell, rate: float) -> list[Run]:
        """Return the reported runs of the cell."""
        return [self._run(cell, "final", seed, self.epochs, rate) for seed in range(self.seeds)]

    def _run(
        self, cell: Cell, kind: Literal["final", "sweep"], seed: int, epochs: int, rate: float
    ) -> Run:
        return Run(
            kind=kind,
            dataset=self.dataset,
            model=self.model,
            method=cell.method,
            activation=cell.activation,
            seed=seed,
            epochs=epochs,
            batch_size=self.batch_size,
            settings=self.settings(rate),
        )

    @property
    def size(self) -> int:
        """The number of runs, and of activations whose costs are measured."""
        runs = sum(len(self.sweep(cell)) + self.seeds for cell in self.cells)
        return runs + len(self.activations)


@dataclass(frozen=True)
class Outcome:
    """Everything that a study measured, in the order of its cells.

    `environments` has one for every result and every measurement of costs.
    """

    study: Study
    results: list[Stored]
    choices: dict[Cell, Choice]
    costs: dict[Cell, Cost]
    environments: list[dict[str, Any]]


def check(study: Study) -> None:
    """Raise `ValueError` if the model does not take the data set's inputs.

    Also fetches the data, so it raises `DataError` if they cannot be had.
    """
    dataset = load(study.dataset)
    try:
        build(
            study.model,
            activation=study.activations[0],
            input_shape=dataset.input_shape,
            classes=dataset.classes,
            seed=0,
        )
    except ValueError as error:
        raise ValueError(
            f"model: {study.model!r} does not go with {study.dataset}: {error}"
        ) from None


def carry_out(
    study: Study, store: Store, device: torch.device, advance: Callable[[str], None]
) -> Outcome:
    """Make the runs that are not stored yet, store each, and return all.

    `advance` is called with a description `study.size` times. Raises `StoreError` if a stored file
    cannot be read.
    """
    environment = describe(device)
    draws = _draws(study, device)

    def result(run: Run) -> Stored:
        stored = store.load(run)
        if stored is None:
            stored = Stored(execute(run, draws(run.seed), device), environment)
            store.save(stored)
        advance(f"{run.activation} {run.method}")
        return stored

    results: list[Stored] = []
    choices: dict[Cell, Choice] = {}
    for cell in study.cells:
        tried = [result(run) for run in study.sweep(cell)]
        fixed = study.fixed_rates.get(cell.method)
        choices[cell] = choose(s.result for s in tried) if fixed is None else Choice(fixed)
        results += tried
        results += [result(run) for run in study.final(cell, choices[cell].learning_rate)]
    costs: dict[Cell, Cost] = {}
    environments = [stored.environment for stored in results]
    for activation in dict.fromkeys(cell.activation for cell in study.cells):
        measurement = _measurement(study, activation, draws(0), device)
        measured = store.load_costs(measurement)
        if measured is None:
            measured = StoredCosts(measure(measurement, device), environment)
            store.save_costs(measurement, measured)
        costs |= {Cell(activation, cost.method): cost for cost in measured.costs}
        environments.append(measured.environment)
        advance(f"{activation} cost")
    return Outcome(study, results, choices, costs, environments)


def _draws(study: Study, device: torch.device) -> Callable[[int], Dataset]:
    """Return a function from a seed to its data on `device`, which loads nothing twice."""

    @cache
    def draw(seed: int) -> Dataset:
        return load(study.dataset, seed=seed).to(device)

    return lambda seed: draw(seed if PRESETS[study.dataset].redrawn else 0)


def _measurement(
    study: Study, activation: str, dataset: Dataset, device: torch.device
) -> Measurement:
    """Return how the costs of the study's methods with one activation are measured."""
    return Measurement(
        workload=Workload(
            model=study.model,
            activation=activation,
            input_shape=dataset.input_shape,
            classes=dataset.classes,
            batch_size=study.batch_size,
        ),
        methods=tuple(method for method in METHODS if method in study.methods),
        repeats=COST_REPEATS,
        settings=study.settings(SETTINGS.learning_rate),
        processor=processor(device),
        threads=torch.get_num_threads(),
    )
