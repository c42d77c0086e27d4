"""Max-pooling that lets go of its input has torch's values, derivatives and memory formats."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from benchmarks.memory import peak_bytes
from lfp_core.pooling import max_pool2d

CPU = torch.device("cpu")
WINDOWS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 2},
    "overlapping": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)},
    "dilated": {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True},
}


def images(layout: str) -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 11, 12, dtype=torch.float64)
    if layout == "channels last":
        return x.to(memory_format=torch.channels_last)
    return x.transpose(2, 3) if layout == "transposed" else x[0] if layout == "unbatched" else x


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "transposed", "unbatched"])
@pytest.mark.parametrize("window", WINDOWS)
def test_values_and_derivatives_are_torchs(window: str, layout: str) -> None:
    x = images(layout).requires_grad_()
    expected = F.max_pool2d(x, **WINDOWS[window])
    found = max_pool2d(x, **WINDOWS[window])
    g = torch.randn_like(expected)
    for a, b in [
        (found, expected),
        *zip(torch.autograd.grad(found, x, g), torch.autograd.grad(expected, x, g), strict=True),
    ]:
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


@pytest.mark.parametrize("pool", [max_pool2d, F.max_pool2d])
def test_input_is_not_kept(pool: Any) -> None:
    """Torch's own, the negative twin, keeps it."""
    x = torch.randn(8, 4, 16, 16)

    def work() -> Tensor:
        hidden = [x.clone().requires_grad_()]
        kept = [pool(hidden.pop() * 1, 2)]
        kept.append(torch.empty_like(x))
        return kept[0]

    size = x.numel() * x.element_size()
    # The leaf, the pool's output with indices of 64 bits, and then something as large as x.
    lean = peak_bytes(work, CPU) < 2.8 * size
    assert lean is (pool is max_pool2d)


def test_indices_are_still_there_for_those_who_want_them() -> None:
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    with lfp.feedback():
        pooled, places = nn.MaxPool2d(2, return_indices=True)(x)
        again, same = F.max_pool2d(x, 2, 2, 0, 1, False, True)
    assert torch.equal(pooled, again)
    assert torch.equal(places, same)
    assert torch.equal(places, F.max_pool2d(x, 2, return_indices=True)[1])
