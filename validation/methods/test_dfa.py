"""Direct feedback alignment, written out by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from baselines import SGD, Settings
from baselines.dfa import DirectFeedbackAlignment
from validation.methods.chains import assert_equal, batch, convolutional, gradients, network


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("seed", range(3))
def test_every_layer_hears_the_error_of_the_logits(seed: int, reduction: str) -> None:
    model, (x, targets) = network(seed), batch(seed, 5)
    trainer = DirectFeedbackAlignment(model, Settings(0.1, reduction=reduction))  # type: ignore[arg-type]
    trainer.fill_gradients(x, targets)
    share = 1 if reduction == "sum" else 1 / len(x)
    a = model[0](x).tanh()
    z = model[2](a)
    h = z.relu()
    error = share * (model[4](h).softmax(1) - F.one_hot(targets, 3))
    to_a, to_h = trainer.feedback
    deltas = [(error @ to_a) * (1 - a**2), (error @ to_h) * (z > 0), error]
    expected = [
        part
        for delta, came in zip(deltas, (x, a, h), strict=True)
        for part in (delta.T @ came, delta.sum(0))
    ]
    assert_equal(gradients(model), expected)
    wrong = (error @ to_h @ model[2].weight) * (1 - a**2)  # were it to pass from layer to layer
    assert not torch.allclose(gradients(model)[0], wrong.T @ x, rtol=1e-3)


def test_the_error_passes_pooling_and_activation_of_a_convolution() -> None:
    model, (x, targets) = convolutional(0), batch(0, 2, 4, 4)
    trainer = DirectFeedbackAlignment(model, Settings(0.1))
    trainer.fill_gradients(x, targets)
    hidden = model[:2](x)
    error = (model[2](hidden).softmax(1) - F.one_hot(targets, 3)) / len(x)
    parameters = list(model[0].parameters())
    expected = torch.autograd.grad(hidden, parameters, (error @ trainer.feedback[0]).detach())
    assert_equal(gradients(model)[:2], expected)


def test_with_the_next_weights_a_network_of_two_layers_backpropagates() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    twin, (x, targets) = copy.deepcopy(model), batch(0, 5)
    trainer = DirectFeedbackAlignment(model, Settings(0.1))
    trainer.feedback = [next(model[2].parameters()).detach()]
    trainer.fill_gradients(x, targets)
    SGD(twin, Settings(0.1)).fill_gradients(x, targets)
    assert_equal(gradients(model), gradients(twin))
