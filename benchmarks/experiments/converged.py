"""What experiments have in common whose networks are trained until their loss no longer falls."""

from typing import Annotated

from pydantic import Field

from benchmarks.experiments import comparison
from benchmarks.experiments.comparison.study import Study
from benchmarks.experiments.options import Names, Whole
from benchmarks.models import ACTIVATIONS


class ConvergedOptions(comparison.Options):
    """How networks are trained, as in a comparison, and for how long.

    Attributes:
        patience: training ends when its loss has not fallen for so many epochs; `epochs` then are
            the most (:mod:`benchmarks.runs.convergence`). None: all epochs are made.
        fall: of the training loss that counts, in nats.
    """

    activations: Names = Field(default=["relu"])
    patience: Whole | None = None
    fall: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.001

    def study(self) -> Study:
        """See `comparison.Options`; also refuses spiking networks, and several activations."""
        study = super().study()
        names = study.activations
        if len(names) != 1 or ACTIVATIONS[names[0]].spiking:
            raise ValueError(f"activations: {', '.join(names)}; allowed: one that does not spike")
        # A schedule knows when training is over: before, its lowest rates would not come.
        for settings in study.settings.values():
            schedule = getattr(settings, "schedule", "constant")
            if self.patience is not None and schedule != "constant":
                raise ValueError(f"schedule: {schedule!r}; allowed with patience: 'constant'")
        return study

    @property
    def trained(self) -> str:
        """How long networks are trained, in a sentence."""
        epochs = self.study().epochs
        if self.patience is None:
            return f"Trained for {epochs} epochs, whether they had converged or not."
        return (
            "Trained until converged, by one rule for all methods: the mean training loss of an "
            f"epoch had not fallen by {self.fall:g} for {self.patience} epochs in a row; {epochs} "
            "epochs at most."
        )
