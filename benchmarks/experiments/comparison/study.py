"""The plan of a study: which runs it consists of, and what their results are put together to."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch

from baselines import METHODS, BasicSettings, Settings, Spiking
from baselines.methods import refusal, remark
from baselines.registry import blaming, pick
from baselines.stored_options import SettingsByMethod
from baselines.trainer import DescentTrainer, GradientSettings
from benchmarks.costs.step import Cost
from benchmarks.costs.workloads import SETTINGS, Measurement, Workload
from benchmarks.data import DATASETS, Dataset
from benchmarks.models import ACTIVATIONS, MODELS, network
from benchmarks.runs.run import Convolutions, Run
from benchmarks.runs.store import Stored
from benchmarks.runs.training import dataset
from benchmarks.runs.tuning import FIRST_SWEEP_SEED, Choice, grid, sampled
from benchmarks.storage.provenance import processor

COST_REPEATS = 50
#: The columns of :class:`baselines.Spiking`, whose `steps` are others than those of the training.
SPIKING = {{"steps": "time_steps"}.get(f.name, f.name): f.name for f in fields(Spiking)}


class Cell(NamedTuple):
    """One line of the table."""

    activation: str
    method: str

    @property
    def refusal(self) -> str | None:
        """Why the method does not go with the activation; None if it does."""
        return refusal(self.method, ACTIVATIONS[self.activation])

    @property
    def remark(self) -> str:
        """What is special about its numbers, if they go together."""
        return remark(self.method, ACTIVATIONS[self.activation])


@dataclass(frozen=True)
class Study:
    """Methods x activations x seeds on one data set.

    Attributes:
        settings: of the runs of each method, but for what a sweep chooses.
        spiking: of the networks with an activation that spikes.
        rates: the learning rates of the sweep, if it is over a grid.
        fixed_rates: of methods that have no sweep.
        budgets: seconds of training of methods that are to end by time; `epochs` still is the most.
        trials: how many points of each method's own space the sweep tries; None for the grid.
        searched: the options of each method that such a sweep tries values of, if there are any.
        finalists: how many of the best trials of a cell are made with as many seeds as are
            reported, before one is chosen; None if the first seeds decide.
        search: the number of the search: each has trials and seeds of its own.
    """

    dataset: str
    model: str
    methods: tuple[str, ...]
    activations: tuple[str, ...]
    seeds: int
    epochs: int
    batch_size: int
    settings: SettingsByMethod
    spiking: Spiking
    rates: tuple[float, ...]
    fixed_rates: dict[str, float]
    sweep_epochs: int
    sweep_seeds: int
    budgets: dict[str, float]
    trials: int | None = None
    searched: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    convolutions: Convolutions = "float32"
    finalists: int | None = None
    search: int = 0

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
        for method, budget in self.budgets.items():
            pick("seconds", method, dict.fromkeys(self.methods))
            if not 0 < budget < math.inf:
                raise ValueError(f"seconds: {budget} for {method}; allowed: finite, above 0")
        for field in ("seeds", "epochs", "batch_size", "sweep_epochs", "sweep_seeds"):
            if (number := getattr(self, field)) < 1:
                raise ValueError(f"{field}: {number} is too small; allowed: 1 and above")
        if len(set(self.rates)) < len(self.rates) or not (self.rates or self.trials):
            raise ValueError(f"learning_rates: {self.rates} must hold each rate once, at least one")
        self._check_settings()
        if not self.trained:
            reasons = "; ".join(f"{c.method} with {c.activation}: {c.refusal}" for c in self.cells)
            raise ValueError(f"methods: none goes with the activations ({reasons})")

    def _check_settings(self) -> None:
        """Raise `ValueError` for rates or settings that a run could not have."""
        for method in self.methods:
            settings = pick("settings", method, self.settings)
            if getattr(settings, "clip_norm", None) == math.inf:
                raise ValueError("clip_norm: inf; allowed: above 0, or 0 for no clipping")
            for rate in (*self.rates, *self.fixed_rates.values()):
                replace(settings, learning_rate=rate)

    @property
    def cells(self) -> list[Cell]:
        """The lines of the table, methods and activations each in the order of their registry."""
        return [
            Cell(activation, method)
            for activation in ACTIVATIONS
            for method in METHODS
            if activation in self.activations and method in self.methods
        ]

    @property
    def trained(self) -> list[Cell]:
        """The lines of the table with runs: those whose method goes with the activation."""
        return [cell for cell in self.cells if not cell.refusal]

    def tried(self, method: str) -> Sequence[BasicSettings]:
        """Return the options of a method that a sweep tries; none if there is nothing to choose."""
        if method in self.fixed_rates:
            return []
        if self.trials is None:
            fixed = METHODS[method].learning_rate is not None
            return [] if fixed else grid(self.settings[method], self.rates)
        names = self.searched[method]
        return sampled(self.given(method), names, self.trials, self.search) if names else []

    def given(self, method: str) -> BasicSettings:
        """Return the options of a method, with its rate if that is not for a sweep to choose."""
        rate = self.fixed_rate(method)
        own = self.settings[method]
        return own if rate is None else replace(own, learning_rate=rate)

    def sweep(self, cell: Cell) -> list[Run]:
        """Return the runs that decide the cell's options; none if there is nothing to choose."""
        return [
            run
            for settings in self.tried(cell.method)
            for run in self.trial(cell, settings, self.sweep_seeds)
        ]

    def trial(self, cell: Cell, settings: BasicSettings, seeds: int) -> list[Run]:
        """Return the runs that try the options with the first of the sweep's seeds."""
        first = FIRST_SWEEP_SEED + self.search * max(self.seeds, self.sweep_seeds)
        return [
            self._run(cell, "sweep", seed, self.sweep_epochs, settings)
            for seed in range(first, first + seeds)
        ]

    def final(self, cell: Cell, settings: BasicSettings) -> list[Run]:
        """Return the reported runs of the cell."""
        first = self.search * self.seeds
        return [
            self._run(cell, "final", seed, self.epochs, settings)
            for seed in range(first, first + self.seeds)
        ]

    def fixed_rate(self, method: str) -> float | None:
        """Return the learning rate that is not for a sweep to choose, if there is one."""
        return self.fixed_rates.get(method, METHODS[method].learning_rate)

    def spiking_of(self, activation: str) -> Spiking | None:
        """Return what sets up the neurons of a network, if it has any."""
        return self.spiking if ACTIVATIONS[activation].spiking else None

    def _run(
        self,
        cell: Cell,
        kind: Literal["final", "sweep"],
        seed: int,
        epochs: int,
        settings: BasicSettings,
    ) -> Run:
        return Run(
            kind=kind,
            dataset=self.dataset,
            model=self.model,
            method=cell.method,
            activation=cell.activation,
            seed=seed,
            epochs=epochs,
            batch_size=METHODS[cell.method].batch_size or self.batch_size,
            settings=settings,
            spiking=self.spiking_of(cell.activation),
            budget=self.budgets.get(cell.method),
            convolutions=self.convolutions,
        )

    @property
    def optimized(self) -> dict[str, list[str]]:
        """The methods that fill ``p.grad``, by the name of the optimiser that steps on it."""
        found: dict[str, list[str]] = {}
        for method in self.methods:
            settings = self.settings[method]
            if isinstance(settings, Settings) and issubclass(METHODS[method], DescentTrainer):
                found.setdefault(settings.optimizer, []).append(method)
        return found

    @property
    def runs(self) -> int:
        """The number of runs."""
        more = max(self.seeds - self.sweep_seeds, 0)
        return sum(
            len(self.tried(cell.method)) * self.sweep_seeds
            + more * self.finalists_of(cell)
            + self.seeds
            for cell in self.trained
        )

    def finalists_of(self, cell: Cell) -> int:
        """Return how many of the cell's trials are made with more seeds."""
        return min(self.finalists or 0, len(self.tried(cell.method)))

    @property
    def size(self) -> int:
        """The number of runs, and of activations whose costs are measured."""
        return self.runs + len({cell.activation for cell in self.trained})


@dataclass(frozen=True)
class Outcome:
    """Everything that a study measured, in the order of its cells, without the refused ones.

    `environments` has one for every result and every measurement of costs.
    """

    study: Study
    results: list[Stored]
    choices: dict[Cell, Choice]
    costs: dict[Cell, Cost]
    environments: list[dict[str, Any]]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row for each run, sweeps included; accuracies are in [0, 1]."""
        return pd.DataFrame([_row(stored, self.choices) for stored in self.results])


def _row(stored: Stored, choices: Mapping[Cell, Choice]) -> dict[str, Any]:
    result, run = stored.result, asdict(stored.result.run)
    settings, spiking = run.pop("settings"), run.pop("spiking") or {}
    choice = choices.get(Cell(run["activation"], run["method"]))
    divergence = result.divergence
    return {
        "id": result.run.id,
        **run,
        **settings,
        **{column: spiking.get(field) for column, field in SPIKING.items()},
        "chosen_learning_rate": choice.learning_rate if choice else None,
        "train_loss": result.train_loss,
        "validation_accuracy": result.validation,
        "test_accuracy": result.test,
        "feedback_norm_max": result.feedback_norm_max,
        "overflowed": result.overflowed,
        "diverged": divergence is not None,
        "diverged_step": divergence.step if divergence else None,
        "diverged_reason": divergence.reason if divergence else None,
        "steps": result.steps,
        "seconds": result.seconds,
        "spikes": result.spikes,
        "commit": stored.environment["commit"],
        "processor": stored.environment["processor"],
    }


def check(study: Study) -> None:
    """Fetch the data; check that the model takes its inputs, and that the methods take the model.

    Raises:
        ValueError: it does not.
        DataError: the data cannot be had.
    """
    data = dataset(study.dataset, 0, "cpu")
    for cell in study.trained:
        method = METHODS[cell.method]
        try:
            model = network(
                cell.method,
                study.model,
                activation=cell.activation,
                input_shape=data.input_shape,
                classes=data.classes,
                seed=0,
                spiking=study.spiking,
                settings=study.settings[cell.method],
            )
        except ValueError as error:
            what = (
                f"model: {study.model!r}" if method.network is None else f"methods: {method.name!r}"
            )
            raise ValueError(f"{what} does not go with {study.dataset}: {error}") from None
        if issubclass(method, DescentTrainer):  # others may take long to set up
            try:
                with blaming(METHODS.plug_in(cell.method), passing=(ValueError,)):
                    method(model, replace(study.settings[cell.method], total_steps=1))
            except ValueError as error:
                told = f"methods: {method.name!r} does not go with {study.model}: {error}"
                raise ValueError(told) from None


def measurements(study: Study, device: torch.device) -> list[Measurement]:
    """Return what costs of the study are measured, an activation at a time."""
    data = dataset(study.dataset, 0, "cpu")
    activations = dict.fromkeys(cell.activation for cell in study.trained)
    return [_measurement(study, activation, data, device) for activation in activations]


def _at_rest(settings: BasicSettings) -> BasicSettings:
    """Return options at a rate so small that the weights stay; the work of a step is the same."""
    if isinstance(settings, GradientSettings):
        settings = replace(settings, schedule="constant")
    return replace(settings, learning_rate=SETTINGS.learning_rate)


def _measurement(study: Study, activation: str, data: Dataset, device: torch.device) -> Measurement:
    """Return how the costs of the study's methods with one activation are measured."""
    methods = tuple(cell.method for cell in study.trained if cell.activation == activation)
    return Measurement(
        workload=Workload(
            model=study.model,
            activation=activation,
            input_shape=data.input_shape,
            classes=data.classes,
            batch_size=study.batch_size,
            spiking=study.spiking_of(activation),
        ),
        methods=methods,
        repeats=COST_REPEATS,
        settings={method: _at_rest(study.settings[method]) for method in methods},
        processor=processor(device),
        threads=torch.get_num_threads(),
    )
