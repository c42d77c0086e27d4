"""The comparison of methods: accuracy, time and memory of each with each activation."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from baselines import FAMILIES, METHODS, Spiking
from baselines.registry import pick
from benchmarks.data import DATASETS
from benchmarks.experiments.base import Experiment, Place, Report, Status, rows
from benchmarks.experiments.comparison.report import write_report
from benchmarks.experiments.comparison.study import Study, carry_out, check
from benchmarks.experiments.comparison.summary import lines, notes
from benchmarks.experiments.options import MethodOptions, Names, Seeds, Whole, by_method, chosen
from benchmarks.models import ACTIVATIONS
from benchmarks.runs.store import Store
from benchmarks.storage.provenance import code_version


class Options(MethodOptions):
    """How methods are compared; None leaves a number to the data set's preset.

    Options of the methods stand beside these, or in `options` (:class:`MethodOptions`).

    Attributes:
        dataset, model: names.
        methods, activations: names, or "all"; a family of methods stands for all in it.
        seeds: reported runs of each method and activation.
        epochs, batch_size: of them.
        learning_rates: the grid of the sweep.
        learning_rate: of methods that have no sweep.
        sweep_epochs, sweep_seeds: of the sweep.
        beta, time_steps, encoding: of activations that spike.
        seconds: time budget of a run, by method.
    """

    dataset: str = "digits"
    model: str | None = None
    methods: Names = Field(default=["lfp", "sgd", "wsgd"])
    activations: Names = "all"
    seeds: Seeds = 3
    epochs: Whole | None = None
    batch_size: Whole | None = None
    learning_rates: Annotated[list[float], Field(min_length=1)] = Field(
        default=[0.003, 0.01, 0.03, 0.1, 0.3, 1, 3]
    )
    learning_rate: dict[str, float] = Field(default={})
    sweep_epochs: Whole | None = None
    sweep_seeds: Seeds = 2
    beta: float = Spiking.beta
    time_steps: int = Spiking.steps
    encoding: str = Spiking.encoding
    seconds: dict[str, float] = Field(default={})

    def study(self) -> Study:
        """Return the study; raises `ValueError` naming a field, its value and what is allowed."""
        methods = chosen("methods", self.methods, METHODS, FAMILIES)
        preset = pick("dataset", self.dataset, DATASETS).preset
        return Study(
            dataset=self.dataset,
            model=self.model or preset.model,
            methods=methods,
            activations=chosen("activations", self.activations, ACTIVATIONS),
            seeds=self.seeds,
            epochs=self.epochs or preset.epochs,
            batch_size=self.batch_size or preset.batch_size,
            settings=self.settings_by_method(methods),
            spiking=Spiking(self.beta, self.time_steps, self.encoding),  # type: ignore[arg-type]
            rates=tuple(self.learning_rates),
            fixed_rates=by_method(self.learning_rate),
            budgets=by_method(self.seconds),
            sweep_epochs=self.sweep_epochs or preset.sweep_epochs,
            sweep_seeds=self.sweep_seeds,
        )


class Comparison(Experiment[Options]):
    """Methods x activations x seeds; see :mod:`benchmarks.experiments.comparison.study`."""

    schema = Options

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        return options.study().runs

    def steps(self, options: Options) -> int:
        """See :class:`Experiment`; costs are measured besides the runs."""
        return options.study().size

    def check(self, options: Options) -> None:
        """See :class:`Experiment`."""
        check(options.study())

    def model(self, options: Options) -> str:
        """See :class:`Experiment`."""
        return options.study().model

    def configuration(self, options: Options) -> dict[str, Any]:
        """See :class:`Experiment`; with all that a preset decides."""
        return asdict(options.study())

    def status(self, options: Options, folder: Path) -> Status:
        """See :class:`Experiment`."""
        store = Store(folder)
        stored = [s for s in store.all() if s.environment.get("code") == code_version()]
        diverged = sum(s.result.divergence is not None for s in stored)
        under_way = len(list((folder / "checkpoints").glob("*.pt")))
        return Status(len(stored), diverged, under_way, store.of_other_code())

    def carry_out(self, options: Options, folder: Path, place: Place) -> Report:
        """See :class:`Experiment`."""
        study, store = options.study(), Store(folder)
        outcome = carry_out(study, store, place.device, place.advance, place.executor(folder))
        summary = write_report(store, outcome, place.command)
        return Report(lines(summary), notes(outcome, summary), rows(summary))
