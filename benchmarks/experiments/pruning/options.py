"""How networks are trained and pruned, as a study file says it."""

from math import ceil
from typing import Annotated

from pydantic import Field

from benchmarks.experiments.converged import ConvergedOptions
from benchmarks.experiments.options import Whole


class Options(ConvergedOptions):
    """Train networks, and remove their weights from the least important on.

    Attributes:
        step: the share of weights that is pruned grows from 0 by this step, up to below 1.
        removed: how many weights are removed one at a time, to correlate their magnitudes with what
            is lost.
        examples: how many of the test examples pruned networks are measured on, from the first on.
    """

    step: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    removed: Whole = 200
    examples: Whole = 10000

    @property
    def shares(self) -> list[float]:
        """The shares that are pruned, in ascending order."""
        # Up to rounding errors, so that 1 itself is none of them.
        return [round(i * self.step, 9) for i in range(ceil(1 / self.step - 1e-9))]
