"""The options of methods in studies and on the command line, made of what methods declare."""

import re
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pandas as pd
import pytest
from pydantic import Field
from typer import Typer
from typer.testing import CliRunner

from baselines import METHODS, SGD, BasicSettings, LFPSettings, Settings, Trainer
from baselines.options import options
from baselines.pso import SwarmSettings
from benchmarks.cli.method_options import described, with_options_of
from benchmarks.experiments import comparison, transfer
from benchmarks.experiments.comparison.experiment import TRIALS
from benchmarks.experiments.comparison.study import Outcome
from benchmarks.experiments.comparison.summary import lines, notes, summarise
from benchmarks.experiments.options import DECIDED, MethodOptions, options_of
from benchmarks.experiments.regression.options import Options as RegressionOptions
from tests.studies import carry_out


@options
class MineSettings(Settings):
    """Options of a method that is not ours."""

    strength: Annotated[float, Field(gt=0, description="Of the method.")] = 0.5
    limit: Annotated[int, Field(ge=1)] | None = None
    rounds: Annotated[int, Field(ge=0)] | None = 2
    careful: bool = True
    epsilon: Annotated[float, Field(ge=0)] = 0.125  # type: ignore[misc]
    widths: tuple[Annotated[int, Field(ge=1)], ...] = (3, 5)
    seeds: int = 7  # which studies have as well


class Mine(SGD):
    """A method with options of its own."""

    name: ClassVar[str] = "mine"
    Options: ClassVar[type[Settings]] = MineSettings


TABLE: dict[str, type[Trainer]] = {"lfp": METHODS["lfp"], "sgd": SGD, "mine": Mine}


class Study(MethodOptions):
    """Options of an experiment with the table above."""

    table: ClassVar[Any] = TABLE
    defaults: ClassVar[Any] = {"momentum": 0.25, "strength": 0.75}
    seeds: int = 3


def settings(**given: Any) -> dict[str, BasicSettings]:
    return Study(**given).settings_by_method(TABLE)


def test_a_flat_option_goes_to_every_method_that_has_it() -> None:
    found = settings(epsilon=0.25, reduction="sum")
    assert found["lfp"] == LFPSettings(1.0, momentum=0.25, reduction="sum", epsilon=0.25)
    assert found["sgd"] == Settings(1.0, momentum=0.25, reduction="sum")
    assert found["mine"] == MineSettings(
        1.0, momentum=0.25, reduction="sum", epsilon=0.25, strength=0.75
    )


def test_without_it_each_method_has_its_own_default() -> None:
    found = settings()
    assert isinstance(found["lfp"], LFPSettings)
    assert isinstance(found["mine"], MineSettings)
    assert (found["lfp"].epsilon, found["mine"].epsilon) == (1e-6, 0.125)


def test_an_option_of_one_method_comes_before_a_flat_one() -> None:
    found = settings(momentum=0.5, options={"mine": {"momentum": 0.1, "seeds": 9}})
    assert [Settings.of(one).momentum for one in found.values()] == [0.5, 0.5, 0.1]
    assert asdict(found["mine"])["seeds"] == 9, "the study's own seeds are another option"


@pytest.mark.parametrize(
    ("option", "given", "expected"),
    [("clip_norm", 0, None), ("limit", 0, None), ("rounds", 0, 0), ("careful", False, False)],
)
def test_0_is_none_where_it_can_be_nothing_else(option: str, given: Any, expected: Any) -> None:
    assert getattr(settings(**{option: given})["mine"], option) is expected
    assert getattr(settings(options={"mine": {option: given}})["mine"], option) is expected


def test_an_option_may_be_a_list() -> None:
    (found,) = (one for one in settings(widths=[2, 4]).values() if isinstance(one, MineSettings))
    assert found.widths == (2, 4)
    for wrong in ([2, 0], [True], ["2"], 3):
        told = "widths must list values, each of which must be >= 1, not (0|True|'2'|3)"
        with pytest.raises(ValueError, match=told):
            settings(options={"mine": {"widths": wrong}})


def test_families_stand_for_their_methods() -> None:
    found = comparison.Options(methods=["pso"], options={"pso": {"inertia": 0.5}}).study()
    swarms = [one for one in found.settings.values() if isinstance(one, SwarmSettings)]
    assert [one.inertia for one in swarms] == [0.5, 0.5]


def test_a_method_with_its_own_rate_is_swept_where_trials_are_asked_for() -> None:
    methods = ["lfp", "pso-torch-stable", "rstdp-tuned"]
    given: Any = {"methods": methods, "activations": ["relu", "lif"], "epochs": 1}
    study = comparison.Options(**given, options={"pso-torch-stable": {"inertia": 0.5}}).study()
    assert [len(study.tried(method)) for method in methods] == [TRIALS, 0, 0]
    searched = comparison.Options(**{**given, "trials": 4, "speed_limit": 0.5}).study()
    assert [len(searched.tried(method)) for method in methods] == [4, 4, 4]
    assert searched.searched["pso-torch-stable"] == ("inertia", "cognitive", "social", "start")
    swarms = [one for one in searched.tried("pso-torch-stable") if isinstance(one, SwarmSettings)]
    assert {one.speed_limit for one in swarms} == {0.5}
    assert len({one.inertia for one in swarms}) == 4
    assert {one.learning_rate for one in searched.tried("rstdp-tuned")} == {5.0}
    fixed = comparison.Options(**given, trials=4, learning_rate={"pso-torch-stable": 1.0}).study()
    assert not fixed.tried("pso-torch-stable")


def test_a_table_tells_how_large_swarms_are_and_how_often_they_moved(tmp_path: Path) -> None:
    options = comparison.Options(
        dataset="blobs",
        model="toy-mlp",
        methods=["sgd", "pso-torch-stable"],
        activations=["relu"],
        learning_rate={"sgd": 0.1},
        seeds=1,
        epochs=3,
        options={"pso-torch-stable": {"particles": 5}},
    )
    found = carry_out(options.study(), tmp_path)
    rows = summarise(found).set_index("method")
    (steps,) = [s.result.steps for s in found.results if s.run.method == "pso-torch-stable"]
    assert rows["other_options"]["pso-torch-stable"] == f"particles 5, iterations {steps}"
    assert rows["other_options"]["sgd"] == ""
    assert "other options" in lines(rows.reset_index())[0]


def test_a_study_is_read_as_it_was_written() -> None:
    options = comparison.Options(epsilon=0.25, options={"lfp": {"units": "shifted"}})  # type: ignore[call-arg]
    written = options.model_dump(mode="json")
    assert written["epsilon"] == 0.25
    assert "momentum" not in written, "what was not given is for the methods to say"
    assert comparison.Options.model_validate(written) == options


def test_experiments_keep_their_own_defaults() -> None:
    given: dict[str, Any] = {"dataset": "digits", "learning_rate": {"lfp": 0.1}}
    tuned = transfer.Options(**given).settings("lfp", 0.1)
    assert tuned == LFPSettings(0.1, clip_norm=None, schedule="one-cycle")
    regressions = RegressionOptions().settings("sgd", 0.1)
    assert regressions == Settings(0.1, reduction="sum")


def test_options_are_listed_with_the_methods_that_have_them() -> None:
    found = {name: option.methods for name, option in options_of(TABLE).items()}
    assert found["momentum"] == ["lfp", "sgd", "mine"]
    assert found["epsilon"] == ["lfp", "mine"]
    assert found["strength"] == ["mine"]
    assert not found.keys() & set(DECIDED)


# --- the command line -----------------------------------------------------------------------------

got: dict[str, Any] = {}
app = Typer()


@app.command()
@with_options_of(lambda: described(TABLE))
def command(seeds: int = 3, **chosen: Any) -> None:
    """Keep what was given."""
    got.clear()
    got.update(chosen, own=seeds)


def test_a_command_gets_what_was_given() -> None:
    runner = CliRunner()
    assert runner.invoke(app, []).exit_code == 0
    assert got == {"own": 3}
    given = ["--strength", "2", "--limit", "4", "--no-careful", "--units", "shifted"]
    assert runner.invoke(app, [*given, "--seeds", "5"]).exit_code == 0
    assert got == {"strength": 2.0, "limit": 4, "careful": False, "units": "shifted", "own": 5}
    for text, several in {"1": (1,), "4,0.5": (4, 0.5), "": ()}.items():
        assert runner.invoke(app, ["--widths", text]).exit_code == 0
        assert got == {"widths": several, "own": 3}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--strength", "'x' is not a number"),
        ("--limit", "'x' is not a whole number"),
        ("--widths", "'x' is not a number"),
    ],
)
def test_a_command_names_what_is_no_number(given: str, message: str) -> None:
    result = CliRunner().invoke(app, [given, "x"], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    "number", ["\uff11", "\u0663", "1_000", "", "1,,2", "1,\u0663", "\uff11.5"]
)
@pytest.mark.parametrize("option", ["--strength", "--limit", "--widths"])
def test_a_number_is_digits_as_in_a_study_file(option: str, number: str) -> None:
    result = CliRunner().invoke(app, [option, number], env={"COLUMNS": "200"})
    if (option, number) == ("--widths", ""):  # a list of none
        assert result.exit_code == 0
    else:
        assert result.exit_code == 2
        assert "number; allowed: digits, like" in result.output


@pytest.mark.parametrize(
    ("text", "number"),
    [("-.5", -0.5), ("+1.", 1.0), ("007", 7.0), ("1E-3", 0.001), ("-inf", -inf), ("1e-06", 1e-6)],
)
def test_a_real_number_has_all_its_spellings(text: str, number: float) -> None:
    assert CliRunner().invoke(app, ["--strength", text]).exit_code == 0
    assert got["strength"] == number
    assert CliRunner().invoke(app, ["--widths", f"2, {text}"]).exit_code == 0
    assert got["widths"] == (2, number)


def test_the_help_says_what_an_option_is_and_who_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 300)
    lines = CliRunner().invoke(app, ["--help"]).output.splitlines()

    def told(option: str) -> str:
        (line,) = [line for line in lines if re.search(rf" {option}\b", line)]
        return line

    assert "Of the method. (mine)" in told("--strength")
    assert "0.5" in told("--strength")
    assert "0: none." in told("--clip-norm")
    assert "0: none." not in told("--rounds")
    assert "(lfp, mine)" in told("--epsilon")
    assert "One of: sgd, adam." in told("--optimizer")
    assert "A list like 1,2." in told("--widths")
    assert "3,5" in told("--widths")
    assert "mine" not in told("--momentum"), "all methods have it"


def test_a_report_names_the_options_that_are_not_the_defaults() -> None:
    given = {"epsilon": 0.25, "clip_norm": 0, "options": {"sgd": {"momentum": 0.5}}}
    study = comparison.Options.model_validate({"methods": ["lfp", "sgd"], **given}).study()
    outcome = Outcome(study, [], {}, {}, [])
    told = (
        "Options that are not the defaults: clip_norm None (lfp, sgd); epsilon 0.25 (lfp); "
        "momentum 0.5 (sgd)."
    )
    summary = pd.DataFrame({"learning_rate_edge": [], "other_options": []}, dtype=str)
    assert told in notes(outcome, summary.assign(overflowed=0.0))
