"""What makes the engine fast or small must not cost digits: float32 against the float64 oracle."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lfp_core import slopes
from validation import oracle
from validation.compare import engine_feedback, relative_error
from validation.strategies import ACTIVATIONS

TOLERANCE = 1e-6
#: So large that a rounding error of z is not blown up where z is small; that is LFP, no lever.
EPSILON = 0.3


def network(name: str) -> nn.Sequential:
    """Return a small convolutional network in float32."""
    torch.manual_seed(0)
    activation = ACTIVATIONS[name]
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), activation(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), activation()),
        *(nn.Flatten(), nn.Linear(16, 8), activation(), nn.Linear(8, 3)),
    )


def float32_error(name: str, scale: float = 1.0) -> float:
    """Return how far feedback in float32 is from the definition in float64.

    The larger the scale of the weights, the farther the units reach into saturation.
    """
    model = network(name)
    for parameter in model.parameters():
        parameter.data *= scale
    exact = copy.deepcopy(model).double()
    inputs, reward = torch.randn(4, 2, 8, 8), torch.rand(4, 3)

    def reward_of(outputs: Tensor) -> Tensor:
        return reward.to(outputs.dtype)

    trace = oracle.run(exact, inputs.double(), reward_of, EPSILON)
    found = engine_feedback(model, inputs, reward_of, EPSILON)
    pairs = zip(model.parameters(), exact.parameters(), strict=True)
    return relative_error(
        {p: found[p].double() for p in found}, {p: trace.feedback[q] for p, q in pairs}
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_float32_feedback_is_that_of_the_definition(name: str) -> None:
    assert float32_error(name) < TOLERANCE


def test_pre_activation_recovered_from_the_output_would_not_be_good_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative twin, and the reason why tanh keeps a slope, though its output has it in it."""
    assert float32_error("tanh", scale=3) < TOLERANCE
    share = slopes.share
    monkeypatch.setattr(
        slopes, "share", lambda a, z, epsilon, limit: share(a, a.atanh(), epsilon, limit)
    )
    assert float32_error("tanh", scale=3) > TOLERANCE


@pytest.mark.parametrize("name", ["silu", "tanh", "sigmoid"])
def test_compact_slope_would_not_be_good_enough(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    share = slopes.share
    monkeypatch.setattr(slopes, "share", lambda *of: share(*of).bfloat16().to(of[0].dtype))
    assert float32_error(name) > 100 * TOLERANCE
