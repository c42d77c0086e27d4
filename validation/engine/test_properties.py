"""Properties of LFP that hold whatever the network, each with a twin that shows it can fail."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import lfp_core as lfp
from lfp_core import slopes
from validation.compare import Feedback, engine_feedback, relative_error
from validation.selection import example_of, examples
from validation.strategies import LOSSES, Case, cases, epsilons

TOLERANCE = 1e-10


def feedback(case: Case, reward: Tensor | None = None, epsilon: float = 1e-3) -> Feedback:
    """Return the engine's feedback for the case's reward, or another one."""
    chosen = case.reward if reward is None else reward
    return engine_feedback(case.model, case.inputs, lambda _: chosen, epsilon)


# --- conservation: without bias and epsilon, a linear layer shares out exactly what it got --------


def without_bias(model: nn.Module) -> nn.Module:
    """Remove the biases, in place."""
    for module in model.modules():
        if getattr(module, "bias", None) is not None:
            module.register_parameter("bias", None)
    return model


def loss_of_reward(case: Case, epsilon: float) -> float:
    """Return how much reward is lost or made between outputs and inputs, relative, per sample."""
    without_bias(case.model)
    inputs = case.inputs.clone().requires_grad_()
    with lfp.feedback(epsilon):
        outputs = case.model(inputs)
    reward = lfp.rewards.softmax(outputs, case.targets)  # 0 where an output is 0, as 0/0 is
    lfp.backward(outputs, reward)
    assert inputs.grad is not None
    arrived = (-inputs * inputs.grad).detach().flatten(1).sum(1)
    scale = (inputs * inputs.grad).detach().flatten(1).abs().sum(1) + reward.abs().sum(1)
    live = scale > 0
    return float(((arrived - reward.sum(1)).abs()[live] / scale[live]).max()) if live.any() else 0.0


def plain(case: Case) -> bool:
    """Whether all of the case's layers can conserve reward: no shifts, no batch statistics."""
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
    return not any(isinstance(module, norms) for module in case.model.modules())


@pytest.mark.slow
@examples(150)
@given(cases(["relu", "leaky_relu", "silu", "tanh"], families=("dense", "convolution")))
def test_reward_is_conserved_without_biases(case: Case) -> None:
    assume(plain(case))
    assert loss_of_reward(case, epsilon=0) < 1e-8


def test_biases_and_epsilon_absorb_reward() -> None:
    example_of(
        cases(["relu"], families=("dense",)),
        lambda case: plain(case) and loss_of_reward(case, epsilon=0.1) > 1e-3,
    )


# --- linearity in the reward ----------------------------------------------------------------------


@examples(100)
@given(cases(), epsilons(), st.floats(-8, 8))
def test_feedback_is_linear_in_the_reward(case: Case, epsilon: float, factor: float) -> None:
    other = case.reward.flip(0).roll(1, dims=1)
    one, two = feedback(case, case.reward, epsilon), feedback(case, other, epsilon)
    both = feedback(case, factor * case.reward + other, epsilon)
    combined = {p: factor * one[p] + two[p] for p in one}
    # Where the two cancel, the error is one of the terms', not of the sum.
    size = sum(float(abs(factor) * one[p].norm() + two[p].norm()) for p in one)
    error = sum(float((both[p] - combined[p]).norm()) for p in one)
    assert error <= 1e-12 * size


def test_a_slope_that_depends_on_the_reward_is_not_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    def rectified(ctx: object, g: Tensor) -> Tensor:
        return g.abs()

    def learns(case: Case) -> bool:
        return any(bool(value.any()) for value in feedback(case).values())

    case = example_of(cases(["relu"], families=("dense",)), learns)
    monkeypatch.setattr(slopes.WeightScale, "backward", staticmethod(rectified))
    one, negated = feedback(case), feedback(case, -case.reward)
    assert relative_error({p: -value for p, value in negated.items()}, one) > 0.1


# --- zero weights ---------------------------------------------------------------------------------


def zero_some(model: nn.Module) -> dict[Tensor, Tensor]:
    """Set every other weight to 0; return where."""
    zeroed: dict[Tensor, Tensor] = {}
    for parameter in model.parameters():
        where = torch.arange(parameter.numel()).reshape(parameter.shape) % 2 == 0
        parameter.data[where] = 0
        zeroed[parameter] = where
    return zeroed


@examples(100)
@given(cases(), epsilons())
def test_a_weight_at_zero_never_moves(case: Case, epsilon: float) -> None:
    zeroed = zero_some(case.model)
    found = feedback(case, epsilon=epsilon)
    assert all(not value[zeroed[p]].any() for p, value in found.items())


def test_a_weight_at_zero_moves_without_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slopes.WeightScale, "backward", staticmethod(lambda ctx, g: g))

    def moves(case: Case) -> bool:
        zeroed = zero_some(case.model)
        return any(bool(value[zeroed[p]].any()) for p, value in feedback(case).items())

    example_of(cases(["tanh"], families=("dense",)), moves)


# --- the batch is a set ---------------------------------------------------------------------------


def shift_of_batch(case: Case, epsilon: float) -> float:
    """Return the relative change of the feedback when the batch is reordered."""
    order = torch.arange(len(case.inputs)).flip(0)
    moved = Case(case.model, case.inputs[order], case.targets, case.loss, case.reward[order])
    return relative_error(feedback(moved, epsilon=epsilon), feedback(case, epsilon=epsilon))


@examples(100)
@given(cases(), epsilons())
def test_the_order_of_the_batch_does_not_matter(case: Case, epsilon: float) -> None:
    assert shift_of_batch(case, epsilon) < 1e-9


def test_the_pairing_of_inputs_and_rewards_does() -> None:
    def shifts(case: Case) -> bool:
        return relative_error(feedback(case, case.reward.roll(1, dims=0)), feedback(case)) > 1e-3

    example_of(cases(families=("dense",)), shifts)


# --- a small step earns more reward ---------------------------------------------------------------


def gain(case: Case, direction: float) -> tuple[float, float]:
    """Return how the loss changes along the feedback, and how it should to first order."""
    loss_of = LOSSES[case.loss]
    reward_of = lfp.rewards.from_loss(loss_of)
    found = engine_feedback(case.model, case.inputs, lambda o: reward_of(o, case.targets), 0.0)
    loss = loss_of(case.model(case.inputs), case.targets)
    gradients = torch.autograd.grad(loss, list(found), allow_unused=True)
    slope = sum(
        float((found[p] * g).sum()) for p, g in zip(found, gradients, strict=True) if g is not None
    )
    step = direction * 1e-7
    with torch.no_grad():
        for parameter, value in found.items():
            parameter.add_(step * value)
        return float(loss_of(case.model(case.inputs), case.targets) - loss), step * slope


@examples(100)
@given(cases(["relu"]))
def test_a_small_step_along_the_feedback_lowers_the_loss(case: Case) -> None:
    change, expected = gain(case, direction=1.0)
    assume(expected < -1e-12)  # else the change is lost to rounding
    assert change < 0


def test_a_step_against_the_feedback_raises_it() -> None:
    example_of(
        cases(["relu"], families=("dense",)), lambda case: gain(case, direction=-1.0)[0] > 1e-9
    )


# --- single layers, as the definition has them ----------------------------------------------------


def test_a_silent_unit_gets_no_reward() -> None:
    layer = nn.Linear(2, 2).double()
    layer.weight.data = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).double()
    layer.bias.data = torch.tensor([0.1, -0.1]).double()
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(2, 1).double())
    found = engine_feedback(model, torch.ones(1, 2).double(), lambda o: o, 1e-6)
    assert not found[layer.weight][1].any()
    assert found[layer.weight][0].all()


def test_shared_parameters_add_their_feedback() -> None:
    """A layer used twice gets the feedback of two copies, summed."""
    torch.manual_seed(0)
    shared, copies = nn.Linear(2, 2).double(), [nn.Linear(2, 2).double() for _ in range(2)]
    for copy in copies:
        copy.load_state_dict(shared.state_dict())
    inputs, reward = torch.randn(3, 2).double(), torch.randn(3, 2).double()
    twice = nn.Sequential(shared, nn.Tanh(), shared)
    apart = nn.Sequential(copies[0], nn.Tanh(), copies[1])
    together = engine_feedback(twice, inputs, lambda _: reward, 0.01)[shared.weight]
    one, two = (engine_feedback(apart, inputs, lambda _: reward, 0.01)[c.weight] for c in copies)
    assert torch.allclose(together, one + two, rtol=1e-12, atol=0)
