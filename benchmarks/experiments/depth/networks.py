"""Networks of any depth, of layers of one width."""

from collections.abc import Callable, Mapping
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.models import Activation


class Residual(nn.Module):
    """``x + body(x)``."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Add what the body makes of x (batch, features)."""
        made: Tensor = x + self.body(x)
        return made


class Structure(NamedTuple):
    """What the hidden layers of a network have besides a linear map and an activation."""

    residual: bool = False
    normalised: bool = False

    def layer(self, width: int, activation: Callable[[], nn.Module]) -> nn.Module:
        """Return a hidden layer from `width` units to as many."""
        norm = [nn.LayerNorm(width)] if self.normalised else []
        body = nn.Sequential(nn.Linear(width, width), *norm, activation())
        return Residual(body) if self.residual else body


STRUCTURES: Mapping[str, Structure] = {
    "plain": Structure(),
    "residual": Structure(residual=True),
    "normalised": Structure(normalised=True),
    "both": Structure(residual=True, normalised=True),
}


def network(
    structure: str,
    depth: int,
    width: int,
    activation: Activation,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    seed: int,
) -> nn.Sequential:
    """Return a network: flat inputs, hidden layers of one width, and a layer of logits.

    The first hidden layer is plain, as it has another number of inputs. Weights are drawn as torch
    does by default, from the seed; torch's random state stays as it was.
    """
    layer = STRUCTURES[structure].layer
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        first = nn.Linear(prod(input_shape), width), activation()
        hidden = [layer(width, activation) for _ in range(depth - 1)]
        return nn.Sequential(nn.Flatten(), *first, *hidden, nn.Linear(width, classes))
