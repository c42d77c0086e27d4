"""The comparison of methods: accuracy, time and memory of each with each activation."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import torch
from pydantic import Field

from baselines import FAMILIES, METHODS, Spiking
from baselines.registry import pick
from benchmarks.costs.workloads import Measurement
from benchmarks.data import DATASETS
from benchmarks.experiments.base import Experiment, Found, Results
from benchmarks.experiments.comparison.choosing import outcome, plan
from benchmarks.experiments.comparison.sections import sections
from benchmarks.experiments.comparison.study import Study, check, measurements
from benchmarks.experiments.options import (
    MethodOptions,
    Names,
    Seeds,
    TimeSteps,
    Whole,
    by_method,
    chosen,
)
from benchmarks.models import ACTIVATIONS
from benchmarks.rendering.document import Section
from benchmarks.runs.run import Convolutions, Run

#: Trials of each method in a sweep, where a study says nothing.
TRIALS = 16


class Options(MethodOptions):
    """Compare methods by their accuracy with several activations.

    Options of the methods stand beside these, or in `options` (:class:`MethodOptions`).

    Attributes:
        dataset: the name of a data set, as `lfp-bench data` lists them.
        model: the name of a network; null for that of the data set.
        methods: names of methods and of families of methods, or "all".
        activations: names of activations, or "all".
        seeds: how many runs are reported for each method and activation.
        epochs: epochs of a reported run; null for those of the data set.
        batch_size: samples in a batch; null for that of the data set.
        trials: how many points of its own space of options the sweep tries for each method; options
            that are given a value are not tried. Null for 16, or 0 for methods whose learning rate
            is not tuned.
        finalists: how many of the best trials are made with as many seeds as are reported, before
            one is chosen; null if the seeds of the sweep decide.
        learning_rates: learning rates that the sweep tries instead of trials, with the other
            options as they are.
        learning_rate: a learning rate by the name of a method, which then has no sweep.
        sweep_epochs: epochs of a run in the sweep; null for those of the data set.
        sweep_seeds: how many runs the sweep makes for each trial.
        beta: decay of the membrane potential of spiking neurons in a step, in [0, 1].
        time_steps: time steps T of spiking networks.
        encoding: how an input becomes a sequence for spiking networks: "constant", "rate" or
            "latency".
        seconds: a limit on the training time of a run in seconds, by the name of a method.
        convolutions: the precision of convolutions on a GPU.
    """

    dataset: str = "digits"
    model: str | None = None
    methods: Names = Field(default=["lfp", "sgd", "wsgd"])
    activations: Names = "all"
    seeds: Seeds = 3
    epochs: Whole | None = None
    batch_size: Whole | None = None
    trials: Whole | None = None
    finalists: Whole | None = None
    learning_rates: Annotated[list[float], Field(min_length=1)] | None = None
    learning_rate: dict[str, float] = Field(default={})
    sweep_epochs: Whole | None = None
    sweep_seeds: Seeds = 1
    beta: float = Spiking.beta
    time_steps: TimeSteps = Spiking.steps
    encoding: str = Spiking.encoding
    seconds: dict[str, float] = Field(default={})
    convolutions: Convolutions = "float32"

    def study(self) -> Study:
        """Return the study; raises `ValueError` naming a field, its value and what is allowed."""
        if self.trials is not None and self.learning_rates is not None:
            raise ValueError(f"trials: {self.trials}; allowed: not together with learning_rates")
        methods = chosen("methods", self.methods, METHODS, FAMILIES)
        preset = pick("dataset", self.dataset, DATASETS).preset
        return Study(
            dataset=self.dataset,
            model=preset.model if self.model is None else self.model,
            methods=methods,
            activations=chosen("activations", self.activations, ACTIVATIONS),
            seeds=self.seeds,
            epochs=self.epochs or preset.epochs,
            batch_size=self.batch_size or preset.batch_size,
            settings=self.settings_by_method(methods),
            spiking=Spiking(self.beta, self.time_steps, self.encoding),  # type: ignore[arg-type]
            rates=tuple(self.learning_rates or ()),
            fixed_rates=by_method(self.learning_rate),
            budgets=by_method(self.seconds),
            convolutions=self.convolutions,
            finalists=self.finalists,
            sweep_epochs=self.sweep_epochs or preset.sweep_epochs,
            sweep_seeds=self.sweep_seeds,
            trials=None if self.learning_rates else self.trials or TRIALS,
            searched={method: self.searched(method) for method in methods},
        )

    def searched(self, method: str) -> tuple[str, ...]:
        """Return the options of a method that it declares a range for, and that are not given.

        Where it has a learning rate of its own it is searched only if the study says `trials`.
        """
        own = METHODS[method].learning_rate is not None
        if own and self.trials is None:
            return ()
        given = {*(self.model_extra or {}), *by_method(self.options).get(method, {})}
        given |= {"learning_rate"} if own else set()
        return tuple(name for name in METHODS[method].Options.search if name not in given)


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

    def plan(self, options: Options, results: Results) -> Sequence[Run]:
        """See :class:`Experiment`; sweeps come first, and then seed by seed."""
        # So a study that is stopped has something to say of every cell.
        runs = plan(options.study(), results)
        return sorted(runs, key=lambda run: (run.kind == "final", run.seed))

    def measurements(self, options: Options, device: torch.device) -> list[Measurement]:
        """See :class:`Experiment`; of the steps of all methods with each activation."""
        return measurements(options.study(), device)

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`."""
        return sections(outcome(options.study(), found))
