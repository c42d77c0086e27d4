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
#: Adam's rate is about how far each weight goes in a step, and of its own order of magnitude.
ADAM_RATES = LogUniform(1e-5, 0.1)


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

    def space(self) -> Mapping[str, Search]:
        """Return what a search may try of the options, where the others are these."""
        return self.search

    @classmethod
    def of(cls: type[S], settings: "BasicSettings") -> S:
        """Return the options of this class with the values that other settings have of them.

        Args:
            settings: of any method; its options that this class lacks are left out.

        Returns:
            An instance of this class; options that `settings` lacks have their defaults.

        Raises:
            ValueError: a value is not allowed here.
        """
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

    def space(self) -> Mapping[str, Search]:
        """Return what a search may try: Adam has rates of its own."""
        if self.optimizer == "adam":
            return {**self.search, "learning_rate": ADAM_RATES}
        return self.search

    #: No option here, but what benchmarks.asv, which has to be the same for all commits, times
    #: propagation with.
    epsilon: ClassVar[float] = 1e-6


class Step(NamedTuple):
    """What one step tells: detached scalars on the model's device, which nothing has to wait for.

    Attributes:
        loss: cross-entropy of the batch in nats before the update, averaged over the batch.
        feedback_norm: 2-norm of ``p.grad`` over all parameters, before clipping.
    """

    loss: Tensor
    feedback_norm: Tensor


class Trainer(Protocol):
    """One method training one classifier with logits (batch, classes).

    The contract, tested for every method in ``validation/methods/test_methods.py``: the loss falls
    on a separable problem, frozen parameters stay, dtype and training mode are kept, two runs from
    the same seed are the same bit for bit, and so is a run that goes on from a saved state.

    Args:
        model: the classifier, from inputs (batch, ...) to logits (batch, classes); it is trained in
            place.
        settings: values of the options of the method; those of another method are taken over as
            far as they have the same names.
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
        """Return why the method cannot train a network with an activation; None if it can.

        Args:
            activation: of all hidden units of the network.

        Returns:
            A few words, which stand in a table in the place of the numbers, such as "a spike has
            no derivative".
        """
        return None

    @classmethod
    def remark(cls, activation: Activation) -> str:
        """Return what a reader has to know of the method's numbers with an activation.

        Args:
            activation: of all hidden units of the network.

        Returns:
            A few words, which stand beside the numbers in a table; empty if there is nothing.
        """
        return ""

    def step(self, inputs: Tensor, targets: Tensor) -> Step:
        """Make one update of the model on a batch.

        Args:
            inputs: (batch, ...), on the model's device and of its dtype.
            targets: class indices (batch,), int64.

        Returns:
            The loss before the update, and the norm of what the update is made of.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what the next steps depend on besides the model's and torch's random state.

        Returns:
            Values of types that `torch.load` reads with `weights_only`. They may share memory with
            the trainer.
        """

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state, so that the next steps are those that would have followed it.

        Args:
            state: of :meth:`state_dict` of a trainer that was constructed in the same way.
        """


class NeedsDerivatives(Trainer):
    """A method that backpropagates through the activations.

    It refuses neurons that spike. Below a step function, whose derivative is 0, it learns nothing,
    so that only the last layer is trained.
    """

    @classmethod
    def supports(cls, activation: Activation) -> str | None:
        """Refuse neurons that spike."""
        return "a spike has no derivative" if activation.spiking else None

    @classmethod
    def remark(cls, activation: Activation) -> str:
        """Return "last layer alone" for an activation without a derivative, or nothing."""
        return "" if activation.differentiable else "last layer alone"


class DescentTrainer(Trainer):
    """A method that fills ``p.grad`` and lets clipping and an optimiser of torch do the rest.

    A subclass has :meth:`fill_gradients`.

    Args:
        model: the classifier, which is trained in place.
        settings: values of its options, as for :class:`Trainer`.

    Raises:
        ValueError: the schedule needs `total_steps`, and there are none.
    """

    #: Whether :meth:`fill_and_clip` gives the device the same work for every batch of one size, so
    #: that a CUDA graph can repeat it. Each class says it for itself.
    graphable: ClassVar[bool] = False
    #: Whether the size of the gradient does not matter to a step, as where only its signs count:
    #: then the sum of a batch's losses gives the step that their mean gives.
    normalised: ClassVar[bool] = False
    Options: ClassVar[type[Settings]] = Settings

    def __init__(self, model: nn.Module, settings: BasicSettings) -> None:
        """Prepare to optimise the trainable parameters."""
        self.model = model
        self.settings = own = self.Options.of(settings)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[own.optimizer](self.parameters, own.learning_rate, own.momentum)
        self.schedule = scheduler(self.optimizer, own)

    @abstractmethod
    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Add to ``p.grad`` of each trainable parameter what the optimiser is to descend.

        It is for the sum over the batch if ``settings.reduction`` is "sum", and else for the mean.

        Args:
            inputs: (batch, ...).
            targets: class indices (batch,).

        Returns:
            The cross-entropy of the batch in nats, averaged over the batch (scalar).
        """

    def step(self, inputs: Tensor, targets: Tensor) -> Step:
        """Fill the gradients, clip them, and take a step of the optimiser."""
        told = self.fill_and_clip(inputs, targets)
        self.update()
        return told

    def fill_and_clip(self, inputs: Tensor, targets: Tensor) -> Step:
        """Fill ``p.grad`` with what the next update descends: of this batch alone, and clipped.

        Args:
            inputs: (batch, ...).
            targets: class indices (batch,).

        Returns:
            The loss, and the norm from before clipping.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.fill_gradients(inputs, targets)
        return Step(loss.detach(), self._clip().detach())

    def objective(self, loss: Tensor, targets: Tensor) -> Tensor:
        """Return what is to be differentiated: the loss as ``settings.reduction`` has it.

        Args:
            loss: averaged over the batch (scalar).
            targets: class indices (batch,), of which the number counts.

        Returns:
            The mean, or for "sum" the sum over the batch (scalar).
        """
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
