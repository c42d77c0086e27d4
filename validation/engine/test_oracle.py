"""The engine equals the per-connection oracle, and a broken engine does not."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, reject

import lfp_core as lfp
from lfp_core import calls, slopes
from validation import oracle
from validation.compare import engine_feedback, relative_error
from validation.networks import Residual
from validation.selection import example_of, examples
from validation.strategies import ACTIVATIONS, Case, cases, epsilons

TOLERANCE = 1e-9


def disagreement(case: Case, epsilon: float) -> float | None:
    """Return the relative error of the engine against the oracle for a fixed reward.

    None if some sum cancels so far that the order of summation decides the tenth digit.
    """
    expected = oracle.run(case.model, case.inputs, lambda _: case.reward, epsilon)
    if expected.condition > 1e5:
        return None
    found = engine_feedback(case.model, case.inputs, lambda _: case.reward, epsilon)
    assert set(found) == set(expected.feedback)
    return relative_error(found, expected.feedback)


def assert_agreement(case: Case, epsilon: float) -> None:
    """Assert that the engine equals the oracle, if the case allows to tell."""
    error = disagreement(case, epsilon)
    if error is None:
        reject()
    assert error < TOLERANCE


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_engine_equals_oracle_in_evaluation_mode(activation: str) -> None:
    @examples(40)
    @given(cases([activation]), epsilons())
    def check(case: Case, epsilon: float) -> None:
        assert_agreement(case, epsilon)

    check()


@examples(150)
@given(cases(train=True), epsilons())
def test_engine_equals_oracle_with_batch_statistics(case: Case, epsilon: float) -> None:
    assert_agreement(case, epsilon)


def plain_weights(ctx: object, g: torch.Tensor) -> torch.Tensor:
    """Backpropagation's gradient of a parameter: |w| forgotten."""
    return g


def signed_weights(ctx: torch.autograd.function.FunctionCtx, g: torch.Tensor) -> torch.Tensor:
    """Weight times gradient: the sign forgotten."""
    (weight,) = ctx.saved_tensors  # type: ignore[attr-defined]
    return weight * g


def one_sided(a: torch.Tensor, z: torch.Tensor, epsilon: float, limit: float) -> torch.Tensor:
    """The epsilon rule with a stabiliser that is always added, as in LXT's own sums."""
    return a / (z + epsilon)


def no_share(ctx: object, g: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
    """The epsilon rule forgotten where no activation follows."""
    return g, None, None, None


def one_sided_share(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
    """The same with a stabiliser that is always added."""
    (z,) = ctx.saved_tensors
    return z / (z + ctx.epsilon) * g, None, None, None


def derivative(a: torch.Tensor, z: torch.Tensor, epsilon: float, limit: float) -> torch.Tensor:
    """The slope of tanh that backpropagation uses."""
    return 1 - a**2


def pass_unpaid(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Nothing pays what it owes, and no loose parameter is scaled."""
    return tensor


@pytest.mark.parametrize(
    ("home", "name", "broken", "activations"),
    [
        (slopes.WeightScale, "backward", staticmethod(plain_weights), None),
        (slopes.WeightScale, "backward", staticmethod(signed_weights), None),
        (slopes, "share", one_sided, ["silu"]),
        (slopes.EpsilonShare, "backward", staticmethod(no_share), None),
        (slopes.EpsilonShare, "backward", staticmethod(one_sided_share), None),
        (slopes, "share", derivative, ["tanh"]),
        (calls, "used", pass_unpaid, None),
    ],
    ids=[
        *("no |w|", "no sign", "one-sided slope", "no share", "one-sided share", "derivative"),
        "debts unpaid",
    ],
)
def test_a_broken_engine_is_caught(
    monkeypatch: pytest.MonkeyPatch,
    home: object,
    name: str,
    broken: Callable[..., torch.Tensor],
    activations: list[str] | None,
) -> None:
    monkeypatch.setattr(home, name, broken)
    case = example_of(
        cases(activations, families=("dense",)),
        lambda case: (disagreement(case, 1e-2) or 0.0) > TOLERANCE,
        tries=200,
    )
    monkeypatch.undo()
    error = disagreement(case, 1e-2)  # the same case, with the engine as it is
    assert error is not None
    assert error < TOLERANCE


def test_the_oracle_by_hand() -> None:
    """Two inputs, one hidden tanh unit with bias, one output: every number worked out on paper."""
    model = torch.nn.Sequential(
        torch.nn.Linear(2, 1), torch.nn.Tanh(), torch.nn.Linear(1, 1, bias=False)
    ).double()
    weights = [torch.tensor(w, dtype=torch.float64) for w in ([[0.5, -1.0]], [0.25], [[-2.0]])]
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        parameter.data = weight
    a = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    epsilon, r_out = 0.1, 0.7
    z = 1.5 - 1.0 + 0.25
    h = math.tanh(z)
    o = -2 * h
    r_hidden = o / (o - epsilon) * r_out  # one connection, which carries all of o
    reward = torch.tensor([[r_out]], dtype=torch.float64)
    trace = oracle.run(model, a, lambda _: reward, epsilon)
    w, b, v = (trace.feedback[p] for p in model.parameters())
    assert v.item() == pytest.approx(2 * h / (o - epsilon) * r_out, rel=1e-14)
    expected = [0.5 * 3 / (z + epsilon) * r_hidden, 1.0 * 1 / (z + epsilon) * r_hidden]
    assert w.ravel().tolist() == pytest.approx(expected, rel=1e-14)
    assert b.item() == pytest.approx(0.25 / (z + epsilon) * r_hidden, rel=1e-14)
    shares = [1.5 / (z + epsilon) * r_hidden, -1.0 / (z + epsilon) * r_hidden]
    assert trace.input_reward.ravel().tolist() == pytest.approx(shares, rel=1e-14)


def test_an_unknown_module_has_no_definition() -> None:
    model = torch.nn.Sequential(Residual(torch.nn.Softmax(dim=1)))
    with pytest.raises(TypeError, match="Softmax"):
        oracle.run(model, torch.ones(1, 2), lambda o: o, 0.1)


def test_input_rewards_agree() -> None:
    """The reward of an input is the input times what arrives at it."""

    @examples(50)
    @given(cases(families=("dense", "convolution")), epsilons())
    def check(case: Case, epsilon: float) -> None:
        expected = oracle.run(case.model, case.inputs, lambda _: case.reward, epsilon)
        assume(expected.condition < 1e5)
        inputs = case.inputs.clone().requires_grad_()
        with lfp.feedback(epsilon):
            outputs = case.model(inputs)
        lfp.backward(outputs, case.reward)
        assert inputs.grad is not None
        found = (-inputs * inputs.grad).detach()
        reference = torch.from_numpy(expected.input_reward)
        assert float((found - reference).norm()) <= TOLERANCE * float(reference.norm())

    check()
