"""Theorem 1: on a ReLU network, LFP-0 with r = -o dL/do is weight-scaled gradient descent."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, find, given, settings
from torch import nn

import lfp_core as lfp
from lfp_core import slopes
from validation import oracle
from validation.compare import engine_feedback, relative_error, weight_scaled_gradient
from validation.strategies import LOSSES, Case, cases

TOLERANCE = 1e-10


def violation(case: Case, epsilon: float = 0.0) -> float:
    """Return the relative distance of the feedback from ``-|w| dL/dw``."""
    loss = LOSSES[case.loss]
    reward_of = lfp.rewards.from_loss(loss)
    found = engine_feedback(case.model, case.inputs, lambda o: reward_of(o, case.targets), epsilon)
    expected = weight_scaled_gradient(case.model, loss(case.model(case.inputs), case.targets))
    return relative_error(found, expected)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("family", ["dense", "convolution", "embedding"])
def test_lfp_0_is_weight_scaled_gradient_descent(family: str, loss: str) -> None:
    @settings(max_examples=40)
    @given(cases(["relu"], families=(family,)))
    def check(case: Case) -> None:
        case = Case(case.model, case.inputs, case.targets, loss, case.reward)
        assert violation(case) < TOLERANCE

    check()


@settings(max_examples=100)
@given(cases(["relu"], train=True))
def test_it_holds_with_the_statistics_of_the_batch(case: Case) -> None:
    assert violation(case) < TOLERANCE


@settings(max_examples=50)
@given(cases(["leaky_relu"]))
def test_it_holds_for_every_activation_that_is_linear_on_each_side(case: Case) -> None:
    assert violation(case) < TOLERANCE


@settings(max_examples=100)
@given(cases(["relu"]))
def test_the_gap_closes_with_epsilon_at_first_order(case: Case) -> None:
    loss = LOSSES[case.loss]
    reward_of = lfp.rewards.from_loss(loss)
    trace = oracle.run(case.model, case.inputs, lambda _: case.reward, 0.0)
    assume(trace.condition < 1e5)

    def gap(epsilon: float) -> float:
        found = engine_feedback(
            case.model, case.inputs, lambda o: reward_of(o, case.targets), epsilon
        )
        limit = weight_scaled_gradient(case.model, loss(case.model(case.inputs), case.targets))
        return float(sum((found[p] - limit[p]).norm() ** 2 for p in limit)) ** 0.5

    small = 1e-3 * trace.smallest  # epsilon is first order in comparison with every |z|
    whole, half = gap(small), gap(small / 2)
    assume(whole > 0)  # a loss without a gradient
    assert half / whole == pytest.approx(0.5, rel=1e-2)


@pytest.mark.parametrize(
    "broken",
    [
        lambda ctx, g: g,
        lambda ctx, g: ctx.saved_tensors[0] * g,
        lambda ctx, g: ctx.saved_tensors[0].abs() ** 1.01 * g,
    ],
    ids=["no |w|", "no sign", "|w|^1.01"],
)
def test_a_wrong_weight_scale_violates_it(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[..., torch.Tensor]
) -> None:
    monkeypatch.setattr(slopes.WeightScale, "backward", staticmethod(broken))
    find(cases(["relu"]), lambda case: violation(case) > TOLERANCE)


def test_a_wrong_slope_violates_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(ctx: object, g: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (a,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return torch.where(a > 0, g, 1e-6 * g), None, None

    monkeypatch.setattr(slopes.ReluSlope, "backward", staticmethod(leaky))
    find(cases(["relu"]), lambda case: violation(case) > TOLERANCE)


def test_a_wrong_reward_violates_it(monkeypatch: pytest.MonkeyPatch) -> None:
    right = lfp.rewards.from_loss

    def without_outputs(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda o, y: right(loss)(o, y) / o  # -dL/do, the factor o forgotten

    monkeypatch.setattr(lfp.rewards, "from_loss", without_outputs)
    find(cases(["relu"], families=("dense",)), lambda case: violation(case) > TOLERANCE)


@pytest.mark.parametrize("activation", ["silu", "tanh", "elu", "sigmoid"])
def test_other_activations_are_not_in_the_theorem(activation: str) -> None:
    find(cases([activation]), lambda case: violation(case) > 1e-3)


def test_epsilon_matters_where_pre_activations_are_small() -> None:
    find(cases(["relu"]), lambda case: violation(case, epsilon=1e-2) > 1e-3)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_softmax_reward_belongs_to_the_cross_entropy_of_the_same_reduction(
    reduction: lfp.rewards.Reduction,
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    inputs, targets = torch.randn(5, 4).double(), torch.randint(0, 3, (5,))
    loss = nn.functional.cross_entropy(model(inputs), targets, reduction=reduction)
    found = engine_feedback(
        model, inputs, lambda o: lfp.rewards.softmax(o, targets, reduction), epsilon=0
    )
    expected = weight_scaled_gradient(model, loss)
    assert relative_error(found, expected) < TOLERANCE
    other = {p: value * 5 for p, value in expected.items()}  # the other reduction
    assert relative_error(found, other) > 0.5
