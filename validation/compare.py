"""Feedback of the engine, and how far two sets of feedback are apart."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import lfp_core as lfp
from lfp_core.propagation import Attention

Feedback = dict[Tensor, Tensor]


def engine_feedback(
    model: nn.Module,
    inputs: Any,
    reward_of: Callable[[Tensor], Tensor],
    epsilon: float,
    attention: Attention = "uniform",
    output_epsilon: float | None = None,
    **options: Any,
) -> Feedback:
    """Return the engine's feedback, minus ``p.grad``, of every parameter (zeros for None).

    Args:
        model: with outputs of any shape.
        inputs: of the model, which has one argument.
        reward_of: the reward as a function of the outputs.
        epsilon: stabiliser.
        attention: as in :class:`lfp_core.feedback`.
        output_epsilon: stabiliser of the outputs, as in :func:`lfp_core.backward`.
        options: the other options of :class:`lfp_core.feedback`.
    """
    model.zero_grad(set_to_none=True)
    with lfp.feedback(epsilon, attention=attention, **options):
        outputs = model(inputs)
    lfp.backward(outputs, reward_of(outputs), epsilon=output_epsilon)
    return {
        p: torch.zeros_like(p) if p.grad is None else -p.grad.detach() for p in model.parameters()
    }


def weight_scaled_gradient(model: nn.Module, loss: Tensor) -> Feedback:
    """Return ``-|w| dL/dw`` of every parameter by backpropagation: the other side of Theorem 1."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {
        p: torch.zeros_like(p) if g is None else -p.detach().abs() * g
        for p, g in zip(parameters, gradients, strict=True)
    }


def relative_error(
    found: Mapping[Tensor, Any], expected: Mapping[Tensor, Any], *, terms: float = 0.0
) -> float:
    """Return the largest relative error of a parameter's feedback, in the 2-norm.

    A parameter with less than a thousandth of the largest feedback is measured against that
    thousandth: where everything cancels, as for a scale in front of a normalisation, the exact
    feedback is 0 and only rounding errors are left.

    Args:
        found: the feedback of each parameter.
        expected: what it should be.
        terms: the largest norm of what the feedback is a sum of, where all of that may cancel.
    """
    found = {p: torch.as_tensor(value) for p, value in found.items()}
    expected = {p: torch.as_tensor(value) for p, value in expected.items()}
    norms = {p: float(value.norm()) for p, value in expected.items()}
    floor = 1e-3 * max(*norms.values(), terms)
    errors = [
        float((found[p] - expected[p]).norm()) / max(norms[p], floor)
        if floor
        else float(found[p].norm())
        for p in expected
    ]
    return max(errors)
