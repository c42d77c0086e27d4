"""Forward-Forward, written out by hand, and what every method promises."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.forward_forward import (
    ForwardForward,
    ForwardForwardNetwork,
    ForwardForwardSettings,
    goodness,
    normalised,
)
from validation.methods.chains import assert_equal, batch, gradients

WIDTHS = (9, 7, 6)


def options(**changes: Any) -> ForwardForwardSettings:
    own = {"learning_rate": 0.1, "widths": WIDTHS, "threshold": 0.3, "label_scale": 1.5}
    return ForwardForwardSettings(**{**own, **changes})


def network(settings: ForwardForwardSettings, seed: int = 0) -> ForwardForwardNetwork:
    return ForwardForwardNetwork((5,), 3, seed, settings=settings).double()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("seed", range(3))
def test_a_layer_descends_its_own_loss_by_its_own_values(seed: int, reduction: str) -> None:
    """By hand: ``dw = sum s 2 sigmoid(s (theta - g)) h x^T``, less for right labels."""
    settings = options(reduction=reduction)
    model, (x, targets) = network(settings, seed), batch(seed, 5)
    torch.manual_seed(seed)
    loss = ForwardForward(model, settings).fill_gradients(x, targets)
    torch.manual_seed(seed)
    wrong = (targets + torch.randint(1, 3, targets.shape)) % 3
    assert not (wrong == targets).any()
    share = 1 if reduction == "sum" else 1 / len(x)
    expected, total = [], torch.zeros(())
    shown = [torch.cat([x, 1.5 * F.one_hot(label, 3)], 1) for label in (targets, wrong)]
    for layer in model.layers:
        weight, bias = (p.detach() for p in layer.parameters())
        move = [torch.zeros_like(weight), torch.zeros_like(bias)]
        for place, sign in enumerate((1, -1)):
            h = (shown[place] @ weight.T + bias).clamp(min=0)
            missed = 0.3 * len(bias) - h.square().sum(1)
            total = total + (1 + (sign * missed).exp()).log().sum() / len(x)
            push = -sign * (sign * missed).sigmoid()[:, None] * 2 * h
            move[0] += share * push.T @ shown[place]
            move[1] += share * push.sum(0)
            shown[place] = h / (h.square().mean(1, keepdim=True) + torch.finfo(h.dtype).eps).sqrt()
        expected += move
    assert_equal(gradients(model), expected)
    assert_equal([loss.detach()], [total])


def test_no_derivative_passes_from_a_layer_to_the_one_below() -> None:
    settings = options()
    model, (x, targets) = network(settings), batch(0, 5)
    moves = []
    for scale in (1.0, 3.0):
        with torch.no_grad():
            model.get_parameter("layers.1.weight").mul_(scale)
        model.zero_grad()
        torch.manual_seed(0)
        ForwardForward(model, settings).fill_gradients(x, targets)
        moves.append([gradient.clone() for gradient in gradients(model)])
    assert_equal(moves[0][:2], moves[1][:2])
    assert not torch.allclose(moves[0][2], moves[1][2], rtol=1e-3)


@pytest.mark.parametrize(("widths", "counted"), [(WIDTHS, slice(1, None)), ((9,), slice(0, 1))])
def test_a_decision_is_for_the_label_with_the_most_goodness(
    widths: tuple[int, ...], counted: slice
) -> None:
    model, (x, _) = network(options(widths=widths)), batch(0, 5)
    expected = torch.zeros(len(x), 3, dtype=torch.float64)
    for sample in range(len(x)):
        for label in range(3):
            hidden = torch.cat([x[sample], 1.5 * F.one_hot(torch.tensor(label), 3)])
            found = []
            for layer in model.layers:
                hidden = layer(hidden).relu()
                found.append(hidden.square().sum())
                hidden = normalised(hidden[None])[0]
            expected[sample, label] = torch.stack(found[counted]).sum()
    assert_equal([model(x)], [expected])


def test_goodness_of_a_layer_cannot_be_read_off_by_the_next() -> None:
    h = batch(0, 5)[0].relu() + 0.1
    assert torch.allclose(normalised(h), normalised(7 * h), rtol=1e-12)
    assert torch.allclose(goodness(normalised(h)), torch.full((len(h),), 5.0).double(), rtol=1e-12)


def clouds() -> tuple[Tensor, Tensor]:
    random, targets = torch.Generator().manual_seed(1), torch.arange(96) % 3
    centres = torch.tensor([[2.0, 0, 0, 1, 0], [0, 2, 0, -1, 0], [0, 0, 2, 1, 0]])
    noise = torch.randn(96, 5, generator=random)
    return (centres[targets] + 0.3 * noise).double(), targets


def trained(steps: int, resumed_at: int | None = None, **changes: Any) -> nn.Module:
    settings, (x, targets) = options(widths=(32, 32), **changes), clouds()
    model = network(settings)
    trainer = ForwardForward(model, settings)
    torch.manual_seed(2)
    for step in range(steps):
        if step == resumed_at:
            states = copy.deepcopy((model.state_dict(), trainer.state_dict()))
            model = network(settings, seed=1)
            model.load_state_dict(states[0])
            trainer = ForwardForward(model, settings)
            trainer.load_state_dict(states[1])
        trainer.step(x, targets)
    return model


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_separable_clouds_are_learned(optimizer: str) -> None:
    rate = {"sgd": 0.03, "adam": 0.01}[optimizer]
    (x, targets), model = clouds(), trained(100, learning_rate=rate, optimizer=optimizer)
    assert (model(x).argmax(dim=1) == targets).float().mean() > 0.95


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_same_start_and_a_saved_state_give_the_same_bits(optimizer: str) -> None:
    models = [trained(6, at, optimizer=optimizer) for at in (None, None, 3)]
    ends = [nn.utils.parameters_to_vector(model.parameters()) for model in models]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
    assert not torch.equal(
        ends[0], nn.utils.parameters_to_vector(trained(5, optimizer=optimizer).parameters())
    )


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (network(options(), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [one.get_parameter("layers.0.weight") for one in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_other_networks_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="trains a ForwardForwardNetwork, not Linear"):
        ForwardForward(nn.Linear(5, 3), options())
    for changed in ({"widths": (4,)}, {"label_scale": 2.0}):
        with pytest.raises(ValueError, match="made with other options"):
            ForwardForward(network(options()), options(**changed))
    ForwardForward(network(options()), options(threshold=2.0))
