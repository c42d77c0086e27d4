"""Small networks with gates, with units whose f(0) is not 0, or with steps and noise."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from benchmarks.models import CLASSES, MODELS
from benchmarks.models.noise import Noise

Shape = tuple[int, ...]


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


def squeeze_network(input_shape: Shape) -> nn.Module:
    """Return two convolutions with squeeze and excitation, for digits."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), Squeeze(16), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), Squeeze(32), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(32 * 4, 10),
    )


class RowReader(nn.Module):
    """An LSTM that reads images (N, 1, 8, 8) row by row, and a layer on its last output."""

    def __init__(self, input_shape: Shape, hidden: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 10)."""
        outputs, _ = self.lstm(images.squeeze(1))
        logits: Tensor = self.head(outputs[:, -1])
        return logits


def dense_network(
    input_shape: Shape, activation: Callable[[], nn.Module], output: bool = False
) -> nn.Module:
    """Return the study's MLP with other hidden units, which may be those of the outputs as well."""
    layers = nn.Sequential(*MODELS["mlp"].layers(input_shape, CLASSES, activation))
    return layers.append(activation()) if output else layers


def noisy_step() -> nn.Module:
    """Return a step with the noise before it that the authors' notebook has."""
    return nn.Sequential(Noise(0.1), lfp.Heaviside())


@dataclass(frozen=True)
class Network:
    """A network of ten classes.

    Attributes:
        build: makes it for an input shape, with weights from torch's default generator.
        activation: what its hidden units are called.
        digits: whether it takes the images of digits alone.
    """

    build: Callable[[Shape], nn.Module]
    activation: str
    digits: bool = False


def _dense(activation: Callable[[], nn.Module], name: str, *, output: bool = False) -> Network:
    build = partial(dense_network, activation=activation, output=output)
    return Network(build, name)


NETWORKS: Mapping[str, Network] = {
    "squeeze": Network(squeeze_network, "relu", digits=True),
    "lstm": Network(RowReader, "tanh", digits=True),
    "relu": _dense(nn.ReLU, "relu"),
    "tanh": _dense(nn.Tanh, "tanh"),
    "sigmoid": _dense(nn.Sigmoid, "sigmoid"),
    "softplus": _dense(nn.Softplus, "softplus"),
    "hardsigmoid": _dense(nn.Hardsigmoid, "hardsigmoid"),
    "heaviside": _dense(lfp.Heaviside, "heaviside"),
    "heaviside, noise": _dense(noisy_step, "heaviside"),
    "heaviside to the outputs": _dense(lfp.Heaviside, "heaviside", output=True),
    "heaviside to the outputs, noise": _dense(noisy_step, "heaviside", output=True),
}
