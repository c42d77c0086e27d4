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
from lfp_core import functions, sharing
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
    roles = {"odd": "gate", "exp": "logistic"}
    monkeypatch.setattr(
        sharing, "_role_of_sum", lambda operation, role, number: roles.get(role, "shifted")
    )
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
    right = sharing.BOUNDS
    monkeypatch.setattr(sharing, "BOUNDS", right | {torch.log, Tensor.log})
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
