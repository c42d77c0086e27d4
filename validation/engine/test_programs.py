"""Programs of users that compute the same have the same feedback, whatever they are made of.

Each pair is a plain way to write a function of a network's layers, and another that users write.
Where the feedback follows from Theorem 1, it is compared with |w| times the gradient as well.
"""

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from lfp_core import calls, elementwise, functions, native, products, roles, routes
from lfp_core.marks import UnsupportedOperation

pytestmark = pytest.mark.usefixtures("double")
TOLERANCE = 1e-9

#: Of two layers h and g (4, 6), a weight w (6,) and the input x (4, 6).
Program = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Feedback = dict[str, Tensor]


class Network(nn.Module):
    """A layer behind a program of two layers and a weight."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.weight = nn.Parameter(torch.rand(6) + 0.5)
        self.program = program

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (4, 3) of an input (4, 6)."""
        return self.last(self.program(self.first(x), self.second(x), self.weight, x))


def inputs() -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


def feedback_of(program: Program, epsilon: float = 0.0, **options: Any) -> Feedback:
    """Return the outputs and the feedback of all parameters that get some."""
    network = Network(program)
    with lfp.feedback(epsilon, **options):
        outputs = network(inputs())
    lfp.backward(outputs, outputs.detach().cos())
    found = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    return {"outputs": outputs.detach(), **found}


def scaled_gradient_of(program: Program) -> Feedback:
    """Return what Theorem 1 gives: |w| times the gradient of the loss that has that reward."""
    network = Network(program)
    outputs = network(inputs())
    loss = -(outputs.detach().cos() / outputs.detach() * outputs).sum()
    loss.backward()
    found = {
        n: p.detach().abs() * p.grad for n, p in network.named_parameters() if p.grad is not None
    }
    return {"outputs": outputs.detach(), **found}


def distance(one: Feedback, other: Feedback) -> float:
    """Return the largest difference, of one parameter, in parts of its feedback.

    It is infinite where one of them is not finite, or has feedback of other parameters.
    """
    finite = all(values.isfinite().all() for each in (one, other) for values in each.values())
    if one.keys() != other.keys() or not finite:
        return math.inf
    sizes = {name: max(float(other[name].norm()), 1.0) for name in one}
    return max(float((one[name] - other[name]).norm()) / sizes[name] for name in one)


def top(h: Tensor) -> Tensor:
    return h.amax(-1, keepdim=True)


def norms_of(h: Tensor) -> Tensor:
    """Return the norm of each row, as often as it has values."""
    return h.norm(dim=1, keepdim=True).expand_as(h)


def softmax_with(largest: Callable[[Tensor], Tensor]) -> Program:
    """Return a softmax by hand that subtracts what is given."""

    def program(h: Tensor, *_: Tensor) -> Tensor:
        e = (h - largest(h)).exp()
        return e / e.sum(-1, keepdim=True)

    return program


def attended(together: bool) -> Program:
    """Return attention whose scores are normalised before the values, or after them."""

    def program(h: Tensor, g: Tensor, *_: Tensor) -> Tensor:
        scores = h @ g.mT
        e = (scores - top(scores)).exp()
        if together:
            return (e @ g) / e.sum(-1, keepdim=True)
        return torch.softmax(scores, -1) @ g

    return program


def by_index(h: Tensor) -> Tensor:
    """Return the largest value of each row, by a scatter."""
    start, index = h.new_full((4, 1), -1e9), torch.zeros(4, 6, dtype=torch.long)
    return start.scatter_reduce(1, index, h, "amax")


def negated(h: Tensor, *_: Tensor) -> Tensor:
    e = (h + (-top(h))).exp()
    return e / e.sum(-1, keepdim=True)


def by_powers_of_2(h: Tensor, *_: Tensor) -> Tensor:
    scaled = h * math.log2(math.e)
    e = torch.exp2(scaled - top(scaled))
    return e / e.sum(-1, keepdim=True)


def by_logarithm(h: Tensor, *_: Tensor) -> Tensor:
    centred = h - top(h)
    return (centred - centred.exp().sum(-1, keepdim=True).log()).exp()


def over_sum(e: Tensor) -> Tensor:
    return e / e.sum(-1, keepdim=True)


def attend(h: Tensor, g: Tensor, w: Tensor, x: Tensor) -> Tensor:
    """Return the mean of g, weighed by a softmax of h, times w."""
    return (h.softmax(-1) * g).sum(-1, keepdim=True) * w


def in_blocks(cut: Callable[[Tensor], Tensor]) -> Program:
    """Return the same by blocks of columns and a running maximum, as in flash attention."""

    def program(h: Tensor, g: Tensor, w: Tensor, x: Tensor) -> Tensor:
        largest, total, mean = torch.full((4, 1), -1e30), torch.zeros(4, 1), torch.zeros(4, 1)
        for scores, values in zip(h.split(2, -1), g.split(2, -1), strict=True):
            now = torch.maximum(largest, cut(top(scores)))
            before, e = (largest - now).exp(), (scores - now).exp()
            total = total * before + e.sum(-1, keepdim=True)
            mean = mean * before + (e * values).sum(-1, keepdim=True)
            largest = now
        return mean / total * w

    return program


def scanned(decayed: bool) -> Program:
    """Return means of g over all earlier samples, weighed by exp(h), as RWKV has them.

    Weights decay by w at each step: by a scan that keeps two sums, or by softmaxes.
    """

    def scores(h: Tensor, w: Tensor, t: int) -> Tensor:
        return torch.stack([h[i] - w * (t - i) for i in range(t + 1)])

    def program(h: Tensor, g: Tensor, w: Tensor, x: Tensor) -> Tensor:
        if not decayed:
            return torch.stack([(scores(h, w, t).softmax(0) * g[: t + 1]).sum(0) for t in range(4)])
        largest, sums, means = torch.full((6,), -1e30), torch.zeros(6), []
        sum_of_values = torch.zeros(6)
        for t in range(4):
            now = torch.maximum(largest - w, h[t])
            before, e = (largest - w - now).exp(), (h[t] - now).exp()
            sum_of_values, sums = before * sum_of_values + e * g[t], before * sums + e
            means.append(sum_of_values / sums)
            largest = now
        return torch.stack(means)

    return program


def by_groups(detached: bool) -> Program:
    """Return a softmax over the neighbours of a node, as graph attention has it."""

    def program(h: Tensor, g: Tensor, *_: Tensor) -> Tensor:
        nodes = torch.tensor([0, 0, 1, 1])
        index = nodes[:, None].expand(4, 6)
        source, start = h.detach() if detached else h, torch.zeros(2, 6)
        largest = start.scatter_reduce(0, index, source, "amax", include_self=False)
        e = (h - largest.index_select(0, nodes)).exp()
        return e / start.scatter_add(0, index, e).index_select(0, nodes) * g

    return program


@torch.no_grad()
def without_gradients(h: Tensor) -> Tensor:
    """Return the largest values, where they are finite."""
    largest = top(h)
    return torch.where(largest.isfinite(), largest, 0.0).index_select(0, torch.arange(4)) * 1.0


def cosine(h: Tensor, g: Tensor, *_: Tensor) -> Tensor:
    return F.cosine_similarity(h[:, None], g[None], dim=-1).repeat(1, 2)[:, :6]


def cosine_by_norms(h: Tensor, g: Tensor, *_: Tensor) -> Tensor:
    norms = h.norm(dim=-1, keepdim=True) * g.norm(dim=-1)
    return (h @ g.mT / norms).repeat(1, 2)[:, :6]


def cosine_by_outer_norms(h: Tensor, g: Tensor, *_: Tensor) -> Tensor:
    norms = h.norm(dim=-1, keepdim=True) @ g.norm(dim=-1, keepdim=True).mT
    return ((h @ g.mT) / norms.clamp(min=1e-8)).repeat(1, 2)[:, :6]


def complex_of(h: Tensor) -> Tensor:
    return torch.view_as_complex(h.view(4, 3, 2))


def real_of(z: Tensor) -> Tensor:
    return torch.view_as_real(z).flatten(1)


def phases(h: Tensor, *_: Tensor) -> Tensor:
    z = complex_of(h)
    return real_of(z / (z.real**2 + z.imag**2).sqrt())


def routed(h: Tensor, g: Tensor, *_: Tensor) -> Tensor:
    gates = g.sigmoid()
    return gates / gates.sum(-1, keepdim=True) * h


def routed_by_reciprocal(h: Tensor, g: Tensor, *_: Tensor) -> Tensor:
    gates = g.sigmoid()
    return gates * (1 / gates.sum(-1, keepdim=True)) * h


def sinkhorn(softmax: Program) -> Program:
    """Return a softmax over columns of one over rows."""

    def program(h: Tensor, *others: Tensor) -> Tensor:
        p = softmax(h, *others)
        return p / p.sum(0)

    return program


def clipped(h: Tensor, g: Tensor, *_: Tensor) -> Tensor:
    return h * (g + 3).clamp(min=0).clamp(max=6) / 6


PAIRS: dict[str, tuple[Program, Program]] = {
    # in place
    "div_ of data": (lambda h, g, w, x: x / g, lambda h, g, w, x: x.clone().div_(g)),
    "pow_ of a constant": (
        lambda h, g, w, x: 2.0 ** g.tanh(),
        lambda h, g, w, x: torch.full_like(g, 2.0).pow_(g.tanh()),
    ),
    "atan2_ of data": (
        lambda h, g, w, x: torch.atan2(x, g),
        lambda h, g, w, x: x.clone().atan2_(g),
    ),
    # gates that meet weights
    "a weighted gate, scaled": (
        lambda h, g, w, x: 2 * h * (w * g.sigmoid()),
        lambda h, g, w, x: h * (2 * (w * g.sigmoid())),
    ),
    "a weighted gate, masked": (
        lambda h, g, w, x: h * (w * g.sigmoid()) * (x > 0),
        lambda h, g, w, x: h * ((w * g.sigmoid()) * (x > 0)),
    ),
    "the reciprocal of a weighted gate": (
        lambda h, g, w, x: h / (w * g.sigmoid()),
        lambda h, g, w, x: h * (w * g.sigmoid()).reciprocal(),
    ),
    "the root of the square of a weighted gate": (
        lambda h, g, w, x: h * (w * g.sigmoid()),
        lambda h, g, w, x: h * (w * g.sigmoid()).square().sqrt(),
    ),
    # gates
    "a gate in a buffer": (
        lambda h, g, w, x: h * g.sigmoid(),
        lambda h, g, w, x: h * torch.empty_like(h).copy_(g.sigmoid()),
    ),
    "a weighted gate in a buffer": (
        lambda h, g, w, x: h * (w * g.sigmoid()),
        lambda h, g, w, x: h * torch.zeros(4, 6).copy_(w * g.sigmoid()),
    ),
    "norms in a buffer": (
        lambda h, g, w, x: h / g.norm(dim=1, keepdim=True),
        lambda h, g, w, x: h / torch.ones(4, 6).index_copy_(1, torch.arange(6), norms_of(g)),
    ),
    "1 + tanh, in a buffer": (
        lambda h, g, w, x: h * (1 + g.tanh()),
        lambda h, g, w, x: h * (1 + torch.zeros(4, 6).copy_(g.tanh())),
    ),
    "a logarithm where it is a number": (
        lambda h, g, w, x: torch.where(h > 0, torch.where(h > 0, h, 1.0).log(), g),
        lambda h, g, w, x: torch.where(h > 0, h.log(), g),
    ),
    "log1p where it is a number": (
        lambda h, g, w, x: torch.where(h > 0, torch.where(h > 0, 2 * h - 1, 1.0).log1p(), g),
        lambda h, g, w, x: torch.where(h > 0, (2 * h - 1).log1p(), g),
    ),
    "a gate that is blurred by a constant": (
        lambda h, g, w, x: h * F.avg_pool1d(g.sigmoid()[:, None], 3, 1, 1)[:, 0],
        lambda h, g, w, x: (
            h * F.conv1d(g.sigmoid()[:, None], torch.ones(1, 1, 3) / 3, padding=1)[:, 0]
        ),
    ),
    "a gate in a product with a constant": (
        lambda h, g, w, x: h * g.sigmoid().mean(-1, keepdim=True),
        lambda h, g, w, x: h * (g.sigmoid() @ torch.full((6, 1), 1 / 6)),
    ),
    "a product of gates": (
        lambda h, g, w, x: h * (g.sigmoid() * h.sigmoid()),
        lambda h, g, w, x: h * torch.stack([g.sigmoid(), h.sigmoid()]).prod(0),
    ),
    "gates over their sum": (routed_by_reciprocal, routed),
    "half of 1 + tanh": (
        lambda h, g, w, x: h * g.tanh().add(1).div(2),
        lambda h, g, w, x: h * (0.5 + g.tanh() * 0.5),
    ),
    "a multiple of tanh, less 1": (
        lambda h, g, w, x: h * (5 * g.tanh() - torch.ones(6)),
        lambda h, g, w, x: h * (5 * g.tanh() - 1),
    ),
    "a part of tanh, plus 1": (
        lambda h, g, w, x: h * (g.tanh() / 10 + torch.ones(6)),
        lambda h, g, w, x: h * (1 + torch.tensor(0.1) * g.tanh()),
    ),
    "tanh plus a half": (
        lambda h, g, w, x: h * (g.tanh() + torch.full((6,), 0.5)),
        lambda h, g, w, x: h * (g.tanh() + 0.5),
    ),
    "a hard sigmoid by two clips": (lambda h, g, w, x: h * F.relu6(g + 3) / 6, clipped),
    "a hard sigmoid by a ReLU": (
        lambda h, g, w, x: h * F.relu6(g + 3) / 6,
        lambda h, g, w, x: h * (g + 3).relu().clamp_max(6) / 6,
    ),
    "addcmul of a gate": (
        lambda h, g, w, x: h * (1 - g.sigmoid() * x),
        lambda h, g, w, x: h * torch.addcmul(torch.ones_like(h), g.sigmoid(), x, value=-1),
    ),
    "addcdiv by a gate": (
        lambda h, g, w, x: h + g.relu() / (1 + (-g).exp()),
        lambda h, g, w, x: torch.addcdiv(h, g.relu(), 1 + (-g).exp()),
    ),
    # added products
    "addcmul of a square": (
        lambda h, g, w, x: g + h * h,
        lambda h, g, w, x: torch.addcmul(g, h, h),
    ),
    "addcdiv by a magnitude": (
        lambda h, g, w, x: 1 + x / g.abs(),
        lambda h, g, w, x: torch.addcdiv(torch.ones(6), x, g.abs()),
    ),
    # what is returned as it is
    "as_tensor": (lambda h, g, w, x: h * w, lambda h, g, w, x: torch.as_tensor(h) * w),
    "as_tensor of a list": (
        lambda h, g, w, x: h * torch.arange(6.0),
        lambda h, g, w, x: h * torch.as_tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
    ),
    # names of arguments
    "the end of lerp by its name": (
        lambda h, g, w, x: torch.lerp(h, g, 0.3),
        lambda h, g, w, x: torch.lerp(h, end=g, weight=0.3),
    ),
    "trapezoid by its name": (
        lambda h, g, w, x: torch.trapezoid(h)[:, None].expand(4, 6),
        lambda h, g, w, x: torch.trapezoid(y=h)[:, None].expand(4, 6),
    ),
    # normalisation
    "a square by vectors": (
        lambda h, g, w, x: torch.stack([r / torch.dot(r, r).sqrt() for r in h]),
        lambda h, g, w, x: torch.stack([r / (r @ r).sqrt() for r in h]),
    ),
    "a cosine by a product of norms": (cosine, cosine_by_norms),
    "a cosine by a matrix of norms": (cosine, cosine_by_outer_norms),
    "powers over the sum of powers": (
        lambda h, g, w, x: F.normalize(h**2, p=1),
        lambda h, g, w, x: h**2 / (h**2).sum(-1, keepdim=True),
    ),
    "a norm of odd powers": (
        lambda h, g, w, x: h / h.norm(p=3, dim=-1, keepdim=True),
        lambda h, g, w, x: h / (h.abs() ** 3).sum(-1, keepdim=True) ** (1 / 3),
    ),
    "a sum of roots": (
        lambda h, g, w, x: F.normalize(h, p=1),
        lambda h, g, w, x: h / (h**2).sqrt().sum(-1, keepdim=True),
    ),
    "float_power": (
        lambda h, g, w, x: F.normalize(h),
        lambda h, g, w, x: h / h.float_power(2).sum(-1, keepdim=True).sqrt(),
    ),
    "phases": (phases, lambda h, g, w, x: real_of(complex_of(h) / complex_of(h).abs())),
    # softmax
    "an attention that is normalised at the end": (attended(False), attended(True)),
    "columns of a softmax": (
        sinkhorn(lambda h, *_: h.softmax(-1)),
        sinkhorn(softmax_with(top)),
    ),
    **{
        f"a softmax less the largest, {name}": (lambda h, g, w, x: h.softmax(-1), softmax_with(way))
        for name, way in {
            "clamped": lambda h: top(h).clamp(min=-1e9),
            "from minus infinity": lambda h: torch.maximum(h.new_full((4, 1), -torch.inf), top(h)),
            "by an index": by_index,
            "by an index, detached": lambda h: by_index(h.detach()),
            "sorted": lambda h: h.sort(descending=True)[0][:, :1],
            "made finite": lambda h: top(h).nan_to_num(),
            "plus a number": lambda h: top(h) + 1e-6,
            "detached": lambda h: top(h).detach(),
            "detached and clamped": lambda h: top(h.detach()).clamp(min=0.0),
            "detached and chosen": lambda h: torch.where(
                top(h).detach().isfinite(), top(h).detach(), 0.0
            ),
            "detached and filled": lambda h: top(h).detach().masked_fill(top(h) > 99.0, 0.0),
            "detached and moved": lambda h: top(h).detach()[[3, 0, 1, 2]][[1, 2, 3, 0]],
            "detached and joined": lambda h: torch.cat([top(h).detach()] * 6, -1),
            "of the magnitudes, detached": lambda h: top(h.abs()).detach(),
            "the mean, detached": lambda h: h.mean(-1, keepdim=True).detach(),
            "without gradients": without_gradients,
        }.items()
    },
    "a softmax plus the negative of the largest": (lambda h, g, w, x: h.softmax(-1), negated),
    "a softmax plus the negative of the largest, detached": (
        lambda h, g, w, x: h.softmax(-1),
        lambda h, g, w, x: over_sum((h + (-top(h).detach())).exp()),
    ),
    "a softmax plus -1 times the largest": (
        lambda h, g, w, x: h.softmax(-1),
        lambda h, g, w, x: over_sum((h + (-1) * top(h)).exp()),
    ),
    "a softmax less the largest by alpha": (
        lambda h, g, w, x: h.softmax(-1),
        lambda h, g, w, x: over_sum(torch.add(h, top(h), alpha=-1).exp()),
    ),
    "a softmax with a temperature that learns": (
        lambda h, g, w, x: (h * w[:1]).softmax(-1),
        lambda h, g, w, x: over_sum(((h - top(h)) * w[:1]).exp()),
    ),
    "a softmax of what is bounded from below": (
        lambda h, g, w, x: h.softmax(-1),
        lambda h, g, w, x: over_sum((h - top(h)).clamp(min=-30).exp()),
    ),
    "a softmax with a bias behind the largest": (
        lambda h, g, w, x: (h + w).softmax(-1),
        lambda h, g, w, x: over_sum((h - top(h) + w).exp()),
    ),
    "a softmax of two by logaddexp": (
        lambda h, g, w, x: (h - torch.stack([h, g]).logsumexp(0)).exp(),
        lambda h, g, w, x: (h - torch.logaddexp(h, g)).exp(),
    ),
    "a product of softmaxes": (
        lambda h, g, w, x: (h.log_softmax(-1) + g.log_softmax(-1)).exp(),
        lambda h, g, w, x: h.softmax(-1) * g.softmax(-1),
    ),
    "exponentials times data plus a weight": (
        lambda h, g, w, x: F.linear(x, torch.eye(6), w) * (h - top(h)).exp(),
        lambda h, g, w, x: (x + w) * (h - top(h)).exp(),
    ),
    "a softmax in blocks": (attend, in_blocks(torch.clone)),
    "a softmax in blocks, whose maxima are detached": (attend, in_blocks(torch.detach)),
    "a softmax by a scan": (scanned(False), scanned(True)),
    "a softmax by powers of 2": (lambda h, g, w, x: h.softmax(-1), by_powers_of_2),
    "a softmax by its logarithm": (lambda h, g, w, x: h.softmax(-1), by_logarithm),
    "a softmax by groups": (by_groups(False), by_groups(True)),
    "a hard sigmoid of a largest value": (
        lambda h, g, w, x: F.hardsigmoid(top(g)) * h,
        lambda h, g, w, x: F.relu6(top(g) + 3) / 6 * h,
    ),
    "the mean of squares, with their variance": (
        lambda h, g, w, x: (h**2).mean(-1, keepdim=True) * w,
        lambda h, g, w, x: torch.var_mean(h**2, -1, keepdim=True)[1] * w,
    ),
    # weights
    "generalised means": (
        lambda h, g, w, x: h.relu().add(0.1) ** 3.0 * w,
        lambda h, g, w, x: h.relu().add(0.1).pow(torch.full((), 3.0)) * w,
    ),
    "a system of equations": (
        lambda h, g, w, x: (torch.linalg.inv(torch.eye(6) + torch.diag(w)) @ h.mT).mT,
        lambda h, g, w, x: torch.linalg.solve(torch.eye(6) + torch.diag(w), h.mT).mT,
    ),
}


#: Pairs of which one owes epsilon more often than the other.
AT_EPSILON_0 = (
    "the reciprocal of a weighted gate",
    "a cosine by a product of norms",
    "a cosine by a matrix of norms",
    "an attention that is normalised at the end",
    "a softmax by its logarithm",
    "a softmax with a temperature that learns",
    "a softmax of what is bounded from below",
    "a softmax with a bias behind the largest",
    "a softmax in blocks",
    "a softmax in blocks, whose maxima are detached",
    "a softmax by a scan",
)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("name", PAIRS)
def test_two_ways_to_write_a_program_have_one_feedback(name: str, epsilon: float) -> None:
    one, other = PAIRS[name]
    found, expected = feedback_of(other, epsilon), feedback_of(one, epsilon)
    assert (distance(found, expected) <= TOLERANCE) == (epsilon == 0 or name not in AT_EPSILON_0)


#: Programs of layers and normalisations alone, whose feedback Theorem 1 gives.
BY_THEOREM: dict[str, Program] = {
    "a ratio of norms": lambda h, g, w, x: (
        h.view(4, 2, 3).norm(dim=1) / h.view(4, 2, 3).norm(dim=1).mean(-1, keepdim=True)
    ).repeat(1, 2),
    "a sum of absolute values": lambda h, g, w, x: h / h.abs().sum(-1, keepdim=True),
    "a sum of roots of absolute values": lambda h, g, w, x: (
        h / h.abs().sqrt().sum(-1, keepdim=True)
    ),
    "phases": lambda h, g, w, x: real_of(complex_of(h) / complex_of(h).abs()),
    "soft assignment": lambda h, g, w, x: F.normalize(
        1 / (1 + ((h[:, None] - torch.eye(6)) ** 2).sum(-1)), p=1
    ),
    "a softmax": softmax_with(by_index),
    "a generalised mean": lambda h, g, w, x: (
        h.abs().pow(w[:1]).mean(-1, keepdim=True).pow(1 / w[:1]).expand(4, 6)
    ),
    "a norm whose order learns": lambda h, g, w, x: (
        h / (h.abs() ** w[2]).sum(-1, keepdim=True) ** (1 / w[2])
    ),
    "a logarithm of sums": lambda h, g, w, x: torch.logaddexp(h, g),
}


@pytest.mark.parametrize("name", BY_THEOREM)
def test_normalisations_by_hand_follow_theorem_1(name: str) -> None:
    program = BY_THEOREM[name]
    assert distance(feedback_of(program), scaled_gradient_of(program)) <= TOLERANCE


def by_moments(joined: Callable[[Tensor], Iterable[Tensor]]) -> Program:
    """Return a normalisation whose moments, the mean and that of squares, are made together."""

    def program(h: Tensor, g: Tensor, w: Tensor, x: Tensor) -> Tensor:
        mean, squares = joined(h)
        return (h - mean) * torch.rsqrt(squares - mean**2 + 1e-5) * w

    return program


#: To divide by a layer of squares, or by a part of what squares were joined in.
MIXED: dict[str, Program] = {
    "a layer of squares": lambda h, g, w, x: h / F.linear(h**2, torch.diag(w) ** 2, w).sqrt(),
    "a product with one": lambda h, g, w, x: h / ((h * h) @ torch.diag(w) + 1).sqrt(),
    "its reciprocal root": lambda h, g, w, x: h * torch.rsqrt(F.linear(h**2, torch.diag(w)) + 1),
    "a negative power": lambda h, g, w, x: h * (F.linear(h**2, torch.diag(w)) + 1).pow(-0.5),
    "a convolution of squares": lambda h, g, w, x: (
        h / F.conv1d(h[..., None] ** 2, torch.diag(w)[..., None], w)[..., 0].clamp(min=1e-6).sqrt()
    ),
    "a layer of magnitudes": lambda h, g, w, x: h / F.linear(h.abs(), torch.diag(w), w),
    "a weighted sum of squares": lambda h, g, w, x: (
        h / ((w * h**2).sum(-1, keepdim=True) + 1).sqrt()
    ),
    "weighted squares": lambda h, g, w, x: h / (w * h**2 + 1).sqrt(),
    "a weight over one": lambda h, g, w, x: h * (w / ((h * h) @ torch.diag(w) + 1).sqrt()),
    "a number over one": lambda h, g, w, x: h * (1 / (F.linear(h**2, torch.diag(w)) + 1)),
    "addcdiv": lambda h, g, w, x: torch.addcdiv(h, g, F.linear(h.abs(), torch.diag(w), w)),
    "moments in a row": by_moments(lambda h: torch.cat([h.mean(0), (h * h).mean(0)]).split(6)),
    "a deviation plus an activation": lambda h, g, w, x: (
        h / (h.std(-1, keepdim=True) + g.relu() + 0.1)
    ),
    "a variance by its cross terms": lambda h, g, w, x: (
        h / ((h.square().sum(0) - 2 * h.mean(0) * h.sum(0)) / 4 + h.mean(0) ** 2).sqrt()
    ),
    "squares plus magnitudes": lambda h, g, w, x: h / (h.square() + h.abs()),
    "exponentials plus an activation": lambda h, g, w, x: (
        (h - top(h)).exp() / ((h - top(h)).exp().sum(-1, keepdim=True) + g.relu())
    ),
    "powers by several weights, and a root of them": lambda h, g, w, x: (
        ((h.abs() + 0.1) ** w).mean(0) ** (1 / w) * h
    ),
    "stacked moments": by_moments(lambda h: torch.stack([h, h * h]).mean(1)),
    "the mean of a row": by_moments(lambda h: torch.cat([h, h**2], 1).mean(0).chunk(2)),
    "var_mean": lambda h, g, w, x: (
        (h - torch.stack(torch.var_mean(h, 0))[1]) / torch.stack(torch.var_mean(h, 0))[0].sqrt()
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_to_divide_by_a_mixture_of_squares_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedOperation, match=r"squares, magnitudes|several weights"):
        feedback_of(MIXED[name])


def test_a_mixture_of_squares_that_nothing_is_divided_by_is_an_activation() -> None:
    def layers(h: Tensor, g: Tensor, w: Tensor, x: Tensor) -> Tensor:
        both = F.linear(torch.cat([h.relu(), h.relu() ** 2], 1), torch.eye(12)[:6] + 0.1)
        return both.relu() / (2 + (g**2).mean(-1, keepdim=True).sqrt())

    assert feedback_of(layers)["first.weight"].norm() > 0


def test_a_softmax_of_a_layer_of_squares_is_a_softmax() -> None:
    """And so it is of what such layers were added to, as in a residual network."""

    def layer(h: Tensor, w: Tensor) -> Tensor:
        return F.linear(h.relu() ** 2, torch.diag(w), w)

    def whole(h: Tensor, g: Tensor, w: Tensor, x: Tensor) -> Tensor:
        return torch.cat([layer(h, w).softmax(-1) * g, (g + layer(h, w)).softmax(-1) * h])[2:6]

    def by_hand(h: Tensor, g: Tensor, w: Tensor, x: Tensor) -> Tensor:
        one, two = layer(h, w), g + layer(h, w)
        e, f = (one - top(one)).exp(), (two - top(two).detach()).exp()
        parts = e / e.sum(-1, keepdim=True) * g, f / f.sum(-1, keepdim=True) * h
        return torch.cat(parts)[2:6]

    assert distance(feedback_of(by_hand), feedback_of(whole)) <= TOLERANCE


def test_the_root_of_a_layer_of_squares_is_an_activation() -> None:
    """As in pooling by norms: what multiplies by it shares evenly."""

    def scaled(h: Tensor, g: Tensor, w: Tensor, x: Tensor) -> Tensor:
        return h * F.linear(h**2, torch.diag(w), w).sqrt()

    expected = scaled_gradient_of(scaled)["weight"]
    torch.testing.assert_close(feedback_of(scaled)["weight"], expected, rtol=1e-9, atol=1e-9)


def test_a_root_by_a_weight_is_finite_at_0() -> None:
    """Whose slope is not, and a ReLU makes zeros."""
    found = feedback_of(lambda h, g, w, x: h.relu() ** (0 * w + 0.5), 0.1)
    assert all(values.isfinite().all() for values in found.values())


#: Roots of sums of squares where all that is squared is 0, which have no derivative there.
NORMS: dict[str, Program] = {
    "sqrt of a sum": lambda h, g, w, x: h.square().sum(-1, keepdim=True).sqrt() + g,
    "a power of a mean": lambda h, g, w, x: (h * h).mean(-1, keepdim=True) ** 0.5 + g,
    "a power by its name": lambda h, g, w, x: (
        h.abs().pow(3).sum(-1, keepdim=True).pow(exponent=1 / 3) + g
    ),
    "a root of a variance": lambda h, g, w, x: h.var(-1, keepdim=True).sqrt() + g,
    "a root of a weighted sum": lambda h, g, w, x: (w * h**2).sum(-1, keepdim=True).sqrt() + g,
    "a distance": lambda h, g, w, x: ((h - h[:1]) ** 2).sum(-1, keepdim=True).sqrt() + g,
}


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("name", NORMS)
def test_a_root_of_a_sum_of_squares_is_finite_at_0(name: str, epsilon: float) -> None:
    def program(h: Tensor, g: Tensor, w: Tensor, x: Tensor) -> Tensor:
        return NORMS[name]((h - 100).relu(), g, w, x)

    found = feedback_of(program, epsilon)
    expected = feedback_of(lambda h, g, w, x: g + 0 * h, epsilon)
    assert all(values.isfinite().all() for values in found.values())
    torch.testing.assert_close(found["second.weight"], expected["second.weight"])


def test_a_root_by_its_own_derivative_is_not_finite_at_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "_with_slope_0_at_0", lambda root, exponent: root)
    found = feedback_of(lambda h, g, w, x: (0 * h).square().sum(-1, keepdim=True).sqrt() + g, 0.1)
    assert not found["first.weight"].isfinite().all()


def test_a_power_of_a_weight_gives_it_the_scaled_gradient() -> None:
    """With the base in another layer than the weight: only its own share is compared."""

    def program(h: Tensor, g: Tensor, w: Tensor, x: Tensor) -> Tensor:
        return h.detach().abs() ** w

    def pooled(h: Tensor, g: Tensor, w: Tensor, x: Tensor) -> Tensor:
        return h.abs() ** w

    of_weight = scaled_gradient_of(program)["weight"]
    torch.testing.assert_close(feedback_of(pooled)["weight"], of_weight, rtol=1e-9, atol=1e-9)
    fixed = feedback_of(lambda h, g, w, x: h.abs() ** w.detach())["first.weight"]
    torch.testing.assert_close(feedback_of(pooled)["first.weight"], fixed, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_difference_from_data_is_no_softmax(sign: float) -> None:
    """``exp(h - x)`` has the secant slope of exp, as ``exp(h + (-x))`` has."""
    found = feedback_of(lambda h, g, w, x: (h - sign * x).exp())
    expected = feedback_of(lambda h, g, w, x: (h + (-sign * x)).exp())
    assert distance(found, expected) <= TOLERANCE
    assert distance(found, scaled_gradient_of(lambda h, g, w, x: (h - sign * x).exp())) > 0.1


# --- what breaks them -----------------------------------------------------------------------------


def without_pending(patch: pytest.MonkeyPatch) -> None:
    """Forget, where a gate is scaled, that it has met weights."""
    right = calls.Call.run

    def run(call: calls.Call, mark: Any, *args: Any) -> Any:
        scaled = call.alone(call.active[0][0]) if len(call.active) == 1 else False
        return right(call, mark._replace(pending=None) if scaled else mark, *args)

    patch.setattr(calls.Call, "run", run)


def halved_divisors(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(products, "_share_of_divisor", lambda *_: 1.0)


def no_norms(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(products, "_are_two_norms", lambda call: False)


def no_extremes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(roles, "SELECTIONS", set[Any]())


def no_gates_in_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routes, "_owed_by", lambda written: None)


def one_clip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(roles, "_of_clipped", lambda role, low, high: "")


def no_gates_added(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(products, "_is_gate", lambda mark, divides: False)


def test_a_mixture_that_is_not_told_from_an_activation_takes_the_sign_of_a_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "MIXED", ())
    program = MIXED["a layer of squares"]
    found, expected = feedback_of(program)["weight"], scaled_gradient_of(program)["weight"]
    assert float((found - expected).norm() / expected.norm()) > 1.0


def no_weighing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(roles, "are_weighed", lambda call: False)


def any_odd(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(roles, "of_multiple", lambda role, factor: role)


def no_centre(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(roles, "are_centred", lambda call: False)


def no_mask(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(functions, "PARTIAL", set[Any]())


BREAKS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "pending": (without_pending, "a weighted gate, scaled"),
    "share of the divisor": (halved_divisors, "an attention that is normalised at the end"),
    "degree of the dividend": (halved_divisors, "powers over the sum of powers"),
    "norms": (no_norms, "a cosine by a product of norms"),
    "extremes": (no_extremes, "a softmax less the largest, sorted"),
    "memory": (no_gates_in_memory, "a gate in a buffer"),
    "norms in memory": (no_gates_in_memory, "norms in a buffer"),
    "weighing": (no_weighing, "a product of softmaxes"),
    "multiples": (any_odd, "a multiple of tanh, less 1"),
    "centres": (no_centre, "a softmax with a bias behind the largest"),
    "logarithms": (no_mask, "a logarithm where it is a number"),
    "clips": (one_clip, "a hard sigmoid by two clips"),
    "gates": (no_gates_added, "addcdiv by a gate"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_program_that_is_read_wrongly_is_told_from_the_other(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks, pair = BREAKS[name]
    one, other = PAIRS[pair]
    expected = feedback_of(one)
    breaks(monkeypatch)
    assert distance(feedback_of(other), expected) > 1e-3


# --- what a context leaves behind -----------------------------------------------------------------


class Scaled(nn.Module):
    """A layer whose weights are divided by a running maximum of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.weight = nn.Linear(6, 6), nn.Parameter(torch.randn(3, 6))
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (4, 3) of an input (4, 6); when it trains, update the scale."""
        h = self.first(x).relu()
        if self.training:
            with torch.no_grad():
                self.scale.lerp_(h.amax(0), 0.1)
            self.scale = self.scale + 0 * h.detach().amax(0)
        return F.linear(h, self.weight * self.scale)


def trained_once(model: nn.Module, **options: Any) -> Tensor:
    model.zero_grad()
    with lfp.feedback(1e-9, **options):
        outputs = model(inputs())
    lfp.backward(outputs, torch.ones_like(outputs))
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_a_buffer_is_a_constant_again_after_the_context() -> None:
    model = Scaled()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    expected = trained_once(model.eval())
    trained_once(model.train())
    model.load_state_dict(state)
    torch.testing.assert_close(trained_once(model.eval()), expected, rtol=0, atol=0)


def test_statistics_of_another_context_do_not_stop_a_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    trained_once(model, normalisation="identity")
    expected = trained_once(deepcopy(model).eval())  # a copy has no marks
    torch.testing.assert_close(trained_once(model.eval()), expected, rtol=0, atol=0)


def test_two_uses_of_a_weighted_gate_are_refused_by_the_nodes_in_cpp_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def program(h: Tensor, g: Tensor, w: Tensor, x: Tensor) -> Tensor:
        u = w + g.sigmoid()
        return h * u + F.linear(u, torch.eye(6) + 0 * w)

    with pytest.raises(UnsupportedOperation, match="used as that and as another value"):
        feedback_of(program)
    nodes = native.load(native.place())
    if nodes is None:
        pytest.skip("the nodes in C++ are not built")
    monkeypatch.setattr(native, "nodes", nodes)
    with pytest.raises(UnsupportedOperation, match="used as that and as another value"):
        feedback_of(program)


def test_an_input_without_a_module_owes_epsilon_once() -> None:
    """What may be data or a constant is scaled by either without another factor."""
    torch.manual_seed(0)
    one, other = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(5, 3))

    def found(x: Callable[[], Tensor]) -> Tensor:
        one.grad = None
        with lfp.feedback(0.1):
            outputs = ((x() @ one) * 2).relu() @ other
        lfp.backward(outputs, outputs.detach().cos())
        assert one.grad is not None
        return one.grad

    x = inputs()
    torch.testing.assert_close(found(lambda: x), found(lambda: lfp.activation(x)), rtol=0, atol=0)
