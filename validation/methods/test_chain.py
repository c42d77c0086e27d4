"""Methods for chains of layers: direct feedback alignment and PEPITA, written out by hand."""

import copy
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines import METHODS, SGD, Settings
from baselines.chain import segments
from baselines.dfa import DirectFeedbackAlignment
from baselines.pepita import PEPITA, PEPITASettings
from benchmarks.models import build

CHAINED = ["dfa", "pepita"]


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)
    ).double()


def convolutional(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    first = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Sigmoid(), nn.MaxPool2d(2))
    return nn.Sequential(first, nn.Flatten(), nn.Linear(12, 3)).double()


def batch(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + seed)
    inputs = torch.randn(11, *shape, generator=generator).double()
    return inputs, torch.randint(3, (11,), generator=generator)


def gradients(model: nn.Module) -> list[Tensor]:
    found = [p.grad for p in model.parameters()]
    assert all(gradient is not None for gradient in found)
    return [gradient for gradient in found if gradient is not None]


def assert_equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


# --- direct feedback alignment --------------------------------------------------------------------


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


# --- PEPITA ---------------------------------------------------------------------------------------


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


# --- chains ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["toy-mlp", "mlp", "lenet", "vgg-like"])
def test_the_networks_of_the_benchmark_are_chains_but_the_transformer(name: str) -> None:
    shape = {"toy-mlp": (2,), "vgg-like": (3, 32, 32)}.get(name, (1, 28, 28))
    model = build(name, activation="relu", input_shape=shape, classes=10, seed=0)
    inputs = torch.randn(2, *shape)
    outputs = inputs
    model.eval()
    for segment in segments(model):
        outputs = segment(outputs)
    assert torch.equal(outputs, model(inputs))


class Residual(nn.Module):
    """A layer that its input passes by."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Add the layer's output."""
        return x + self.layer(x)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Residual(), "Residual is no chain of layers"),
        (nn.Sequential(nn.Linear(4, 4), Residual()), "Residual holds other modules"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "BatchNorm1d is no layer"),
        (nn.Sequential(nn.LSTM(4, 4)), "LSTM is no layer"),
        (nn.Sequential(nn.ReLU()), "no layer with weights"),
    ],
)
@pytest.mark.parametrize("name", CHAINED)
def test_other_networks_are_refused_by_name(name: str, model: nn.Module, told: str) -> None:
    with pytest.raises(ValueError, match=f"^model: .*{told}"):
        METHODS[name](model, METHODS[name].Options(0.1))


@pytest.mark.parametrize("name", CHAINED)
def test_what_is_drawn_once_stays_and_depends_on_the_seed(name: str) -> None:
    drawn = []
    for seed in (0, 0, 1):
        model, data = network(seed), batch(0, 5)
        trainer = METHODS[name](model, METHODS[name].Options(0.1))
        trainer.step(*data)
        once = [tensor.clone() for tensor in _drawn(trainer)]
        trainer.step(*data)
        assert all(map(torch.equal, once, _drawn(trainer)))
        drawn.append(once)
    assert all(map(torch.equal, drawn[0], drawn[1]))
    assert not any(map(torch.equal, drawn[0], drawn[2]))


def _drawn(trainer: object) -> list[Tensor]:
    found = trainer.feedback  # type: ignore[attr-defined]
    return [found] if isinstance(found, Tensor) else found
