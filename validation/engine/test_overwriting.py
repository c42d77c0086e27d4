"""A model may overwrite what its other operations have consumed, as far as torch allows it.

Gradient descent needs no input of a sum, of a product with a number, or of a route. The epsilon
rule needs it, so the engine keeps a copy of what the model overwrites. Both spellings of a network,
with a write and without one, have one feedback.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import lfp_core as lfp
from lfp_core import calls, slopes
from validation.spellings import feedback_of

#: What consumes a tensor without keeping it.
CONSUMERS: dict[str, Callable[[Tensor], Tensor]] = {
    "times a number": lambda a: a * 2,
    "plus a number": lambda a: a + 1,
    "sum": lambda a: a.sum(-1, keepdim=True),
    "route": lambda a: a.flip(-1),
    "slice": lambda a: a[:, 1:3] * 3,
    "of a view": lambda a: a.view(-1, 4).view_as(a) * 0.5,
    "concatenated": lambda a: torch.cat([a, a * 2], -1),
    "relu": lambda a: F.relu(a * 3),
}


def _slice(a: Tensor) -> Tensor:
    a[:, :2] = a[:, :2] * 3
    return a


def _row(a: Tensor) -> Tensor:
    a[0] += 1
    return a


#: Writes to a tensor, and the same out of place.
WRITES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "add_": (lambda a: a.add_(1), lambda a: a.add(1)),
    "mul_": (lambda a: a.mul_(3), lambda a: a.mul(3)),
    "relu_": (lambda a: a.relu_(), lambda a: a.relu()),
    "silu": (lambda a: F.silu(a, inplace=True), F.silu),
    "fill": (
        lambda a: a.masked_fill_(a > 0.5, 0.0),
        lambda a: a.masked_fill(a > 0.5, 0.0),
    ),
    "slice": (_slice, lambda a: torch.cat([a[:, :2] * 3, a[:, 2:]], -1)),
    "row": (_row, lambda a: torch.cat([a[:1] + 1, a[1:]])),
}


class Overwrites(nn.Module):
    """A layer whose output is consumed, overwritten, and consumed again."""

    def __init__(self, consumer: str, write: Callable[[Tensor], Tensor], of_a_view: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.consumer, self.write, self.of_a_view = CONSUMERS[consumer], write, of_a_view

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (batch, 3) to outputs (batch, 2)."""
        a = self.first(x)
        consumed = self.consumer(a[:] if self.of_a_view else a)
        return self.second(self.write(a)) + consumed.sum(-1, keepdim=True)


def differ(consumer: str, write: str, of_a_view: bool, epsilon: float) -> bool:
    """Return whether a write changes the feedback beyond rounding."""
    inputs = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    one, other = (
        feedback_of(Overwrites(consumer, w, of_a_view).double(), inputs, epsilon)
        for w in WRITES[write]
    )
    assert one.keys() == other.keys()
    return not all(torch.allclose(one[n], other[n], rtol=1e-9, atol=1e-12) for n in one)


@given(
    consumer=st.sampled_from(sorted(CONSUMERS)),
    write=st.sampled_from(sorted(WRITES)),
    of_a_view=st.booleans(),
    epsilon=st.sampled_from([0.0, 1e-3, 0.5]),
)
def test_what_was_consumed_may_be_overwritten(
    consumer: str, write: str, of_a_view: bool, epsilon: float
) -> None:
    assert not differ(consumer, write, of_a_view, epsilon)


def test_without_a_copy_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "before_overwriting", lambda z: None)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        differ("times a number", "add_", of_a_view=False, epsilon=0.5)


def test_an_output_may_be_overwritten_after_its_backward_pass() -> None:
    layer = nn.Linear(3, 4)
    with lfp.feedback(0.1):
        state = layer(torch.ones(2, 3))
        doubled = state * 2
        lfp.backward(doubled, torch.ones(2, 4))
        state.mul_(0.0)
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


def test_copies_are_made_for_all_that_may_still_be_asked() -> None:
    """Of two consumers, the first has had its backward pass, which freed what it kept."""
    leaf = torch.ones(3, dtype=torch.float64, requires_grad=True)
    z = leaf + 1  # keeps nothing
    first, second = (slopes.EpsilonShare.apply(z, 0.5, 1.0, False) * 3 for _ in range(2))
    first.sum().backward()
    slopes.before_overwriting(z)
    with torch.no_grad():
        z += 1
    leaf.grad = None
    second.sum().backward()
    torch.testing.assert_close(leaf.grad, torch.full_like(leaf, 3 * 2 / 2.5))


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("epsilon", [0.5, slopes.UNDIVIDED])
def test_share_of_what_owes_epsilon(epsilon: float, factor: float) -> None:
    z = torch.tensor([2.0, -3.0], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([5.0, 7.0], dtype=torch.float64)
    slopes.EpsilonShare.apply(z, epsilon, factor, False).backward(g)
    divisor = 1.0 if epsilon == slopes.UNDIVIDED else z.detach() + epsilon * z.detach().sign()
    torch.testing.assert_close(z.grad, factor * g * z.detach() / divisor)
