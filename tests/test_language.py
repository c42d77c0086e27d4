"""The language model: what it sees, what it is scored on, and that LFP trains it."""

import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.experiments import language
from benchmarks.experiments.language import GPT, Arm, Options, chosen, corpus, train, windows

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
    text = corpus()
    record = train(arm, 0.01, 0, OPTIONS, text)
    assert len(record["validation_losses"]) == language.EVALUATIONS
    assert record["test_loss"] < 0.9 * math.log(text.characters)
    assert record == train(arm, 0.01, 0, OPTIONS, text)


def test_a_rate_is_chosen_by_validation_not_by_test() -> None:
    arm = Arm("gradient", "sgd")

    def run(rate: float, validation: float | None, test: float | None) -> dict[str, object]:
        losses = {"validation_losses": [validation], "test_loss": test}
        return {**arm._asdict(), "learning_rate": rate, "seed": 0, **losses}

    row = chosen(arm, [run(0.1, 2.0, 3.0), run(0.2, 2.5, 1.0), run(0.3, None, None)])
    assert (row["learning_rate"], row["test_loss"]) == (0.1, [3.0])
    assert row["at_edge"]
    assert not chosen(arm, [run(0.1, 2.6, 1.0), run(0.2, 2.5, 3.0), run(0.3, None, None)])[
        "at_edge"
    ]


def test_a_diverged_arm_says_so_in_table_and_json() -> None:
    arm = Arm("gradient", "sgd")
    runs = [
        {**arm._asdict(), "learning_rate": 0.1, "validation_losses": [loss], "test_loss": loss}
        for loss in (2.0, None)
    ]
    row = chosen(arm, runs)
    assert json.loads(json.dumps(row, allow_nan=False))["test_loss"] == [2.0, None]
    _, (line,) = language.lines([row])
    assert line[-2:] == ("diverged", "diverged")


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
    (records,) = tmp_path.rglob("records.json")
    before = records.stat().st_mtime_ns
    runs = json.loads(records.read_text())["runs"]
    assert len(runs) == 2 * (1 + 2)  # rates, for the gradient and two treatments of attention
    assert CliRunner().invoke(app, command).exit_code == 0
    assert records.stat().st_mtime_ns == before
    (table,) = tmp_path.rglob("table.md")
    assert "| lfp | adam | 0.01 | constant |" in table.read_text()
    assert (table.parent / "validation-loss-by-step.png").read_bytes().startswith(b"\x89PNG")
