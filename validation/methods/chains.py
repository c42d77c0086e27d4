"""Small chains of layers in float64, for the tests of methods that need one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def network(seed: int) -> nn.Sequential:
    """Return a network of three Linear layers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)
    ).double()


def convolutional(seed: int) -> nn.Sequential:
    """Return a convolution with pooling, and a Linear layer."""
    torch.manual_seed(seed)
    first = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Sigmoid(), nn.MaxPool2d(2))
    return nn.Sequential(first, nn.Flatten(), nn.Linear(12, 3)).double()


def batch(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Return eleven inputs of this shape, and their classes."""
    generator = torch.Generator().manual_seed(100 + seed)
    inputs = torch.randn(11, *shape, generator=generator).double()
    return inputs, torch.randint(3, (11,), generator=generator)


def gradients(model: nn.Module) -> list[Tensor]:
    """Return ``p.grad`` of all parameters, which must have one."""
    found = [p.grad for p in model.parameters()]
    assert all(gradient is not None for gradient in found)
    return [gradient for gradient in found if gradient is not None]


def assert_equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Fail unless the tensors are equal, up to rounding in float64."""
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)
