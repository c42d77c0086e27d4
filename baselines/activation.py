"""What an activation is to methods: what makes it, and whether it spikes or has a derivative."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from baselines.registry import required
from baselines.spiking import Spiking


@dataclass(frozen=True)
class Activation:
    """The hidden units of a network.

    Attributes:
        make: returns a new layer of them; it takes no argument, or the decay beta if they spike.
        spiking: whether they are neurons with a state, whose networks run over time
            (:class:`~baselines.spiking_network.SpikingNetwork`).
        differentiable: whether a gradient passes them; none passes a spike, whatever this says.
        label: what figures call them, if not by their name.
    """

    make: Callable[..., nn.Module]
    spiking: bool = False
    differentiable: bool = True
    label: str = ""

    def __post_init__(self) -> None:
        """Note that what spikes has no derivative."""
        if self.spiking:
            object.__setattr__(self, "differentiable", False)

    def __call__(self, spiking: Spiking | None = None) -> nn.Module:
        """Return a new layer of these units.

        Args:
            spiking: says how neurons decay; None for the defaults of :class:`Spiking`.
        """
        return self.make((spiking or Spiking()).beta) if self.spiking else self.make()


def as_activation(item: Any) -> Activation:
    """Return an activation; a class of modules alone has a derivative, and does not spike."""
    if isinstance(item, Activation):
        return item
    wanted = "an Activation, or a callable without arguments that returns a module"
    return Activation(required(item, wanted, given=callable(item)))
