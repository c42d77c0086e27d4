"""How networks are trained and pruned, as a study file says it."""

from math import ceil
from typing import Annotated

from pydantic import Field

from benchmarks.experiments.converged import ConvergedOptions
from benchmarks.experiments.options import Whole


class Options(ConvergedOptions):
    """How networks are trained, and pruned.

    Attributes:
        step: the shares that are pruned are its multiples below 1, and 0.
        removed: how many weights are removed one at a time, for the correlation.
        examples: of the test split, on which pruned networks are measured; the first ones.
    """

    step: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    removed: Whole = 200
    examples: Whole = 10000

    @property
    def shares(self) -> list[float]:
        """The shares that are pruned, in ascending order."""
        # Up to rounding errors, so that 1 itself is none of them.
        return [round(i * self.step, 9) for i in range(ceil(1 / self.step - 1e-9))]
