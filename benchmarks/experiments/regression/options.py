"""What is trained, as a study file says it."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from baselines import Trainer
from benchmarks.experiments.options import MethodOptions, Whole
from benchmarks.experiments.regression.methods import METHODS
from benchmarks.experiments.regression.runs import RegressionRun
from benchmarks.runs.tuning import FIRST_SWEEP_SEED

#: Learning rates that a sweep tries, in steps of about 2.
GRID = [1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2]


class Options(MethodOptions):
    """Train regressions, and compare their errors.

    Attributes:
        dataset: "diabetes" or "california".
        methods: names of methods; by default all that there are here.
        seeds: how many runs are reported for each method.
        epochs: epochs of all runs.
        batch_size: samples in a batch.
        learning_rates: the learning rates that the sweep tries.
        learning_rate: a learning rate by the name of a method, which then has no sweep.
        sweep_seeds: how many runs the sweep makes for each learning rate.
    """

    table: ClassVar[Mapping[str, type[Trainer]]] = METHODS
    defaults: ClassVar[Mapping[str, Any]] = {"reduction": "sum"}

    dataset: str = "diabetes"
    methods: Annotated[list[str], Field(min_length=1)] = Field(default=list(METHODS))
    seeds: Whole = 3
    epochs: Whole = 100
    batch_size: Whole = 128
    learning_rates: Annotated[list[float], Field(min_length=1)] = GRID
    learning_rate: dict[str, float] = Field(default={})
    sweep_seeds: Whole = 2

    def sweep(self, method: str) -> list[RegressionRun]:
        """Return the runs that decide a method's rate; none if it is given."""
        if method in self.learning_rate:
            return []
        return [
            self._run("sweep", method, seed, rate)
            for rate in self.learning_rates
            for seed in range(FIRST_SWEEP_SEED, FIRST_SWEEP_SEED + self.sweep_seeds)
        ]

    def final(self, method: str, rate: float) -> list[RegressionRun]:
        """Return the reported runs of a method."""
        return [self._run("final", method, seed, rate) for seed in range(self.seeds)]

    def _run(
        self, kind: Literal["sweep", "final"], method: str, seed: int, rate: float
    ) -> RegressionRun:
        return RegressionRun(
            kind=kind,
            dataset=self.dataset,
            model="regressor",
            method=method,
            activation="relu",
            seed=seed,
            epochs=self.epochs,
            batch_size=self.batch_size,
            settings=self.settings(method, rate),
        )
