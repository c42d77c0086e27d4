"""The model, and the methods that train it."""

from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from baselines.lfp import FeedbackSettings
from baselines.sgd import SGD
from baselines.trainer import DescentTrainer, Settings
from baselines.wsgd import WeightScaledSGD


def regressor(features: int, seed: int) -> nn.Sequential:
    """Return the paper's MLP features-256-128-1 with ReLU and dropout: (N, features) to (N,)."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            *(nn.Linear(features, 256), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.5)),
            nn.Linear(128, 1),
            nn.Flatten(start_dim=0),
        )


class CubicLFP(DescentTrainer):
    """LFP with the paper's reward ``r = sign(o) (y - o)^3``."""

    name: ClassVar[str] = "lfp-cubic"
    Options: ClassVar[type[Settings]] = FeedbackSettings
    settings: FeedbackSettings

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Propagate the reward; return the mean squared error."""
        with self.settings.feedback():
            outputs = self.model(inputs)
        lfp.backward(outputs, self.reward(outputs, targets))
        return F.mse_loss(outputs.detach(), targets)

    def reward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the reward (batch,)."""
        return lfp.rewards.cubic_regression(outputs, targets, self.settings.reduction)


class SquaredLFP(CubicLFP):
    """LFP with the reward ``r = -o dL/do`` of the squared error, that is ``2 o (y - o)``."""

    name: ClassVar[str] = "lfp-squared"

    def reward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the reward (batch,)."""
        loss = partial(F.mse_loss, reduction=self.settings.reduction)
        return lfp.rewards.from_loss(loss)(outputs, targets)


class SquaredSGD(SGD):
    """Gradient descent on the squared error."""

    name: ClassVar[str] = "sgd"

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Backpropagate the squared error; return its mean."""
        outputs = self.model(inputs)
        F.mse_loss(outputs, targets, reduction=self.settings.reduction).backward()
        return F.mse_loss(outputs.detach(), targets)


class SquaredWSGD(WeightScaledSGD, SquaredSGD):  # scales what the second one fills in
    """Gradient descent on the squared error, scaled by |w|."""

    name: ClassVar[str] = "wsgd"


METHODS: dict[str, type[DescentTrainer]] = {
    method.name: method for method in (CubicLFP, SquaredLFP, SquaredSGD, SquaredWSGD)
}
