"""What each operand of an operation gets of the reward, against the chain rule with fixed parts.

By Euler's theorem an operand z of a product y of n factors has ``z dy/dz = y``, so that its reward
is ``s z dy/dz R / (y + e s(y))``: s is its share, and e what the operation owes. Both are written
down here for every operation by hand; autograd differentiates the operation as it is.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from lfp_core import _torch, sharing
from lfp_core.marks import ACTIVATION, marked
from lfp_core.slopes import UNDIVIDED
from validation.shares import feedback_to, pushes, rewards, stabilised

N = 4
pytestmark = pytest.mark.usefixtures("double")


WEIGHT = nn.Parameter(torch.tensor([[0.5, -1.0, 2.0, 1.5]], dtype=torch.float64))
MATRIX = nn.Parameter(torch.tensor([[0.5, -1.0, 2.0, 1.5]] * 4, dtype=torch.float64).tril())
FROZEN = nn.Parameter(WEIGHT.detach().clone(), requires_grad=False)
CONSTANT = torch.tensor([0.5, -1.0, 2.0, 1.5], dtype=torch.float64)
ROWS = torch.tensor([2, 0, 0])


def squares(a: Tensor) -> Tensor:
    return (a**2).sum(-1, keepdim=True)


def written_to_itself(a: Tensor) -> Tensor:
    h = a * CONSTANT
    return h.copy_(h.view(4, 4))


def times_histogram(a: Tensor, b: Tensor) -> Tensor:
    """Multiply by what has no derivative, although its operand has one."""
    return torch.histc(a, N, -2.0, 2.0) * b


def same(function: Callable[[Tensor, Tensor], Tensor], a: Tensor) -> Tensor:
    return function(a, a)


def add_gated(h: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.addcmul(h, a.sigmoid(), b)


#: By name: the function; the share of each operand, or None where it is not looked at; what the
#: output owes, in epsilons; and what autograd differentiates, where that is another function.
CASES: dict[str, tuple[Any, ...]] = {
    # products
    "a * b": (lambda a, b: a * b, (0.5, 0.5), 0),
    "a @ b": (lambda a, b: a @ b, (0.5, 0.5), 0.5),
    "outer": (lambda a, b: torch.outer(a[0], b[0]), (0.5, 0.5), 0),
    "of three": (lambda a, b, c: torch.einsum("ij,ij,ij->ij", a, b, c), (1 / 3,) * 3, 0),
    "einsum, summed": (lambda a, b: torch.einsum("ij,jk", a, b), (0.5, 0.5), 0.5),
    "einsum, outer": (lambda a, b: torch.einsum("i,j", a[0], b[0]), (0.5, 0.5), 0),
    "einsum, elementwise": (lambda a, b: torch.einsum("...i,...i->...i", a, b), (0.5, 0.5), 0),
    "einsum, over dots": (lambda a, b: torch.einsum("...i,...i->i", a, b), (0.5, 0.5), 0.5),
    "einsum of itself": (lambda a: torch.einsum("ij,jk->ik", a, a), (0.5,), 0.5),
    "einsum, square": (lambda a: torch.einsum("ij,ij->i", a, a), (0.5,), 0),
    "vecdot": (lambda a: same(torch.linalg.vecdot, a), (0.5,), 0),
    "vecdot of squares": (lambda a: same(torch.linalg.vecdot, a**2), (0.25,), 0),
    "(a * w).sum()": (lambda a: (a * WEIGHT).sum(-1), (1.0,), 1),
    "(a * b).sum()": (lambda a, b: (a * b).sum(-1), (0.5, 0.5), 0.5),
    "no derivative": (times_histogram, (0.0, 1.0), 0, lambda a, b: times_histogram(a, b) + 0 * a),
    # gates
    "gate": (lambda a, b: a.sigmoid() * b, (0.0, 1.0), 0),
    "gate @": (lambda a, b: a.sigmoid() @ b, (0.0, 1.0), 1),
    "gate of two": (
        lambda a, b, c: torch.einsum("ij,ij,ij->ij", a.sigmoid(), b, c),
        (0.0, 0.5, 0.5),
        0,
    ),
    "gate times a constant": (lambda a, b: a.sigmoid() * CONSTANT * b, (0.0, 1.0), 0),
    "gate, written to": (
        lambda a, b: a.sigmoid().mul_(2.0) * b,
        (0.0, 1.0),
        0,
        lambda a, b: 2.0 * a.sigmoid() * b,
    ),
    "gate by a logistic": (lambda a, b: b / (1 + torch.exp(a)), (0.0, 1.0), 0),
    "gate by a quotient": (lambda a, b: CONSTANT / (1 + a.exp()) * b, (0.0, 1.0), 0),
    "gate by its reciprocal": (lambda a, b: (1 + a.exp()).reciprocal() * b, (0.0, 1.0), 0),
    "hard gate": (lambda a, b: F.relu6(a + 3) / 6 * b, (0.0, 1.0), 0),
    "no gate: relu6": (lambda a, b: F.hardtanh(a * WEIGHT, -9, 9) * b, (None, 0.5), 0),
    "no gate: relu of shifted": (lambda a, b: F.relu(a + 3) * b, (None, 0.5), 0),
    "no gate: 1 / shifted": (lambda a, b: (a + 3).reciprocal() * b, (None, 0.5), 0),
    "no gate: log of logistic": (lambda a, b: (1 + a.exp()).log() * b, (None, 0.5), 0),
    "gate, times data": (lambda a, b: a.sigmoid() * lfp.activation(CONSTANT) * b, (0.0, 1.0), 0),
    # sums of products
    "addmm": (torch.addmm, (1.0, 0.5, 0.5), 1),
    "addmm of a constant": (lambda a, b: torch.addmm(MATRIX.detach(), a, b), (0.5, 0.5), 0.5),
    "addmm, gate": (
        lambda a, b: torch.addmm(MATRIX.detach(), a.sigmoid(), b),
        (0.0, 1.0),
        1,
    ),
    "addcmul": (torch.addcmul, (1.0, 0.5, 0.5), 1),
    "addcmul, gate": (add_gated, (1.0, 0.0, 1.0), 1),
    "addcmul, of itself": (
        lambda a, b: torch.addcmul(a, a, b),
        (None, 0.5),
        1,
    ),
    "addcdiv": (torch.addcdiv, (1.0, 0.5, -0.5), 1),
    "addcdiv by names": (
        lambda h, a, b: torch.addcdiv(h, tensor1=a, tensor2=b),
        (1.0, 0.5, -0.5),
        1,
    ),
    "addcdiv by one name": (lambda h, a, b: torch.addcdiv(h, a, tensor2=b), (1.0, 0.5, -0.5), 1),
    # quotients
    "a / b": (lambda a, b: a / b, (0.5, -0.5), 0),
    "div by name": (lambda a, b: torch.div(a, other=b), (0.5, -0.5), 0),
    "a / constant": (lambda a: a / CONSTANT, (1.0,), 0),
    "number / b": (lambda b: 3 / b, (-1.0,), 0),
    "weight / b": (lambda b: WEIGHT / b, (-1.0,), 1),
    "statistic / b": (lambda a, b: squares(a) / b, (0.25, -0.5), 0),
    "b / statistic": (lambda a, b: b / squares(a), (1.0, 1.0), 0),
    "b / (statistic * w)": (lambda a, b: b / (squares(a) * WEIGHT), (1.0, 1.0), None),
    "b / (a ** 2 + 1)": (lambda a, b: b / (a**2 + 1), (None, 0.5), 0),
    "b * a ** 3 summed": (lambda a, b: b * (a**3).sum(-1, keepdim=True), (None, 0.5), 0),
    "two by a statistic": (
        lambda a, b, c: torch.einsum("ij,ij,ij->ij", a, b, squares(c).rsqrt().expand(4, 4)),
        (0.5, 0.5, 1.0),
        0,
    ),
    "two times a statistic": (
        lambda a, b, c: torch.einsum("ij,ij,ij->ij", a, b, squares(c).expand(4, 4)),
        (1 / 3, 1 / 3, 1 / 6),
        0,
    ),
    "gate and statistic": (
        lambda a, b, c: torch.einsum("ij,ij,ij->ij", a, b.sigmoid(), squares(c).expand(4, 4)),
        (0.5, 0.0, 0.25),
        0,
    ),
    # powers
    "a ** 2": (lambda a: a**2, (0.5,), 0),
    "pow by name": (lambda a: torch.pow(a, exponent=2), (0.5,), 0),
    "a ** tensor": (lambda a: a ** torch.tensor(2.0), (0.5,), 0),
    "a ** 0": (lambda a: (a**0) * CONSTANT, (1.0,), 0),
    "a ** 1.5": (lambda a: a.square() ** 1.5, (1 / 3,), 0),
    "a ** 3 * c": (lambda a: a**3 * 2, (1 / 3,), 0),
    "a ** 3 * c + 1": (lambda a: a**3 * 2 + 1, (1 / 3,), 0),
    "a ** 2 + b ** 2": (lambda a, b: a**2 + b**2, (0.5, 0.5), 0),
    "a ** 2 + b ** 3": (lambda a, b: a**2 + b**3, (0.5, 1 / 3), 1),
    "var": (lambda a: a.var(-1), (0.5,), 0),
    "std": (lambda a: a.std(-1), (1.0,), 0),
    "norm": (lambda a: a.norm(dim=-1), (1.0,), 0),
    "mean of var_mean": (lambda a: torch.var_mean(a, -1)[1], (1.0,), 1),
    "statistic @ w": (
        lambda a: torch.tanh(squares(a) @ WEIGHT),
        (0.5,),
        1,
        lambda a: squares(a) @ WEIGHT,
    ),
    "statistic * w": (lambda a: squares(a) * WEIGHT, (0.5,), 1),
    "rsqrt of a statistic": (lambda a: squares(a).rsqrt(), (-1.0,), 0),
    "reciprocal of a statistic": (lambda a: squares(a).reciprocal(), (-0.5,), 0),
    "number / statistic": (lambda a: 3 / squares(a), (-0.5,), 0),
    "constant / statistic": (lambda a: CONSTANT / squares(a), (-0.5,), 0),
    "sqrt of a statistic": (lambda a: squares(a).sqrt(), (1.0,), 0),
    "product of all": (lambda a: a.prod(), (1 / 16,), 0),
    "product of rows": (lambda a: a.prod(0), (0.25,), 0),
    "product of one": (lambda a: a[None].prod(0), (1.0,), 0),
    "product of constants": (lambda a: a * CONSTANT.prod(), (1.0,), 0),
    # layers
    "layer that is made": (
        lambda a, b, c: F.linear(a, b, c[0]),
        (0.5, 0.5, 1.0),
        0.5,
    ),
    "layer of data that is made": (
        lambda b: F.linear(lfp.activation(CONSTANT), b),
        (1.0,),
        1,
    ),
    "constant weights": (lambda a: a * CONSTANT, (1.0,), 0),
    "frozen weights": (lambda a: a * (2 * FROZEN), (1.0,), 1),
    "weights of a shape": (lambda a: a * (torch.ones_like(a) * WEIGHT), (1.0,), 1),
    "weights of a shape, filled": (lambda a: a * (torch.full_like(a, 0.5) * WEIGHT), (1.0,), 1),
    "rows of an activation": (lambda a: F.embedding(ROWS, a * CONSTANT), (1.0,), 0),
    "rows of an activation, by data": (
        lambda a: F.embedding(lfp.activation(ROWS), a * CONSTANT),
        (1.0,),
        0,
    ),
    "frozen rows": (lambda a: a[:3] * F.embedding(lfp.activation(ROWS), FROZEN.mT), (0.5,), 0),
    "constant rows": (lambda a: a[:3] * F.embedding(ROWS, CONSTANT[:, None]), (1.0,), 0),
    "larger one": (lambda a: torch.maximum(a, WEIGHT), (1.0,), 0),
    "larger of two": (torch.maximum, (1.0, 1.0), 0),
    # routes and sums
    "scatter_reduce, sum": (
        lambda a, b: a.scatter_reduce(0, ROWS[:, None].expand(3, 4), b[:3], "sum"),
        (1.0, 1.0),
        1,
    ),
    "scatter_reduce, mean": (
        lambda a, b: a.scatter_reduce(0, ROWS[:, None].expand(3, 4), b[:3], "mean"),
        (1.0, 1.0),
        1,
    ),
    "scatter_reduce, amax": (
        lambda a, b: a.scatter_reduce(0, ROWS[:, None].expand(3, 4), b[:3], reduce="amax"),
        (1.0, 1.0),
        0,
    ),
    "scatter_reduce, amin": (
        lambda a, b: torch.scatter_reduce(a, 0, ROWS[:, None].expand(3, 4), b[:3], "amin"),
        (1.0, 1.0),
        0,
    ),
    "written to itself": (written_to_itself, (1.0,), 0),
    "alpha_dropout": (lambda a: F.alpha_dropout(a, 0.5), (1.0,), 0),
    "alpha_dropout, at work": (lambda a: seeded(F.alpha_dropout, a, 0.5, True), (1.0,), 1),
    "torch.alpha_dropout": (lambda a: seeded(torch.alpha_dropout, a, 0.5, True), (1.0,), 1),
    "torch.alpha_dropout, at rest": (lambda a: torch.alpha_dropout(a, 0.5, False), (1.0,), 0),
}


def seeded(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Return what a random function gives each time that it is called like this."""
    torch.manual_seed(1)
    return function(*arguments)


def operands(n: int) -> list[Tensor]:
    """Return matrices without zeros, positive and negative numbers in them."""
    torch.manual_seed(3)
    signs = [torch.where(torch.rand(N, N) < 0.5, -1.0, 1.0) for _ in range(n)]
    return [sign * (0.5 + torch.rand(N, N)) for sign in signs]


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("name", CASES)
def test_operands_get_their_share(name: str, epsilon: float) -> None:
    function, shares, owed, *other = CASES[name]
    if owed is None:
        if epsilon:
            pytest.skip("what is owed is not that of the output")
        owed = 0
    values = operands(len(shares))
    found = rewards(function, *values, epsilon=epsilon)
    leaves = [value.clone().requires_grad_() for value in values]
    y = (other[0] if other else function)(*leaves)
    reward = function(*values).detach().cos()
    gradients = torch.autograd.grad(y, leaves, reward / stabilised(y, owed * epsilon))
    for value, gradient, share, r in zip(values, gradients, shares, found, strict=True):
        if share is not None:
            torch.testing.assert_close(r, share * value * gradient, rtol=1e-9, atol=1e-12)


# --- two ways to write the same -------------------------------------------------------------------

SAME: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "addcmul of itself": (lambda a, b: torch.addcmul(a, a, b), lambda a, b: a + a * b),
    "addcmul of itself by name": (
        lambda a, b: torch.addcmul(a, tensor1=b, tensor2=a),
        lambda a, b: a + b * a,
    ),
    "addmm of itself": (lambda a, b: torch.addmm(a, a, b), lambda a, b: torch.addmm(a, 1 * a, b)),
    "addcmul, statistic": (
        lambda a, b: torch.addcmul(b, a, squares(b)),
        lambda a, b: b + a * squares(b),
    ),
    "addcmul, two statistics": (
        lambda a, b: torch.addcmul(b, squares(a), squares(b)),
        lambda a, b: b + squares(a) * squares(b),
    ),
    "addcmul, statistic and constant": (
        lambda a, b: torch.addcmul(b, squares(a), CONSTANT),
        lambda a, b: b + squares(a) * CONSTANT,
    ),
    "addcmul of a statistic": (
        lambda a, b: torch.addcmul(squares(a), a, b),
        lambda a, b: squares(a) + a * b,
    ),
    "three factors": (
        lambda a, b: torch.einsum("ij,ij,ij->ij", a, b, squares(a).rsqrt().expand(4, 4)),
        lambda a, b: (a * b) * squares(a).rsqrt(),
    ),
    "l1": (lambda a, b: a / a.abs().sum(-1, True) + b, lambda a, b: F.normalize(a, 1.0) + b),
    "l2": (
        lambda a, b: a / torch.einsum("ij,ij->i", a, a).sqrt()[:, None] + b,
        lambda a, b: F.normalize(a) + b,
    ),
    "tensor for a number": (
        lambda a, b: a * (a ** torch.tensor(2.0)).sum(-1, True).rsqrt() + b,
        lambda a, b: F.normalize(a) + b,
    ),
    "pow by name": (
        lambda a, b: a * a.pow(exponent=2).sum(-1, True).rsqrt() + b,
        lambda a, b: F.normalize(a) + b,
    ),
}


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("normalisation", ["gradient", "identity"])
@pytest.mark.parametrize("name", SAME)
def test_ways_to_write_the_same_share_the_same(
    name: str, normalisation: str, epsilon: float
) -> None:
    one, other = (
        pushes(way, *operands(2), epsilon=epsilon, normalisation=normalisation)
        for way in SAME[name]
    )
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_quotient_by_itself_gets_exactly_nothing() -> None:
    (found,) = rewards(lambda a: a / a, *operands(1))
    assert not found.any()


@pytest.mark.parametrize("units", ["reverse", "shifted"])
def test_units_concern_functions_that_are_a_number_other_than_0_at_0(units: str) -> None:
    """The secant slope of the sine is negative beyond pi, and that of the logarithm below 1."""
    for function in (torch.sin, torch.log):
        values = torch.tensor([0.5, 4.0])
        found = rewards(function, values, units=units)
        torch.testing.assert_close(found, rewards(function, values))


def test_derivative_at_zero_of_what_is_spread_is_that_of_each_place() -> None:
    divisors = torch.tensor([[2.0], [3.0]])
    values = torch.tensor([0.0, 1.0])
    whole = pushes(lambda a: torch.fmod(a, divisors).sum(), values, epsilon=0.0)
    spread = pushes(lambda a: torch.fmod(a.expand(2, 2), divisors).sum(), values, epsilon=0.0)
    torch.testing.assert_close(whole, spread)
    assert float(whole[0][0]) == pytest.approx(2 * float(whole[0][1]) / 2)


def test_root_has_no_slope_at_zero() -> None:
    (found,) = pushes(lambda a: (a**0.5).sum(), torch.tensor([0.0, 4.0]), epsilon=0.0)
    assert found[0] == 0
    assert found[1] != 0


def test_concatenation_with_data_leaves_what_is_owed_to_the_function_behind_it() -> None:
    """At z = 0 the slope of a sigmoid is ``1 / 2 eps``, if it is the one to apply epsilon."""

    def function(a: Tensor) -> Tensor:
        return torch.cat([a, lfp.activation(torch.ones(2))]).sigmoid()

    one = pushes(function, torch.tensor([0.0, 1.0]))
    other = pushes(torch.sigmoid, torch.tensor([0.0, 1.0]), reward=lambda y: y.cos())
    torch.testing.assert_close(one, other)


def test_bias_behind_a_spike_owes_epsilon() -> None:
    """A spike hands down its reward itself; the sum of a spike and a bias is a sum."""
    bias = nn.Parameter(torch.tensor([0.5, -2.0]))

    def function(a: Tensor) -> Tensor:
        return marked(a, ACTIVATION._replace(epsilon=UNDIVIDED)) + bias

    values = torch.tensor([1.0, 3.0])
    (found,) = pushes(function, values)
    y = values + bias.detach()
    torch.testing.assert_close(found, values * y.cos() / stabilised(y, 0.1))


def test_relu_hands_down_the_reward_of_a_spike_undivided() -> None:
    def function(a: Tensor) -> Tensor:
        return F.relu(marked(a, ACTIVATION._replace(epsilon=UNDIVIDED)))

    values = torch.tensor([1.0, 3.0])
    (found,) = pushes(function, values)
    torch.testing.assert_close(found, values.cos())


def test_bias_belongs_to_the_layer_that_it_is_added_to() -> None:
    values, bias = torch.tensor([0.5, -2.0]), nn.Parameter(torch.tensor([1.0, 3.0]))
    (found,) = pushes(lambda a: a + bias, values)
    y = values + bias.detach()
    torch.testing.assert_close(found, y.cos() / stabilised(y, 0.1))


@pytest.mark.parametrize("options", [{}, {"inplace": True}], ids=str)
def test_dropout_that_does_not_say_whether_it_trains_does_not(options: dict[str, Any]) -> None:
    """As torch.compile shows it."""

    def function(a: Tensor) -> Tensor:
        (context,) = _torch.active_modes()
        with _torch.DisableTorchFunction():
            return sharing.alpha_dropout(context, F.alpha_dropout, (a,), options)  # type: ignore[arg-type]

    values = torch.tensor([0.5, -2.0])
    (found,) = rewards(function, values)
    torch.testing.assert_close(found, values.cos())


def test_einsum_may_be_shown_with_lists_of_dimensions() -> None:
    """As torch.compile shows it; eager mode shows the equation that torch makes of them."""

    def function(a: Tensor, b: Tensor) -> Tensor:
        (context,) = _torch.active_modes()
        with _torch.DisableTorchFunction():
            return sharing.product(context, torch.einsum, (a, [0, 1], b, [1, 2]), {})  # type: ignore[arg-type]

    values = torch.randn(2, 3), torch.randn(3, 2)
    expected = rewards(lambda a, b: torch.einsum("ij,jk", a, b), *values)
    torch.testing.assert_close(rewards(function, *values), expected)


@pytest.mark.parametrize("rows", [lambda r, w: w[r], F.embedding], ids=["index", "embedding"])
def test_rows_of_weights_owe_epsilon(rows: Callable[[Tensor, Tensor], Tensor]) -> None:
    table = nn.Parameter(torch.tensor([[2.0], [1.0], [-3.0]]))
    found = feedback_to(table, lambda r: rows(r, table), ROWS)
    push = table.detach().cos() / stabilised(table.detach(), 0.1)
    torch.testing.assert_close(found, push * torch.tensor([[2.0], [0.0], [1.0]]))  # times taken


def test_weights_among_data_are_routed_and_owe_nothing() -> None:
    weight = nn.Parameter(torch.tensor([2.0, 1.0, -3.0]))
    x = torch.tensor([1.0, -1.0, 1.0])
    found = feedback_to(weight, lambda x: torch.where(x > 0, weight, x), x)
    w = weight.detach()
    torch.testing.assert_close(found, (x > 0) * w.cos() / w)


def test_rows_of_constants_are_data() -> None:
    """As is what else is made of data and constants, such as positions that are encoded."""
    buffer, weight = torch.randn(3, 2), nn.Parameter(torch.randn(2))
    found = feedback_to(weight, lambda r: F.embedding(r, buffer) * weight, ROWS)
    y = buffer[ROWS] * weight.detach()
    torch.testing.assert_close(found, (buffer[ROWS] * y.cos() / stabilised(y, 0.1)).sum(0))


@pytest.mark.parametrize("attention", ["uniform", "constant"])
def test_softmax_of_weights_is_a_weight_and_that_of_an_activation_is_none(attention: Any) -> None:
    x, logits = torch.randn(3, 4), nn.Parameter(torch.randn(4))
    weight = nn.Parameter(torch.randn(4))

    def of_weights(detach: bool) -> Tensor:
        def function(x: Tensor) -> Tensor:
            shares = logits.softmax(-1)
            return x @ (weight * (shares.detach() if detach else shares))

        return feedback_to(weight, function, x, attention=attention)

    torch.testing.assert_close(of_weights(False), of_weights(True))

    def of_activations(x: Tensor) -> Tensor:
        return (x * logits.detach()).softmax(-1) * weight

    found = feedback_to(weight, of_activations, x, attention=attention)
    attended = (x * logits.detach()).softmax(-1)
    y = attended * weight.detach()
    torch.testing.assert_close(found, (attended * y.cos() / stabilised(y, 0.1)).sum(0))


#: What ``torch`` has under a name of ``torch.nn.functional``, with its arguments in another order
#: and a flag for cuDNN as the last.
NORMS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "batch_norm": (
        lambda h, w, b: torch.batch_norm(h, w, b, None, None, True, 0.1, 1e-5, True),
        lambda h, w, b: F.batch_norm(h, None, None, w, b, training=True),
    ),
    "batch_norm in evaluation": (
        lambda h, w, b: torch.batch_norm(h, w, b, b.detach(), w.detach(), False, 0.1, 1e-5, True),
        lambda h, w, b: F.batch_norm(h, b.detach(), w.detach(), w, b),
    ),
    "batch_norm by names": (
        lambda h, w, b: torch.batch_norm(
            h,
            weight=w,
            bias=b,
            running_mean=None,
            running_var=None,
            training=True,
            momentum=0.1,
            eps=1e-5,
            cudnn_enabled=True,
        ),
        lambda h, w, b: F.batch_norm(h, None, None, w, b, training=True),
    ),
    "instance_norm": (
        lambda h, w, b: torch.instance_norm(h, w, b, None, None, True, 0.1, 1e-5, True),
        lambda h, w, b: F.instance_norm(h, None, None, w, b),
    ),
    "layer_norm": (
        lambda h, w, b: torch.layer_norm(h.mT, (4,), w, b, 1e-5, True),
        lambda h, w, b: F.layer_norm(h.mT, (4,), w, b),
    ),
    "group_norm": (
        lambda h, w, b: torch.group_norm(h, 2, w, b, 1e-5, True),
        lambda h, w, b: F.group_norm(h, 2, w, b),
    ),
}


@pytest.mark.parametrize("normalisation", ["gradient", "identity"])
@pytest.mark.parametrize("name", NORMS)
def test_orders_of_arguments_are_told_apart(name: str, normalisation: Any) -> None:
    x, matrix = torch.randn(5, 4, 3), nn.Parameter(torch.randn(3, 3))
    scale, shift = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.randn(4))
    found = []
    for way in NORMS[name]:

        def function(x: Tensor, way: Callable[..., Tensor] = way) -> Tensor:
            return way(F.linear(x, matrix), scale, shift)

        for weight in (matrix, scale, shift):
            found.append(feedback_to(weight, function, x, normalisation=normalisation))
    torch.testing.assert_close(found[:3], found[3:])
