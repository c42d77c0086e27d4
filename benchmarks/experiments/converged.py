"""What experiments have in common whose networks are trained until their loss no longer falls."""

from typing import Annotated

from pydantic import Field

from benchmarks.experiments import comparison
from benchmarks.experiments.comparison.study import Study
from benchmarks.experiments.options import Names, Whole
from benchmarks.models import ACTIVATIONS


class ConvergedOptions(comparison.Options):
    """Train as in a comparison, for a number of epochs or until the loss no longer falls.

    Attributes:
        patience: training ends when the loss has not fallen for so many epochs, and after `epochs`
            at the latest. Null: it always takes `epochs`.
        fall: by how much the training loss has to fall, in nats, to count as having fallen.
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
