"""Difference target propagation, written out by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from baselines import SGD, Settings
from baselines.dtp import DifferenceTargetPropagation, DTPSettings
from validation.methods.chains import assert_equal, batch, convolutional, gradients, network


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("seed", range(3))
def test_every_layer_descends_the_distance_to_its_target(seed: int, reduction: str) -> None:
    model, (x, targets) = network(seed), batch(seed, 5)
    settings = DTPSettings(0.1, target_step=0.7, inverse_rate=0.3, reduction=reduction)  # type: ignore[arg-type]
    trainer = DifferenceTargetPropagation(model, settings)
    (inverse,) = trainer.inverses
    before = copy.deepcopy(inverse)
    noise = torch.randn(11, 7, generator=copy.deepcopy(trainer.random)).double()
    trainer.fill_gradients(x, targets)
    share = 1 if reduction == "sum" else 1 / len(x)
    a = model[0](x).tanh()
    z = model[2](a)
    h = z.relu()
    error = model[4](h).softmax(1) - F.one_hot(targets, 3)
    # The inverse of the second layer, which learns first, makes what tanh can.
    noisy = (a + 0.1 * noise).detach()
    distance = (before(model[2](noisy).relu().detach()) - noisy).square().sum() / len(x)
    learned = torch.autograd.grad(distance, list(before.parameters()))
    assert_equal(
        [p.detach() for p in inverse.parameters()],
        [p.detach() - 0.3 * g for p, g in zip(before.parameters(), learned, strict=True)],
    )
    target_h = h - 0.7 * error @ next(model[4].parameters())
    back = [(t @ inverse.weight.T + inverse.bias).tanh() for t in (target_h, h)]
    target_a = a + back[0] - back[1]
    deltas = [2 * (a - target_a) * (1 - a**2), 2 * (h - target_h) * (z > 0), error]
    expected = [
        share * part
        for delta, came in zip(deltas, (x, a, h), strict=True)
        for part in (delta.T @ came, delta.sum(0))
    ]
    assert_equal(gradients(model), expected)
    plain = 2 * (a - back[0]) * (1 - a**2)  # target propagation without the difference
    assert not torch.allclose(gradients(model)[0], share * plain.T @ x, rtol=1e-3)


def test_small_steps_with_true_inverses_descend_the_gradient() -> None:
    """The paper's condition, here with a square layer and the inverse of its matrix."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)).double()
    orthogonal = nn.init.orthogonal_(torch.empty(6, 6, dtype=torch.float64))
    with torch.no_grad():
        next(model[1].parameters()).copy_(orthogonal)
    twin, (x, targets) = copy.deepcopy(model), batch(0, 5)
    settings = DTPSettings(0.1, target_step=0.5, inverse_rate=1e-300)
    trainer = DifferenceTargetPropagation(model, settings)
    trainer.inverses[0].weight.data = orthogonal.T
    trainer.fill_gradients(x, targets)
    SGD(twin, Settings(0.1)).fill_gradients(x, targets)
    assert_equal(gradients(model), gradients(twin))


def test_inverses_learn_to_undo_their_layers() -> None:
    model, (x, targets) = network(0), batch(0, 5)
    trainer = DifferenceTargetPropagation(model, DTPSettings(1e-9, inverse_rate=0.05))

    @torch.no_grad()
    def mistake() -> float:
        a = model[0](x).tanh()
        return float((trainer.inverses[0](model[2](a).relu()) - a).square().mean())

    before = mistake()
    for _ in range(200):
        trainer.fill_gradients(x, targets)
    assert mistake() < 0.5 * before


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout1d, nn.AlphaDropout])
def test_inverses_make_outputs_before_any_dropout(kind: type[nn.Module]) -> None:
    hidden = nn.Linear(6, 5), nn.Tanh(), kind(0.5), nn.Linear(5, 4), nn.ReLU()
    model = nn.Sequential(*hidden, nn.Linear(4, 3))
    trainer = DifferenceTargetPropagation(model, DTPSettings(0.1))
    outputs = torch.randn(8, 4)
    assert torch.equal(trainer.inverses[0](outputs), trainer.inverses[0](outputs))


def test_a_convolution_has_no_inverse() -> None:
    with pytest.raises(ValueError, match=r"^model: Conv2d has no inverse.*allowed: Linear"):
        DifferenceTargetPropagation(convolutional(0), DTPSettings(0.1))
