"""Exponentiated gradient descent (Kivinen and Warmuth, Information and Computation 132, 1997).

Unnormalised, and for weights of both signs, which they keep: ``w <- w exp(-lr sign(w) g)``. To
first order in the learning rate this is ``w - lr |w| g``, which is LFP-0 on a ReLU network.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines.sgd import SGD
from baselines.trainer import BasicSettings, GradientSettings, NeedsDerivatives, Settings, Step


class ExponentiatedGradient(NeedsDerivatives):
    """Each weight w is multiplied by ``exp(sign(w) d)``, where d is the step of SGD.

    A weight that is 0 stays 0.
    """

    name: ClassVar[str] = "eg"
    label: ClassVar[str] = "exponentiated gradient"
    #: Its authors choose the rate alone; the rest is SGD's.
    Options: ClassVar[type[BasicSettings]] = GradientSettings

    def __init__(self, model: nn.Module, settings: BasicSettings) -> None:
        """Prepare SGD, whatever the settings' optimiser is."""
        self.sgd = SGD(model, Settings.of(GradientSettings.of(settings)))

    def step(self, inputs: Tensor, targets: Tensor) -> Step:
        """Take the step of SGD as the change of ``sign(w) log |w|``."""
        before = [p.detach().clone() for p in self.sgd.parameters]
        step = self.sgd.step(inputs, targets)
        with torch.no_grad():
            for w, parameter in zip(before, self.sgd.parameters, strict=True):
                parameter.sub_(w).mul_(w.sign()).exp_().mul_(w)
        return step

    def state_dict(self) -> dict[str, Any]:
        """Return the state of SGD."""
        return self.sgd.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`~baselines.trainer.Trainer`."""
        self.sgd.load_state_dict(state)
