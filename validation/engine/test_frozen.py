"""To freeze a layer changes nothing for the others: what it makes is what it was before.

Networks are drawn of two branches, of which the second is made of functions one after the other,
and is frozen. What joins it with the first may be a product, a normalisation, a gate or a sum, and
which of these it is has to be known of a branch that no gradient passes as of one that learns.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import lfp_core as lfp
from validation.selection import examples
from validation.spellings import by_rows, distance, feedback_of

pytestmark = pytest.mark.usefixtures("double")
FEATURES, WIDTH = 5, 4
TOLERANCE = 1e-9  # relative, in float64
CONSTANT = torch.tensor([0.5, -1.5, 1.0, 2.0], dtype=torch.float64)

Function = Callable[[Tensor], Tensor]


def with_part(h: Tensor) -> Tensor:
    """Return constants of which a part was overwritten."""
    buffer = CONSTANT.expand(len(h), -1).clone()
    buffer[:, 1:3] = h[:, :1]
    return buffer


def written_to(p: Tensor, q: Tensor) -> Tensor:
    """Return both in a memory that held the first alone."""
    memory = torch.stack([p, p])
    memory[1] = q
    return memory


FUNCTIONS: dict[str, Function] = {
    "abs": torch.abs,
    "square": torch.square,
    "cube": lambda h: h**3,
    "root": lambda h: h.clamp_min(0.0).sqrt(),
    "reciprocal": torch.reciprocal,
    "number over it": lambda h: 1.0 / h,
    "constants over it": lambda h: CONSTANT / h,
    "reciprocal root": lambda h: (h + 1e-6).rsqrt(),
    "exp": torch.exp,
    "log1p": torch.log1p,
    "sigmoid": torch.sigmoid,
    "hard sigmoid": lambda h: F.relu6(h + 3) / 6,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softmax": lambda h: h.softmax(-1),
    "less the largest": lambda h: h - h.amax(-1, keepdim=True),
    "less the mean": lambda h: h - h.mean(-1, keepdim=True),
    "over the sum": lambda h: h / h.sum(-1, keepdim=True),
    "sum": lambda h: h.sum(-1, keepdim=True),
    "mean": lambda h: h.mean(-1, keepdim=True),
    "largest": lambda h: h.amax(-1, keepdim=True),
    "norm": lambda h: h.norm(dim=-1, keepdim=True),
    "deviation": lambda h: h.std(-1, keepdim=True, correction=0),
    "plus a number": lambda h: 1 + h,
    "less than a number": lambda h: 1 - h,
    "times a number": lambda h: 2.5 * h,
    "plus constants": lambda h: h + CONSTANT,
    "times constants": lambda h: h * CONSTANT,
    "clipped": lambda h: h.clamp(0, 1),
    "squares, bounded": lambda h: h.square().clamp(min=1e-3),
    "squares, bounded in place": lambda h: (h * h).clamp_(max=9.0),
    "magnitudes, bounded": lambda h: torch.maximum(h.abs(), torch.full((), 0.01, dtype=h.dtype)),
    "part of a softmax": lambda h: (h - h.amax(-1, keepdim=True)).exp(),
    "spectrum": lambda h: torch.fft.fft(h).abs(),
    "turned": lambda h: torch.view_as_real(
        torch.view_as_complex(h.reshape(-1, 2, 2).contiguous()) * 1j
    ).reshape(h.shape),
    "log softmax": lambda h: h.log_softmax(-1),
    "at least": lambda h: torch.maximum(h, torch.full((), 0.1, dtype=h.dtype)),
    "sorted": lambda h: h.sort(-1).values,
    "sign": torch.sign,
    "mask": lambda h: (h > 0).to(h),
    "rounded down": lambda h: h // 0.3,
    "written": lambda h: torch.zeros_like(h).copy_(h),
    "written by rows": by_rows,
    "written to a part": with_part,
    "joined with constants": lambda h: torch.cat([h, CONSTANT.expand(len(h), -1)], 1)[:, :WIDTH],
}
JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda p, q: p * q,
    "quotient": lambda p, q: p / q,
    "sum": lambda p, q: p + q,
    "matrix product": lambda p, q: (p[:, :, None] @ q.expand_as(p)[:, None, :]).sum(-1),
    "joined": lambda p, q: torch.cat([p, q.expand_as(p)], 1)[:, 2 : 2 + WIDTH],
    "mean of what is written to": lambda p, q: written_to(p, q).mean(0),
    "largest": torch.maximum,
    "lerp": lambda p, q: torch.lerp(p, 2 * p, q.expand_as(p)),
    "added quotient": lambda p, q: torch.addcdiv(p, p, q.expand_as(p)),
}


class Branches(nn.Module):
    """Two linear layers, functions behind the second, what joins them, and a linear layer."""

    def __init__(self, functions: list[Function], join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.learns, self.beside = nn.Linear(FEATURES, WIDTH), nn.Linear(FEATURES, WIDTH)
        self.last = nn.Linear(WIDTH, 3)
        self.functions, self.join = functions, join

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 3)."""
        h = self.beside(x)
        for function in self.functions:
            h = function(h)
        return self.last(self.join(self.learns(x), h))


def network(functions: list[Function], join: str) -> Branches:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Branches(functions, JOINS[join])


def feedback(model: Branches, epsilon: float, **options: Any) -> dict[str, Tensor]:
    """Return the feedback of all but the second layer."""
    found = feedback_of(model, inputs(), epsilon, **options)
    return {name: tensor for name, tensor in found.items() if not name.startswith("beside")}


def inputs() -> Tensor:
    return torch.randn(4, FEATURES, generator=torch.Generator().manual_seed(2))


@examples(400)
@given(
    names=st.lists(st.sampled_from(sorted(FUNCTIONS)), max_size=3),
    join=st.sampled_from(sorted(JOINS)),
    epsilon=st.sampled_from([0.0, 0.1]),
)
def test_what_is_frozen_is_what_it_was(names: list[str], join: str, epsilon: float) -> None:
    model = network([FUNCTIONS[name] for name in names], join)
    try:
        expected = feedback(model, epsilon)
    except lfp.UnsupportedOperation:  # of a reward, which does not arrive at what is frozen
        assume(False)
    assume(all(tensor.isfinite().all() for tensor in expected.values()))
    model.beside.requires_grad_(False)
    assert distance(feedback(model, epsilon), expected) <= TOLERANCE


CHAINS = [
    ["squares, bounded", "mean"],
    ["squares, bounded in place", "sum", "root"],
    ["magnitudes, bounded", "sum"],
    ["part of a softmax", "sum"],
    ["log softmax", "exp"],
    ["spectrum"],
    ["turned"],
]


@pytest.mark.parametrize("join", ["product", "quotient", "matrix product"])
@pytest.mark.parametrize("names", CHAINS, ids=", ".join)
def test_parts_of_norms_and_softmaxes_are_frozen_as_what_they_are(
    names: list[str], join: str
) -> None:
    for attention in ("uniform", "constant"):
        model = network([FUNCTIONS[name] for name in names], join)
        expected = feedback(model, 0.1, attention=attention)
        model.beside.requires_grad_(False)
        assert distance(feedback(model, 0.1, attention=attention), expected) <= TOLERANCE


def test_what_is_cut_off_is_another_thing() -> None:
    """The negative twin: a constant in the place of a frozen activation is told apart."""
    model = network([torch.tanh], "product")
    expected = feedback(model, 0.1)
    model.functions = [torch.tanh, torch.detach]
    assert distance(feedback(model, 0.1), expected) > 0.1
