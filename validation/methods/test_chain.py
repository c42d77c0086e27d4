"""What counts as a chain of layers, and what methods do that need one."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from baselines import METHODS
from baselines.chain import segments
from baselines.dtp import DifferenceTargetPropagation, DTPSettings
from benchmarks.models import build
from validation.methods.chains import batch, network

CHAINED = ["dfa", "dtp", "pepita"]


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


class ResidualChain(nn.Sequential):
    """Layers that their input passes by: a Sequential with a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of the layers."""
        y: Tensor = super().forward(x)
        return x + y


class NamedChain(nn.Sequential):
    """A Sequential with the forward pass of torch."""


class Doubled(nn.Linear):
    """A layer with a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """Return twice the product."""
        return 2 * super().forward(x)


class Shifted(nn.Conv2d):
    """A layer of which torch's forward pass calls something else."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return x + super()._conv_forward(x, weight, bias)


def patched() -> nn.Module:
    """Return a layer whose forward pass was exchanged."""
    layer: Any = nn.Linear(4, 4)
    layer.forward = torch.neg
    return layer


def hooked(model: nn.Module, kind: str = "register_forward_hook") -> nn.Module:
    """Return the model, with a hook that would change what it does."""
    getattr(model, kind)(lambda *_: None)
    return model


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Residual(), "Residual is no chain of layers"),
        (ResidualChain(nn.Linear(4, 4)), "ResidualChain is no chain of layers"),
        (nn.Sequential(ResidualChain(nn.Linear(4, 4))), "ResidualChain holds other modules"),
        (NamedChain(NamedChain(ResidualChain(nn.ReLU()))), "ResidualChain holds other modules"),
        (nn.Sequential(nn.Linear(4, 4), Doubled(4, 4)), "Doubled is no layer"),
        (nn.Sequential(Shifted(4, 4, 1)), "Shifted is no layer"),
        (nn.Sequential(patched()), "Linear is no layer"),
        (hooked(nn.Sequential(nn.Linear(4, 4))), "Sequential has hooks"),
        (
            nn.Sequential(hooked(NamedChain(nn.Linear(4, 4)), "register_full_backward_hook")),
            "NamedChain has hooks",
        ),
        (
            nn.Sequential(hooked(NamedChain(nn.ReLU()), "register_forward_pre_hook")),
            "NamedChain has hooks",
        ),
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
def test_subclasses_with_the_forward_pass_of_torch_are_chains(name: str) -> None:
    """As are weights that are pruned or change in a hook of their layer, which is called."""
    losses = []
    for chain in (nn.Sequential, NamedChain):
        first, *others = network(0)
        model = chain(chain(first), *others)
        prune.l1_unstructured(first, "weight", 0.5)
        inputs, targets = batch(0, 5)
        expected = F.cross_entropy(model(inputs), targets)
        losses.append(METHODS[name](model, METHODS[name].Options(0.1)).step(inputs, targets).loss)
        assert torch.equal(losses[-1], expected.detach())
    assert torch.equal(*losses)


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


@pytest.mark.parametrize("activation", ["heaviside", "sigmoid"])
@pytest.mark.parametrize("name", CHAINED)
def test_a_network_of_steps_is_trained_as_far_as_the_method_can(name: str, activation: str) -> None:
    """All but PEPITA leave the layers below a step function as they are."""
    model = build("mlp", activation=activation, input_shape=(5,), classes=3, seed=0).double()
    before = [p.detach().clone() for p in model.parameters()]
    METHODS[name](model, METHODS[name].Options(0.1)).step(*batch(0, 5))
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    below = name == "pepita" or activation == "sigmoid"
    assert moved == [below] * 4 + [True] * 2


def _drawn(trainer: object) -> list[Tensor]:
    if isinstance(trainer, DifferenceTargetPropagation):  # which trains what it has drawn
        trainer.settings = DTPSettings(0.1, inverse_rate=1e-300)
        return [inverse.weight.detach() for inverse in trainer.inverses]
    found = trainer.feedback  # type: ignore[attr-defined]
    return [found] if isinstance(found, Tensor) else found
