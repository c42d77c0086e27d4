"""The pruning experiment: what it asks for, what it stores, and what it says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from baselines import Settings
from benchmarks.analysis import sparsity
from benchmarks.experiments import conduct
from benchmarks.experiments.base import Found
from benchmarks.experiments.conduct import Status
from benchmarks.experiments.kinds import EXPERIMENTS
from benchmarks.experiments.pruning import Options, Pruning, runs
from benchmarks.experiments.pruning.report import (
    PAIRS,
    PRIMARY,
    accuracy_lines,
    curves_of,
    differences_of,
    tolerated,
    training_lines,
    training_of,
)
from benchmarks.experiments.pruning.runs import CRITERIA, Pruned
from benchmarks.runs.run import Result
from benchmarks.runs.tuning import Choice
from tests.studies import place

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "dataset": "blobs",
    "methods": ["lfp", "sgd"],
    "seeds": 2,
    "epochs": 1,
    "sweep_epochs": 1,
    "sweep_seeds": 1,
    "learning_rates": [0.1, 0.3],
    "learning_rate": {"sgd": 0.3},
    "step": 0.25,
    "removed": 3,
}


def test_it_is_an_experiment_of_study_files() -> None:
    assert EXPERIMENTS["pruning"] is Pruning


def carry_out(options: Options, folder: Path, told: list[str] | None = None) -> Found:
    """Make the experiment in this process."""
    here = place() if told is None else place(told.append)
    return conduct.carry_out(Pruning(), options, folder, here).found


def status(options: Options, folder: Path) -> Status:
    """Return how far it is."""
    return conduct.status(Pruning(), options, folder)


def test_all_runs_are_made_once_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, told, made = Options(**TINY), list[str](), list[str]()
    train_and_prune = runs.train_and_prune

    def interrupted(run: Pruned, *rest: Any) -> Result:
        if len(made) == 3:
            made.clear()
            raise KeyboardInterrupt
        made.append(run.id)
        return train_and_prune(run, *rest)

    monkeypatch.setattr(runs, "train_and_prune", interrupted)
    experiment = Pruning()
    assert experiment.runs(options) == 2 + 2 * 2
    with pytest.raises(KeyboardInterrupt):
        carry_out(options, tmp_path)
    assert status(options, tmp_path)[:2] == (5, 0)
    found = carry_out(options, tmp_path, told)
    assert (len(made), len(told)) == (1, experiment.steps(options))
    assert status(options, tmp_path).done == experiment.runs(options)
    table = experiment.sections(options, found)[0].tables[0]
    assert set(table.frame["method"]) == {"lfp", "sgd"}
    assert len(table.frame) == 2 * 2 * len(CRITERIA)
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert {
        "table.md",
        "accuracy-by-sparsity.png",
        "curves.csv",
        "layers.csv",
        "paired.csv",
    } <= files
    text = (tmp_path / "table.md").read_text()
    assert "the command" in text
    assert "blobs, toy-mlp: accuracy on 100 test examples" in text
    assert text.startswith("# Accuracy after pruning\n")
    curves = pd.read_csv(tmp_path / "curves.csv")
    assert (curves.groupby(["method", "seed"])["0%"].nunique() == 1).all(), "pruned by nothing"


def test_a_method_at_another_rate_is_another_run(tmp_path: Path) -> None:
    few = {**TINY, "methods": ["sgd"], "seeds": 1}
    for rate in (0.1, 0.3):
        options = Options(**{**few, "learning_rate": {"sgd": rate}})
        carry_out(options, tmp_path)
    assert status(options, tmp_path) == Status(done=1, of_other_options=1)


@pytest.mark.parametrize("change", [{"removed": 4}, {"examples": 50}, {"momentum": 0.5}])
def test_runs_of_other_options_are_not_used(change: dict[str, Any], tmp_path: Path) -> None:
    few = {**TINY, "methods": ["sgd"], "seeds": 1}
    before, after = Options(**few), Options(**{**few, **change})
    carry_out(before, tmp_path)
    assert [status(o, tmp_path).done for o in (before, after)] == [1, 0]
    carry_out(after, tmp_path)
    assert [status(o, tmp_path).done for o in (before, after)] == [1, 1]


def test_runs_of_other_code_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(**{**TINY, "seeds": 1})
    carry_out(options, tmp_path)
    assert status(options, tmp_path) == Status(done=4)
    monkeypatch.setattr(Pruning, "code", "other")
    assert status(options, tmp_path) == Status(done=0, of_other_code=4)
    carry_out(options, tmp_path)
    assert status(options, tmp_path) == Status(done=4, of_other_code=4)


def test_a_change_of_what_prunes_is_a_change_of_code(monkeypatch: pytest.MonkeyPatch) -> None:
    code = Pruning().code
    monkeypatch.setattr(sparsity, "__file__", __file__)
    assert Pruning().code != code


def test_a_diverged_run_is_left_out_and_told(tmp_path: Path) -> None:
    options = Options(**{**TINY, "learning_rate": {"sgd": 1e30}, "clip_norm": 0.0})
    one = Pruning().sections(options, carry_out(options, tmp_path))[0].tables[0]
    assert set(one.frame["method"]) == {"lfp"}
    assert "Diverged, and left out: 2 of 4 runs." in one.notes
    assert status(options, tmp_path).diverged >= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activations": ["relu", "tanh"]}, "activations: relu, tanh; allowed: one that"),
        ({"activations": ["lif"], "learning_rate": {}}, "activations: lif; allowed: one that"),
        ({"methods": ["sdg", "sgd"]}, "unknown name 'sdg'"),
    ],
)
def test_what_cannot_be_pruned_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pruning().runs(Options(**{**TINY, **changes}))


def test_shares_are_multiples_of_the_step() -> None:
    assert Options(step=0.25).shares == [0, 0.25, 0.5, 0.75]
    assert Options(step=0.05).shares[-2:] == [0.9, 0.95]
    assert Options(step=0.3).shares == [0, 0.3, 0.6, 0.9]


def test_tolerated_ends_with_the_first_loss() -> None:
    assert tolerated([0, 0.5, 0.9], [0.9, 0.86, 0.85]) == 0.9
    assert tolerated([0, 0.5, 0.9], [0.9, 0.84, 0.9]) == 0  # what comes back does not count


def pruned(method: str, seed: int, last: float) -> Result:
    """Return the result of a network whose accuracy ends with `last`, by every criterion."""
    shared = ("final", "blobs", "toy-mlp", method, "relu", seed, 1, 1, Settings(0.1))
    own: dict[str, Any] = {"shares": (0.0, 0.5), "removed": 1, "examples": 1, "epsilon": 0.1}
    run = Pruned(*shared, **own)  # type: ignore[arg-type]
    accuracies = {criterion: [1.0, last] for criterion in CRITERIA}
    return Result(run, (), None, 1, 1.0, details={"accuracy": accuracies})


def test_differences_are_between_runs_of_the_same_seed() -> None:
    """Where the seeds differ by far more than the methods do, only pairs show it."""
    records = [
        pruned(method, seed, 0.2 * seed + (0.1 if method == "lfp" else 0.0))
        for method in ("lfp", "sgd")
        for seed in range(4)
    ]
    found = differences_of(curves_of(records, [0.0, 0.5]))
    of_means = found[found["quantity"] == "mean accuracy %, by magnitude, all layers"]
    assert of_means["methods"].tolist() == ["lfp - sgd"]
    assert of_means["difference"].item() == pytest.approx(5)
    assert of_means["low"].item() == pytest.approx(5)
    assert of_means["p"].item() == 2 / 2**4
    crossed = [replace(r, run=replace(r.run, seed=3 - r.run.seed)) for r in records[:4]]
    wide = differences_of(curves_of([*crossed, *records[4:]], [0.0, 0.5])).iloc[0]
    assert wide["difference"] == pytest.approx(5)
    assert wide["high"] - wide["low"] > 10


def test_only_the_primary_criterion_is_tested() -> None:
    """Its rows alone count for Holm's correction; nothing else has a p, but has an interval."""
    records = [
        pruned(method, seed, 0.9 + 0.01 * number + 0.001 * seed)
        for number, method in enumerate(("sgd", "wsgd", "lfp"))
        for seed in range(4)
    ]
    found = differences_of(curves_of(records, [0.0, 0.5]))
    assert len(found) == 2 * 3 * len(CRITERIA) + 3
    level = found[found["quantity"] == "accuracy % without pruning"]
    assert level["difference"].tolist() == [0, 0, 0]
    tested = found[found["p"].notna()]
    assert tested["quantity"].str.endswith(f"by {PRIMARY}").all()
    assert len(tested) == 2 * len(PAIRS)
    of_means = tested[tested["quantity"].str.startswith("mean")]
    assert of_means["p_holm"].tolist() == pytest.approx([len(tested) * 2 / 2**4] * 3)
    assert found["low"].notna().all()
    assert found["p_holm"].isna().sum() == len(found) - len(tested)


def test_a_rate_that_ends_the_grid_is_marked() -> None:
    frame = curves_of([pruned("lfp", 0, 0.9), pruned("sgd", 0, 0.9)], [0.0, 0.5])
    choices = {
        "lfp": Choice(Settings(0.1), edges={"learning_rate": "highest"}),
        "sgd": Choice(Settings(0.1)),
    }
    _, found = accuracy_lines(frame, [0.0, 0.5], choices)
    assert {(row[1], row[2]) for row in found} == {("lfp", "0.1 (edge)"), ("sgd", "0.1")}


def test_networks_are_pruned_when_they_have_converged() -> None:
    few = {**TINY, "learning_rate": {"lfp": 0.1, "sgd": 0.1}, "seeds": 1, "epochs": 6}
    options = Options(**{**few, "patience": 2, "fall": 5.0})
    results = [runs.make(run, CPU, None) for run in Pruning().plan(options, {})]
    assert [len(result.history) for result in results] == [1 + 3] * 2, "one that falls, and two"
    _, rows = training_lines(training_of(results))
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("lfp", "3.0", "1/1"),
        ("sgd", "3.0", "1/1"),
    ]
    assert "had not fallen by 5 for 2 epochs in a row; 6 epochs at most" in options.trained
    whole = [runs.make(run, CPU, None) for run in Pruning().plan(Options(**few), {})]
    assert [len(result.history) for result in whole] == [1 + 6] * 2
    _, rows = training_lines(training_of(whole))
    assert {row[-1] for row in rows} == {"0/1"}
    assert "whether they had converged or not" in Options(**few).trained


def test_a_schedule_and_patience_do_not_go_together() -> None:
    with pytest.raises(
        ValueError, match="schedule: 'one-cycle'; allowed with patience: 'constant'"
    ):
        Pruning().runs(Options(**{**TINY, "schedule": "one-cycle", "patience": 2}))
    assert Pruning().runs(Options(**{**TINY, "schedule": "one-cycle"}))
