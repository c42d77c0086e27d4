"""The networks: sizes, order of layers, seeding, and errors that help."""

import re

import pytest
import snntorch
import torch
from torch import nn

from baselines import Spiking, SpikingNetwork
from benchmarks.models import ACTIVATIONS, MODELS, build

SHAPES = {
    "toy-mlp": (2,),
    "mlp": (1, 8, 8),
    "lenet": (1, 28, 28),
    "vgg-like": (3, 32, 32),
    "mlp-1000": (1, 8, 8),
    "mlp-1000-1000": (1, 8, 8),
    "conv-12-64": (1, 28, 28),
    "vit-tiny": (1, 8, 8),
}


def make(name: str, activation: str = "relu", classes: int = 10, seed: int = 0) -> nn.Sequential:
    model = build(name, activation=activation, input_shape=SHAPES[name], classes=classes, seed=seed)
    return model.layers if isinstance(model, SpikingNetwork) else model


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def test_tables_hold_what_the_study_names_in_order() -> None:
    assert list(ACTIVATIONS) == ["relu", "silu", "elu", "tanh", "sigmoid", "heaviside", "lif"]
    assert list(MODELS) == list(SHAPES)


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "lif"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_maps_inputs_to_logits(name: str, activation: str) -> None:
    model = make(name, activation, classes=3)
    assert model(torch.rand(4, *SHAPES[name])).shape == (4, 3)
    assert type(model) is nn.Sequential
    assert isinstance(model[-1], nn.Linear), "no activation on the logits"


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("toy-mlp", 2, (2 * 32 + 32) + (32 * 16 + 16) + (16 * 2 + 2)),
        ("mlp", 10, (64 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)),
        ("lenet", 10, 416 + 6416 + 30840 + 10164 + 850),
        ("mlp-1000", 10, 65 * 1000 + 1001 * 10),
        ("mlp-1000-1000", 10, 65 * 1000 + 1001 * 1000 + 1001 * 10),
        ("vit-tiny", 10, (4 + 1) * 64 + 16 * 64 + 2 * (64 * 12 * 64 + 13 * 64) + 128 + 650),
        ("conv-12-64", 10, (25 + 1) * 12 + (25 * 12 + 1) * 64 + 1025 * 10),
        ("vgg-like", 10, 896 + 18496 + 73856 + 147584 + 295168 + 590080 + 4195328 + 524800 + 5130),
    ],
)
def test_parameter_counts(name: str, classes: int, parameters: int) -> None:
    assert sum(p.numel() for p in make(name, classes=classes).parameters()) == parameters


def test_lenet_layer_by_layer() -> None:
    layers = [type(layer).__name__ for layer in make("lenet", "tanh")]
    convolution, dense = ["Conv2d", "Tanh", "MaxPool2d"], ["Linear", "Tanh", "Dropout"]
    assert layers == [*convolution, *convolution, "Flatten", *dense, *dense, "Linear"]


def test_vgg_like_layer_by_layer() -> None:
    model = make("vgg-like", "silu")
    kinds = {nn.Conv2d: "C", nn.SiLU: "a", nn.MaxPool2d: "P", nn.Flatten: "F", nn.Linear: "L"}
    layers = "".join(kinds.get(type(layer), "d") for layer in model)
    assert layers == "CaCaPCaCaPCaCaPFLadLadL"
    assert [layer.p for layer in model if isinstance(layer, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "vit-tiny"])
def test_a_spiking_model_has_neurons_for_activations_and_counts_spikes(name: str) -> None:
    spiking = Spiking(beta=0.6, steps=4)
    model = build(
        name, activation="lif", input_shape=SHAPES[name], classes=3, seed=0, spiking=spiking
    )
    assert isinstance(model, SpikingNetwork)
    plain = make(name, "relu", classes=3)
    kinds = [snntorch.Leaky if type(layer) is nn.ReLU else type(layer) for layer in plain]
    assert [type(layer) for layer in model.layers] == [*kinds, snntorch.Leaky]
    assert same(plain, nn.Sequential(*(m for m in model.layers if list(m.parameters()))))
    betas = [float(m.beta) for m in model.modules() if isinstance(m, snntorch.Leaky)]
    assert betas == [pytest.approx(0.6)] * len(betas)
    counts = model(2 * torch.rand(5, *SHAPES[name]) - 1)
    assert counts.shape == (5, 3)
    assert set(counts.flatten().tolist()) <= set(map(float, range(5)))


def test_pooling_comes_before_the_neurons_of_the_spiking_convolutions() -> None:
    layers = "".join(type(layer).__name__[0] for layer in make("conv-12-64", "lif"))
    assert layers == "CMLCMLFLL"


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    torch.manual_seed(1)
    first = make(name, seed=3)
    torch.manual_seed(2)
    assert same(first, make(name, seed=3))
    assert not same(first, make(name, seed=4))


def test_the_activation_does_not_change_the_weights() -> None:
    assert same(make("lenet", "relu"), make("lenet", "heaviside"))


def test_the_initialisation_is_torchs_own() -> None:
    torch.manual_seed(5)
    plain = nn.Sequential(
        nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3)
    )
    assert same(plain, make("toy-mlp", classes=3, seed=5))


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    make("mlp", seed=9)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.gpu
def test_the_gpus_random_state_is_left_alone() -> None:
    torch.cuda.manual_seed(0)
    before = torch.cuda.get_rng_state()
    make("mlp", seed=9)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_weights_are_drawn_on_the_cpu_whatever_the_default_device() -> None:
    with torch.device("meta"):
        model = make("mlp", seed=9)
    assert same(model, make("mlp", seed=9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"name": "lennet"},
            "model: unknown name 'lennet'; did you mean 'lenet'? Allowed: toy-mlp",
        ),
        ({"name": "resnet-18"}, "Allowed: toy-mlp, mlp, lenet, vgg-like, mlp-1000"),
        ({"activation": "ReLu"}, "activation: unknown name 'ReLu'; did you mean 'relu'?"),
        ({"classes": 1}, "classes: 1 is too few"),
        (
            {
                "name": "toy-mlp",
                "input_shape": (2,),
                "activation": "lif",
                "spiking": Spiking(encoding="rate"),
            },
            "encoding: 'rate' is for images, not for (2,); allowed: constant",
        ),
        (
            {"input_shape": (1, 8, 8)},
            "input_shape: lenet does not take (1, 8, 8); "
            "allowed: (channels, 28, 28) or (channels, 32, 32)",
        ),
        ({"input_shape": (28, 28)}, "allowed: (channels, 28, 28)"),
        ({"name": "vgg-like"}, "allowed: (channels, 32, 32)"),
        ({"name": "vit-tiny", "activation": "lif"}, "model: vit-tiny does not go with 'lif'"),
        ({"name": "vit-tiny", "input_shape": (1, 9, 9)}, "allowed: sides divisible by 4"),
        ({"name": "toy-mlp"}, "input_shape: toy-mlp does not take (1, 28, 28); allowed: (2,)"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "name": "lenet",
        "activation": "relu",
        "input_shape": (1, 28, 28),
        "classes": 10,
        "seed": 0,
    }
    with pytest.raises(ValueError, match=re.escape(message)):
        build(**(arguments | change))  # type: ignore[arg-type]
