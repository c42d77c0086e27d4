"""Peak memory, where it is known."""

import pytest
import torch

from benchmarks.costs.memory import peak_bytes

CPU = torch.device("cpu")
MILLION = 4_000_000  # bytes of a million float32
SLACK = 1000  # scalars on the way


def million(device: torch.device = CPU) -> torch.Tensor:
    return torch.ones(1000, 1000, device=device)


def work(device: torch.device) -> None:
    a = million(device)
    b = a + a
    c = a + b  # three alive
    del b
    d = c + c  # again three
    del a, c, d


def test_the_peak_is_the_most_that_was_alive_at_once() -> None:
    assert peak_bytes(lambda: work(CPU), CPU) == pytest.approx(3 * MILLION, abs=SLACK)


def test_what_was_there_before_does_not_count() -> None:
    held = [million()]

    def replace_it() -> None:
        held.clear()
        held.append(million())

    assert peak_bytes(replace_it, CPU) == pytest.approx(MILLION, abs=SLACK)
    assert peak_bytes(held.clear, CPU) == 0


@pytest.mark.parametrize("layers", [4, 8])
def test_what_forward_keeps_for_backward_counts(layers: int) -> None:
    def forward(gradient: bool) -> None:
        x = million().requires_grad_(gradient)
        for _ in range(layers):
            x = x.tanh()  # keeps its output
        if gradient:
            x.sum().backward()

    assert peak_bytes(lambda: forward(False), CPU) == pytest.approx(2 * MILLION, abs=SLACK)
    # The leaf and all outputs; then the gradients of two neighbouring layers on top of them.
    expected = (1 + layers + 2) * MILLION
    assert peak_bytes(lambda: forward(True), CPU) == pytest.approx(expected, abs=SLACK)


@pytest.mark.gpu
def test_the_gpu_gives_the_same() -> None:
    gpu = torch.device("cuda")
    blocks = 2_000_000  # the allocator may give more than was asked for
    assert peak_bytes(lambda: work(gpu), gpu) == pytest.approx(3 * MILLION, abs=blocks)
