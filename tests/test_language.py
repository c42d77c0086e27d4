"""The language model: what it sees, what it is scored on, and that LFP trains it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.experiments.language.options import EVALUATIONS, Arm, Options
from benchmarks.experiments.language.report import chosen, lines, told
from benchmarks.experiments.language.runs import GPT, runs_of, train
from benchmarks.experiments.language.text import corpus, windows
from benchmarks.runs.run import Divergence, Epoch, Result

CPU = torch.device("cpu")
OPTIONS = Options(
    learning_rates={"adam": [0.01]},
    optimizers=["adam"],
    steps=30,
    batch=8,
    context=16,
    features=16,
    layers=1,
)


def test_the_parts_of_the_text_are_apart_and_complete() -> None:
    text = corpus()
    lengths = [len(part) for part in text[:3]]
    assert sum(lengths) > 40_000
    assert lengths[1] == pytest.approx(sum(lengths) / 10, abs=1)
    assert int(max(part.max() for part in text[:3])) == text.characters - 1


def test_a_window_is_followed_by_the_characters_one_further() -> None:
    inputs, targets = windows(torch.arange(20), [0, 7], 3)
    assert inputs.tolist() == [[0, 1, 2], [7, 8, 9]]
    assert targets.tolist() == [1, 2, 3, 8, 9, 10]


def test_no_character_sees_those_after_it() -> None:
    torch.manual_seed(0)
    model = GPT(5, OPTIONS)
    inputs = torch.randint(5, (1, OPTIONS.context))
    changed = inputs.clone()
    changed[0, 9:] = (changed[0, 9:] + 1) % 5
    before, after = model(inputs), model(changed)
    assert torch.allclose(before[:9], after[:9], atol=1e-6)
    assert not torch.allclose(before[9:], after[9:], atol=1e-2)


@pytest.mark.parametrize(
    "arm", [Arm("gradient", "adam"), Arm("lfp", "adam", 0.01, "uniform")], ids=["gradient", "lfp"]
)
def test_every_arm_learns_more_than_guessing(arm: Arm) -> None:
    run = runs_of(arm, OPTIONS)[0.01][0]
    result = train(run, CPU)
    assert len(result.history) == 1 + EVALUATIONS
    assert None not in [epoch.validation for epoch in result.history[1:]]
    assert result.test is not None
    assert result.test < 0.9 * math.log(corpus().characters)
    again = train(run, CPU)
    assert [replace(e, seconds=0) for e in again.history] == [
        replace(e, seconds=0) for e in result.history
    ]


def tried(rate: float, validation: float | None, test: float | None) -> Result:
    """Return the result of a run that ends with these losses."""
    options = OPTIONS.model_copy(update={"learning_rates": {"sgd": [rate]}})
    run = runs_of(Arm("gradient", "sgd"), options)[rate][0]
    history = (Epoch(), Epoch(validation=validation, test=test))
    return Result(run, history, Divergence(1, "wild") if validation is None else None, 1, 1.0)


def test_a_rate_is_chosen_by_validation_not_by_test() -> None:
    arm = Arm("gradient", "sgd")
    wild = tried(0.3, None, None)
    row = chosen(arm, {0.1: [tried(0.1, 2.0, 3.0)], 0.2: [tried(0.2, 2.5, 1.0)], 0.3: [wild]})
    assert (row["learning_rate"], row["test_loss"]) == (0.1, [3.0])
    assert row["at_edge"]
    inner = {0.1: [tried(0.1, 2.6, 1.0)], 0.2: [tried(0.2, 2.5, 3.0)], 0.3: [wild]}
    assert not chosen(arm, inner)["at_edge"]


def test_a_diverged_arm_says_so_in_table_and_json() -> None:
    results = [tried(0.1, 2.0, 2.0), tried(0.1, None, None)]
    row = chosen(Arm("gradient", "sgd"), {0.1: results})
    assert json.loads(json.dumps(row, allow_nan=False))["test_loss"] == [2.0, None]
    _, (line,) = lines([row])
    assert line[-2:] == ("diverged", "diverged")


def test_deviations_are_those_of_a_sample() -> None:
    assert told([1.0, 2.0, 3.0]) == "2.000 ± 1.000"


def test_an_optimiser_without_rates_is_named(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "title: t\nsource: s\nexperiment: language\ncommon: {learning_rates: {sgd: [0.1]}}\n"
        "parts: {gpt: {}}\nsizes: {smoke: {}, cpu: {}, paper: {}}\n"
    )
    result = CliRunner().invoke(app, ["run", str(plan), "--results", str(tmp_path)])
    assert result.exit_code == 2
    assert "there must be some for 'adam'" in " ".join(result.output.split())


def test_the_study_runs_and_goes_on_without_new_runs(tmp_path: Path) -> None:
    command = ["run", "language", "--size", "smoke", "--results", str(tmp_path)]
    assert CliRunner().invoke(app, command).exit_code == 0
    runs = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("runs/*.json")}
    assert len(runs) == 2 * (1 + 2)  # rates, for the gradient and two treatments of attention
    assert CliRunner().invoke(app, command).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("runs/*.json")} == runs
    (table,) = tmp_path.rglob("table.md")
    assert "| lfp | adam | 0.01 | constant |" in table.read_text()
    assert (table.parent / "validation-loss-by-step.png").read_bytes().startswith(b"\x89PNG")
