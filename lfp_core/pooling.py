"""Max-pooling that keeps the places of its maxima and lets go of its input.

Nothing of LFP is in it: values and derivatives are torch's own. But torch's own pooling keeps its
input until the backward pass, for its shape alone. Gradient descent needs that input anyway, as it
is the output of an activation; LFP keeps the activation's slope in its stead
(:class:`~lfp_core.slopes.SecantSlope`), so without this it would keep both.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class MaxPool2d(torch.autograd.Function):
    """:func:`torch.nn.functional.max_pool2d`, by the same kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *window: Any) -> Tensor:  # noqa: D102
        output, places = F.max_pool2d_with_indices(x, *window)
        ctx.save_for_backward(places)
        ctx.shape, ctx.strides, ctx.window = x.shape, x.stride(), window
        ctx.contiguous = x.is_contiguous()
        return output

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        (places,) = ctx.saved_tensors
        kernel, stride, padding, dilation, ceil_mode = ctx.window
        # The kernel wants shape and memory format of its input, which takes no memory if that is
        # the usual one.
        x = g.new_empty(()).expand(ctx.shape)
        if not ctx.contiguous:
            x = g.new_empty_strided(ctx.shape, ctx.strides)
        routed = torch.ops.aten.max_pool2d_with_indices_backward(
            g, x, kernel, stride or kernel, padding, dilation, ceil_mode, places
        )
        return routed, *[None] * len(ctx.window)


def max_pool2d(
    x: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the maxima of windows of x (..., C, H, W), as torch does."""
    return MaxPool2d.apply(x, kernel_size, stride, padding, dilation, ceil_mode)
