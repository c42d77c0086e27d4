"""The example of training on several processes runs, and its speed is told per process."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.performance import train_distributed, weak_scaling

pytestmark = pytest.mark.slow


@pytest.mark.thorough  # its method is in test_distributed.py of the engine
def test_example_trains_on_two_processes_and_scaling_is_stored(tmp_path: Path) -> None:
    command = ["perf", "weak-scaling", "--steps", "2", "--batch-size", "2", "--processes", "2"]
    told = CliRunner().invoke(app, [*command, "--results", str(tmp_path)])
    assert told.exit_code == 0, told.output
    folder = tmp_path / "weak-scaling"
    stored = json.loads((folder / "scaling.json").read_text())
    (run,) = stored["runs"]
    assert (run["processes"], run["steps"], run["batch_per_process"]) == (2, 2, 2)
    assert run["images_per_second"] == pytest.approx(4 / run["seconds_per_step"], rel=0.05)
    assert run["last_loss"] != run["first_loss"]
    text = (folder / "scaling.md").read_text()
    assert "| 2 |" in text
    assert f"lfp-bench {' '.join(command)}" in stored["command"]
    assert stored["command"] in text


def test_efficiency_is_of_one_process_over_the_first_run() -> None:
    runs: list[dict[str, Any]] = [
        {"processes": 1, "images_per_second": 50.0},
        {"processes": 4, "images_per_second": 100.0},
    ]
    assert weak_scaling.efficiencies(runs) == [1.0, 0.5]


@pytest.mark.parametrize("option", [["--dataset", "imagenet"], ["--steps", "0"], []])
def test_wrong_options_end_with_code_2(
    option: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without torchrun, right options too."""
    monkeypatch.setattr(sys, "argv", [weak_scaling.PROGRAM, *option])
    with pytest.raises(SystemExit) as left:
        train_distributed.main()
    assert left.value.code == 2
    assert (option[0] if option else "torchrun") in capsys.readouterr().err


@pytest.mark.thorough
def test_failing_example_is_an_error_that_tells_why() -> None:
    with pytest.raises(RuntimeError, match="--steps"):
        weak_scaling.train(1, steps=0, batch_size=2)
