"""Transfer: torchvision's networks against Theorem 1, weights, images, and the experiment."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.models.vgg import VGG, make_layers

import lfp_core as lfp
from benchmarks.data import DataError, Split, load
from benchmarks.experiments import transfer
from benchmarks.experiments.conduct import Status, carry_out, status
from benchmarks.experiments.kinds import EXPERIMENTS
from benchmarks.experiments.transfer import (
    DEVIATION,
    MEAN,
    Options,
    Transfer,
    images,
    network,
    scaled,
)
from lfp_core import slopes
from tests.studies import place
from validation.compare import engine_feedback, relative_error, weight_scaled_gradient
from validation.strategies import randomized

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")

# --- the networks ---------------------------------------------------------------------------------


def resnet18() -> nn.Module:
    return models.resnet18(num_classes=5)


def vgg16_bn() -> nn.Module:
    """VGG-16-BN with 32 and 16 instead of twice 4096 units, which would take a gigabyte."""
    plan = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
    with torch.device("meta"):
        model = VGG(make_layers(plan, batch_norm=True), num_classes=5)
    model.classifier[0], model.classifier[3] = nn.Linear(512 * 49, 32), nn.Linear(32, 16)
    model.classifier[6] = nn.Linear(16, 5)
    model.features = make_layers(plan, batch_norm=True)
    return model


def gap(build: Callable[[], nn.Module], epsilon: float = 0.0) -> float:
    """Return the relative distance of LFP from |w| times the gradient, for tiny images."""
    torch.manual_seed(0)
    model = randomized(build().double()).eval()
    inputs, targets = torch.randn(2, 3, 32, 32).double(), torch.tensor([1, 4])
    reward_of = lfp.rewards.from_loss(F.cross_entropy)
    found = engine_feedback(model, inputs, lambda o: reward_of(o, targets), epsilon)
    expected = weight_scaled_gradient(model, F.cross_entropy(model(inputs), targets))
    assert all(float(value.norm()) > 0 for value in expected.values()), "nothing to compare"
    return relative_error(found, expected)


@pytest.mark.parametrize("build", [resnet18, vgg16_bn])
def test_theorem_1_holds_for_networks_of_torchvision(build: Callable[[], nn.Module]) -> None:
    assert gap(build) < 1e-10


def test_with_an_epsilon_it_does_not() -> None:
    assert gap(resnet18, epsilon=1e-2) > 1e-3


def test_a_parameter_that_is_not_scaled_violates_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slopes.WeightScale, "backward", staticmethod(lambda ctx, g: g))
    assert gap(resnet18) > 0.1


def test_the_head_is_new_and_the_rest_is_not(tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = models.resnet18()
    path = tmp_path / "weights.pt"
    torch.save(source.state_dict(), path)
    found = network("resnet18", weights=str(path), activation="relu", classes=7, seed=0)
    for name, value in found.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(value, source.state_dict()[name]), name
    assert found.fc.weight.shape == (7, 512)
    again = network("resnet18", weights=str(path), activation="relu", classes=7, seed=0)
    other = network("resnet18", weights=str(path), activation="relu", classes=7, seed=1)
    assert torch.equal(again.fc.weight, found.fc.weight)
    assert not torch.equal(other.fc.weight, found.fc.weight)


@pytest.mark.parametrize("activation", ["silu", "heaviside"])
def test_every_relu_is_replaced(activation: str) -> None:
    found = network("resnet18", weights="", activation=activation, classes=3, seed=0)
    kinds = [type(module).__name__ for module in found.modules()]
    assert "ReLU" not in kinds
    assert kinds.count({"silu": "SiLU", "heaviside": "Heaviside"}[activation]) == 9


def test_wrong_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(weights: str) -> nn.Module:
        return network("resnet18", weights=weights, activation="relu", classes=3, seed=0)

    with pytest.raises(ValueError, match=r"weights: no file 'none.pt'; allowed: a path, or IMAGE"):
        build("none.pt")
    (tmp_path / "rubbish.pt").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match=r"weights: '.*rubbish.pt' is not of resnet18"):
        build(str(tmp_path / "rubbish.pt"))
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"weights: '.*other.pt' is not of resnet18 \(Error"):
        build(str(tmp_path / "other.pt"))
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pt")  # code, which must not be run
    with pytest.raises(ValueError, match=r"weights: '.*pickled.pt' is not of resnet18"):
        build(str(tmp_path / "pickled.pt"))

    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(DataError, match="weights: DEFAULT of resnet18 could not be fetched"):
        build("DEFAULT")


# --- images ---------------------------------------------------------------------------------------


def test_images_are_scaled_as_for_imagenet() -> None:
    data = images("digits", side=32)
    assert data.input_shape == (3, 32, 32)
    pixels = data.test.inputs * torch.tensor(DEVIATION).view(3, 1, 1)
    pixels += torch.tensor(MEAN).view(3, 1, 1)
    assert -1e-6 < float(pixels.min()) < float(pixels.max()) < 1 + 1e-6
    torch.testing.assert_close(pixels[:, 0], pixels[:, 2], rtol=0, atol=1e-6)
    original = load("digits").test.inputs / 2 + 0.5
    assert float(pixels.mean()) == pytest.approx(float(original.mean()), rel=1e-3)
    constant = scaled(torch.full((1, 1, 4, 4), 0.485), 32)
    assert float(constant[:, 0].abs().max()) < 1e-6


def written(folder: Path, classes: dict[str, list[str]]) -> str:
    """Write pictures of one colour, four a class."""
    for part, names in classes.items():
        for shade, name in enumerate(names):
            (folder / part / name).mkdir(parents=True)
            for number in range(8):
                picture = Image.new("RGB", (5, 4), (100 * shade, number, 0))
                picture.save(folder / part / name / f"{number}.png")
    return str(folder)


def test_a_folder_of_images(tmp_path: Path) -> None:
    data = images(written(tmp_path / "birds", {"train": ["a", "b"], "test": ["a", "b"]}), side=32)
    assert (data.name, data.classes, data.input_shape) == ("birds", 2, (3, 32, 32))
    assert [len(s) for s in (data.train, data.validation, data.test)] == [13, 3, 16]
    red = data.test.inputs[:, 0].mean(dim=(1, 2))
    assert float(red[data.test.targets == 1].min()) > float(red[data.test.targets == 0].max())


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no data set, nor a folder with train and test in it"):
        images(str(tmp_path), side=32)
    with pytest.raises(ValueError, match="do not have the same classes"):
        images(written(tmp_path / "x", {"train": ["a", "b"], "test": ["a", "c"]}), side=32)
    with pytest.raises(ValueError, match="dataset: 'blobs' does not consist of images"):
        images("blobs", side=32)


# --- the experiment -------------------------------------------------------------------------------

TINY: dict[str, Any] = {
    "dataset": "digits",
    "side": 32,
    "from_scratch": True,
    "methods": ["lfp"],
    "learning_rate": {"lfp": 0.01},
    "seeds": 1,
    "epochs": 1,
}


def test_the_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small network of the same kind, as a real one takes its time."""
    assert EXPERIMENTS["transfer"] is Transfer

    few = load("digits")
    cut = Split(scaled(few.train.inputs[:64] / 2 + 0.5, 32), few.train.targets[:64])
    data = replace(few, train=cut, validation=cut, test=cut)
    monkeypatch.setattr(transfer, "images", lambda *_: data)
    monkeypatch.setattr(transfer, "images_on", lambda *_: data)
    monkeypatch.setattr(transfer, "network", small_resnet)
    options, told, kind = Options(**TINY), list[str](), Transfer()
    found, *_ = carry_out(kind, options, tmp_path, place(told.append))
    assert len(told) == kind.runs(options) == 1
    assert status(kind, options, tmp_path)[:2] == (1, 0)
    assert set(kind.sections(options, found)[0].tables[0].frame["method"]) == {"lfp"}
    text = (tmp_path / "table.md").read_text()
    assert "the command" in text
    assert text.startswith("# Test accuracy\n")

    def made_again(*_: Any) -> None:
        raise AssertionError

    code = kind.code
    monkeypatch.setattr(Transfer, "make", staticmethod(made_again))
    monkeypatch.setattr(Transfer, "code", code)
    assert carry_out(kind, options, tmp_path, place()).found == found
    assert (tmp_path / "table.md").read_text() == text

    more = Options(**{**TINY, "seeds": 2})
    others: list[dict[str, Any]] = [
        {"side": 64},
        {"epochs": 2},
        {"from_scratch": False, "weights": "DEFAULT"},
    ]
    assert status(kind, more, tmp_path) == Status(done=1)
    for other in others:
        wanted = Options(**{**TINY, **other})
        assert status(kind, wanted, tmp_path) == Status(done=0, of_other_options=1)
        with pytest.raises(AssertionError):
            carry_out(kind, wanted, tmp_path, place())
    monkeypatch.setattr(Transfer, "code", "other")
    assert status(kind, options, tmp_path) == Status(done=0, of_other_code=1)
    with pytest.raises(AssertionError):
        carry_out(kind, options, tmp_path, place())


def small_resnet(name: str, *, classes: int, **_: Any) -> nn.Module:
    """Return a narrow residual network."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4),
        models.resnet.BasicBlock(4, 4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"from_scratch": False}, "weights: '', from_scratch: False; allowed: the path of a file"),
        ({"weights": "DEFAULT"}, "weights: 'DEFAULT', from_scratch: True; allowed"),
        ({"model": "resnet50"}, "model: unknown name 'resnet50'; did you mean"),
        ({"activation": "lif"}, "activation: 'lif' has no network in torchvision"),
        ({"methods": ["sgd"]}, "learning_rate: unknown name 'sgd'"),
        ({"methods": ["rstdp"]}, "methods: 'rstdp' does not go with relu"),
        ({"learning_rate": {"lfp": -1}}, "learning_rate must be finite and > 0"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transfer().runs(Options(**{**TINY, **changes}))
