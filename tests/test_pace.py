"""Accuracy at a time and time to an accuracy, against step functions written out by hand."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines import Settings
from benchmarks.analysis.pace import (
    accuracy_at,
    at_equal_cost,
    front,
    targets,
    time_to,
    timed,
    times_to_targets,
)
from benchmarks.rendering.text import rows
from benchmarks.runs.run import Divergence, Epoch, Result, Run


def result(
    method: str,
    seed: int,
    points: list[tuple[float, float | None]],
    *,
    diverged: bool = False,
    budget: float | None = None,
) -> Result:
    """A run with an accuracy at each of these times."""
    run = Run("final", "blobs", "toy-mlp", method, "relu", seed, 9, 8, Settings(0.1), budget=budget)
    history = tuple(Epoch(test=a, seconds=s) for s, a in points)
    divergence = Divergence(1, "the loss is nan") if diverged else None
    return Result(run, history, divergence, 1, points[-1][0])


SLOW = result("lfp", 0, [(0, 0.1), (10, 0.6), (20, 0.9)])
FAST = result("sgd", 0, [(0, 0.2), (2, 0.5), (4, 0.8)])
FAST_TOO = result("sgd", 1, [(0, 0.0), (6, 0.4), (12, 0.7)])


@pytest.mark.parametrize(
    ("seconds", "accuracy"), [(0, 0.1), (9.9, 0.1), (10, 0.6), (19, 0.6), (20, 0.9), (inf, 0.9)]
)
def test_accuracy_is_a_step_function_of_time(seconds: float, accuracy: float) -> None:
    assert accuracy_at(SLOW.history, seconds=seconds) == accuracy


def test_accuracy_after_epochs() -> None:
    assert [accuracy_at(SLOW.history, epochs=e) for e in (0, 1, 2, 7)] == [0.1, 0.6, 0.9, 0.9]
    unknown = (Epoch(seconds=0.0), Epoch(seconds=1.0))
    assert accuracy_at(unknown, seconds=5) is None


def test_time_to_a_target_is_infinite_if_it_is_missed() -> None:
    assert [time_to(SLOW.history, t) for t in (0.1, 0.11, 0.6, 0.9, 0.91)] == [0, 10, 10, 20, inf]


def test_a_target_that_was_passed_and_lost_counts() -> None:
    assert time_to(result("lfp", 0, [(0, 0.1), (1, 0.95), (2, 0.3)]).history, 0.9) == 1


def test_equal_time_is_that_of_the_fastest_methods_slowest_run() -> None:
    lfp, sgd = rows(at_equal_cost([SLOW, FAST, FAST_TOO]))
    assert lfp["seconds"] == sgd["seconds"] == 12
    assert lfp["accuracy_at_time_mean"] == 0.6
    assert sgd["accuracy_at_time_mean"] == pytest.approx((0.8 + 0.7) / 2)
    assert sgd["accuracy_at_time_std"] == pytest.approx(np.std([0.8, 0.7], ddof=1))
    assert (lfp["epochs"], lfp["accuracy_at_epochs_mean"]) == (2, 0.9)
    assert lfp["accuracy_at_time_std"] is None, "one run has no deviation"


def test_a_diverged_run_sets_no_limit_and_keeps_its_last_accuracy() -> None:
    broken = result("wsgd", 0, [(0, 0.3), (0.1, None)], diverged=True)
    lfp, sgd, wsgd = rows(at_equal_cost([SLOW, FAST, broken]))
    assert lfp["seconds"] == 4
    assert (lfp["epochs"], wsgd["accuracy_at_time_mean"]) == (2, 0.3)
    assert sgd["accuracy_at_time_mean"] == 0.8
    assert at_equal_cost([broken]).empty


def test_a_run_that_ends_by_time_does_not_shorten_the_others() -> None:
    swarm = result("pso-torch-stable", 0, [(0, 0.1), (30, 0.2)], budget=30.0)
    assert {row["epochs"] for row in rows(at_equal_cost([SLOW, FAST, swarm]))} == {2}
    assert {row["epochs"] for row in rows(at_equal_cost([swarm]))} == {1}


def test_misses_count_as_infinitely_long() -> None:
    missed = result("sgd", 2, [(0, 0.1), (1, 0.2)])
    found = times_to_targets([SLOW, FAST, FAST_TOO, missed])
    sgd = found[(found["method"] == "sgd") & (found["target"] == 0.5)].iloc[0]
    assert (sgd["seconds"], sgd["reached"], sgd["seeds"]) == (12, 2, 3)
    sgd = found[(found["method"] == "sgd") & (found["target"] == 0.8)].iloc[0]
    assert (sgd["seconds"], sgd["reached"]) == (inf, 1)
    assert targets([SLOW, FAST]) == [0.5, 0.8, 0.9]
    assert targets([FAST]) == [0.5, 0.8]
    assert times_to_targets([missed]).empty


POINTS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=12)


@given(POINTS)
def test_no_point_beats_the_front(points: list[tuple[float, float]]) -> None:
    best = front(points)
    for seconds, accuracy in points:
        assert any(s <= seconds and a >= accuracy for s, a in best)
    for one in best:
        beaten = [p for p in points if p != one and p[0] <= one[0] and p[1] >= one[1]]
        assert not beaten
    assert best == sorted(set(best))


def test_old_runs_know_no_times() -> None:
    old = Result(SLOW.run, (Epoch(test=0.5),), None, 1, 1.0)
    assert timed([SLOW, FAST])
    assert not timed([SLOW, old])
