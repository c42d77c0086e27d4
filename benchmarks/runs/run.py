"""What identifies a training run, and what it measures: one record for every kind of experiment."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import ConfigDict, TypeAdapter

from baselines import METHODS, BasicSettings, Spiking, Trainer
from baselines.stored_options import stored_settings
from benchmarks.runs.inspection import Inspection
from benchmarks.storage.fields import STORED, Count, Magnitude, Number
from benchmarks.storage.provenance import identity
from lfp_core.dead import DeadParameters

#: Torch's default is TF32, with ten bits of precision, of which nothing may be left where LFP
#: divides by pre-activations near 0 (docs/gpu.md has the errors).
Convolutions = Literal["float32", "tf32"]


class Task(NamedTuple):
    """What networks are trained for.

    Attributes:
        name: of the kind of run, by which a stored one is read.
        loss: what training lowers.
        metric: what :class:`Epoch` has of the validation and the test split.
    """

    name: str
    loss: str
    metric: str


@dataclass(frozen=True)
class Run:
    """Everything that decides what a run measures, given the code and the machine.

    A run of the kind "sweep" serves to choose a learning rate and never sees the test split. How
    far a run gets within a budget of time is for the machine to decide, and its load.

    An experiment that measures something else than a classifier's accuracy, or that has more to
    say of a run, has a subclass with its own task, and with fields of its own that have to be
    passed by name (``kw_only``).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    task: ClassVar[Task] = Task("classification", "cross-entropy", "accuracy")
    #: The methods that there are for this task.
    methods: ClassVar[Mapping[str, type[Trainer]]] = METHODS

    kind: Literal["final", "sweep"]
    dataset: str
    model: str
    method: str
    activation: str
    seed: Count  # of the toy sets' draw, the weights, the order of the batches, and dropout
    epochs: Count
    batch_size: Count
    settings: BasicSettings  # of the method's own class
    spiking: Spiking | None = None  # of an activation that spikes
    budget: Magnitude | None = None  # seconds of training, which end it whatever `epochs` says
    convolutions: Convolutions = "float32"  # their precision on a GPU; on a CPU it is float32

    def __init_subclass__(cls) -> None:
        """Enter the class under the name of its task, so that its runs can be read."""
        RUNS[cls.task.name] = cls

    def __post_init__(self) -> None:
        """Hold the settings as the method has them."""
        own = self.methods[self.method].Options.of(self.settings)
        object.__setattr__(self, "settings", own)

    @cached_property
    def id(self) -> str:
        """The name of the run's file."""
        return identity({"task": self.task.name, **asdict(self)})

    @property
    def label(self) -> str:
        """What to call the run while it is made."""
        return f"{self.activation} {self.method}"


#: The classes of runs by the names of their tasks.
RUNS: dict[str, type[Run]] = {Run.task.name: Run}


def run_of(task: str, stored: Mapping[str, Any]) -> Run | None:
    """Return the run that JSON describes; None if its method or one of its options is no more.

    Raises:
        KeyError: there is no such task.
        ValueError: a value is not allowed, or something is missing.
    """
    kind, settings = RUNS[task], stored["settings"]
    if stored["method"] not in kind.methods:
        return None
    own = stored_settings(kind.methods[stored["method"]].Options, settings)
    if own is None:
        return None
    reader = _reader(kind)  # type: ignore[arg-type]  # mypy takes a class for unhashable here
    return reader.validate_python({**stored, "settings": own})


@cache
def _reader(kind: type[Run]) -> TypeAdapter[Run]:
    """Return what reads runs of a kind, which takes longer to make than a thousand runs to read."""
    return TypeAdapter(kind)


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured; None where nothing finite was measured.

    Loss and norms are of the epoch's training steps (only those before a divergence), and the norms
    of those where they are finite; `overflowed` counts the others. The task's metric is of the
    model after the epoch, on the validation and the test split: an accuracy lies in [0, 1].
    `seconds` are of all training until then, without evaluation; results that were stored before
    they were measured have none.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    train_loss: Number | None = None
    feedback_norm_median: Magnitude | None = None
    feedback_norm_max: Magnitude | None = None
    validation: Number | None = None
    test: Number | None = None
    seconds: Magnitude | None = None
    overflowed: Count = 0


@dataclass(frozen=True)
class Divergence:
    """The first step (from 1) after which a run could not go on, and why."""

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    step: Count
    reason: str


@dataclass(frozen=True)
class Result:
    """What a run measured: `history[e]` after e epochs, so `history[0]` is before training.

    A diverged run ends with the epoch in which it diverged, which has no metric. Its network is
    not inspected, nor is that of a sweep.

    `dead_at_start` and `dead_at_end` name the parameters that were 0 then, which LFP and others
    that scale by |w| never change, and those whose `p.grad` was 0 everywhere, for the first batch
    of the training split and the last that was trained on; sweeps have neither.

    `details` are what an experiment measures besides, in plain JSON types.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    run: Run
    history: tuple[Epoch, ...]
    divergence: Divergence | None
    steps: Count
    seconds: Magnitude  # of training, without evaluation
    spikes: Magnitude | None = None  # of a sample of the validation split at the end, on average
    inspection: Inspection | None = None
    dead_at_start: DeadParameters | None = None
    dead_at_end: DeadParameters | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def diverged(self) -> bool:
        """Whether the run could not go on."""
        return self.divergence is not None

    @property
    def train_loss(self) -> float | None:
        """Mean training loss of the last epoch that has one."""
        return self._last("train_loss")

    @property
    def validation(self) -> float | None:
        """The metric at the end of the run; of a diverged run, the last one measured."""
        return self._last("validation")

    @property
    def test(self) -> float | None:
        """As `validation`, and None in a sweep."""
        return self._last("test")

    @property
    def feedback_norm_max(self) -> float | None:
        """The largest finite feedback norm of all steps."""
        norms = [e.feedback_norm_max for e in self.history if e.feedback_norm_max is not None]
        return max(norms, default=None)

    @property
    def overflowed(self) -> int:
        """The number of steps whose norm was infinite, and of which clipping left nothing."""
        return sum(epoch.overflowed for epoch in self.history)

    def _last(self, field: str) -> float | None:
        values = [getattr(epoch, field) for epoch in self.history]
        return next((value for value in reversed(values) if value is not None), None)


def check_stored(result: Result) -> None:
    """Refuse a result that no run can have, whatever types its fields have.

    A run that was brought on from a table of an older version has the end of its history alone,
    without a time (:mod:`benchmarks.studies.migration`).

    Raises:
        ValueError: it is one; the message names the field, its value and what is allowed.
    """
    run, history = result.run, result.history
    if run.task.metric == "accuracy":
        for number, epoch in enumerate(history):
            for split in ("validation", "test"):
                value = getattr(epoch, split)
                if value is not None and not 0 <= value <= 1:
                    raise ValueError(
                        f"history.{number}.{split}: {value!r}; allowed: an accuracy in [0, 1]"
                    )
    whole = run.epochs + 1  # as the first is before training
    end_alone = len(history) == 1 and history[0].seconds is None
    may_end = result.diverged or run.budget is not None or getattr(run, "patience", None)
    least = 1 if may_end or end_alone else whole
    if not least <= len(history) <= whole:
        raise ValueError(
            f"history: {len(history)} epochs, of a run of {run.epochs}; allowed: "
            f"{whole if least == whole else f'{least} to {whole}'}, as the first is before training"
        )


def of_methods(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Return the results of each method, in the order in which they come."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.run.method, []).append(result)
    return found
