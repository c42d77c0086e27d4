"""Small networks with gates, or with units whose f(0) is not 0, for digits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.models import MODELS


class Squeeze(nn.Module):
    """Squeeze and excitation: channels of (N, C, H, W), each times a sigmoid of all their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 2)
        self.excite = nn.Linear(channels // 2, channels)

    def forward(self, images: Tensor) -> Tensor:
        """Weigh the channels."""
        gates = torch.sigmoid(self.excite(F.relu(self.squeeze(images.mean((2, 3))))))
        return images * gates[..., None, None]


def squeeze_network() -> nn.Module:
    """Return two convolutions with squeeze and excitation, for digits."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), Squeeze(16), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), Squeeze(32), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(32 * 4, 10),
    )


class RowReader(nn.Module):
    """An LSTM that reads images (N, 1, 8, 8) row by row, and a layer on its last output."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 10)."""
        outputs, _ = self.lstm(images.squeeze(1))
        logits: Tensor = self.head(outputs[:, -1])
        return logits


def dense_network(activation: Callable[[], nn.Module]) -> nn.Module:
    """Return the study's MLP for digits with other hidden units."""
    return nn.Sequential(*MODELS["mlp"].layers((1, 8, 8), 10, activation))


@dataclass(frozen=True)
class Network:
    """A network for digits.

    Attributes:
        build: makes it, with weights from torch's default generator.
        activation: what its hidden units are called.
    """

    build: Callable[[], nn.Module]
    activation: str


NETWORKS: Mapping[str, Network] = {
    "squeeze": Network(squeeze_network, "relu"),
    "lstm": Network(RowReader, "tanh"),
    "sigmoid": Network(partial(dense_network, nn.Sigmoid), "sigmoid"),
    "softplus": Network(partial(dense_network, nn.Softplus), "softplus"),
    "hardsigmoid": Network(partial(dense_network, nn.Hardsigmoid), "hardsigmoid"),
}
