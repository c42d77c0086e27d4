"""The few modules that generated networks need beyond torch's own: wiring, and fixed randomness."""

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """``x + body(x)``."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Add the body's output (of x's shape) to x."""
        return x + self.body(x)


class Concatenation(nn.Module):
    """The outputs of several branches, concatenated along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches' outputs (batch, channels, ...) in dimension 1."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class FixedDropout(nn.Module):
    """Dropout with a given mask of 0 and 1 / (1 - p), in the shape of one sample."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the mask."""
        return x * self.mask
