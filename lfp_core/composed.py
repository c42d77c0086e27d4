"""Operations that are run as others, each under its rule: GLU, normalisations, and more.

What torch writes in Python (most of ``torch.nn.functional``) needs nothing here: it is unfolded,
so that the mode sees the operations in it.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lfp_core import _torch
from lfp_core.calls import Args, Context, Kwargs, Operation, Rule


def composed(function: Callable[..., Any]) -> Rule:
    """Return the rule of an operation that is run as the function, in the same context."""

    def rule(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
        with context:
            return function(*args, **kwargs)

    return rule


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return what ``F.scaled_dot_product_attention`` does, as its documentation writes it.

    Raises:
        RuntimeError: both a mask and `is_causal`, as in torch.
    """
    if enable_gqa:
        key, value = grouped(query, key), grouped(query, value)
    scale = query.size(-1) ** -0.5 if scale is None else scale
    scores = query @ key.transpose(-2, -1) * scale
    if is_causal:
        if attn_mask is not None:
            raise RuntimeError("attention takes attn_mask or is_causal, not both")
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    with _torch.without_autocast(scores.device.type):
        weights = _torch.safe_softmax(scores, -1)
    if dropout_p > 0:  # or nothing is drawn
        weights = F.dropout(weights, dropout_p)
    return weights @ value


def grouped(query: Tensor, key: Tensor) -> Tensor:
    """Return keys or values (..., heads, tokens, features), one head for each of the queries."""
    return key.repeat_interleave(query.size(-3) // key.size(-3), dim=-3)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """Return ``a * sigmoid(b)`` for the halves a and b of x along a dimension."""
    a, b = x.chunk(2, dim)
    return a * b.sigmoid()


def reversed_division(x: Tensor, number: Any) -> Tensor:
    """Return ``number / x`` in the way of torch."""
    return x.reciprocal() * number


def lerp(start: Tensor, end: Tensor, weight: Any) -> Tensor:
    """Return the linear interpolation between two tensors, where also the weight may learn."""
    return start + weight * (end - start)


def ldexp(x: Tensor, other: Tensor) -> Tensor:
    """Return x times a power of 2."""
    return x * torch.exp2(other)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Return the product of two normalised vectors along a dimension of their common shape."""
    shape = torch.broadcast_shapes(x1.shape, x2.shape)
    x1, x2 = x1.expand(shape), x2.expand(shape)
    norms = (torch.linalg.vector_norm(x, dim=dim, keepdim=True).clamp_min(eps) for x in (x1, x2))
    return (x1 / next(norms) * (x2 / next(norms))).sum(dim)


def layer_norm(
    x: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return the layer normalisation of x over its last dimensions, operation by operation."""
    dims = tuple(range(-len(normalized_shape), 0))
    return _affine(_standardised(x, dims, eps), weight, bias)


def rms_norm(
    x: Tensor, normalized_shape: tuple[int, ...], weight: Tensor | None = None, eps: Any = None
) -> Tensor:
    """Return x over its root mean square over the last dimensions, operation by operation."""
    dims = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _affine(x / (x.square().mean(dims, keepdim=True) + eps).sqrt(), weight, None)


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return the group normalisation of x (batch, channels, ...), operation by operation."""
    grouped = x.reshape(x.shape[0], num_groups, -1)
    normal = _standardised(grouped, (2,), eps).reshape(x.shape)
    return _affine(normal, *(_per_channel(p, x) for p in (weight, bias)))


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return the batch normalisation of x (batch, channels, ...), operation by operation."""
    if not training and running_mean is not None and running_var is not None:
        scale = (running_var + eps).rsqrt()
        normal = (x - _per_channel(running_mean, x)) * _per_channel(scale, x)
    else:
        dims = (0, *range(2, x.dim()))
        normal = _standardised(x, dims, eps)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(x.mean(dims), momentum)
                running_var.lerp_(x.var(dims), momentum)
    return _affine(normal, *(_per_channel(p, x) for p in (weight, bias)))


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return the instance normalisation of x (batch, channels, ...), operation by operation."""
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = tuple(range(2, x.dim()))
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(x.mean((0, *dims)), momentum)
            running_var.lerp_(x.var(dims).mean(0), momentum)
    normal = _standardised(x, dims, eps)
    return _affine(normal, *(_per_channel(p, x) for p in (weight, bias)))


def weights_first(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a normalisation that takes its arguments in the order of ``torch.batch_norm``.

    ``F.batch_norm`` and the functions here have the statistics before the weights.
    """

    @wraps(norm)
    def reordered(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        *options: Any,
        **named: Any,
    ) -> Tensor:
        return norm(x, running_mean, running_var, weight, bias, *options, **named)

    return reordered


def _standardised(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    deviation = (x.var(dims, correction=0, keepdim=True) + eps).sqrt()
    return (x - x.mean(dims, keepdim=True)) / deviation


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _per_channel(parameter: Any, x: Tensor) -> Any:
    if parameter is None:
        return None
    return parameter.view(-1, *[1] * (x.dim() - 2))
