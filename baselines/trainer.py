"""What every training method is to the benchmark: something that makes one step on one batch."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lfp_core.rewards import Reduction


@dataclass(frozen=True)
class Settings:
    """What a method may be tuned by, with the defaults of the paper's MNIST experiments.

    Attributes:
        learning_rate: step size of SGD on ``p.grad``.
        momentum: of SGD, in [0, 1).
        clip_norm: the 2-norm that ``p.grad`` over all parameters is clipped to; None does not clip.
        reduction: "mean" divides losses and rewards by the batch size, "sum" does not; the authors'
            code sums rewards, so their learning rates for LFP are meant for "sum".
        epsilon: stabiliser of LFP's epsilon rule (LFP only).
    """

    learning_rate: float
    momentum: float = 0.9
    clip_norm: float | None = 3.0
    reduction: Reduction = "mean"
    epsilon: float = 1e-6

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


class Step(NamedTuple):
    """What one step tells: scalars on the model's device, detached, so that reading is optional."""

    loss: Tensor  # cross-entropy of the batch before the update, averaged over the batch
    feedback_norm: Tensor  # 2-norm of p.grad over all parameters, before clipping


class Trainer(Protocol):
    """One method training one classifier with logits (batch, classes).

    The contract, tested for every method in ``validation/test_methods.py``: the loss falls on a
    separable problem, frozen parameters stay, dtype and training mode are kept, and the same start
    gives the same trajectory.
    """

    name: ClassVar[str]

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        """Prepare to train the model, in place."""

    def step(self, inputs: Tensor, targets: Tensor) -> Step:
        """Make one update on inputs (batch, ...) with class indices as targets (batch,)."""


class DescentTrainer(Trainer):
    """A method that fills ``p.grad`` and lets SGD with momentum and clipping do the rest."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        """Prepare SGD on the model's trainable parameters."""
        self.model = model
        self.settings = settings
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            self.parameters, lr=settings.learning_rate, momentum=settings.momentum
        )

    @abstractmethod
    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Add what the method descends to ``p.grad`` and return the mean cross-entropy (scalar)."""

    def step(self, inputs: Tensor, targets: Tensor) -> Step:
        """Fill the gradients, clip them, and take a step of SGD."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.fill_gradients(inputs, targets)
        limit = self.settings.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters, float("inf") if limit is None else limit
        )
        self.optimizer.step()
        return Step(loss.detach(), norm.detach())
