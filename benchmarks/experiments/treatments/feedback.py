"""The feedback of a batch beside the weights times the gradient."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from benchmarks.experiments.treatments.arms import Options


def flat(model: nn.Module) -> Tensor:
    """Return ``p.grad`` of all parameters, (parameters,) in double precision."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([part.double().flatten() for part in parts])


def descended(
    model: nn.Module, inputs: Tensor, targets: Tensor, options: Options | None, epsilon: float
) -> Tensor:
    """Return the feedback, or without options |w| dL/dw, of a batch that has the same dropout."""
    model.zero_grad()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        fill(model, inputs, targets, options, epsilon)
    found = flat(model)
    if options is None:
        found *= torch.cat([p.detach().double().abs().flatten() for p in model.parameters()])
    return found


def fill(
    model: nn.Module, inputs: Tensor, targets: Tensor, options: Options | None, epsilon: float
) -> Tensor:
    """Add the negated feedback, or without options the gradient, to ``p.grad``; return logits."""
    if options is None:
        logits: Tensor = model(inputs)
        F.cross_entropy(logits, targets).backward()
        return logits
    with lfp.feedback(epsilon, **options):
        logits = model(inputs)
    lfp.backward(logits, lfp.rewards.softmax(logits, targets))
    return logits


def finite(value: float) -> float | None:
    """Return the value, or None if it is not finite, as JSON has it."""
    return value if math.isfinite(value) else None


def compared(feedback: Tensor, scaled: Tensor) -> dict[str, float | None]:
    """Return the norm of the feedback over that of |w| dL/dw, and the cosine between them."""
    norms = feedback.norm(), scaled.norm()
    return {
        "ratio": finite(float(norms[0] / norms[1])),
        "cosine": finite(float((feedback / norms[0]) @ (scaled / norms[1]))),
    }
