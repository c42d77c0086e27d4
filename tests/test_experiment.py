"""An experiment of another kind than a comparison, from a study file to its report."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner, Result

from benchmarks.cli import app
from benchmarks.experiments.base import STRICT, Experiment, Place, Report
from benchmarks.experiments.kinds import EXPERIMENTS
from benchmarks.rendering.text import document
from benchmarks.storage.files import write


class Options(BaseModel):
    """How many squares."""

    model_config = STRICT
    numbers: int
    power: int = 2


class Squares(Experiment[Options]):
    """Squares numbers; fails at a number that is set."""

    schema = Options
    axes = frozenset({"numbers"})
    made: list[int]
    fails_at: int | None = None

    def __init__(self) -> None:
        self.made = []

    def runs(self, options: Options) -> int:
        """See the protocol."""
        if options.numbers < 1:
            raise ValueError(f"numbers: {options.numbers}; allowed: 1 and above")
        return options.numbers

    def square(self, number: int, power: int) -> dict[str, Any]:
        """Make a run."""
        if number == self.fails_at:
            raise KeyboardInterrupt
        self.made.append(number)
        return {"square": number**power}

    def carry_out(self, options: Options, folder: Path, place: Place) -> Report:
        """See the protocol."""
        records = self.records(options, folder)
        for number in range(options.numbers):
            records.get({"number": number}, partial(self.square, number, options.power))
            place.advance(str(number))
        lines = ("number", "square"), [(str(r["number"]), str(r["square"])) for r in records.own]
        write(folder / "table.md", document(lines, []).encode())
        return Report(lines, [f"Command: {place.command}"], records.own)


@pytest.fixture
def squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Squares:
    """The experiment, and a study file in the working directory that asks for it."""
    kind = Squares()
    monkeypatch.setitem(EXPERIMENTS.own, "squares", lambda: kind)
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "title: squares\nexperiment: squares\nparts: {few: {numbers: 2}, many: {numbers: 3}}\n"
        "sizes: {smoke: {}}\n"
    )
    return kind


def invoke(command: str, *more: str) -> Result:
    return CliRunner().invoke(app, [command, "mine.yaml", "--size", "smoke", "--json", *more])


def done() -> list[tuple[int, int]]:
    parts = json.loads(invoke("status").stdout)["parts"]
    return [(part["done"], part["of"]) for part in parts]


def test_it_is_run_part_by_part_and_not_twice(squares: Squares) -> None:
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


def test_it_goes_on_where_it_was_interrupted(squares: Squares) -> None:
    squares.fails_at = 2
    result = invoke("run")
    assert result.exit_code == 130
    assert "the same command resumes: lfp-bench run mine.yaml" in result.stderr
    assert done() == [(2, 2), (2, 3)]
    squares.fails_at = None
    assert invoke("run").exit_code == 0
    assert squares.made == [0, 1, 0, 1, 2]


def test_runs_of_other_code_are_told_and_not_used(
    squares: Squares, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("run")
    monkeypatch.setattr(Squares, "code", "other")
    assert done() == [(0, 2), (0, 3)]
    assert "many: 3 results of other code are kept, and not used" in invoke("run").stderr
    assert squares.made == [0, 1, 0, 1, 2] * 2
    assert done() == [(2, 2), (3, 3)]


def test_runs_of_other_options_are_not_used_but_those_along_an_axis_are(squares: Squares) -> None:
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
def test_its_options_are_checked(squares: Squares, wrong: str, message: str) -> None:
    text = Path("mine.yaml").read_text()
    Path("mine.yaml").write_text(text.replace("numbers: 2", wrong))
    result = invoke("run")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("results").exists()
