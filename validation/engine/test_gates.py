"""What is a gate and what is only written like one; and statistics that nothing is divided by.

The engine finds a gate by how it is made: a sigmoid, 1 + tanh(z), 1 / (1 + exp(-z)), or a clipped
z + 3. Where that is wrong, a factor of a product gets no reward at all, without a word.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from lfp_core import functions, marks, roles
from validation.compare import engine_feedback, relative_error, weight_scaled_gradient

TOLERANCE = 1e-9
SIZE = 4
Function = Callable[[Tensor], Tensor]


class Gated(nn.Module):
    """The product of a layer and a function of another one, and a layer behind it."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.signal, self.gate = nn.Linear(5, SIZE), nn.Linear(5, SIZE)
        self.last = nn.Linear(SIZE, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 3) for x (batch, 5)."""
        product: Tensor = self.last(self.signal(x) * self.function(self.gate(x)))
        return product


def feedback_of_factors(function: Function) -> tuple[Tensor, Tensor]:
    """Return the feedback of the weights of signal and gate, at epsilon 0."""
    model = Gated(function)
    x = torch.randn(6, 5, dtype=torch.float64)
    with lfp.feedback(0.0):
        outputs = model(x)
    lfp.backward(outputs, outputs.detach().cos())
    signal, gate = model.signal.weight.grad, model.gate.weight.grad
    assert signal is not None
    return signal, torch.zeros_like(signal) if gate is None else gate


GATES: dict[str, Function] = {
    "sigmoid": torch.sigmoid,
    "one less a sigmoid": lambda z: 1 - z.sigmoid(),
    "1 + tanh": lambda z: 1 + z.tanh(),
    "tanh less one": lambda z: z.tanh() - 1,
    "half of tanh, and a half": lambda z: 0.5 * z.tanh() + 0.5,
    "1 + erf": lambda z: 1 + torch.erf(z),
    "a number as a tensor": lambda z: z.tanh() + torch.tensor(1.0),
    "logistic": lambda z: 1 / (1 + (-z).exp()),
    "logistic, less minus one": lambda z: torch.sub((-z).exp(), -1).reciprocal(),
    "relu6": lambda z: F.relu6(z + 3) / 6,
    "of the negative": lambda z: F.relu6(3 - z) / 6,
    "clamp": lambda z: (0.2 * z + 0.5).clamp(0, 1),
    "clamp by name": lambda z: (z + 2).clamp(min=0, max=2),
    "hardtanh": lambda z: F.hardtanh(z + 1, 0, 2),
    "sum of two": lambda z: z.sigmoid() + (2 * z).sigmoid(),
    "sum of a stack": lambda z: torch.stack([z.sigmoid(), -(2 * z).sigmoid()]).sum(0),
    "product of two": lambda z: z.sigmoid() * (1 + z.tanh()),
    "outer product of two": lambda z: torch.einsum("i,j->ij", z[:, 0].sigmoid(), z[0].sigmoid()),
    "square": lambda z: z.sigmoid() ** 2,
    "product with itself": lambda z: (g := z.sigmoid()) * g,
    "mean": lambda z: z.sigmoid().mean(1, keepdim=True),
    "resized by means": lambda z: F.interpolate(
        z[:, None, ::2].sigmoid(), size=SIZE, mode="linear", align_corners=False
    )[:, 0],
    "resized by copies": lambda z: F.interpolate(z[:, None, ::2].sigmoid(), size=SIZE)[:, 0],
    "smoothed": lambda z: F.avg_pool1d(z.sigmoid()[:, None], 3, 1, 1)[:, 0],
    "kept from 0": lambda z: z.sigmoid().clamp(1e-6, 1 - 1e-6),
    "of a statistic": lambda z: z.norm(dim=1, keepdim=True).sigmoid(),
    "root": lambda z: z.sigmoid().sqrt(),
    "reciprocal": lambda z: 1 / z.sigmoid(),
    "of a root of a square": lambda z: (z.sigmoid() ** 2 + 1e-3).rsqrt(),
    "rounded, straight through": lambda z: (g := z.sigmoid()) + (g.round() - g).detach(),
    "a step, straight through": lambda z: (z > 0).double() + (g := z.sigmoid()) - g.detach(),
}
#: What is no gate, and the same function without what makes it look like one.
NO_GATES: dict[str, tuple[Function, Function]] = {
    "tanh and next to nothing": (lambda z: z.tanh() + 1e-13, torch.tanh),
    "tanh and noise": (lambda z: z.tanh() + 1e-13 * torch.arange(SIZE), torch.tanh),
    "softsign": (lambda z: F.softsign(z) - 1e-13, F.softsign),
    "erf": (lambda z: torch.erf(z) + torch.tensor(1e-13), torch.erf),
    "exp and next to nothing": (lambda z: 1 / (z.exp() + 1e-13), lambda z: 1 / z.exp()),
    "exp less one": (lambda z: 1 / (z.exp() - 1), lambda z: 1 / torch.add(z.exp(), -1.0, alpha=1)),
    "one less exp": (lambda z: 1 / (1 - z.exp()), lambda z: 1 / (torch.ones(SIZE) - z.exp())),
    "shifted by nothing": (lambda z: (z + 1e-13).clamp(0, 2), lambda z: z.clamp(0, 2)),
    "clipped below": (lambda z: (z + 1).clamp(min=0), lambda z: (z + 1).relu()),
    "clipped around 0": (
        lambda z: (z + 1).clamp(-0.5, 2),
        lambda z: (z + torch.ones(SIZE)).clamp(-0.5, 2),
    ),
    "sum of a gate and another": (
        lambda z: z.sigmoid() + z,
        lambda z: z.mul(1).sigmoid() + z.relu() - (-z).relu(),
    ),
    "hardtanh": (lambda z: F.hardtanh(z + 1), lambda z: F.hardtanh(z + torch.ones(SIZE))),
    "rounded and no sigmoid": (
        lambda z: z + (z.round() - z).detach(),
        lambda z: z.mul(1) - (z - z.round()).detach(),
    ),
}


@pytest.mark.parametrize("name", GATES)
def test_a_gate_leaves_the_reward_to_the_signal(name: str) -> None:
    signal, gate = feedback_of_factors(GATES[name])
    assert signal.any()
    assert not gate.any()


@pytest.mark.parametrize("name", NO_GATES)
def test_what_only_looks_like_a_gate_gets_its_half(name: str) -> None:
    like, plain = NO_GATES[name]
    found, expected = feedback_of_factors(like), feedback_of_factors(plain)
    assert expected[1].any()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["tanh and next to nothing", "exp less one", "clipped below"])
def test_any_number_making_a_gate_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_any = {"odd": "gate", "exp": "logistic"}
    monkeypatch.setattr(roles, "of_sum", lambda _, role, number: of_any.get(role, "shifted"))
    monkeypatch.setattr(functions, "bounds", lambda *_, **__: (0, 1))
    assert not feedback_of_factors(NO_GATES[name][0])[1].any()


# --- statistics -----------------------------------------------------------------------------------


class Energy(nn.Module):
    """A function of the sum of squares of a layer without a bias, as one output."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.layer = nn.Linear(5, SIZE, bias=False).double()

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 1) for x (batch, 5)."""
        return self.function(self.layer(x).square().sum(1, keepdim=True))


ACTIVATIONS: dict[str, Function] = {
    "log": torch.log,
    "exp": lambda s: (-s).exp(),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "atan2": lambda s: torch.atan2(s, torch.ones(1)),
    "a root and a function": lambda s: s.sqrt().tanh(),
    "its layer": lambda s: 3 * s,
    "clamped": lambda s: s.clamp(min=1e-12),
    "maximum": lambda s: torch.maximum(s, torch.tensor(1e-12)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_function_of_a_statistic_hands_its_reward_on(name: str) -> None:
    """The reward R of f(s), with s = sum_i h_i ** 2, is that of s: h_i gets R h_i ** 2 / s."""
    model, x = Energy(ACTIVATIONS[name]), torch.randn(6, 5, dtype=torch.float64)
    reward = torch.randn(6, 1, dtype=torch.float64)
    with lfp.feedback(0.0):
        outputs = model(x)
    lfp.backward(outputs, reward)
    weight = model.layer.weight
    h = x @ weight.detach().t()
    towards = reward * h / h.square().sum(1, keepdim=True)  # R_i / h_i
    assert weight.grad is not None
    torch.testing.assert_close(
        weight.grad, -weight.detach().abs() * (towards.t() @ x), rtol=1e-10, atol=1e-12
    )


def test_a_function_of_a_statistic_by_the_chain_rule_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = roles.BOUNDS
    monkeypatch.setattr(roles, "BOUNDS", right | {torch.log, Tensor.log})
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        test_a_function_of_a_statistic_hands_its_reward_on("log")


FACTORS: dict[str, Function] = {
    "norm": lambda z: z.norm(dim=1, keepdim=True),
    "sum of magnitudes": lambda z: z.abs().sum(1, keepdim=True),
    "largest": lambda z: z.abs().amax(1, keepdim=True),
    "energy": lambda z: z.square().sum(1, keepdim=True),
    "deviation": lambda z: z.std(1, keepdim=True),
    "distance": lambda z: torch.cdist(z, torch.ones(1, SIZE, dtype=z.dtype)),
}


@pytest.mark.parametrize("name", FACTORS)
def test_a_statistic_that_multiplies_is_a_factor_like_others(name: str) -> None:
    """Signal and statistic share evenly, as the same times one half in a product of one."""
    model, x = Gated(FACTORS[name]), torch.randn(6, 5, dtype=torch.float64)
    push = torch.randn(6, 3, dtype=torch.float64)
    feedback = engine_feedback(model, x, lambda o: -push * o.detach(), 0.0)
    chain = weight_scaled_gradient(model, (push * model(x)).sum())
    of_signal = {model.signal.weight: 0.5 * chain[model.signal.weight]}
    assert relative_error({p: feedback[p] for p in of_signal}, of_signal) < TOLERANCE
    degree = 2.0 if name == "energy" else 1.0
    of_statistic = {model.gate.weight: 0.5 / degree * chain[model.gate.weight]}
    assert relative_error({p: feedback[p] for p in of_statistic}, of_statistic) < TOLERANCE


@pytest.mark.parametrize("name", ["sigmoid", "root", "mean"])
def test_a_gate_that_divides_leaves_the_reward_to_the_signal(name: str) -> None:
    signal, gate = feedback_of_factors(GATES[name])
    dividing = feedback_of_factors(lambda z: 1 / GATES[name](z))
    assert signal.any()
    assert dividing[0].any()
    assert not gate.any()
    assert not dividing[1].any()


# --- what meets weights before its consumer says what it is --------------------------------------


class Weighted(nn.Module):
    """A function of a layer h, of another z, and of three weights, and a layer behind it."""

    def __init__(self, function: "Meeting") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.signal, self.other = nn.Linear(5, SIZE), nn.Linear(5, SIZE)
        self.w, self.v = (nn.Parameter(torch.rand(SIZE) + 0.3) for _ in range(2))
        self.rows = nn.Parameter(torch.randn(SIZE, SIZE))
        self.last = nn.Linear(SIZE, 3)
        self.special: Function = torch.sigmoid
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 3) for x (batch, 5)."""
        made = self.function(self, self.signal(x), self.special(self.other(x)))
        product: Tensor = self.last(made)
        return product


#: Of the model, h, and what was made of z: a gate, or its squares.
Meeting = Callable[[Weighted, Tensor, Tensor], Tensor]


def disagreement(meeting: Meeting, special: Function, plain: Function) -> float:
    """Return how far feedback is from |w| times the gradient of the same with another function."""
    model, x = Weighted(meeting), torch.randn(6, 5, dtype=torch.float64)
    push = torch.randn(6, 3, dtype=torch.float64)
    model.special = special
    feedback = engine_feedback(model, x, lambda o: -push * o.detach(), 0.0)
    model.special = plain
    expected = weight_scaled_gradient(model, (push * model(x)).sum())
    return relative_error(feedback, expected)


def secant(function: Function) -> Function:
    """Return a function with the same values, and the secant slope for its derivative."""
    return lambda z: z * (function(z) / z).detach()


MEET_GATES: dict[str, Meeting] = {
    "times a weight": lambda m, h, g: h * (g * m.w),
    "a weight times it": lambda m, h, g: (m.w * g) * h,
    "over a weight": lambda m, h, g: h * (g / m.w),
    "and a weight": lambda m, h, g: h * (g + m.w),
    "a weight less it": lambda m, h, g: (m.w - g) * h,
    "twice": lambda m, h, g: h * (m.w + m.v * g),
    "and a number": lambda m, h, g: h * (1 - m.w * g),
    "moved": lambda m, h, g: h * (m.w * g).view(-1, 2, 2).flatten(1),
    "two together": lambda m, h, g: h * (m.w * g + m.v * g.sqrt()),
    "two in a row": lambda m, h, g: h * torch.cat([(m.w * g)[:, :2], (m.v * g)[:, 2:]], 1),
    "clipped": lambda m, h, g: h * (m.w * g).clamp(min=1e-6),
    "squared": lambda m, h, g: h * (m.w * g) ** 2,
    "dividing": lambda m, h, g: h / (m.w * g),
    "added to a term": lambda m, h, g: torch.addcmul(h, h.relu(), m.w * g),
    "of a softmax of weights": lambda m, h, g: h * (m.w.softmax(0) * g),
}
MEET_NO_GATES: dict[str, Meeting] = {
    "a layer of its own": lambda m, h, g: F.linear(m.w * g, m.rows),
    "the sum of weighted ones": lambda m, h, g: (m.rows * g[:, None]).sum(-1),
    "a term": lambda m, h, g: h + m.w * g,
    "rectified": lambda m, h, g: (m.w + g - 1).relu(),
}


@pytest.mark.parametrize("name", MEET_GATES)
def test_weights_of_a_gate_get_what_those_of_its_signal_do(name: str) -> None:
    found = disagreement(MEET_GATES[name], torch.sigmoid, lambda z: z.sigmoid().detach())
    assert found < TOLERANCE


@pytest.mark.parametrize("name", MEET_NO_GATES)
def test_a_gate_that_gates_nothing_gets_its_reward(name: str) -> None:
    assert disagreement(MEET_NO_GATES[name], torch.sigmoid, secant(torch.sigmoid)) < TOLERANCE


def test_a_bias_of_averaged_gates_belongs_to_them() -> None:
    """As it belongs to what is no gate: sum and bias owe one epsilon."""
    x, push = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)

    def found(average: Meeting, special: Function) -> Tensor:
        model = Weighted(average)
        model.special = special
        feedback = engine_feedback(model, x, lambda o: push, 0.1)
        return feedback[model.other.weight]

    averaged = found(lambda m, h, g: g.mean(1, keepdim=True) + m.w, torch.sigmoid)
    by_a_layer = found(
        lambda m, h, g: F.linear(g, torch.full((1, SIZE), 1 / SIZE).double()) + m.w, torch.sigmoid
    )
    assert averaged.any()
    torch.testing.assert_close(averaged, by_a_layer, rtol=1e-12, atol=0)


def variance(squares: Tensor) -> Tensor:
    return squares.mean(1, keepdim=True)


DIVIDE: dict[str, Meeting] = {
    "a weight for a stabiliser": lambda m, h, s: h * (variance(s) + m.w.square()).rsqrt(),
    "a weight less it": lambda m, h, s: h / (m.w - 9 * variance(s)),
    "scaled by a weight": lambda m, h, s: h / (m.w * variance(s)).sqrt(),
    "scaled and added": lambda m, h, s: h / (m.w * variance(s) + m.v).sqrt(),
    "scaled twice": lambda m, h, s: h / (m.w * variance(s) * m.v).clamp(min=1e-3),
    "a mixture": lambda m, h, s: h / (m.w * variance(s) + m.v * s.mean(0)).sqrt(),
    "scale over root": lambda m, h, s: h * (m.w / (variance(s) + m.v).sqrt()),
    "added to a term": lambda m, h, s: torch.addcdiv(h, h.relu(), (variance(s) + m.w).sqrt()),
    "a root of one": lambda m, h, s: h / (variance(s).sqrt() + m.w),
}
MULTIPLY: dict[str, Meeting] = {
    "scaled": lambda m, h, s: m.w * s.sum(1, keepdim=True),
    "less than nothing": lambda m, h, s: -m.w * s.sum(1, keepdim=True) + m.v,
    "and a weight": lambda m, h, s: s.sum(1, keepdim=True) + m.w,
    "distances": lambda m, h, s: (-m.w.exp() * s.sum(1, keepdim=True)).softmax(-1),
    "to a layer": lambda m, h, s: F.linear(m.w * s.sum(1, keepdim=True), m.rows),
    "two": lambda m, h, s: m.w * s.sum(1, keepdim=True) + m.v * s.sum(0),
    "rectified": lambda m, h, s: (m.w * s.sum(1, keepdim=True) - 1).relu(),
}


@pytest.mark.parametrize("name", DIVIDE)
def test_weights_of_what_normalises_follow_the_chain_rule(name: str) -> None:
    assert disagreement(DIVIDE[name], torch.square, torch.square) < TOLERANCE


@pytest.mark.parametrize("name", MULTIPLY)
def test_weights_of_a_statistic_get_their_whole_reward(name: str) -> None:
    """A square is a product of two, of which each gets a half, and its weight gets all."""
    assert disagreement(MULTIPLY[name], torch.square, lambda z: z * z.detach()) < TOLERANCE


def test_a_weight_over_a_norm_learns_in_the_direction_of_its_reward() -> None:
    def over(m: Weighted, h: Tensor, s: Tensor) -> Tensor:
        return m.w / s.sum(1, keepdim=True).sqrt()

    def by_hand(m: Weighted, h: Tensor, s: Tensor) -> Tensor:
        norm = s.sum(1, keepdim=True).sqrt()
        return m.w * norm / norm.detach().square()

    model, same = Weighted(over), Weighted(by_hand)
    model.special = same.special = torch.square
    x = torch.randn(6, 5, dtype=torch.float64)
    push = torch.randn(6, 3, dtype=torch.float64)
    feedback = engine_feedback(model, x, lambda o: -push * o.detach(), 0.0)
    expected = weight_scaled_gradient(same, (push * same(x)).sum())
    others = zip(feedback.values(), expected.values(), strict=True)
    assert all(torch.allclose(one, other, rtol=1e-9, atol=1e-12) for one, other in others)


@pytest.mark.parametrize(
    ("method", "broken", "test", "name"),
    [
        ("settle", lambda *_: None, test_weights_of_a_gate_get_what_those_of_its_signal_do, name)
        for name in ("times a weight", "twice")
    ]
    + [
        ("settle", lambda *_: None, test_weights_of_what_normalises_follow_the_chain_rule, name)
        for name in ("a weight for a stabiliser", "scaled by a weight")
    ]
    + [
        ("__float__", lambda _: 1.0, test_weights_of_a_statistic_get_their_whole_reward, name)
        for name in ("scaled", "and a weight")
    ],
)
def test_another_share_of_what_meets_weights_is_caught(
    method: str,
    broken: Callable[..., object],
    test: Callable[[str], None],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(marks.Pending, method, broken)
    with pytest.raises(AssertionError):
        test(name)


#: A gate, or what divides, that is a value of its own as well: a reward arrives at it by both.
TWO_USES: dict[str, tuple[Meeting, Function]] = {
    "a gate and a term": (lambda m, h, g: h * (u := m.w * g) + u, torch.sigmoid),
    "parts of one gate": (
        lambda m, h, g: torch.cat([h[:, :2] * (u := m.w + g)[:, :2], u[:, 2:]], 1),
        torch.sigmoid,
    ),
    "a root and a term": (
        lambda m, h, s: h / (u := (variance(s) + m.w).sqrt()) + u.log(),
        torch.square,
    ),
}


def rewarded(meeting: Meeting, special: Function) -> Tensor:
    """Return what the layer of the gate or the statistic gets."""
    model, x = Weighted(meeting), torch.randn(6, 5, dtype=torch.float64)
    model.special = special
    return engine_feedback(model, x, lambda o: o.detach().cos(), 0.0)[model.other.weight]


@pytest.mark.parametrize("name", TWO_USES)
def test_what_meets_weights_and_has_two_uses_is_refused(name: str) -> None:
    with pytest.raises(lfp.UnsupportedOperation, match="used as that and as another value"):
        rewarded(*TWO_USES[name])


def test_without_the_refusal_the_other_use_would_get_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meeting, special = TWO_USES["a gate and a term"]
    assert rewarded(lambda m, h, g: h * g + g, special).any(), "as without a weight"
    monkeypatch.setattr(marks.Pending, "is_another", False)
    assert not rewarded(meeting, special).any()


def test_another_use_that_gets_no_reward_is_not_refused() -> None:
    def logged(m: Weighted, h: Tensor, g: Tensor) -> Tensor:
        gate = m.w * g
        assert gate.log().mean() < 0
        return h * gate

    assert disagreement(logged, torch.sigmoid, lambda z: z.sigmoid().detach()) < TOLERANCE


def test_uses_that_agree_are_one() -> None:
    """As batch normalisation is often written, with a scale that has two uses."""

    def normalised(m: Weighted, h: Tensor, s: Tensor) -> Tensor:
        scale = m.w * (variance(s) + 1e-2).rsqrt()
        return h * scale + (m.v - h.mean(1, keepdim=True) * scale)

    assert disagreement(normalised, torch.square, torch.square) < TOLERANCE
