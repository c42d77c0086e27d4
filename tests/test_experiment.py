"""An experiment of another kind than a comparison, from a study file to its report."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
from pydantic import BaseModel
from typer.testing import CliRunner, Result

from baselines import Settings
from benchmarks.cli import app
from benchmarks.experiments.base import STRICT, Experiment, Found, Results
from benchmarks.experiments.kinds import EXPERIMENTS
from benchmarks.rendering.document import Section, Table
from benchmarks.runs.run import Epoch, Run, Task
from benchmarks.runs.run import Result as RunResult


class Options(BaseModel):
    """How many squares."""

    model_config = STRICT
    numbers: int
    power: int = 2


@dataclass(frozen=True, kw_only=True)
class Square(Run):
    """What identifies a square."""

    task: ClassVar[Task] = Task("square", "none", "the square")
    number: int
    power: int


class Squares(Experiment[Options]):
    """Squares numbers; fails at a number that is set."""

    schema = Options
    made: ClassVar[list[int]]
    fails_at: ClassVar[int | None]

    def runs(self, options: Options) -> int:
        """See the protocol."""
        if options.numbers < 1:
            raise ValueError(f"numbers: {options.numbers}; allowed: 1 and above")
        return options.numbers

    def plan(self, options: Options, results: Results) -> list[Run]:
        """See the protocol."""
        return [square(number, options.power) for number in range(options.numbers)]

    def make(self, run: Square, device: Any, checkpoint: Any) -> RunResult:
        """See the protocol."""
        if run.number == self.fails_at:
            raise KeyboardInterrupt
        self.made.append(run.number)
        found = float(run.number**run.power)
        return RunResult(run, (Epoch(test=found),), None, 1, 0.0)

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See the protocol."""
        squares = [stored.result.test for stored in found.runs.values()]
        frame = pd.DataFrame({"number": range(len(squares)), "square": squares})
        lines = ("number", "square"), [(str(n), f"{s:g}") for n, s in enumerate(squares)]
        return [Section("Squares", tables=[Table("squares", "Squares", lines, frame)])]


def square(number: int, power: int) -> Square:
    """Return a run."""
    shared = ("final", "none", "none", "sgd", "relu", 0, 1, 1, Settings(1.0))
    return Square(*shared, number=number, power=power)  # type: ignore[arg-type]


@pytest.fixture
def squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Squares]:
    """The experiment, and a study file in the working directory that asks for it."""

    class Fresh(Squares):
        """Has made none."""

        made: ClassVar[list[int]] = []
        fails_at: ClassVar[int | None] = None

    monkeypatch.setitem(EXPERIMENTS.own, "squares", Fresh)
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "title: squares\nexperiment: squares\nparts: {few: {numbers: 2}, many: {numbers: 3}}\n"
        "sizes: {smoke: {}}\n"
    )
    return Fresh


def invoke(command: str, *more: str) -> Result:
    return CliRunner().invoke(app, [command, "mine.yaml", "--size", "smoke", "--json", *more])


def done() -> list[tuple[int, int]]:
    parts = json.loads(invoke("status").stdout)["parts"]
    return [(part["done"], part["of"]) for part in parts]


def test_it_is_run_part_by_part_and_not_twice(squares: type[Squares]) -> None:
    assert done() == [(0, 2), (0, 3)]
    parts = json.loads(invoke("run").stdout)["parts"]
    assert [[row["square"] for row in part["rows"]] for part in parts] == [[0, 1], [0, 1, 4]]
    assert done() == [(2, 2), (3, 3)]
    folder = Path("results/mine-smoke/many")
    assert (folder / "table.md").exists()
    described = json.loads((folder / "study.json").read_text())
    assert (described["experiment"], described["configuration"]) == (
        "squares",
        {"numbers": 3, "power": 2},
    )
    made = list(squares.made)
    assert json.loads(invoke("run").stdout)["parts"][1]["rows"] == parts[1]["rows"]
    assert squares.made == made


def test_it_goes_on_where_it_was_interrupted(squares: type[Squares]) -> None:
    squares.fails_at = 2
    result = invoke("run")
    assert result.exit_code == 130
    assert "the same command resumes: lfp-bench run mine.yaml" in result.stderr
    assert done() == [(2, 2), (2, 3)]
    squares.fails_at = None
    assert invoke("run").exit_code == 0
    assert squares.made == [0, 1, 0, 1, 2]


def test_runs_of_other_code_are_told_and_not_used(
    squares: type[Squares], monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("run")
    monkeypatch.setattr(Squares, "code", "other")
    assert done() == [(0, 2), (0, 3)]
    assert "many: 3 results of other code are kept, and not used" in invoke("run").stderr
    assert squares.made == [0, 1, 0, 1, 2] * 2
    assert done() == [(2, 2), (3, 3)]


def test_runs_of_other_options_are_not_used_but_those_along_an_axis_are(
    squares: type[Squares],
) -> None:
    invoke("run")
    plan, text = Path("mine.yaml"), Path("mine.yaml").read_text()
    plan.write_text(text.replace("numbers: 3", "numbers: 4"))
    parts = json.loads(invoke("run").stdout)["parts"]
    assert [row["square"] for row in parts[1]["rows"]] == [0, 1, 4, 9]
    assert squares.made == [0, 1, 0, 1, 2, 3]
    plan.write_text(text.replace("numbers: 3", "numbers: 3, power: 3"))
    assert done() == [(2, 2), (0, 3)]
    parts = json.loads(invoke("run").stdout)["parts"]
    assert [row["square"] for row in parts[1]["rows"]] == [0, 1, 8]
    plan.write_text(text.replace("numbers: 3", "numbers: 4"))
    assert done() == [(2, 2), (4, 4)]  # nothing is lost


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("numbers: 0", "few (smoke): numbers: 0; allowed: 1 and above"),
        ("number: 2", "few (smoke): number: unknown key; did you mean 'numbers'?"),
        ("numbers: many", "few (smoke): numbers: Input should be a valid integer"),
    ],
)
def test_its_options_are_checked(squares: type[Squares], wrong: str, message: str) -> None:
    text = Path("mine.yaml").read_text()
    Path("mine.yaml").write_text(text.replace("numbers: 2", wrong))
    result = invoke("run")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("results").exists()
