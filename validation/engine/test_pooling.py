"""Max-pooling that lets go of its input has torch's values, derivatives and memory formats."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

import lfp_core as lfp
from benchmarks.costs.memory import peak_bytes
from lfp_core.pooling import HalvingMaxPool2d, max_pool2d
from validation.selection import examples

CPU = torch.device("cpu")
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
        "dilation": draw(st.integers(1, 2)),
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
    return all(
        torch.equal(ours, torchs) and ours.stride() == torchs.stride()
        for ours, torchs in zip(*both(x, window), strict=True)
    )


@examples(200)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(2, 3)] * 2, *[st.integers(5, 8)] * 2),
    windows(),
    st.sampled_from(["contiguous", "channels last", "transposed", "unbatched"]),
)
@example(0, (2, 2, 6, 8), HALVING, "contiguous")
def test_maxima_and_gradients_are_torchs(
    seed: int, shape: tuple[int, ...], window: Window, layout: str
) -> None:
    """Of few different numbers, so that maxima are often several; the first of them counts."""
    numbers = torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(seed)).float()
    if layout == "channels last":
        numbers = numbers.to(memory_format=torch.channels_last)
    elif layout == "transposed":
        numbers = numbers.transpose(2, 3)
    assert agree(numbers[0] if layout == "unbatched" else numbers, window)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6), (2, 3, 4, 6), (0, 3, 4, 6)], ids=str)
def test_shapes_and_dtypes_are_those_of_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape).to(dtype)
    if x.dim() == 2:
        with pytest.raises(RuntimeError, match="3D or 4D"):
            max_pool2d(x, 2)
        return
    assert agree(x, HALVING)
    assert {tensor.dtype for tensor in both(x, HALVING)[0]} == {dtype}


def test_nan_is_the_maximum() -> None:
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 2], x[0, 0, 3, 1] = math.nan, math.inf
    torch.testing.assert_close(max_pool2d(x, 2), F.max_pool2d(x, 2), equal_nan=True)


def test_rows_before_columns_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take the lower left one of two equal maxima for the first, not the upper right one."""
    forward, backward = HalvingMaxPool2d.forward, HalvingMaxPool2d.backward
    monkeypatch.setattr(
        HalvingMaxPool2d,
        "forward",
        staticmethod(lambda ctx, x: forward(ctx, x.mT.contiguous()).mT.contiguous()),
    )
    monkeypatch.setattr(
        HalvingMaxPool2d,
        "backward",
        staticmethod(lambda ctx, g: backward(ctx, g.mT).mT.contiguous()),
    )
    x = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    assert not agree(x, HALVING)
    assert agree(torch.randn(2, 3, 4, 6), HALVING)  # no two are equal
    monkeypatch.undo()
    assert agree(x, HALVING)


@pytest.mark.parametrize("pool", [max_pool2d, F.max_pool2d])
def test_input_is_not_kept(pool: Any) -> None:
    """Torch's own, the negative twin, keeps it."""
    x = torch.randn(8, 4, 16, 16)

    def work() -> Tensor:
        hidden = [x.clone().requires_grad_()]
        kept = [pool(hidden.pop() * 1, 2)]
        kept += [torch.empty_like(x), torch.empty_like(x)]
        return kept[0]

    size = x.numel() * x.element_size()
    # The leaf, the pool's output with places of at most half that, and then twice as much as x.
    lean = peak_bytes(work, CPU) < 3.8 * size
    assert lean is (pool is max_pool2d)


def test_indices_are_still_there_for_those_who_want_them() -> None:
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    with lfp.feedback():
        pooled, places = nn.MaxPool2d(2, return_indices=True)(x)
        again, same = F.max_pool2d(x, 2, 2, 0, 1, False, True)
    assert torch.equal(pooled, again)
    assert torch.equal(places, same)
    assert torch.equal(places, F.max_pool2d(x, 2, return_indices=True)[1])


@pytest.mark.parametrize("shape", [(1, 1, 4, 5), (1, 1, 5, 4), (2, 5, 4), (2, 4, 5), (2, 4, 4)])
def test_odd_sizes_have_a_remainder(shape: tuple[int, ...]) -> None:
    assert agree(torch.randn(shape, generator=torch.Generator().manual_seed(0)), HALVING)


def test_gradient_has_the_memory_format_of_the_input() -> None:
    x = torch.randn(2, 3, 7, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for each in (x * 1, (x * 1).to(memory_format=torch.channels_last)):
        ours, torchs = (
            torch.autograd.grad(pool(each, 3, 2, 1).square().sum(), each)[0]
            for pool in (max_pool2d, F.max_pool2d)
        )
        assert torch.equal(ours, torchs)
        assert ours.stride() == torchs.stride() == each.stride()
