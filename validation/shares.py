"""What single tensors get of a reward: of the operands of a function, and of a weight in it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp


class Operands(nn.Module):
    """A function of activations of given values: layers of which each has one input, which is 1."""

    def __init__(self, function: Callable[..., Any], values: Sequence[Tensor]) -> None:
        super().__init__()
        self.function = function
        self.shapes = [value.shape for value in values]
        self.weights = nn.ParameterList(torch.ones(value.numel(), 1) for value in values)
        self.biases = nn.ParameterList(value.reshape(-1) - 1 for value in values)

    def forward(self, x: Tensor) -> Any:
        """Return the function of activations with the values, for x (1, 1) of 1."""
        pairs = zip(self.weights, self.biases, self.shapes, strict=True)
        return self.function(*(F.linear(x, w, b).view(shape) for w, b, shape in pairs))


def pushes(
    function: Callable[..., Any],
    *values: Tensor,
    epsilon: float = 0.1,
    reward: Callable[[Tensor], Tensor] = torch.cos,
    **options: Any,
) -> list[Tensor]:
    """Return G of every operand, where its reward is ``(z + eps s(z)) G``."""
    model = Operands(function, values)
    with lfp.feedback(epsilon, **options):
        output = model(torch.ones(1, 1))
    lfp.backward(output, reward(output.detach()))
    return [
        torch.zeros_like(value) if w.grad is None else -w.grad.view(value.shape)
        for w, value in zip(model.weights, values, strict=True)
    ]


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """Return ``z + eps s(z)``."""
    return torch.where(z < 0, z - epsilon, z + epsilon)


def rewards(function: Callable[..., Any], *values: Tensor, **options: Any) -> list[Tensor]:
    """Return the reward of every operand."""
    epsilon = options.setdefault("epsilon", 0.1)
    found = pushes(function, *values, **options)
    return [g * stabilised(v, epsilon) for g, v in zip(found, values, strict=True)]


class Net(nn.Module):
    """A function as a module, which tells the engine what its data are."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: Tensor) -> Any:
        """Apply it."""
        return self.function(*x)


def feedback_to(
    weight: nn.Parameter, function: Callable[..., Tensor], *x: Tensor, **options: Any
) -> Tensor:
    """Return the feedback of a weight, over its magnitude, in a function of data."""
    weight.grad = None
    with lfp.feedback(options.pop("epsilon", 0.1), **options):
        y = Net(function)(*x)
    lfp.backward(y, y.detach().cos())
    assert weight.grad is not None
    return -weight.grad / weight.detach().abs()
