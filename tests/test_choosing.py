"""How trials choose options: the best of few seeds are told apart with as many as are reported."""

from itertools import product

import pytest

from benchmarks.experiments.comparison.choosing import choices, plan, playoff
from benchmarks.experiments.comparison.experiment import Options
from benchmarks.experiments.comparison.study import Cell, Study
from benchmarks.experiments.comparison.summary import finalists_told
from benchmarks.runs.run import Epoch, Result, Run
from benchmarks.runs.store import Stored
from benchmarks.runs.tuning import FIRST_SWEEP_SEED

CELL = Cell("relu", "sgd")
LUCKY, STEADY = 0.3, 0.1  # learning rates


def study(finalists: int | None) -> Study:
    """Return a study of four rates with one seed each, of which five are reported."""
    return Options(
        dataset="blobs",
        methods=["sgd"],
        activations=["relu"],
        seeds=5,
        learning_rates=[0.01, 0.03, STEADY, LUCKY],
        finalists=finalists,
    ).study()


def accuracy(run: Run) -> float:
    """Return what a run reaches: one rate is best with the first seed, and bad with all others."""
    rate = run.settings.learning_rate
    if rate == LUCKY:
        return 0.99 if run.seed == FIRST_SWEEP_SEED else 0.2
    return 0.9 if rate == STEADY else 0.5


def made(of: Study) -> tuple[dict[Run, Stored], int]:
    """Return the results of all runs of a study, and in how many rounds they were asked for."""
    found: dict[Run, Stored] = {}
    rounds = 0
    while missing := [run for run in plan(of, found) if run not in found]:
        rounds += 1
        for run in missing:
            value = accuracy(run)
            history = (Epoch(validation=value),)
            found[run] = Stored(Result(run, history, None, 1, 0.0), {})
    return found, rounds


@pytest.mark.parametrize(("finalists", "chosen"), [(None, LUCKY), (1, LUCKY), (2, STEADY)])
def test_more_seeds_tell_the_best_trials_apart(finalists: int | None, chosen: float) -> None:
    """With one finalist there is nothing to tell apart, so the lucky one stays."""
    of = study(finalists)
    found, rounds = made(of)
    assert choices(of, found)[CELL].learning_rate == chosen
    assert rounds == (2 if finalists is None else 3)
    assert len(found) == of.runs
    reported = {run.settings.learning_rate for run in found if run.kind == "final"}
    assert reported == {chosen}


def test_the_score_is_that_of_all_seeds_and_the_edge_that_of_all_trials() -> None:
    of = study(2)
    found, _ = made(of)
    choice = choices(of, found)[CELL]
    assert choice.score == pytest.approx(0.9)
    assert choice.edge is None, "of two finalists alone the lower rate would be at an edge"
    seeds = range(FIRST_SWEEP_SEED, FIRST_SWEEP_SEED + 5)
    sweep = [found[run].result for run in of.sweep(CELL)]
    asked = {(run.settings.learning_rate, run.seed) for run in playoff(of, CELL, sweep)}
    assert asked == set(product((LUCKY, STEADY), seeds))


def test_the_test_split_and_reported_seeds_have_no_part_in_it() -> None:
    of = study(4)
    found, _ = made(of)
    tried = [run for run in found if run.kind == "sweep"]
    assert len(tried) == 4 * 5
    assert min(run.seed for run in tried) >= FIRST_SWEEP_SEED > of.seeds


def test_a_table_tells_the_seeds_of_the_finalists() -> None:
    assert finalists_told(study(2)) == ", and of the best 2 with seeds 1000 to 1004"
    assert not finalists_told(study(None))
