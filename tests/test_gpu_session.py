"""What is to be run on a GPU runs on the CPU at the smallest size: only the GPU is missing."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.performance import gpu_session, steps
from benchmarks.performance.steps import EAGER_SGD, VARIANTS
from benchmarks.storage.provenance import ROOT
from examples import cuda_graph

pytestmark = pytest.mark.slow


def called(*arguments: str) -> Any:
    return CliRunner().invoke(gpu_session.app, [*arguments])


CPU = torch.device("cpu")


def test_every_variant_is_measured_next_to_sgd() -> None:
    measured = steps.measure("toy-mlp", CPU, 2, "aot_eager")["steps"]
    assert list(measured) == [str(variant) for variant in VARIANTS]
    for variant in VARIANTS:
        assert measured[str(variant)]["seconds"] > 0
        if variant.method == "sgd":
            assert measured[str(variant)]["to SGD, same variant"] == [1, 1, 1]
        assert ("peak_bytes" in measured[str(variant)]) == (not variant.compiled)
    assert measured[str(EAGER_SGD)]["to eager SGD"] == [1, 1, 1]


def test_a_variant_that_fails_is_told_and_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(step: object) -> None:
        raise RuntimeError("no graph here")

    monkeypatch.setattr(steps, "captured", fail)
    variants = [steps.Variant("lfp", graph=True), EAGER_SGD]
    measured = steps.measure("toy-mlp", CPU, 2, variants=variants)
    assert measured["errors"] == {"lfp graph": "RuntimeError: no graph here"}
    assert list(measured["steps"]) == ["sgd"]


def test_networks_of_torchvision_get_the_activation() -> None:
    model = steps.network_of("vgg16", "silu")
    kinds = [type(module) for module in model.modules()]
    assert torch.nn.SiLU in kinds
    assert torch.nn.ReLU not in kinds


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_variant_makes_the_step_that_its_name_says(variant: steps.Variant) -> None:
    """Weights move as in eager float32, but for rounding; LFP's not as SGD's."""
    moves = {}
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(8, 2, generator=generator), torch.arange(8) % 3
    plain = variant._replace(compiled=False, bf16=False)
    other = plain._replace(method="sgd" if variant.method == "lfp" else "lfp")
    for kind in (variant, plain, other):
        moves[kind] = moved(kind, inputs, targets)
    expected = moves[plain]
    distance = (moves[variant] - expected).norm() / expected.norm()
    assert distance < (0.05 if variant.bf16 else 1e-6)
    assert (moves[other] - expected).norm() / expected.norm() > 0.3


def moved(variant: steps.Variant, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the gradients that a step of a small network leaves."""
    device = inputs.device
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    with steps.tracing_of_backward():
        step = steps.step_of(variant, model.to(device), device, "aot_eager")
        if variant.graph:
            steps.captured(partial(step, inputs, targets))()
        else:
            step(inputs, targets)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.cat([gradient.flatten() for gradient in gradients]).double().cpu()


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["lfp", "sgd", "wsgd"])
def test_a_graph_makes_the_same_step_as_eager_code(method: str) -> None:
    inputs, targets = torch.randn(8, 2).cuda(), (torch.arange(8) % 3).cuda()
    eager = moved(steps.Variant(method), inputs, targets)
    graph = moved(steps.Variant(method, graph=True), inputs, targets)
    assert (graph - eager).norm() / eager.norm() < 1e-5  # the weights have moved by 1e-8 meanwhile


def test_steps_are_stored_and_none_is_measured_twice(tmp_path: Path) -> None:
    for _ in range(2):
        assert called("steps", "--smoke", "--results", str(tmp_path)).exit_code == 0
    (run,) = json.loads((tmp_path / "steps-cpu.json").read_text())["runs"]
    assert (run["model"], run["activation"], list(run["steps"])) == (
        "toy-mlp",
        "relu",
        ["lfp", "sgd"],
    )


def test_errors_of_every_precision_are_stored(tmp_path: Path) -> None:
    assert called("precision", "--smoke", "--results", str(tmp_path)).exit_code == 0
    (run,) = json.loads((tmp_path / "precision-cpu.json").read_text())["runs"]
    assert list(run["errors"]) == ["sgd", "lfp epsilon 1e-06", "lfp epsilon 0.3"]
    for errors in run["errors"].values():
        assert errors["float64"] < 1e-12
        assert 1e-9 < errors["float32"] < 1e-4 < errors["bfloat16"] < 1


def test_the_tests_of_a_gpu_are_run_and_what_they_say_is_kept(tmp_path: Path) -> None:
    told = called("tests", "--smoke", "--results", str(tmp_path))
    assert told.exit_code == 0
    assert "test_memory.py" in (tmp_path / "tests.log").read_text()


@pytest.mark.thorough  # the store of results does it, and is tested without a GPU's session
def test_the_study_goes_on_until_it_is_done(tmp_path: Path) -> None:
    first = called("study", "--smoke", "--results", str(tmp_path), "--jobs", "1", "--seconds", "1")
    assert (first.exit_code, "goes on" in first.output) == (0, True)
    again = called("study", "--smoke", "--results", str(tmp_path), "--jobs", "1")
    assert (again.exit_code, "is done" in again.output) == (0, True)
    folder = tmp_path / "activations-smoke"
    assert len(list(folder.glob("*/table.md"))) == 1


@pytest.mark.thorough  # each of its benchmarks runs in tests/test_asv.py
def test_the_suite_runs_without_storing_anything() -> None:
    results = ROOT / "benchmarks" / "asv" / "results"
    before = {path: path.stat().st_mtime for path in results.glob("*/*-*.json")}
    assert called("asv", "--smoke").exit_code == 0
    assert {path: path.stat().st_mtime for path in results.glob("*/*-*.json")} == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", ["all", "asv", "precision", "tests", "steps", "study"])
def test_a_missing_gpu_is_told(command: str) -> None:
    assert called(command).exit_code == 2


def test_the_page_is_the_one_of_what_is_stored(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    told = CliRunner().invoke(app, ["perf", "gpu-page", "--document", str(page)])
    assert told.exit_code == 0, told.output
    assert page.read_text() == (ROOT / "docs" / "gpu.md").read_text()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_example_of_a_graph_learns(device: str) -> None:
    assert cuda_graph.main(device) == 1.0
