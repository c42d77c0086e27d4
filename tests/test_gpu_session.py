"""What is to be run on a GPU runs on the CPU at the smallest size: only the GPU is missing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from benchmarks.performance import compiled, gpu_session
from benchmarks.performance.compiled import EAGER_SGD, VARIANTS
from benchmarks.storage.provenance import ROOT
from benchmarks.studies.plan import Plan


def called(*arguments: str) -> Any:
    return CliRunner().invoke(gpu_session.app, [*arguments])


def test_every_variant_is_measured_next_to_sgd_and_nothing_twice(tmp_path: Path) -> None:
    for _ in range(2):
        assert called("compiled", "--smoke", "--results", str(tmp_path)).exit_code == 0
    (run,) = json.loads((tmp_path / "speed-compiled-cpu.json").read_text())["runs"]
    assert list(run["steps"]) == [str(variant) for variant in VARIANTS]
    for variant in VARIANTS:
        measured = run["steps"][str(variant)]
        assert measured["seconds"] > 0
        if variant.method == "sgd":
            assert measured["to SGD, same variant"] == [1, 1, 1]
    assert run["steps"][str(EAGER_SGD)]["to eager SGD"] == [1, 1, 1]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_variant_makes_the_step_that_its_name_says(variant: compiled.Variant) -> None:
    """Weights move as in eager float32, but for rounding; LFP's not as SGD's."""
    cpu, moves = torch.device("cpu"), {}
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(8, 2, generator=generator), torch.arange(8) % 3
    plain = variant._replace(compiled=False, bf16=False)
    other = plain._replace(method="sgd" if variant.method == "lfp" else "lfp")
    for kind in (variant, plain, other):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        with compiled.tracing_of_backward():
            compiled.step_of(kind, model, cpu, "aot_eager")(inputs, targets)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        moves[kind] = torch.cat([gradient.flatten() for gradient in gradients]).double()
    expected = moves[plain]
    distance = (moves[variant] - expected).norm() / expected.norm()
    assert distance < (0.05 if variant.bf16 else 1e-6)
    assert (moves[other] - expected).norm() / expected.norm() > 0.3


def test_the_speed_of_eager_steps_is_stored(tmp_path: Path) -> None:
    assert called("speed", "--smoke", "--results", str(tmp_path)).exit_code == 0
    rows = json.loads((tmp_path / "speed-cpu" / "speed.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"lfp", "sgd", "wsgd"}


def test_the_study_goes_on_until_it_is_done(tmp_path: Path) -> None:
    first = called("study", "--smoke", "--results", str(tmp_path), "--jobs", "1", "--seconds", "1")
    assert (first.exit_code, "goes on" in first.output) == (0, True)
    again = called("study", "--smoke", "--results", str(tmp_path), "--jobs", "1")
    assert (again.exit_code, "is done" in again.output) == (0, True)
    folder = tmp_path / "activations-cpu-smoke"
    assert len(list(folder.glob("*/table.md"))) == 2  # one for each epsilon


def test_the_study_on_a_gpu_is_the_one_of_cifar() -> None:
    """Its file is read as any other."""
    written = gpu_session.study_file(smoke=False)
    plan = Plan.model_validate(yaml.safe_load(yaml.safe_dump(written)))
    found = plan.studies("paper")
    assert {options.dataset for options in found.values()} == {"cifar10"}
    assert {options.model for options in found.values()} == {"vgg-like"}
    assert {options.seeds for options in found.values()} == {3}
    assert {tuple(options.methods) for options in found.values()} == {("lfp", "sgd", "wsgd")}


def test_the_suite_runs_without_storing_anything() -> None:
    results = ROOT / "benchmarks" / "asv" / "results"
    before = {path: path.stat().st_mtime for path in results.glob("*/*-*.json")}
    assert called("asv", "--smoke").exit_code == 0
    assert {path: path.stat().st_mtime for path in results.glob("*/*-*.json")} == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", ["asv", "speed", "compiled", "study"])
def test_a_missing_gpu_is_told(command: str) -> None:
    assert called(command).exit_code == 2
