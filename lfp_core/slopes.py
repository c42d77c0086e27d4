"""The three backward formulas that turn reverse-mode autodiff into LFP.

Write the reward of a unit as ``R = a * G``. LFP-epsilon then propagates ``G`` through every linear
map exactly as the chain rule does, and differs from it in three local places, one class each:

* :class:`SecantSlope`: an activation multiplies by ``f(z) / (z + eps s(z))``, not by ``f'(z)``;
* :class:`EpsilonShare`: where no activation follows a linear map, ``z / (z + eps s(z))`` remains;
* :class:`WeightScale`: the feedback of a parameter is multiplied by its magnitude.

``s(z)`` is the sign with ``s(0) = +1``; of a complex z, whose reward is ``Re(conj(z) G)``, it is
``z / |z|``. Forwards, all three do what the model would have done without them. They are not marked
``once_differentiable``: in a small network that costs more than the formulas do.
"""

import math
import weakref
from collections.abc import Callable
from typing import Any, SupportsFloat

import torch
from torch import Tensor
from torch.nn import Parameter

from lfp_core import _torch, kernels, native

KEPT_BY = "_lfp_kept_by"
#: In place of eps: what autograd brings to z is its reward R itself, not ``G = R / z``. A spike
#: needs that, as a neuron can be rewarded for having been silent. Then the denominator is 1.
UNDIVIDED = math.inf


def share(
    a: Tensor, z: Tensor, epsilon: float, limit: float | Tensor, factor: float = 1.0
) -> Tensor:
    """Return ``a / (z + eps s(z))`` times a factor, as a new tensor; `limit` where eps = z = 0."""
    if epsilon == UNDIVIDED:
        return a * factor
    if epsilon:
        return kernels.quotient(a, z, epsilon, factor)
    slope = a / z
    if factor != 1.0:
        slope *= factor
    if isinstance(limit, Tensor):
        return torch.where(z == 0, limit, slope)
    return slope.masked_fill_(z == 0, limit)


class SecantSlope(torch.autograd.Function):
    """An activation ``a = f(z)`` that hands its reward to z unchanged (LXT's identity rule).

    The reward ``a G`` that arrives is what the linear map below shares out, divided by
    ``z + eps s(z)``; so G is multiplied by the slope of the secant through the origin. The slope is
    all that is kept, so neither z nor a is, where no other layer wants it, and both may be
    overwritten. `units` says what becomes of f(0) != 0: "reverse" takes the slope's magnitude, and
    "shifted" the slope of ``f(z) - f(0)``.

    A second tensor is kept for ``torch.utils.checkpoint``, which computes what was kept again, and
    is to notice where it does so outside of the context, where the function keeps one tensor.

    No slope can be had from the output a alone, as in :class:`ReluSlope`: in float32 a saturated
    tanh, and a sigmoid near z = 0, have lost the digits of z.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        z: Tensor,
        function: Callable[[Tensor], Tensor],
        limit: float | Tensor,
        epsilon: float,
        in_place: bool,
        units: str = "identity",
    ) -> Tensor:
        before = z.clone() if in_place else z
        a = function(z)
        if units == "shifted":
            slope = share(a - function(z.new_zeros(())), before, epsilon, limit)
        else:
            slope = share(a, before, epsilon, limit)
        if units == "reverse":
            slope = slope.abs()
        ctx.save_for_backward(slope, *([] if _torch.is_compiling() else [kernels.scalar(0.0, z)]))
        if in_place:
            ctx.mark_dirty(z)
        return z if in_place else a  # the same, but torch.compile wants to see it

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None, None, None]:  # noqa: D102
        slope = ctx.saved_tensors[0]
        return slope.conj() * g, None, None, None, None, None


class ReluSlope(torch.autograd.Function):
    """:class:`SecantSlope` of ReLU, from the output alone: ``a / (a + eps)``.

    The next layer keeps its input, which is this output, anyway; so LFP needs no more memory here
    than gradient descent.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, epsilon: float, in_place: bool) -> Tensor:  # noqa: D102
        if in_place:
            a = z.relu_()
            ctx.mark_dirty(a)
        else:
            a = z.relu()
        ctx.save_for_backward(a)
        ctx.epsilon = epsilon
        return a

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:  # noqa: D102
        (a,) = ctx.saved_tensors
        if ctx.epsilon == 0:
            return _torch.threshold_backward(g, a, 0), None, None
        if ctx.epsilon == UNDIVIDED:
            return a * g, None, None
        return kernels.relu_slope(a, g, ctx.epsilon), None, None


class EpsilonShare(torch.autograd.Function):
    """The output z of a linear map that something other than an activation consumes.

    Its reward ``z G`` is shared out as ``z G / (z + eps s(z))``. The factor is what z gets of its
    consumer's reward: a half, if that is the product of two activations.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, z: Tensor, epsilon: float, factor: SupportsFloat, in_place: bool
    ) -> Tensor:
        ctx.save_for_backward(z.clone() if in_place else z)
        if in_place:  # the caller is about to overwrite z
            ctx.mark_dirty(z)
        elif not _torch.is_compiling():
            _keepers(z).append(weakref.ref(ctx))
        ctx.epsilon, ctx.factor, ctx.copy = epsilon, factor, None
        return z if in_place else z.view_as(z)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: D102
        (z,) = ctx.saved_tensors if ctx.copy is None else (ctx.copy,)
        factor = float(ctx.factor)
        if ctx.epsilon == UNDIVIDED:
            g = z * g if factor == 1.0 else z * g * factor
        else:
            g = kernels.share(z, g, ctx.epsilon, factor)
        return g, None, None, None


def _keepers(z: Tensor) -> list[weakref.ref[Any]]:
    """Return who keeps values in the memory of z, as it is noted on the node that made it."""
    node = (z if z._base is None else z._base).grad_fn
    if node is None:
        return []
    kept: list[weakref.ref[Any]] = _torch.metadata(node).setdefault(KEPT_BY, [])
    return kept


def before_overwriting(z: Tensor) -> None:
    """Give every epsilon share that keeps values in the memory of z a copy of them.

    A model may overwrite what its consumer need not keep: ``b = z * 2`` and then ``z += 1``.
    """
    if _torch.is_compiling():  # whose graph holds no writes
        return
    kept = _keepers(z)
    for reference in kept:
        ctx = reference()
        if ctx is not None:
            try:
                ctx.copy = ctx.saved_tensors[0].clone()
            except RuntimeError:  # a backward pass has freed them
                continue
    kept.clear()


class Share(torch.autograd.Function):
    """A tensor that gets a constant share of the reward: a half, or the n-th part of a power's.

    The share may be a number that is known in the backward pass only.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, factor: SupportsFloat, in_place: bool) -> Tensor:  # noqa: D102
        if in_place:
            ctx.mark_dirty(z)
        ctx.factor = factor
        return z if in_place else z.view_as(z)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:  # noqa: D102
        return g * float(ctx.factor), None, None


class WeightScale(torch.autograd.Function):
    """A parameter whose gradient is multiplied by its magnitude, so that it is LFP's update."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(weight)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # noqa: D102
        (weight,) = ctx.saved_tensors
        return kernels.scaled(weight, g)


# --- the nodes of small networks in C++, where they can be used -----------------------------------


def relu(z: Tensor, epsilon: float, in_place: bool) -> Tensor:
    """Return ReLU of z, by :class:`ReluSlope`."""
    nodes = native.usable()
    if nodes is not None and not in_place and type(z) in kernels.PLAIN:
        a: Tensor | None = nodes.relu(z, epsilon)
        if a is not None:
            return a
    return ReluSlope.apply(z, epsilon, in_place)


def scaled_weight(weight: Tensor) -> Tensor:
    """Return a weight as an operation consumes it, by :class:`WeightScale`."""
    nodes = native.usable()
    if nodes is not None and type(weight) in kernels.PLAIN:
        scaled: Tensor | None = nodes.weight_scale(weight)
        if scaled is not None:
            return scaled
    return WeightScale.apply(weight)


def linear_layer(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """Return ``F.linear`` of a batch, with :class:`WeightScale` of its parameters, in one node.

    None if that is not for these tensors.
    """
    nodes = native.usable()
    if nodes is None or type(x) is not Tensor or type(weight) is not Parameter:
        return None
    if bias is not None and type(bias) is not Parameter:
        return None
    output: Tensor | None = nodes.linear(x, weight, bias)
    return output
