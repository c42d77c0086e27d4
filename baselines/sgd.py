"""Stochastic gradient descent on the cross-entropy: the baseline of all comparisons."""

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from baselines.trainer import LAST_LAYER, NO_SPIKES, DescentTrainer


class SGD(DescentTrainer):
    """Plain backpropagation."""

    name: ClassVar[str] = "sgd"
    refusals: ClassVar[Mapping[str, str]] = NO_SPIKES
    remarks: ClassVar[Mapping[str, str]] = LAST_LAYER

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Backpropagate the cross-entropy."""
        loss = self.loss_of(inputs, targets)
        objective = loss * len(targets) if self.settings.reduction == "sum" else loss
        objective.backward()
        return loss

    def loss_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of a batch (scalar)."""
        return F.cross_entropy(self.model(inputs), targets)
