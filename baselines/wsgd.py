"""Weight-scaled gradient descent, the control that separates LFP's credit assignment from scaling.

By Theorem 1, LFP-0 on a ReLU network is descent on |w| times the gradient. Doing just that, with
plain backpropagation, on every network shows what the multiplication by |w| explains by itself.
"""

from typing import ClassVar

import torch
from torch import Tensor

from baselines.sgd import SGD


class WeightScaledSGD(SGD):
    """Backpropagation, then ``p.grad *= |p|``."""

    name: ClassVar[str] = "wsgd"
    label: ClassVar[str] = "|w|-scaled SGD"
    graphable: ClassVar[bool] = True

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Backpropagate the cross-entropy and scale its gradients."""
        loss = super().fill_gradients(inputs, targets)
        # A step function lets no gradient through, so the layers below it have none to scale.
        with torch.no_grad():
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad *= parameter.abs()
        return loss
