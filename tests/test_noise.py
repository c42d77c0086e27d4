"""Noise before a step: the reward of the noisy net input is the reward of the net input."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import lfp_core as lfp
from baselines.surrogate import SurrogateDerivative
from benchmarks.models import noise
from benchmarks.models.noise import Noise
from validation.selection import examples

Disturb = Callable[[Tensor, Tensor], Tensor]
DEVIATION = 0.7
TOLERANCE = 1e-12


class Found(NamedTuple):
    """What passed through a network of two layers with noise and steps between them."""

    feedback: Tensor  # of the first layer's weights
    z: Tensor  # its net inputs
    active: Tensor  # whether z + noise > 0
    x: Tensor
    above: Tensor  # G of the steps' outputs
    weight: Tensor


def passed(seed: int, epsilon: float) -> Found:
    """Return what LFP makes of a drawn network in double precision."""
    torch.manual_seed(seed)
    first, second = nn.Linear(3, 5).double(), nn.Linear(5, 2).double()
    model = nn.Sequential(first, Noise(DEVIATION), lfp.Heaviside(), second)
    x, reward = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    torch.manual_seed(seed)
    with lfp.feedback(epsilon):
        outputs = model(x)
    lfp.backward(outputs, reward)
    torch.manual_seed(seed)
    z = first(x).detach()
    active = (z + DEVIATION * torch.randn_like(z) > 0).double()
    o = second(active).detach()
    above = reward / stabilised(o, epsilon) @ second.weight.detach()
    assert first.weight.grad is not None
    return Found(-first.weight.grad, z, active, x, above, first.weight.detach())


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """Return z + epsilon s(z)."""
    return z + epsilon * (2 * (z >= 0).double() - 1)


def expected(found: Found, epsilon: float) -> Tensor:
    """Return |w| times the sum of x R / (z + eps s(z)), where R = a G is that of the step's output.

    An active unit has a = 1.
    """
    pushed = found.active * found.above / stabilised(found.z, epsilon)
    return found.weight.abs() * (pushed.T @ found.x)


def error(seed: int, epsilon: float) -> float:
    """Return the relative error of the feedback."""
    found = passed(seed, epsilon)
    by_hand = expected(found, epsilon)
    return float((found.feedback - by_hand).norm() / by_hand.norm().clamp(min=1e-9))


@examples(60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-6, 0.03, 1.0]))
def test_the_reward_of_a_step_passes_its_noise_whole(seed: int, epsilon: float) -> None:
    assert error(seed, epsilon) < TOLERANCE


def as_a_sum(z: Tensor, noise: Tensor) -> Tensor:
    """Add the noise by the rule of additions."""
    return z + noise


def into_the_input(z: Tensor, noise: Tensor) -> Tensor:
    """Hand on what arrives as the chain rule does."""
    return z.detach() + noise + (z - z.detach())


@pytest.mark.parametrize("broken", [as_a_sum, into_the_input])
def test_noise_with_another_rule_is_noticed(
    broken: Disturb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "disturbed", broken)
    assert max(error(seed, 0.03) for seed in range(5)) > 0.1


def test_a_unit_that_noise_makes_active_gets_a_reward_of_the_wrong_sign() -> None:
    """A reward asks for a z of larger magnitude: below the threshold, for one further below."""
    torch.manual_seed(0)
    z = torch.full((1000, 1), -0.5, dtype=torch.float64)
    layer = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.fill_(1.0)
    with lfp.feedback(0.1):
        steps = lfp.Heaviside()(Noise(DEVIATION)(layer(z)))
        outputs = steps * 2
    lfp.backward(outputs, torch.ones_like(outputs))
    share = float((steps > 0).double().mean())
    assert 0.1 < share < 0.4
    assert layer.weight.grad is not None
    # dw = |w| x R / (z - eps) = 1 * -0.5 / -0.6 for each unit that is active, so z = w x falls.
    assert -layer.weight.grad.item() == pytest.approx(1000 * share * 0.5 / 0.6, rel=1e-12)


def test_noise_is_of_training_alone_and_of_the_seed() -> None:
    layer, z = Noise(0.1), torch.zeros(10_000)
    torch.manual_seed(0)
    first = layer(z)
    torch.manual_seed(0)
    assert torch.equal(layer(z), first)
    assert float(first.std()) == pytest.approx(0.1, rel=0.05)
    assert layer.eval()(z) is z


def test_a_surrogate_sees_the_noise() -> None:
    z = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    with SurrogateDerivative(slope=2.0):
        lfp.Heaviside()(Noise(0.5)(z)).sum().backward()
    torch.manual_seed(0)
    disturbed = 0.5 * torch.randn(5, dtype=torch.float64)
    assert z.grad is not None
    torch.testing.assert_close(z.grad, 1 / (1 + 2 * disturbed.abs()) ** 2)
