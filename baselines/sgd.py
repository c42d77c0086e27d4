"""Stochastic gradient descent on the cross-entropy: the baseline of all comparisons."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from baselines.trainer import DescentTrainer, NeedsDerivatives


class SGD(DescentTrainer, NeedsDerivatives):
    """Plain backpropagation."""

    name: ClassVar[str] = "sgd"
    label: ClassVar[str] = "SGD"
    graphable: ClassVar[bool] = True

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Backpropagate the cross-entropy."""
        loss = self.loss_of(inputs, targets)
        self.objective(loss, targets).backward()
        return loss

    def loss_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of a batch (scalar)."""
        return F.cross_entropy(self.model(inputs), targets)
