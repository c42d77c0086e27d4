"""The gate of performance: ratios alone, of the same thing, on the same machine."""

import json
from pathlib import Path

import pytest
from asv.results import Results
from asv.runner import BenchmarkResult
from typer.testing import CliRunner, Result

from benchmarks.cli import app
from benchmarks.performance import history
from benchmarks.performance.gate import GateError, compare

BASE, HEAD = "a" * 40, "b" * 40
COLUMNS = ["result", "params", "version", "started_at", "duration"]
Rows = dict[str, tuple[list[float | None], list[list[str]], str]]

DEVICES = ["'cpu'", "'cuda'"]
BEFORE: Rows = {
    "ratios.track_time": ([1.0, 2.0, 3.0, float("nan")], [DEVICES, ["'relu'", "'silu'"]], "v1"),
    "steps.time_step": ([0.1, float("nan")], [DEVICES], "v1"),
}


def store(results: Path, commit: str, rows: Rows, machine: str = "box") -> Path:
    """Write what asv would write, whose numbers may be NaN."""
    units = {
        "ratios.track_time": {"unit": "times SGD"},
        "steps.time_step": {"unit": "seconds"},
        "version": 2,
    }
    (results / machine).mkdir(parents=True, exist_ok=True)
    (results / "benchmarks.json").write_text(json.dumps(units))
    path = results / machine / f"{commit[:8]}-env.json"
    content = {
        "commit_hash": commit,
        "result_columns": COLUMNS,
        "results": {name: [*row, 0, 0] for name, row in rows.items()},
    }
    path.write_text(json.dumps(content))
    return path


def after(*ratios: float | None, version: str = "v1", seconds: float = 0.1) -> Rows:
    """Return BEFORE with other numbers."""
    _, params, _ = BEFORE["ratios.track_time"]
    return {
        "ratios.track_time": (list(ratios), params, version),
        "steps.time_step": ([seconds, float("nan")], [DEVICES], "v1"),
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store(tmp_path, BASE, BEFORE)
    return tmp_path


def run(results: Path, *options: str) -> Result:
    arguments = ["perf", "gate", BASE, HEAD, "--results", str(results), *options]
    return CliRunner().invoke(app, arguments)


@pytest.fixture(autouse=True)
def _any_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "resolved", lambda commit: commit)


def test_ratios_are_compared_one_by_one_and_times_are_not(results: Path) -> None:
    store(results, HEAD, after(1.05, 1.0, 3.3, float("nan"), seconds=9.0))
    found = {comparison.name[1:]: comparison.change for comparison in compare(results, BASE, HEAD)}
    assert found == {
        ("'cpu'", "'relu'"): pytest.approx(0.05),
        ("'cpu'", "'silu'"): pytest.approx(-0.5),
        ("'cuda'", "'relu'"): pytest.approx(0.1),
    }


def test_what_grows_by_a_tenth_passes_and_what_grows_by_more_does_not(results: Path) -> None:
    store(results, HEAD, after(1.0999, 2.0, 3.0, float("nan")))
    assert run(results).exit_code == 0
    store(results, HEAD, after(1.1001, 2.0, 3.0, float("nan")))
    found = run(results)
    assert found.exit_code == 1
    assert "worse" in found.stdout
    assert run(results, "--threshold", "0.2").exit_code == 0


@pytest.mark.parametrize("gone", [None, float("nan")])
def test_a_ratio_that_is_gone_does_not_pass(results: Path, gone: float | None) -> None:
    store(results, HEAD, after(1.0, gone, 3.0, float("nan")))
    assert run(results).exit_code == 1


def test_a_new_ratio_passes(results: Path) -> None:
    store(results, HEAD, after(1.0, 2.0, 3.0, 9.0))
    assert run(results).exit_code == 0


def test_a_benchmark_that_measures_something_else_now_is_not_compared(results: Path) -> None:
    store(results, HEAD, after(9.0, 9.0, 9.0, 9.0, version="v2"))
    assert run(results).exit_code == 2


def test_machines_are_compared_each_with_itself(results: Path) -> None:
    store(results, HEAD, after(9.0, 9.0, 9.0, 9.0), machine="other")
    assert run(results).exit_code == 2
    store(results, BASE, after(9.0, 9.0, 9.0, 9.0), machine="other")
    assert {c.machine for c in compare(results, BASE, HEAD)} == {"other"}


def test_bad_input_is_refused_with_the_reason(results: Path) -> None:
    found = run(results)
    assert found.exit_code == 2
    assert "no machine has ratios of both aaaaaaaa and bbbbbbbb" in found.stderr
    assert run(results, "--threshold", "-1").exit_code == 2
    path = store(results, HEAD, after(1.0))
    for content in ("{", "[]", json.dumps({"commit_hash": HEAD, "result_columns": []})):
        path.write_text(content)
        with pytest.raises(GateError, match="not a file of asv"):
            compare(results, BASE, HEAD)
    store(results, "b" * 8 + "c" * 32, after(1.0))
    with pytest.raises(GateError, match="not of bbbb"):
        compare(results, BASE, HEAD)


def test_the_gate_reads_what_asv_itself_writes(results: Path) -> None:
    for commit, first in ((BASE, 1.0), (HEAD, 1.5)):
        path = store(results, commit, {})
        path.unlink()
        made = Results({"machine": "box"}, {}, commit, 0, "3.11", "env", {})
        for name, (values, params, version) in after(first, 1.0, None, float("nan")).items():
            benchmark = {"name": name, "version": version, "params": params, "type": "track"}
            nothing = [None] * len(values)
            made.add_result(benchmark, BenchmarkResult(values, nothing, nothing, 0, "", None))
        made.save(str(results))
    assert [c.change for c in compare(results, BASE, HEAD)] == pytest.approx([0.5, 0])
