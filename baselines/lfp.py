"""Layer-wise Feedback Propagation with the softmax reward (#3 of the paper's table)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

import lfp_core as lfp
from baselines.trainer import DescentTrainer


class LFP(DescentTrainer):
    """LFP-epsilon; see :mod:`lfp_core`."""

    name: ClassVar[str] = "lfp"

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Propagate the reward of the logits."""
        with lfp.feedback(self.settings.epsilon):
            logits = self.model(inputs)
        lfp.backward(logits, lfp.rewards.softmax(logits, targets, self.settings.reduction))
        with torch.no_grad():
            return F.cross_entropy(logits, targets)
