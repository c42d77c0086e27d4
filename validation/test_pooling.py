"""Max-pooling has the values and derivatives of torch's own, to the bit, and keeps no input."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lfp_core import pooling
from lfp_core.pooling import HalvingMaxPool2d, max_pool2d

Window = dict[str, Any]
HALVING: Window = {"kernel_size": 2}


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Draw arguments of pooling, half of the time those of windows of 2x2 side by side."""
    if draw(st.booleans()):
        return HALVING
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return {
        "kernel_size": kernel,
        "stride": draw(st.none() | st.integers(1, 3)),
        "padding": draw(st.integers(0, min(kernel) // 2)),
        "ceil_mode": draw(st.booleans()),
    }


def both(x: Tensor, window: Window) -> list[tuple[Tensor, Tensor]]:
    """Return maxima and gradients, of ours and of torch's."""
    found = []
    for pool in (max_pool2d, F.max_pool2d):
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        maxima = pool(leaf, **window)
        maxima.backward(torch.arange(1.0, maxima.numel() + 1).view_as(maxima))
        assert leaf.grad is not None
        found.append((maxima.detach(), leaf.grad))
    return found


def agree(x: Tensor, window: Window) -> bool:
    ours, torchs = both(x, window)
    return all(map(torch.equal, ours, torchs))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(1, 2)] * 2, *[st.integers(3, 8)] * 2),
    windows(),
    st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
@example(0, (2, 2, 4, 6), HALVING, torch.contiguous_format)
def test_maxima_and_gradients_are_torchs(
    seed: int, shape: tuple[int, ...], window: Window, layout: torch.memory_format
) -> None:
    """Of few different numbers, so that maxima are often several; the first of them counts."""
    numbers = torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(seed)).float()
    assert agree(numbers.to(memory_format=layout), window)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6), (2, 3, 4, 6), (0, 3, 4, 6)], ids=str)
def test_shapes_and_dtypes_are_those_of_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape).to(dtype)
    if x.dim() == 2:
        with pytest.raises(RuntimeError, match="3D or 4D"):
            max_pool2d(x, 2)
        return
    ours, torchs = both(x, HALVING)
    assert all(map(torch.equal, ours, torchs))
    assert (ours[0].dtype, ours[1].dtype) == (dtype, dtype)


def test_nan_is_the_maximum() -> None:
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 2], x[0, 0, 3, 1] = math.nan, math.inf
    torch.testing.assert_close(max_pool2d(x, 2), F.max_pool2d(x, 2), equal_nan=True)


def test_rows_before_columns_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take the lower left one of two equal maxima for the first, not the upper right one."""
    forward, backward = HalvingMaxPool2d.forward, HalvingMaxPool2d.backward
    monkeypatch.setattr(
        HalvingMaxPool2d, "forward", staticmethod(lambda ctx, x: forward(ctx, x.mT.contiguous()).mT)
    )
    monkeypatch.setattr(
        HalvingMaxPool2d, "backward", staticmethod(lambda ctx, g: backward(ctx, g.mT).mT)
    )
    x = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    assert not agree(x, HALVING)
    assert agree(torch.randn(2, 3, 4, 6), HALVING)  # no two are equal
    monkeypatch.undo()
    assert agree(x, HALVING)


@pytest.mark.parametrize("window", [HALVING, {"kernel_size": 3, "stride": 2}], ids=str)
def test_the_input_is_not_kept(window: Window) -> None:
    """What is kept has at most the size of the places, 8 bytes for each output."""
    x, kept = torch.randn(2, 3, 8, 8, requires_grad=True), list[Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        maxima = pooling.max_pool2d(x, **window)
    assert kept
    assert all(tensor.data_ptr() != x.data_ptr() for tensor in kept)
    assert sum(tensor.nbytes for tensor in kept) <= 8 * maxima.numel()
