"""What a plug-in does wrong is told in one line with its kind and name, and nothing is lost."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from baselines import METHODS, REWARDS, SGD
from benchmarks.cli import app
from benchmarks.data import DATASETS, Dataset, load
from benchmarks.experiments.comparison import study as study_module
from benchmarks.experiments.kinds import EXPERIMENTS
from benchmarks.models import ACTIVATIONS, MODELS
from benchmarks.storage.settings import SETTINGS, unchanged
from lfp_core import rewards

TABLES: dict[str, Any] = {
    "activation": ACTIVATIONS,
    "model": MODELS,
    "reward": REWARDS,
    "method": METHODS,
    "dataset": DATASETS,
}
OPTIONS = {"activation": "--activations", "model": "--model", "reward": "--reward"}
OPTIONS |= {"method": "--methods", "dataset": "--dataset"}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with few repeats."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study_module, "COST_REPEATS", 1)


def compare(kind: str, name: str = "mine", *more: str) -> Any:
    """Compare with one plug-in, and else with what is ours."""
    used = {"dataset": "blobs", "model": "toy-mlp", "method": "lfp", "activation": "relu"}
    used[kind] = name
    given = [word for one, value in used.items() for word in (OPTIONS[one], value)]
    rate = f"{used['method']}=0.1"
    words = ["compare", *given, "--seeds", "1", "--epochs", "1", "--learning-rate", rate, *more]
    return CliRunner().invoke(app, words)


def module_of(forward: Callable[[Tensor], Any]) -> Callable[[], nn.Module]:
    """Return what makes a module with this forward pass."""

    class Own(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return forward(x)

    return Own


def failing(*_: Any, **__: Any) -> Any:
    """Raise what nobody expects."""
    raise LookupError("two\nlines")


def leaving(*_: Any, **__: Any) -> Any:
    """Ask to exit, as if all were well."""
    sys.exit(0)


class Fills(SGD):
    """A method that returns something else than a loss."""

    name = label = "mine"

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return nothing."""
        return None  # type: ignore[return-value]


class Steps(SGD):
    """A method whose steps tell nothing."""

    name = label = "mine"

    def step(self, inputs: Tensor, targets: Tensor) -> Any:
        """Return nothing."""


class Raises(SGD):
    """A method that fails."""

    name = label = "mine"
    fill_gradients = failing


class Leaves(SGD):
    """A method that exits."""

    name = label = "mine"
    fill_gradients = leaving


class Supports(SGD):
    """A method that does not say why it supports nothing."""

    name = label = "mine"

    @classmethod
    def supports(cls, activation: Any) -> Any:
        """Return a number."""
        return 5


def wide(shape: Any, classes: int, activation: Any) -> Iterator[nn.Module]:
    """Yield a layer with too many outputs."""
    yield nn.Linear(shape[0], classes + 3)


def of_other_type(shape: Any, classes: int, activation: Any) -> Iterator[Any]:
    """Yield what is no layer."""
    yield "a layer"


BAD: list[tuple[str, Any, str]] = [
    ("activation", lambda: None, "it is of type NoneType; allowed: an nn.Module"),
    ("activation", failing, "LookupError: two lines"),
    ("activation", leaving, "SystemExit: 0"),
    ("activation", lambda x: nn.ReLU(), "TypeError"),
    ("activation", lambda: torch.relu, "allowed: an nn.Module"),
    ("activation", module_of(lambda x: None), "TypeError"),
    ("activation", module_of(lambda x: (x,)), "TypeError"),
    ("activation", module_of(lambda x: x[:, :1]), "RuntimeError"),
    ("activation", module_of(lambda x: x.double()), "RuntimeError"),
    ("activation", module_of(failing), "LookupError: two lines"),
    ("model", lambda *_: None, "TypeError"),
    ("model", failing, "LookupError: two lines"),
    ("model", lambda: iter(()), "TypeError"),
    ("model", lambda *_: iter(()), "allowed: a layer at the least"),
    ("model", lambda *_: [nn.ReLU()], "allowed: a parameter with a gradient"),
    ("model", wide, "the network returned (2, 5) of torch.float32; allowed: a tensor (2, 2)"),
    ("model", of_other_type, "it is of type str; allowed: an nn.Module"),
    ("reward", lambda *_: None, "it returned a NoneType; allowed: a tensor"),
    ("reward", lambda *_: 1.0, "it returned a float; allowed: a tensor"),
    ("reward", lambda logits: logits, "TypeError"),
    (
        "reward",
        lambda logits, *_: logits.sum(),
        "it returned () of torch.float32; allowed: (128, 2)",
    ),
    ("reward", lambda logits, *_: logits.double(), "of torch.float64; allowed"),
    ("reward", failing, "LookupError: two lines"),
    ("method", Fills, "AttributeError"),
    ("method", Steps, "AttributeError"),
    ("method", Raises, "LookupError: two lines"),
    ("method", Leaves, "SystemExit: 0"),
    ("method", Supports, "it is of type int; allowed: None or a few words, from supports"),
]


@pytest.mark.parametrize(("kind", "item", "told"), BAD)
def test_a_plug_in_that_fails_is_named(
    kind: str, item: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLES[kind].own, "mine", item)
    found = compare(kind)
    assert found.exit_code == 2, found.output
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {kind} 'mine': ")
    assert told in line
    assert "Traceback" not in found.output


GOOD: list[tuple[str, Any]] = [
    ("activation", nn.Softplus),
    (
        "model",
        lambda shape, classes, act: iter([nn.Linear(shape[0], 4), act(), nn.Linear(4, classes)]),
    ),
    ("reward", rewards.softmax),
    ("method", type("Fine", (SGD,), {"name": "mine", "label": "mine"})),
]


@pytest.mark.parametrize(("kind", "item"), GOOD)
def test_a_plug_in_that_does_what_it_has_to_is_used(
    kind: str, item: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLES[kind].own, "mine", item)
    found = compare(kind)
    assert found.exit_code == 0, found.output


def test_what_fails_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SGD, "fill_gradients", failing)
    assert isinstance(compare("method", "sgd").exception, LookupError)


@pytest.mark.parametrize("load_it", [failing, leaving])
def test_a_data_set_that_fails_is_named(load_it: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS.own, "mine", load_it)
    found = compare("dataset")
    assert found.exit_code == 2
    assert "error: dataset: mine: cannot be loaded (" in found.stderr


def test_a_data_set_has_the_name_that_it_is_asked_for_by(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(name: str, seed: int, root: Path) -> Dataset:
        return load("blobs", seed=seed)

    monkeypatch.setitem(DATASETS.own, "mine", other)
    found = compare("dataset")
    assert found.exit_code == 2
    assert "mine: the data set has the name 'blobs'; allowed: 'mine', its own" in found.stderr


@pytest.mark.parametrize("item", [failing, SGD, type("Empty", (), {})])
def test_an_experiment_is_a_whole_subclass(item: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPERIMENTS.own, "mine", item)
    with pytest.raises(TypeError, match="allowed: a subclass of Experiment"):
        EXPERIMENTS["mine"]


def test_what_an_experiment_raises_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    own = type("Own", (EXPERIMENTS["comparison"],), {"plan": failing})
    monkeypatch.setitem(EXPERIMENTS.own, "mine", own)
    Path("mine.yaml").write_text(
        "title: a study\nexperiment: mine\ncommon: {dataset: blobs, methods: [sgd]}\n"
        "parts: {one: {activations: [relu], epochs: 1}}\nsizes: {smoke: {seeds: 1, trials: 1}}\n"
    )
    found = CliRunner().invoke(app, ["run", "mine.yaml", "--size", "smoke"])
    assert found.exit_code == 2, found.output
    assert "error: experiment 'mine': LookupError: two lines" in found.stderr


def test_json_is_alone_on_stdout_whatever_a_plug_in_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    class Prints(SGD):
        name = label = "mine"

        def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
            print("a step")
            return super().fill_gradients(inputs, targets)

    monkeypatch.setitem(METHODS.own, "mine", Prints)
    found = compare("method", "mine", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["experiment"] == "comparison"
    assert "a step" in found.stderr
    again = compare("method", "mine", "--study", "other")
    assert "a step" in again.stdout, "who asks for no JSON gets what is printed"


def test_what_a_run_sets_in_torch_does_not_leak(caplog: pytest.LogCaptureFixture) -> None:
    before = {name: read() for name, (read, _) in SETTINGS.items()}
    with unchanged("method 'mine'"):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.benchmark = True
        torch.autograd.set_detect_anomaly(True)
        torch.set_default_device("meta")
        assert all(read() != before[name] for name, (read, _) in SETTINGS.items())
    assert {name: read() for name, (read, _) in SETTINGS.items()} == before
    assert "method 'mine': changes torch's default dtype, gradients, number" in caplog.text
    caplog.clear()
    with unchanged("nothing"):
        pass
    assert not caplog.records


def test_a_method_that_sets_something_changes_no_other_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Sets(SGD):
        name = label = "mine"

        def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
            loss = super().fill_gradients(inputs, targets)
            torch.set_default_dtype(torch.float64)
            return loss

    monkeypatch.setitem(METHODS.own, "mine", Sets)
    more = ("--learning-rate", "sgd=0.1")
    assert compare("method", "sgd", "--study", "alone").exit_code == 0
    both = CliRunner().invoke(
        app,
        [
            *("compare", "--dataset", "blobs", "--methods", "mine,sgd", "--activations", "relu"),
            *("--seeds", "1", "--epochs", "1", "--learning-rate", "mine=0.1", *more),
            *("--study", "both"),
        ],
    )
    assert both.exit_code == 0, both.output
    assert "method 'mine': changes torch's default dtype" in both.stderr
    found = CliRunner().invoke(app, ["diff", "results/alone", "results/both", "--json"])
    assert (found.exit_code, json.loads(found.stdout)["equal"]) == (0, 1)
