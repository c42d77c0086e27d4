"""The diagnosis of an activation counts what it says."""

import numpy as np
import pytest
import torch
from torch import nn

import lfp_core as lfp
from benchmarks.analysis.diagnosis import DECADES, diagnose, png


def two_units(activation: nn.Module) -> nn.Sequential:
    """A network whose hidden pre-activations are its two inputs."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), activation, nn.Linear(2, 2, bias=False))
    for parameter in model.parameters():
        parameter.data = torch.eye(2)
    return model


def test_slopes_of_a_step_are_counted() -> None:
    inputs = torch.tensor([[0.01, -1.0], [10.0, 0.1]])  # slopes 100, 0, 0.1, 10
    (layer,) = diagnose(two_units(lfp.Heaviside()), inputs, torch.tensor([0, 1]), epsilon=0.0)
    assert layer.silent == 0.25
    assert layer.reversed == 0
    assert layer.median == pytest.approx(10)
    assert layer.largest == pytest.approx(100)
    assert layer.concentration == pytest.approx(100 / 110.1)
    assert sum(layer.histogram) == 3
    occupied = DECADES[:-1][np.array(layer.histogram) > 0]
    assert occupied.round(2).tolist() == [-1.0, 1.0, 2.0]


def test_a_sigmoid_pushes_units_below_zero_the_wrong_way() -> None:
    inputs = torch.tensor([[1.0, -1.0]])
    (layer,) = diagnose(two_units(nn.Sigmoid()), inputs, torch.tensor([0]), epsilon=0.0)
    assert layer.reversed == 0.5


def test_feedback_and_scaled_gradient_agree_for_relu_and_not_for_tanh() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(8, 2), torch.randint(0, 2, (8,))
    for activation, equal in ((nn.ReLU(), True), (nn.Tanh(), False)):
        model = nn.Sequential(nn.Linear(2, 6), activation, nn.Linear(6, 2))
        (layer,) = diagnose(model, inputs, targets, epsilon=0.0)
        assert (layer.feedback_norm == pytest.approx(layer.gradient_norm, rel=1e-5)) == equal


def test_the_figure_is_a_png() -> None:
    layers = diagnose(two_units(nn.ReLU()), torch.ones(2, 2), torch.tensor([0, 1]), epsilon=1e-6)
    assert png({"relu": {"before": layers, "after": layers}}).startswith(b"\x89PNG")
