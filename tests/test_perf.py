"""`lfp-bench perf`: every command at its smallest size, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path
from shlex import quote
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from benchmarks.cli import app
from benchmarks.data import Dataset, Split
from benchmarks.performance import dashboard, history, rstdp, scaling, steps, swarms
from benchmarks.performance.roofline import measurement
from benchmarks.performance.roofline import report as roofline
from benchmarks.performance.roofline import steps as parts
from benchmarks.performance.roofline.machine import COPIED, Ceilings
from benchmarks.performance.scaling import Law
from benchmarks.storage.files import write_json

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _threads_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)


def perf(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["perf", *arguments])


def stored(results: Path, name: str, *arguments: str) -> dict[str, Any]:
    """Run a command to its end; return what is in its file."""
    told = perf(*arguments, "--results", str(results))
    assert told.exit_code == 0, told.output
    found: dict[str, Any] = json.loads((results / name).read_text())
    return found


def test_roofline_is_stored_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Ceilings(flops=1e11, bandwidths=(1e10,) * len(COPIED))
    monkeypatch.setattr(roofline, "ceilings", lambda: machine)
    monkeypatch.setattr(measurement, "ROUNDS", 2)
    monkeypatch.setattr(parts, "WORKLOADS", (parts.Workload("toy-mlp", 8),))
    found = stored(tmp_path, "roofline/roofline.json", "roofline")
    assert [run["name"] for run in found["runs"]] == ["machine", "toy-mlp"]
    text = (tmp_path / "roofline" / "roofline.md").read_text()
    assert f"Command: `lfp-bench perf roofline --results {quote(str(tmp_path))}`" in text


def test_scaling_is_stored_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    law = Law("width", (1, 4, 16), ("lfp", "sgd"), lambda method, size: float(size), 1)
    monkeypatch.setattr(scaling, "LAWS", (law,))
    assert len(stored(tmp_path, "scaling-laws/scaling.json", "scaling")["runs"]) == 2 * 3
    assert "lfp-bench perf scaling" in (tmp_path / "scaling-laws" / "scaling.md").read_text()


def test_swarms_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarms, "memory", lambda *_: {})
    size = ("--particles", "2", "--batch-size", "2", "--rounds", "1")
    found = stored(tmp_path, "speed-pso.json", "swarms", *size)
    assert set(found["update"]) == {"paper", "stable"}
    assert {"lenet on cpu", "mlp on cpu"} <= set(found["fitness"])


def test_rstdp_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    images = Split(torch.rand(9, 1, 28, 28, generator=generator), torch.arange(9))
    data = Dataset("random", train=images, validation=images, test=images, classes=10)
    monkeypatch.setattr("benchmarks.data.load", lambda name: data)
    monkeypatch.setattr(rstdp, "STARTS", {"first layer": 3})
    monkeypatch.setattr(rstdp, "CHUNK", 2)
    found = stored(tmp_path, "speed-rstdp.json", "rstdp", "--rounds", "1")
    assert found["first layer"]["images"] == 2 * 3
    assert found["first layer"]["same weights"]


def test_spiking_is_stored(tmp_path: Path) -> None:
    found = stored(tmp_path, "speed-spiking.json", "spiking", "--rounds", "1")
    for inputs in ("constant", "rate code"):
        assert {"lfp fused", "lfp step by step", "surrogate"} <= set(found[inputs])


def test_steps_are_stored_and_none_is_measured_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "VARIANTS", [steps.Variant("lfp"), steps.EAGER_SGD])
    command = ("steps", "--models", "toy-mlp", "--rounds", "1", "--device", "cpu")
    (run,) = stored(tmp_path, "speed-compiled.json", *command)["runs"]
    assert (run["model"], list(run["steps"])) == ("toy-mlp", ["lfp", "sgd"])
    assert stored(tmp_path, "speed-compiled.json", *command)["runs"] == [run]


def test_the_sessions_on_a_gpu_are_among_the_commands(tmp_path: Path) -> None:
    (run,) = stored(tmp_path, "precision-cpu.json", "gpu", "precision", "--smoke")["runs"]
    assert run["model"] == "toy-mlp"


@pytest.mark.parametrize("code", [0, 2])
def test_the_code_of_the_history_is_asvs(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def measure(*arguments: list[str]) -> int:
        asked.extend(arguments)
        return code

    monkeypatch.setattr(history, "measure", measure)
    assert perf("history", "v0.1.0", "--bench", "ratios").exit_code == code
    assert asked == [["v0.1.0"], ["ratios"]]


@pytest.mark.parametrize("error", [None, OSError("no npm")])
def test_the_dashboard_has_its_scripts_beside_it_where_npm_has_them(
    error: OSError | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = '<script src="https://there/md5.min.js"></script><li id="nav-li-" class="active">'
    linked = page.replace("<li id", '<li><a href="index.html">Ratios that matter</a></li><li id')
    write_json(
        tmp_path / "graphs" / "one" / "summary.json", [{"last_value": v} for v in (1.5, None)]
    )
    (tmp_path / "index.html").write_text(page)

    def fetched() -> list[tuple[str, bytes]]:
        if error:
            raise error
        return [("md5.min.js", b"script")]

    monkeypatch.setattr(dashboard, "HTML", tmp_path)
    monkeypatch.setattr(dashboard, "publish", lambda: 0)
    monkeypatch.setattr(dashboard, "fetched", fetched)
    assert perf("dashboard").exit_code == 0
    made = (tmp_path / "asv.html").read_text()
    assert made == (linked if error else linked.replace("https://there", "scripts"))
    first = (tmp_path / "index.html").read_text()
    assert 'href="asv.html"' in first
    assert "Time, by network (device cpu, batch 16)" in first
    assert "cuda" not in first
    (left,) = json.loads((tmp_path / "graphs" / "one" / "summary.json").read_text())
    assert left == {"last_value": 1.5}, "what has no number is no row"
    assert (tmp_path / "scripts" / "md5.min.js").exists() == (error is None)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("weak-scaling --processes 0", "'0'; allowed: whole numbers from 1"),
        ("swarms --particles few", "'few'; allowed: whole numbers from 1"),
        ("rstdp --rounds 0", "--rounds"),
        ("spiking --rounds 0", "--rounds"),
        ("steps --models lenett", "models: unknown name 'lenett'; did you mean 'lenet'?"),
        ("steps --device tpu", "device: unknown name 'tpu'"),
        ("history no-such-branch", "commit: 'no-such-branch'"),
        ("gate no-such-branch", "commit: 'no-such-branch'"),
        ("gate HEAD --threshold -1", "threshold: -1.0; allowed: finite, 0 and above"),
        ("gpu steps --rounds x", "--rounds"),
        ("gpu-page --results nowhere", "nowhere/gpu-h100"),
        ("roof", "roof"),
        ("", "Missing command"),
        ("gpu", "Missing command"),
    ],
)
def test_bad_input_is_one_line_and_code_2(command: str, named: str) -> None:
    told = perf(*command.split())
    assert told.exit_code == 2
    assert named in told.stderr
    assert told.stderr.count("\n") == 1
    assert told.stdout == ""


def test_the_command_line_imports_nothing_that_takes_long_but_torch() -> None:
    """So that help and completion come at once."""
    slow = {"asv", "matplotlib", "scipy", "sklearn", "snntorch", "torchvision"}
    code = f"import benchmarks.cli, sys; print({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr
