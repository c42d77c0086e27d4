"""PEPITA, written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.pepita import PEPITA, PEPITASettings
from benchmarks.models import build
from validation.methods.chains import assert_equal, batch, convolutional, gradients, network


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("seed", range(3))
def test_a_layer_descends_the_difference_of_two_passes(seed: int, reduction: str) -> None:
    model, (x, targets) = network(seed), batch(seed, 5)
    trainer = PEPITA(model, PEPITASettings(0.1, modulation=0.7, reduction=reduction))  # type: ignore[arg-type]
    trainer.fill_gradients(x, targets)
    assert trainer.feedback is not None
    share = 1 if reduction == "sum" else 1 / len(x)
    wanted = F.one_hot(targets, 3)

    def passed(inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = model[0](inputs).tanh()
        h = model[2](a).relu()
        return a, h, model[4](h).softmax(1)

    a, h, y = passed(x)
    modulated = x + (y - wanted) @ trainer.feedback
    a2, h2, y2 = passed(modulated)
    pairs = ((a - a2, modulated), (h - h2, a2), (y2 - wanted, h2))
    expected = [part for d, came in pairs for part in (share * d.T @ came, share * d.sum(0))]
    assert_equal(gradients(model), expected)
    first = share * (a - a2).T @ x  # of the first pass, as in rules of Hebb's kind
    assert not torch.allclose(gradients(model)[0], first, rtol=1e-3)


def test_both_passes_have_the_same_dropout_and_leave_the_random_state_as_one_would() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 400), nn.Dropout(), nn.Linear(400, 3)).double()
    trainer = PEPITA(model, PEPITASettings(0.1))
    x, targets = batch(0, 5)
    torch.manual_seed(1)
    trainer.fill_gradients(x, targets)
    after = torch.rand(3)
    torch.manual_seed(1)
    model(x)
    assert torch.equal(after, torch.rand(3))
    # Masks that differ would make differences of the size of the outputs.
    assert gradients(model)[0].abs().max() < 0.1 * gradients(model)[2].abs().max()


def test_a_convolution_descends_what_its_units_differ_by_before_pooling() -> None:
    model, (x, targets) = convolutional(0), batch(0, 2, 4, 4)
    block = model[0]
    assert isinstance(block, nn.Sequential)
    trainer = PEPITA(model, PEPITASettings(0.1, modulation=0.7))
    trainer.fill_gradients(x, targets)
    assert trainer.feedback is not None
    error = model(x).softmax(1) - F.one_hot(targets, 3)
    modulated = (x + (error @ trainer.feedback).view_as(x)).detach()
    signal = (block[:2](x) - block[:2](modulated)).detach() / len(x)
    weight, bias = block[0].parameters()
    expected = torch.autograd.grad(block[0](modulated), (weight, bias), signal)
    assert_equal(gradients(model)[:2], expected)


def test_a_step_function_learns_in_all_layers() -> None:
    model = build("toy-mlp", activation="heaviside", input_shape=(2,), classes=3, seed=0)
    PEPITA(model, PEPITASettings(0.1, modulation=5.0)).fill_gradients(
        torch.randn(64, 2), torch.arange(64) % 3
    )
    assert all(gradient.abs().sum() > 0 for gradient in gradients(model))
