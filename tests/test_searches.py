"""The study of independent searches: what tells them apart, what is chosen, and what is said."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from numpy.random import default_rng

from benchmarks.experiments import conduct
from benchmarks.experiments.base import Found
from benchmarks.experiments.comparison.choosing import decide
from benchmarks.experiments.searches import Options, Searches, differences_of, spreads
from benchmarks.runs.run import Epoch, Result, Run
from benchmarks.runs.store import Stored
from benchmarks.runs.tuning import FIRST_SWEEP_SEED
from tests.studies import place

TINY: dict[str, Any] = {
    "dataset": "blobs",
    "methods": ["lfp", "wsgd"],
    "activations": ["relu"],
    "searches": 3,
    "seeds": 2,
    "epochs": 1,
    "sweep_epochs": 1,
    "trials": 2,
}


def stored(run: Run, accuracy: float) -> Stored:
    """Return a result of the run."""
    return Stored(Result(run, (Epoch(validation=accuracy, test=accuracy),), None, 1, 0.0), {})


def test_searches_have_neither_a_trial_nor_a_seed_in_common() -> None:
    studies = Options(**TINY | {"seeds": 4, "sweep_seeds": 2, "finalists": 1}).repeated()
    (cell, *_) = studies[0].trained
    trials = [{run.settings for run in study.sweep(cell)} for study in studies]
    assert len(set.union(*trials)) == sum(map(len, trials)) == 3 * 2
    given = studies[0].given(cell.method)
    for runs in (
        [s.trial(cell, given, 4) for s in studies],
        [s.final(cell, given) for s in studies],
    ):
        seeds = [run.seed for of_search in runs for run in of_search]
        assert len(set(seeds)) == len(seeds) == 3 * 4
    reported = {run.seed for study in studies for run in study.final(cell, given)}
    assert max(reported) < FIRST_SWEEP_SEED


def test_the_first_search_is_that_of_a_comparison() -> None:
    options = Options(**TINY)
    assert options.repeated()[0] == options.study()


def test_a_reported_run_has_no_seed_of_a_trial() -> None:
    most = Options(**TINY | {"searches": FIRST_SWEEP_SEED // 2})
    assert Searches().runs(most) == FIRST_SWEEP_SEED // 2 * 2 * (2 + 2)
    with pytest.raises(
        ValueError, match="searches: 501 of 2 seeds each; allowed: up to 1000 seeds"
    ):
        Searches().runs(Options(**TINY | {"searches": 501}))


def test_each_search_chooses_by_its_own_trials(tmp_path: Path) -> None:
    options, kind = Options(**TINY), Searches()
    done = conduct.carry_out(kind, options, tmp_path, place())
    assert len(done.found.runs) == kind.runs(options) == 3 * 2 * (2 + 2)
    for study in options.repeated():
        for cell in study.trained:
            trials, choice = decide(study, cell, done.found.runs)
            assert choice is not None
            scores = {run.settings: done.found.runs[run].result.validation or 0 for run in trials}
            assert scores[choice.settings] == max(scores.values())
            assert set(study.final(cell, choice.settings)) <= set(done.found.runs)
    main, statistics, *_ = done.sections
    table, chosen = main.tables
    assert [row[:2] for row in table.lines[1]] == [("relu", "lfp"), ("relu", "wsgd")]
    assert [row[1:3] for row in chosen.lines[1]] == [
        (method, str(search)) for method in ("lfp", "wsgd") for search in range(3)
    ]
    assert main.figures[0].draw().startswith(b"\x89PNG")
    found = statistics.tables[0].frame
    assert found[["methods", "seeds"]].to_numpy().tolist() == [["wsgd - lfp", 3]]
    assert kind.sections(options, Found()) == []


def test_a_search_counts_when_all_of_its_runs_are_there() -> None:
    options, kind = Options(**TINY), Searches()
    results: dict[Run, Stored] = {}
    for _ in range(2):  # the trials, and what they choose
        for run in kind.plan(options, results):
            results.setdefault(run, stored(run, 0.5 + run.seed / 10_000))
    (main, *_) = kind.sections(options, Found(results))
    assert main.tables[0].frame["searches"].tolist() == [3, 3]
    last = max((run for run in results if run.kind == "final"), key=lambda run: run.seed)
    del results[last]
    (main, *_) = kind.sections(options, Found(results))
    counts = main.tables[0].frame.set_index("method")["searches"]
    assert counts[last.method] == 2
    assert counts.drop(last.method).tolist() == [3]


def searched(chosen: Sequence[float], noise: float, seeds: int) -> pd.DataFrame:
    """Return searches that chose options of these accuracies, measured with noisy seeds."""
    random, rows = default_rng(0), []
    for search, accuracy in enumerate(chosen):
        sample = pd.Series(accuracy + noise * random.standard_normal(seeds))
        means = {"test_accuracy": sample.mean(), "test_accuracy_std": sample.std(ddof=1)}
        rows.append(
            {"activation": "relu", "method": "lfp", "search": search, "seeds": seeds, **means}
        )
    return pd.DataFrame(rows)


def test_what_seeds_alone_would_give_is_beside_what_was_measured() -> None:
    same = spreads(searched([0.9] * 2000, noise=0.01, seeds=8)).iloc[0]
    assert same["from_seeds"] == pytest.approx(0.01 / 8**0.5, rel=0.02)
    assert same["test_accuracy_std"] == pytest.approx(same["from_seeds"], rel=0.05)
    luck = (0.9 + 0.02 * default_rng(1).standard_normal(2000)).tolist()
    other = spreads(searched(luck, noise=0.01, seeds=8)).iloc[0]
    assert other["from_seeds"] == pytest.approx(same["from_seeds"])
    assert other["test_accuracy_std"] == pytest.approx(0.02, rel=0.05)


def test_differences_are_in_pairs_of_the_same_search() -> None:
    ours = searched([0.8, 0.9, 0.7], noise=0.0, seeds=2)
    theirs = searched([0.81, 0.91, 0.71], noise=0.0, seeds=2).assign(method="sgd")
    found = differences_of(pd.concat([ours, theirs])).iloc[0]
    assert (found["methods"], found["seeds"]) == ("sgd - lfp", 3)
    assert found["difference"] == pytest.approx(1.0)
    assert found["high"] - found["low"] < 1e-9, "the searches differ, and not the differences"
    swapped = theirs.assign(search=[1, 0, 2])
    assert differences_of(pd.concat([ours, swapped]))["high"].iloc[0] > 10
