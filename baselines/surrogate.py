"""Backpropagation through spikes with a surrogate derivative (Neftci, Mostafa and Zenke, 2019).

Forward, a spike is a step function. Backward, its derivative is that of the fast sigmoid
s(x) = x / (1 + 25 |x|), as in snntorch. A spiking network is backpropagated through time.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from baselines.activation import Activation
from baselines.sgd import SGD
from baselines.spiking_network import SURROGATE_SLOPE, SpikingNetwork
from lfp_core.functions import heaviside


class Surrogate(SGD):
    """SGD for networks of step functions or of spiking neurons.

    The loss of a spiking network is the cross-entropy of the spikes of a step, averaged over steps:
    ``snntorch.functional.ce_rate_loss``.
    """

    name: ClassVar[str] = "surrogate"
    label: ClassVar[str] = "surrogate gradient"

    @classmethod
    def supports(cls, activation: Activation) -> str | None:
        """Refuse what needs no surrogate."""
        return "has a derivative, so it is sgd" if activation.differentiable else None

    @classmethod
    def remark(cls, activation: Activation) -> str:
        """Tell of nothing: all layers learn."""
        return ""

    def loss_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch (scalar), with derivatives where there are none."""
        if isinstance(self.model, SpikingNetwork):
            return rate_loss(self.model.spikes(inputs), targets)
        with SurrogateDerivative():
            return super().loss_of(inputs, targets)


class SurrogateDerivative(TorchFunctionMode):
    """Context in which :func:`lfp_core.functions.heaviside` has the derivative of s."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation."""
        if func is heaviside:
            (z,) = args
            smooth = z / (1 + SURROGATE_SLOPE * z.abs())
            return heaviside(z) + (smooth - smooth.detach())  # adds a derivative, and 0
        return func(*args, **(kwargs or {}))


def rate_loss(spikes: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy (scalar) of spikes (T, batch, classes) over steps and batch.

    The numbers of ``snntorch.functional.ce_rate_loss``, which loops over the steps, and computes
    in float32 alone.
    """
    return F.cross_entropy(spikes.flatten(0, 1), targets.repeat(len(spikes)))
