"""What every training method is to the benchmark: something that makes one step on one batch."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from baselines.clipping import clip_adaptively
from baselines.registry import pick
from baselines.rewards import REWARDS
from lfp_core.rewards import Reduction

#: What makes an optimiser of (parameters, learning rate, momentum).
OptimizerOf = Callable[[Iterable[Tensor], float, float], Optimizer]


def _sgd(parameters: Iterable[Tensor], learning_rate: float, momentum: float) -> Optimizer:
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)


def _adam(parameters: Iterable[Tensor], learning_rate: float, momentum: float) -> Optimizer:
    return torch.optim.Adam(parameters, lr=learning_rate, betas=(momentum, 0.999))


OPTIMIZERS: Mapping[str, OptimizerOf] = {"sgd": _sgd, "adam": _adam}


@dataclass(frozen=True)
class Settings:
    """What a method may be tuned by, with the defaults of the paper's MNIST experiments.

    Attributes:
        optimizer: what steps on ``p.grad``, a name in :data:`OPTIMIZERS`; methods that do not fill
            ``p.grad`` have a rule of their own and ignore it.
        learning_rate: step size of the optimiser.
        momentum: of SGD, in [0, 1); of Adam, the decay of its running mean of ``p.grad``.
        clip_norm: the 2-norm that ``p.grad`` over all parameters is clipped to; None does not clip.
        reduction: "mean" divides losses and rewards by the batch size, "sum" does not; the authors'
            code sums rewards, so their learning rates for LFP are meant for "sum".
        epsilon: stabiliser of LFP's epsilon rule (LFP only).
        schedule: "constant", or "one-cycle": the rate climbs to `learning_rate` for the first 30%
            of the steps and then falls to almost 0 (Smith and Topin 2019, as torch has it; momentum
            stays constant).
        total_steps: how many steps there will be, which "one-cycle" has to know.
        adaptive_clip: lambda of :func:`baselines.clipping.clip_adaptively`, which comes before
            `clip_norm`; None does not clip so.
        normaliser: N_t of a spiking neuron (LFP only), see :mod:`lfp_core.spiking`.
        reward: of LFP's logits, a name in :data:`baselines.rewards.REWARDS` (LFP only; spiking
            networks have the reward of a rate code).
        max_norm: divide the rewards between layers by their largest magnitude (LFP on spiking
            networks only), see :class:`lfp_core.spiking.feedback`.
    """

    learning_rate: float
    momentum: float = 0.9
    clip_norm: float | None = 3.0
    reduction: Reduction = "mean"
    epsilon: float = 1e-6
    schedule: Literal["constant", "one-cycle"] = "constant"
    total_steps: int | None = None
    adaptive_clip: float | None = None
    normaliser: Literal["current", "earlier"] = "current"
    max_norm: bool = False
    reward: str = "softmax"
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        """Raise ValueError for a field out of range, naming it."""
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be finite and > 0, not {self.learning_rate!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), not {self.momentum!r}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be > 0 or None, not {self.clip_norm!r}")
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', not {self.reduction!r}")
        if not 0 <= self.epsilon < float("inf"):
            raise ValueError(f"epsilon must be finite and >= 0, not {self.epsilon!r}")
        if self.schedule not in ("constant", "one-cycle"):
            raise ValueError(f"schedule must be 'constant' or 'one-cycle', not {self.schedule!r}")
        if self.total_steps is not None and self.total_steps < 1:
            raise ValueError(f"total_steps must be >= 1 or None, not {self.total_steps!r}")
        if self.adaptive_clip is not None and not 0 < self.adaptive_clip < float("inf"):
            raise ValueError(
                f"adaptive_clip must be finite and > 0, or None, not {self.adaptive_clip!r}"
            )
        if self.normaliser not in ("current", "earlier"):
            raise ValueError(f"normaliser must be 'current' or 'earlier', not {self.normaliser!r}")
        pick("reward", self.reward, REWARDS)
        pick("optimizer", self.optimizer, OPTIMIZERS)


#: Of methods that need derivatives.
NO_SPIKES: Mapping[str, str] = {"lif": "a spike has no derivative"}
LAST_LAYER: Mapping[str, str] = {"heaviside": "last layer alone"}


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
    #: The size of the batches that the method takes, if that is not for the study to choose.
    batch_size: ClassVar[int | None] = None
    #: The learning rate of a method that a sweep over the study's rates makes no sense for.
    learning_rate: ClassVar[float | None] = None
    #: Whether it keeps arrays of NumPy, which torch knows nothing of.
    numpy: ClassVar[bool] = False
    #: Makes the method's own network of (input_shape, classes, seed), where it has to have one.
    network: ClassVar[Callable[[tuple[int, ...], int, int], nn.Module] | None] = None
    #: Activations (of ``benchmarks.models``) that the method does not go with: why not, briefly.
    refusals: ClassVar[Mapping[str, str]] = {}
    #: What is special about its numbers with an activation, briefly.
    remarks: ClassVar[Mapping[str, str]] = {}

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        """Prepare to train the model, in place."""

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


class DescentTrainer(Trainer):
    """A method that fills ``p.grad`` and lets clipping and an optimiser of torch do the rest."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        """Prepare to optimise the trainable parameters; ValueError without total_steps."""
        self.model = model
        self.settings = settings
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[settings.optimizer](
            self.parameters, settings.learning_rate, settings.momentum
        )
        self.schedule = scheduler(self.optimizer, settings)

    @abstractmethod
    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Add what the method descends to ``p.grad`` and return the mean cross-entropy (scalar)."""

    def step(self, inputs: Tensor, targets: Tensor) -> Step:
        """Fill the gradients, clip them, and take a step of the optimiser."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.fill_gradients(inputs, targets)
        norm = self._clip()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return Step(loss.detach(), norm.detach())

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
        raise ValueError("total_steps must be given for the schedule 'one-cycle'")
    return OneCycleLR(
        optimizer,
        max_lr=settings.learning_rate,
        # One more than the steps, as OneCycleLR counts the rate before the first one too, and two
        # at least, or its phases have no length.
        total_steps=max(settings.total_steps + 1, 2),
        cycle_momentum=False,
    )
