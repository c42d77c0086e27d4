"""The examples of rewards without derivatives and of activations that change signs."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lfp_core as lfp
from validation.compare import engine_feedback, relative_error, weight_scaled_gradient

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def signs() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "sign_changing.py"))


@pytest.fixture(scope="module")
def discrete() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "discrete_reward.py"))


def gap(network: nn.Module) -> float:
    """Return the relative distance of LFP-0 from |w| times the gradient."""
    torch.manual_seed(1)
    network = network.double()
    inputs, targets = torch.randn(6, 64).double(), torch.arange(6)
    reward_of = lfp.rewards.from_loss(F.cross_entropy)
    found = engine_feedback(network, inputs, lambda o: reward_of(o, targets), epsilon=0.0)
    loss = F.cross_entropy(network(inputs), targets)
    return relative_error(found, weight_scaled_gradient(network, loss))


@pytest.mark.parametrize("activation", ["relu(z)", "-relu(z)", "relu(-z)"])
def test_theorem_1_holds_whatever_the_sign_of_the_activation(
    signs: dict[str, Any], activation: str
) -> None:
    assert gap(signs["network"](signs["ACTIVATIONS"][activation], seed=0)) < 1e-10


@pytest.mark.parametrize("activation", ["-tanh(z)", "sigmoid(z)"])
def test_of_curved_ones_it_does_not(signs: dict[str, Any], activation: str) -> None:
    assert gap(signs["network"](signs["ACTIVATIONS"][activation], seed=0)) > 1e-3


def slopes(activation: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, over z from -3 to 3, what LFP-0 multiplies by, and the derivative."""
    z = torch.linspace(-3, 3, 60).double().requires_grad_()  # 0 is not among them
    with lfp.feedback(epsilon=0):
        a = activation(z)
    lfp.backward(a, a.detach())  # a push of 1 on each
    assert z.grad is not None
    slope = -z.grad
    (derivative,) = torch.autograd.grad(activation(z).sum(), z)
    return slope, derivative


@pytest.mark.parametrize("activation", ["relu(z)", "-relu(z)", "relu(-z)", "-tanh(z)"])
def test_units_move_the_right_way(signs: dict[str, Any], activation: str) -> None:
    slope, derivative = slopes(signs["ACTIVATIONS"][activation]())
    assert torch.equal(slope.sign(), derivative.sign())


def test_of_the_sigmoid_half_of_them_do_not(signs: dict[str, Any]) -> None:
    slope, derivative = slopes(signs["ACTIVATIONS"]["sigmoid(z)"]())
    assert float((slope.sign() != derivative.sign()).double().mean()) == 0.5


def test_they_train_and_the_sigmoid_does_not(signs: dict[str, Any]) -> None:
    found = signs["main"](epochs=6)
    wrong = found.pop("sigmoid(z)")
    assert min(found.values()) > 0.85
    assert wrong < 0.5


def test_an_activation_without_a_rule_is_refused() -> None:
    layer = nn.Linear(2, 2)
    with lfp.feedback():
        outputs = torch.special.i1(layer(torch.ones(1, 2)))  # no error yet
    with pytest.raises(lfp.UnsupportedOperation, match="no LFP rule for special_i1"):
        lfp.backward(outputs, torch.ones_like(outputs))
    assert layer.weight.grad is None


def test_what_it_made_is_refused_with_it() -> None:
    layer = nn.Linear(2, 2)
    with lfp.feedback():
        outputs = nn.Linear(2, 2)(torch.special.i1(layer(torch.ones(1, 2))).relu())
    with pytest.raises(lfp.UnsupportedOperation, match="no LFP rule for special_i1"):
        lfp.backward(outputs, torch.ones_like(outputs))


def test_a_grader_sees_answers_alone(discrete: dict[str, Any]) -> None:
    logits, targets = torch.tensor([[1.0, 3.0, -2.0], [1.0, -3.0, 2.0]]), torch.tensor([1, 0])
    reward = discrete["graded"](logits, targets)
    assert (2 * reward / logits).tolist() == [[0, 1, 0], [0, 0, -1]]
    assert torch.equal(discrete["graded"](2 * logits, targets), 2 * reward), "the push is the same"
    assert discrete["grade"](1, 7) == -0.5


@pytest.mark.slow
def test_a_network_learns_from_marks(discrete: dict[str, Any]) -> None:
    by_grader, others = discrete["main"](epochs=20)
    assert by_grader > 0.5
    assert len(others) == 5
    graded, adam = discrete["graded"], discrete["adam"]
    at_random = discrete["train"](lambda o, y: graded(o, y.flip(0)), "digits", "mlp", adam, 8)
    assert at_random < 0.3, "marks for the answers to other questions teach nothing"
