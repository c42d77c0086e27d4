"""A dense and a convolutional network, a batch for each, and a step of LFP on it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import lfp_core as lfp
from validation.compare import relative_error
from validation.networks import Residual

EPSILON = 0.01


def dense(activation: Callable[[], nn.Module] = nn.SiLU, width: int = 8) -> nn.Sequential:
    """Return a dense network (batch, 6) to (batch, 3) in float32, the same every time."""
    torch.manual_seed(0)
    layers = [nn.Linear(6, width), activation(), nn.LayerNorm(width)]
    layers += [nn.Linear(width, width), activation(), nn.Dropout(0.0), nn.Linear(width, 3)]
    return nn.Sequential(*layers)


def convolutional(activation: Callable[[], nn.Module] = nn.SiLU) -> nn.Sequential:
    """Return a residual network (batch, 3, 8, 8) to (batch, 3) in float32, the same every time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        activation(),
        Residual(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), activation(), nn.Conv2d(8, 8, 1))),
        nn.MaxPool2d(2),
        activation(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def batch(model: nn.Module, size: int = 12) -> tuple[Tensor, Tensor]:
    """Return inputs in the model's shape and dtype, and class indices (size,)."""
    random = torch.Generator().manual_seed(1)
    first = next(model.parameters())
    shape = (6,) if first.dim() == 2 else (3, 8, 8)
    x = torch.randn(size, *shape, generator=random).to(first)
    return x, torch.randint(0, 3, (size,), generator=random).to(first.device)


def propagate(
    model: nn.Module, x: Tensor, targets: Tensor, reduction: lfp.rewards.Reduction = "mean"
) -> Tensor:
    """Make a forward and a backward pass; return the outputs, detached."""
    with lfp.feedback(EPSILON):
        outputs = model(x)
    lfp.backward(outputs, lfp.rewards.softmax(outputs, targets, reduction))
    return outputs.detach()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter's gradient by name."""
    assert all(p.grad is not None for p in model.parameters())
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def fresh(model: nn.Module, reduction: lfp.rewards.Reduction = "mean") -> dict[str, Tensor]:
    """Return the gradients of one step on :func:`batch` alone."""
    model.zero_grad()
    propagate(model, *batch(model), reduction)
    return gradients(model)


def error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the relative error of gradients by name, in float64."""
    keys = {name: torch.empty(0) for name in expected}
    return relative_error(
        {keys[n]: found[n].double() for n in keys}, {keys[n]: expected[n].double() for n in keys}
    )
