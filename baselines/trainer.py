"""What every training method is to the benchmark: something that makes one step on one batch."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from baselines.activation import Activation
from baselines.clipping import clip_adaptively
from baselines.options import LogUniform, Named, Search, fields_of, options
from lfp_core.rewards import Reduction

#: What makes an optimiser of (parameters, learning rate, momentum).
OptimizerOf = Callable[[Iterable[Tensor], float, float], Optimizer]


def _sgd(parameters: Iterable[Tensor], learning_rate: float, momentum: float) -> Optimizer:
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)


def _adam(parameters: Iterable[Tensor], learning_rate: float, momentum: float) -> Optimizer:
    return torch.optim.Adam(parameters, lr=learning_rate, betas=(momentum, 0.999))


OPTIMIZERS: Mapping[str, OptimizerOf] = {"sgd": _sgd, "adam": _adam}


S = TypeVar("S", bound="BasicSettings")


@options
class BasicSettings:
    """The options that every method has; a study decides both.

    A method declares those that it has besides in a subclass (:attr:`Trainer.Options`): of
    :class:`Settings` if it descends, of this one if it has a rule of its own.
    """

    learning_rate: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="Step size of the method.")
    ]
    total_steps: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(description="Steps of the whole run, which schedules and fading rates need."),
    ] = None

    #: What a search may try of the options.
    search: ClassVar[Mapping[str, Search]] = {"learning_rate": LogUniform(1e-3, 10)}

    @classmethod
    def of(cls: type[S], settings: "BasicSettings") -> S:
        """Return settings as this class has them; what is not in them has its default."""
        if type(settings) is cls:
            return settings
        shared = fields_of(cls).keys() & fields_of(type(settings)).keys()
        return cls(**{name: getattr(settings, name) for name in shared})


@options
class GradientSettings(BasicSettings):
    """The options of a method that takes SGD's step, with the defaults of the paper on MNIST."""

    momentum: Annotated[
        float, Field(ge=0, lt=1, description="Momentum of SGD, or Adam's first, in [0, 1).")
    ] = 0.9
    clip_norm: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Field(description="Largest 2-norm of p.grad over all parameters."),
    ] = 3.0
    #: The authors' code sums rewards, so their learning rates for LFP are meant for "sum".
    reduction: Annotated[
        Reduction, Field(description="Whether a batch's losses or rewards are averaged or summed.")
    ] = "mean"
    #: "one-cycle": the rate climbs to `learning_rate` for the first 30% of the steps and then falls
    #: to almost 0 (Smith and Topin 2019, as torch has it), while momentum stays constant;
    #: "one-cycle-momentum": besides, momentum falls from 0.95 to 0.85 and climbs again, whatever
    #: `momentum` says, which is torch's default and the authors' setting.
    schedule: Annotated[
        Literal["constant", "one-cycle", "one-cycle-momentum"],
        Field(description="How the learning rate changes."),
    ] = "constant"
    #: Lambda of :func:`baselines.clipping.clip_adaptively`, which comes before `clip_norm`.
    adaptive_clip: Annotated[
        Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
        Field(description="Largest relative change of a unit."),
    ] = None

    #: A limit of 3 clips nothing of LFP's mean over a batch. Its authors clip a sum to 3, which for
    #: a mean over 128 samples is 0.023. Which limit is right is for each method to find.
    search: ClassVar[Mapping[str, Search]] = {
        **BasicSettings.search,
        "clip_norm": LogUniform(0.01, 10),
    }


@options
class Settings(GradientSettings):
    """The options of a method that fills ``p.grad`` and lets an optimiser step on it."""

    optimizer: Annotated[str, Named(OPTIMIZERS), Field(description="What steps on p.grad.")] = "sgd"

    #: No option here, but what benchmarks.asv, which has to be the same for all commits, times
    #: propagation with.
    epsilon: ClassVar[float] = 1e-6


class Step(NamedTuple):
    """What one step tells: scalars on the model's device, detached, so that reading is optional."""

    loss: Tensor  # cross-entropy of the batch before the update, averaged over the batch
    feedback_norm: Tensor  # 2-norm of p.grad over all parameters, before clipping


class Trainer(Protocol):
    """One method training one classifier with logits (batch, classes).

    The contract, tested for every method in ``validation/methods/test_methods.py``: the loss falls
    on a separable problem, frozen parameters stay, dtype and training mode are kept, the same start
    gives the same trajectory, and so does a state that was saved on the way.
    """

    name: ClassVar[str]
    #: What figures call it, if not by its name.
    label: ClassVar[str] = ""
    #: What it can be tuned by: a class that :func:`baselines.options.options` makes.
    Options: ClassVar[type[BasicSettings]] = Settings
    #: Names of the options that a table tells of the method's runs, whatever their values.
    shown: ClassVar[tuple[str, ...]] = ()
    #: What its steps are called in a table, which then tells how many a run has made.
    steps_name: ClassVar[str] = ""
    #: The size of the batches that the method takes, if that is not for the study to choose.
    batch_size: ClassVar[int | None] = None
    #: The learning rate of a method that a sweep over rates makes no sense for. Its other options
    #: are searched where a study asks for a number of trials.
    learning_rate: ClassVar[float | None] = None
    #: Whether it keeps arrays of NumPy, which torch knows nothing of.
    numpy: ClassVar[bool] = False
    #: Makes the method's own network of (input_shape, classes, seed), where it has to have one; the
    #: options come as `settings`, and without them they have their defaults.
    network: ClassVar[Callable[..., nn.Module] | None] = None

    def __init__(self, model: nn.Module, settings: BasicSettings) -> None:
        """Prepare to train the model, in place."""

    @classmethod
    def supports(cls, activation: Activation) -> str | None:
        """Return why the method does not go with an activation, briefly; None if it does."""
        return None

    @classmethod
    def remark(cls, activation: Activation) -> str:
        """Return what is special about its numbers with an activation, briefly."""
        return ""

    def step(self, inputs: Tensor, targets: Tensor) -> Step:
        """Make one update on inputs (batch, ...) with class indices as targets (batch,)."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what the next steps depend on besides the model's state and torch's random one.

        It is of types that `torch.load` reads with `weights_only`, and may share memory with the
        trainer.
        """

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken, from a trainer that was constructed in the same way."""


class NeedsDerivatives(Trainer):
    """A method that backpropagates; a step function leaves it the last layer."""

    @classmethod
    def supports(cls, activation: Activation) -> str | None:
        """Refuse neurons that spike."""
        return "a spike has no derivative" if activation.spiking else None

    @classmethod
    def remark(cls, activation: Activation) -> str:
        """Say that below a step function nothing is learned."""
        return "" if activation.differentiable else "last layer alone"


class DescentTrainer(Trainer):
    """A method that fills ``p.grad`` and lets clipping and an optimiser of torch do the rest."""

    #: Whether :meth:`fill_and_clip` gives the device the same work for every batch of one size, so
    #: that a CUDA graph can repeat it. Each class says it for itself.
    graphable: ClassVar[bool] = False
    #: Whether the size of the gradient does not matter to a step, as where only its signs count:
    #: then the sum of a batch's losses gives the step that their mean gives.
    normalised: ClassVar[bool] = False
    Options: ClassVar[type[Settings]] = Settings

    def __init__(self, model: nn.Module, settings: BasicSettings) -> None:
        """Prepare to optimise the trainable parameters; ValueError without total_steps."""
        self.model = model
        self.settings = own = self.Options.of(settings)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[own.optimizer](self.parameters, own.learning_rate, own.momentum)
        self.schedule = scheduler(self.optimizer, own)

    @abstractmethod
    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Add what the method descends to ``p.grad`` and return the mean cross-entropy (scalar)."""

    def step(self, inputs: Tensor, targets: Tensor) -> Step:
        """Fill the gradients, clip them, and take a step of the optimiser."""
        told = self.fill_and_clip(inputs, targets)
        self.update()
        return told

    def fill_and_clip(self, inputs: Tensor, targets: Tensor) -> Step:
        """Make ``p.grad`` what the next update descends: of this batch alone, and clipped."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.fill_gradients(inputs, targets)
        return Step(loss.detach(), self._clip().detach())

    def objective(self, loss: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch (scalar) as the reduction has it."""
        return loss * len(targets) if self.settings.reduction == "sum" else loss

    def update(self) -> None:
        """Take a step of the optimiser, and of the schedule."""
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser's running means, and how far the schedule is."""
        schedule = None if self.schedule is None else self.schedule.state_dict()
        return {"optimizer": self.optimizer.state_dict(), "schedule": schedule}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Trainer`."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])

    def _clip(self) -> Tensor:
        """Clip ``p.grad`` as the settings say; return its norm (scalar) from before."""
        ratio, limit = self.settings.adaptive_clip, self.settings.clip_norm
        norm = None
        if ratio is not None:
            found = [p.grad for p in self.parameters if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(found)
            clip_adaptively(self.parameters, ratio)
        clipped = torch.nn.utils.clip_grad_norm_(
            self.parameters, float("inf") if limit is None else limit
        )
        return clipped if norm is None else norm


def scheduler(optimizer: Optimizer, settings: Settings) -> LRScheduler | None:
    """Return what changes the learning rate after every step, if anything is to."""
    if settings.schedule == "constant":
        return None
    if settings.total_steps is None:
        raise ValueError(f"total_steps must be given for the schedule {settings.schedule!r}")
    return OneCycleLR(
        optimizer,
        max_lr=settings.learning_rate,
        # One more than the steps, as OneCycleLR counts the rate before the first one too, and two
        # at least, or its phases have no length.
        total_steps=max(settings.total_steps + 1, 2),
        cycle_momentum=settings.schedule == "one-cycle-momentum",
    )


def generator(tag: int) -> torch.Generator:
    """Return a generator that depends on torch's seed alone, for what a method draws once.

    Args:
        tag: of the method, as a model that is drawn from torch's generator has the same seed.
    """
    return torch.Generator().manual_seed(torch.initial_seed() ^ tag)
