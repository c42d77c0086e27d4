"""Layer-wise Feedback Propagation, by default with the softmax reward (#3 of the paper's table).

Spiking networks get the reward of a rate code instead.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

import lfp_core as lfp
from baselines.rewards import REWARDS
from baselines.spiking_network import SpikingNetwork
from baselines.surrogate import rate_loss
from baselines.trainer import DescentTrainer


class LFP(DescentTrainer):
    """LFP-epsilon; see :mod:`lfp_core`."""

    name: ClassVar[str] = "lfp"

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Propagate the reward of the logits, or of the spikes."""
        if isinstance(self.model, SpikingNetwork):
            return self._fill_from_spikes(self.model, inputs, targets)
        with lfp.feedback(self.settings.epsilon):
            logits = self.model(inputs)
        reward_of = REWARDS[self.settings.reward]
        lfp.backward(logits, reward_of(logits, targets, self.settings.reduction))
        with torch.no_grad():
            return F.cross_entropy(logits, targets)

    def _fill_from_spikes(self, model: SpikingNetwork, inputs: Tensor, targets: Tensor) -> Tensor:
        from lfp_core import spiking  # noqa: PLC0415  (snntorch is slow to import)

        options = self.settings
        with spiking.feedback(
            options.epsilon, normaliser=options.normaliser, max_norm=options.max_norm
        ):
            spikes = model.spikes(inputs)
        reward = lfp.rewards.spike_rate(spikes.detach(), targets, options.reduction)
        lfp.backward(spikes, reward)
        with torch.no_grad():
            return rate_loss(spikes, targets)
