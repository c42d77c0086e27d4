"""What is trained, as a study file says it."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from baselines import Settings
from benchmarks.experiments.base import STRICT
from benchmarks.experiments.options import Whole, settings_by_method
from benchmarks.experiments.regression.methods import METHODS
from benchmarks.experiments.regression.runs import Run
from benchmarks.runs.tuning import FIRST_SWEEP_SEED
from lfp_core.rewards import Reduction

#: Of learning rates, in steps of about 2.
GRID = [1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2]


class Options(BaseModel):
    """What is trained.

    Attributes:
        dataset: one of :data:`DATASETS`.
        methods: of :data:`METHODS`.
        seeds: reported runs of each method.
        epochs, batch_size: of them.
        momentum, clip_norm, reduction, epsilon: as in :class:`baselines.Settings`.
        learning_rates: the grid of the sweep, whose runs have as many epochs.
        learning_rate: of methods that have no sweep.
        sweep_seeds: of the sweep.
    """

    model_config = STRICT

    dataset: str = "diabetes"
    methods: Annotated[list[str], Field(min_length=1)] = list(METHODS)
    seeds: Whole = 3
    epochs: Whole = 100
    batch_size: Whole = 128
    momentum: float = 0.9
    clip_norm: float = 3.0
    reduction: Reduction = "sum"
    epsilon: float = 1e-6
    learning_rates: Annotated[list[float], Field(min_length=1)] = GRID
    learning_rate: dict[str, float] = {}
    sweep_seeds: Whole = 2

    def settings(self, method: str, rate: float) -> Settings:
        """Return the settings of a run; raises `ValueError` naming a field that is wrong."""
        given = {**vars(self), "learning_rate": rate}
        return settings_by_method({method: METHODS[method]}, given)[method]

    def sweep(self, method: str) -> list[Run]:
        """Return the runs that decide a method's rate; none if it is given."""
        if method in self.learning_rate:
            return []
        return [
            self._run("sweep", method, seed, rate)
            for rate in self.learning_rates
            for seed in range(FIRST_SWEEP_SEED, FIRST_SWEEP_SEED + self.sweep_seeds)
        ]

    def final(self, method: str, rate: float) -> list[Run]:
        """Return the reported runs of a method."""
        return [self._run("final", method, seed, rate) for seed in range(self.seeds)]

    def _run(self, kind: Literal["sweep", "final"], method: str, seed: int, rate: float) -> Run:
        settings = self.settings(method, rate)
        return Run(kind, self.dataset, method, seed, self.epochs, self.batch_size, settings)
