"""What identifies a training run, and what it measures."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationInfo

from baselines import METHODS, Settings, Spiking
from baselines.methods import settings_of
from benchmarks.runs.inspection import Inspection
from benchmarks.storage.provenance import identity
from lfp_core.dead import DeadParameters


def _of_the_method(stored: Any, run: ValidationInfo) -> Settings:
    return settings_of(run.data["method"], stored)


@dataclass(frozen=True)
class Run:
    """Everything that decides what a run measures, given the code and the machine.

    A run of the kind "sweep" serves to choose a learning rate and never sees the test split. How
    far a run gets within a budget of time is for the machine to decide, and its load.
    """

    kind: Literal["final", "sweep"]
    dataset: str
    model: str
    method: str
    activation: str
    seed: int  # of the toy sets' draw, the weights, the order of the batches, and dropout
    epochs: int
    batch_size: int
    settings: Annotated[Settings, BeforeValidator(_of_the_method)]  # of the method's own class
    spiking: Spiking | None = None  # of an activation that spikes
    budget: float | None = None  # seconds of training, after which it ends whatever `epochs` says

    def __post_init__(self) -> None:
        """Hold the settings as the method has them."""
        own = METHODS[self.method].Options.of(self.settings)
        object.__setattr__(self, "settings", own)

    @property
    def id(self) -> str:
        """The name of the run's file."""
        return identity(self)

    @property
    def label(self) -> str:
        """What to call the run while it is made."""
        return f"{self.activation} {self.method}"


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured; None where nothing finite was measured.

    Loss and norms are of the epoch's training steps (only those before a divergence), accuracies,
    in [0, 1], of the model after it. `seconds` are of all training until then, without evaluation;
    results that were stored before they were measured have none.
    """

    train_loss: float | None = None
    feedback_norm_median: float | None = None
    feedback_norm_max: float | None = None
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Divergence:
    """The first step (from 1) after which a run could not go on, and why."""

    step: int
    reason: str


@dataclass(frozen=True)
class Result:
    """What a run measured: `history[e]` after e epochs, so `history[0]` is before training.

    A diverged run ends with the epoch in which it diverged, which has no accuracies. Its network is
    not inspected, nor is that of a sweep.

    `dead_at_start` and `dead_at_end` name the parameters that were 0 then, which LFP and others
    that scale by |w| never change, and those whose `p.grad` was 0 everywhere, for the first batch
    of the training split and the last that was trained on; sweeps have neither.
    """

    run: Run
    history: tuple[Epoch, ...]
    divergence: Divergence | None
    steps: int
    seconds: float  # of training, without evaluation
    spikes: float | None = None  # of a sample of the validation split at the end, on average
    inspection: Inspection | None = None
    dead_at_start: DeadParameters | None = None
    dead_at_end: DeadParameters | None = None

    @property
    def train_loss(self) -> float | None:
        """Mean training loss of the last epoch that has one."""
        return self._last("train_loss")

    @property
    def validation_accuracy(self) -> float | None:
        """Accuracy at the end of the run; of a diverged run, the last one measured."""
        return self._last("validation_accuracy")

    @property
    def test_accuracy(self) -> float | None:
        """As `validation_accuracy`, and None in a sweep."""
        return self._last("test_accuracy")

    @property
    def feedback_norm_max(self) -> float | None:
        """The largest finite feedback norm of all steps."""
        norms = [e.feedback_norm_max for e in self.history if e.feedback_norm_max is not None]
        return max(norms, default=None)

    @property
    def dead(self) -> dict[str, dict[str, Any] | None]:
        """What cannot learn, for studies whose records are not whole results."""
        times = {"dead_at_start": self.dead_at_start, "dead_at_end": self.dead_at_end}
        return {time: None if dead is None else asdict(dead) for time, dead in times.items()}

    def _last(self, field: str) -> float | None:
        values = [getattr(epoch, field) for epoch in self.history]
        return next((value for value in reversed(values) if value is not None), None)
