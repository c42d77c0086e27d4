"""How networks are trained and pruned, as a study file says it."""

from math import ceil
from typing import Annotated

from pydantic import Field

from benchmarks.experiments import comparison
from benchmarks.experiments.comparison.study import Study
from benchmarks.experiments.options import Names, Whole
from benchmarks.models import ACTIVATIONS


class Options(comparison.Options):
    """How networks are trained, as in a comparison, and pruned.

    Attributes:
        step: the shares that are pruned are its multiples below 1, and 0.
        removed: how many weights are removed one at a time, for the correlation.
        examples: of the test split, on which pruned networks are measured; the first ones.
    """

    activations: Names = Field(default=["relu"])
    step: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    removed: Whole = 200
    examples: Whole = 10000

    @property
    def shares(self) -> list[float]:
        """The shares that are pruned, in ascending order."""
        # Up to rounding errors, so that 1 itself is none of them.
        return [round(i * self.step, 9) for i in range(ceil(1 / self.step - 1e-9))]

    def study(self) -> Study:
        """See `comparison.Options`; also refuses spiking networks, and several activations."""
        study = super().study()
        names = study.activations
        if len(names) != 1 or ACTIVATIONS[names[0]].spiking:
            raise ValueError(f"activations: {', '.join(names)}; allowed: one that does not spike")
        return study
