"""What a command tells where nobody watches: lines, a log, and which runs diverged."""

import json
import logging
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner
from typer.testing import Result as Told

from baselines import Settings
from benchmarks.cli import app, divergence, logs
from benchmarks.cli.divergence import Counted, count
from benchmarks.cli.output import progress
from benchmarks.experiments import conduct
from benchmarks.experiments.comparison import study as study_module
from benchmarks.runs.run import Divergence, Result, Run

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING|ERROR) .+")
QUICK = (
    *("compare", "--dataset", "blobs", "--methods", "lfp,sgd", "--activations", "relu"),
    *("--seeds", "2", "--epochs", "1", "--clip-norm", "0"),
)
GOOD, BAD = "0.1", "1e30"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study_module, "COST_REPEATS", 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)


def compare(lfp: str, sgd: str, *others: str) -> Told:
    rates = ("--learning-rate", f"lfp={lfp}", "--learning-rate", f"sgd={sgd}")
    return CliRunner().invoke(app, [*QUICK, *rates, *others])


# --- lines and the log ----------------------------------------------------------------------------


def test_without_a_terminal_there_are_lines_and_a_log(tmp_path: Path) -> None:
    result = compare(GOOD, GOOD)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if LINE.fullmatch(line)]
    assert "INFO 1 of 5 done: relu lfp" in lines[0]
    assert "INFO 5 of 5 done: relu cost" in lines[-1]
    assert result.stderr.splitlines()[-1].startswith(
        "Tables and figures are in results/blobs-toy-mlp (lfp-bench report blobs-toy-mlp makes a "
        "page of them): "
    )
    log = (tmp_path / "results" / "blobs-toy-mlp.log").read_text().splitlines()
    assert all(LINE.fullmatch(line) for line in log)
    assert "begun: lfp-bench compare" in log[0]
    assert [f"{n} of 5 done" in line for n, line in enumerate(log[1:6], start=1)] == [True] * 5
    assert log[-1].endswith("INFO done")


def test_the_log_says_what_ended_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conduct, "measure", interrupted)
    assert compare(GOOD, GOOD).exit_code == 130
    log = (tmp_path / "results" / "blobs-toy-mlp.log").read_text().splitlines()
    assert log[-1].endswith("ERROR ended by KeyboardInterrupt: ")


def test_lines_come_at_most_once_a_second_and_at_least_once_a_minute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "SELDOM", 0.05)
    with logs.shown(), logs.stored(tmp_path / "study", "a command"), progress(100) as advance:
        for number in range(50):
            advance(f"run {number}")
        time.sleep(0.3)
    shown = capsys.readouterr().err.splitlines()
    assert sum("of 100 done: run" in line for line in shown) == 1
    assert any("at work: 50 of 100 done, last run 49" in line for line in shown)
    stored = (tmp_path / "study.log").read_text()
    assert stored.count("of 100 done: run") == 50
    assert "begun" not in "".join(shown)


def test_warnings_are_shown_and_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logs.shown(), logs.stored(tmp_path / "study", "a command"):
        logging.getLogger("benchmarks.data.fetching").warning("a mirror is silent")
        logging.getLogger("somebody.else").info("not ours")
    assert "WARNING a mirror is silent" in capsys.readouterr().err
    assert "WARNING a mirror is silent" in (tmp_path / "study.log").read_text()
    assert not logging.getLogger("benchmarks").handlers


def test_a_log_that_cannot_be_written_is_refused_and_a_full_disk_is_survived(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.log").mkdir()
    with (
        pytest.raises(OSError, match="Is a directory"),
        logs.stored(tmp_path / "study", "a command"),
    ):
        pass
    (tmp_path / "study.log").rmdir()
    if Path("/dev/full").exists():
        (tmp_path / "study.log").symlink_to("/dev/full")
        with logs.stored(tmp_path / "study", "a command"):
            logging.getLogger("benchmarks").warning("x")
    assert "Traceback" not in capsys.readouterr().err


# --- divergence -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lfp", "sgd", "line", "code"),
    [
        (GOOD, BAD, "warning: diverged: sgd with relu (2 of 2 runs); a smaller", 0),
        (BAD, BAD, "warning: all runs diverged: lfp with relu (2 of 2 runs), sgd with relu", 1),
        (GOOD, GOOD, None, 0),
    ],
)
def test_a_line_says_which_runs_diverged(lfp: str, sgd: str, line: str | None, code: int) -> None:
    result = compare(lfp, sgd, "--json")
    assert result.exit_code == code, result.output
    assert (line is None) == ("diverged" not in result.stderr)
    assert line is None or line in result.stderr
    assert len(json.loads(result.stdout)["rows"]) == 2, "the report is there all the same"
    assert Path("results/blobs-toy-mlp/table.md").exists()
    again = CliRunner().invoke(app, ["resume", "results/blobs-toy-mlp", "--json"])
    assert again.exit_code == code


def test_reported_runs_are_counted_by_method_and_activation() -> None:
    run = Run("final", "blobs", "toy-mlp", "lfp", "relu", 0, 1, 64, Settings(0.1))
    good = Result(run, (), None, 1, 1.0)
    bad = replace(good, divergence=Divergence(1, "the loss is nan"))
    swept = replace(bad, run=replace(run, kind="sweep"))
    found = count([good, bad, bad, swept])
    assert found == [Counted("lfp with relu", 2, 3)]
    divergence.leave_if_nothing_finished(found)
    divergence.leave_if_nothing_finished([])
    with pytest.raises(typer.Exit):
        divergence.leave_if_nothing_finished(count([bad]))


# --- the page -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_report_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def launch(url: str) -> int:
        opened.append(url)
        return len(opened) - 1  # 0, and then the exit code of a failure

    monkeypatch.setattr(typer, "launch", launch)
    result = compare(GOOD, GOOD, "--open")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1].endswith("report.html is opened")
    (page,) = opened
    assert page == str(Path("results/blobs-toy-mlp/report.html").absolute())
    assert "Layer-wise" in Path(page).read_text()
    again = CliRunner().invoke(app, ["report", "blobs-toy-mlp", "--open"])
    assert again.exit_code == 0
    assert again.stderr.splitlines()[-1].endswith("cannot be opened here: there is no browser")
