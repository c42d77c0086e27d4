"""Theorem 1: on a ReLU network, LFP-0 with r = -o dL/do is weight-scaled gradient descent."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from torch import nn

import lfp_core as lfp
from lfp_core import slopes
from validation import oracle
from validation.compare import engine_feedback, relative_error, weight_scaled_gradient
from validation.selection import example_of, examples
from validation.strategies import LOSSES, Case, cases

TOLERANCE = 1e-10


def violation(case: Case, epsilon: float = 0.0) -> float:
    """Return the relative distance of the feedback from ``-|w| dL/dw``."""
    loss = LOSSES[case.loss]
    reward_of = lfp.rewards.from_loss(loss)
    found = engine_feedback(case.model, case.inputs, lambda o: reward_of(o, case.targets), epsilon)
    expected = weight_scaled_gradient(case.model, loss(case.model(case.inputs), case.targets))
    return relative_error(found, expected, terms=of_one_sample(case))


def of_one_sample(case: Case) -> float:
    """Return the largest norm of ``|w| dL/dw`` that the loss of one sample of the batch has.

    Where the units of a network are dead, all samples have the same outputs, and with as many
    targets as classes the gradients of a margin loss sum to 0, up to rounding.
    """
    outputs = case.model(case.inputs)
    loss = LOSSES[case.loss](outputs, case.targets)
    (slopes_of_loss,) = torch.autograd.grad(loss, outputs)
    norms = []
    for sample, slope in enumerate(slopes_of_loss):
        of_sample = case.model(case.inputs)[sample] @ slope
        norms += [float(v.norm()) for v in weight_scaled_gradient(case.model, of_sample).values()]
    return max(norms)


def test_gradients_that_cancel_in_a_batch_are_told_from_wrong_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every sample has the outputs that the last bias gives, and every class is once a target."""
    torch.manual_seed(0)
    dead, last = nn.Linear(3, 3), nn.Linear(3, 3)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), dead, nn.ReLU(), last).double()
    with torch.no_grad():
        dead.weight.zero_()
        last.bias.copy_(torch.tensor([0.1, 0.2, 0.7]))
    inputs = torch.randn(3, 2, dtype=torch.float64)
    case = Case(model, inputs, torch.tensor([1, 2, 0]), "multi_margin", torch.zeros(3, 3))
    loss = LOSSES[case.loss](model(inputs), case.targets)
    summed = weight_scaled_gradient(model, loss).values()
    assert max(float(value.norm()) for value in summed) < 1e-15
    assert of_one_sample(case) > 1e-3
    assert violation(case) < TOLERANCE
    monkeypatch.setattr(slopes.WeightScale, "backward", staticmethod(lambda ctx, g: g + 1e-6))
    assert violation(case) > TOLERANCE


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("family", ["dense", "convolution", "embedding"])
def test_lfp_0_is_weight_scaled_gradient_descent(family: str, loss: str) -> None:
    @examples(40)
    @given(cases(["relu"], families=(family,)))
    def check(case: Case) -> None:
        case = Case(case.model, case.inputs, case.targets, loss, case.reward)
        assert violation(case) < TOLERANCE

    check()


@examples(100)
@given(cases(["relu"], train=True))
def test_it_holds_with_the_statistics_of_the_batch(case: Case) -> None:
    assert violation(case) < TOLERANCE


@examples(50)
@given(cases(["leaky_relu"]))
def test_it_holds_for_every_activation_that_is_linear_on_each_side(case: Case) -> None:
    assert violation(case) < TOLERANCE


@pytest.mark.slow
@examples(40)
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
    example_of(cases(["relu"]), lambda case: violation(case) > TOLERANCE)


def test_a_wrong_slope_violates_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(ctx: object, g: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (a,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return torch.where(a > 0, g, 1e-6 * g), None, None

    monkeypatch.setattr(slopes.ReluSlope, "backward", staticmethod(leaky))
    example_of(cases(["relu"]), lambda case: violation(case) > TOLERANCE)


def test_a_wrong_reward_violates_it(monkeypatch: pytest.MonkeyPatch) -> None:
    right = lfp.rewards.from_loss

    def without_outputs(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda o, y: right(loss)(o, y) / o  # -dL/do, the factor o forgotten

    monkeypatch.setattr(lfp.rewards, "from_loss", without_outputs)
    example_of(cases(["relu"], families=("dense",)), lambda case: violation(case) > TOLERANCE)


@pytest.mark.parametrize("activation", ["silu", "tanh", "elu", "sigmoid"])
def test_other_activations_are_not_in_the_theorem(activation: str) -> None:
    example_of(cases([activation]), lambda case: violation(case) > 1e-3)


def test_epsilon_matters_where_pre_activations_are_small() -> None:
    example_of(cases(["relu"]), lambda case: violation(case, epsilon=1e-2) > 1e-3)


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
