"""Backpropagation through spikes with a surrogate derivative (Neftci, Mostafa and Zenke, 2019).

Forward, a spike is a step function. Backward, its derivative is that of the fast sigmoid
s(x) = x / (1 + k |x|), as in snntorch, where k is 25. A spiking network is backpropagated through
time.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from baselines.activation import Activation
from baselines.options import LogUniform, Search, options
from baselines.sgd import SGD
from baselines.spiking_network import SURROGATE_SLOPE, SpikingNetwork
from baselines.trainer import BasicSettings, DescentTrainer, Settings
from lfp_core.functions import heaviside


@options
class SurrogateSettings(Settings):
    """The options of surrogate gradients."""

    slope: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="Slope k of the surrogate derivative.")
    ] = SURROGATE_SLOPE
    loss: Annotated[
        Literal["rate", "membrane"],
        Field(description="What the loss of spiking networks is of: spikes, or potentials."),
    ] = "rate"

    search: ClassVar[Mapping[str, Search]] = {**Settings.search, "slope": LogUniform(0.1, 100)}


class TakesSurrogates(DescentTrainer):
    """A method that takes a surrogate derivative of spikes, so that all layers learn."""

    settings: SurrogateSettings

    def __init__(self, model: nn.Module, settings: BasicSettings) -> None:
        """Prepare to train; neurons get the slope, which changes no output of the model."""
        super().__init__(model, settings)
        if isinstance(model, SpikingNetwork):
            model.set_surrogate_slope(self.settings.slope)

    @classmethod
    def remark(cls, activation: Activation) -> str:
        """Return no remark: all layers learn."""
        return ""


class Surrogate(TakesSurrogates, SGD):
    """SGD for networks of step functions or of spiking neurons.

    The loss of a spiking network is the cross-entropy of the spikes of a step, averaged over steps:
    ``snntorch.functional.ce_rate_loss``. Or it is that of the last neurons' membrane potentials, as
    in snntorch's tutorials (Eshraghian et al., 2023, arXiv 2109.12894).
    """

    name: ClassVar[str] = "surrogate"
    label: ClassVar[str] = "surrogate gradient"
    graphable: ClassVar[bool] = True
    Options: ClassVar[type[Settings]] = SurrogateSettings

    @classmethod
    def supports(cls, activation: Activation) -> str | None:
        """Refuse what needs no surrogate."""
        return "has a derivative, so it is sgd" if activation.differentiable else None

    def loss_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch (scalar), with the surrogate derivative for all steps."""
        if isinstance(self.model, SpikingNetwork):
            if self.settings.loss == "membrane":
                return loss_over_time(self.model.membrane_potentials(inputs), targets)
            return loss_over_time(self.model.spikes(inputs), targets)
        with SurrogateDerivative(self.settings.slope):
            return super().loss_of(inputs, targets)


class SurrogateDerivative(TorchFunctionMode):
    """Context in which :func:`lfp_core.functions.heaviside` has the derivative of s.

    Args:
        slope: k.
    """

    def __init__(self, slope: float = SURROGATE_SLOPE) -> None:
        super().__init__()
        self.slope = slope

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
            smooth = z / (1 + self.slope * z.abs())
            return heaviside(z) + (smooth - smooth.detach())  # adds a derivative, and 0
        return func(*args, **(kwargs or {}))


def loss_over_time(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy (scalar) of (T, batch, classes) over steps and batch.

    Of spikes, it has the numbers of ``snntorch.functional.ce_rate_loss``, which loops over the
    steps, and computes in float32 alone.
    """
    return F.cross_entropy(outputs.flatten(0, 1), targets.repeat(len(outputs)))
