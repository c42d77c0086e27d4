"""Intervals and paired tests over seeds, against enumeration and statements that are known."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.analysis.statistics import Comparison, compare, holm, interval
from validation.selection import examples

VALUES = st.floats(-1, 1).map(lambda x: round(x, 3))


def flipped(differences: list[float]) -> float:
    """Return the share of sign flips whose mean is as far from 0 as the one that was found."""
    means = [np.mean(np.multiply(differences, signs)) for signs in flips(len(differences))]
    found = abs(np.mean(differences)) - 1e-12
    return float(np.mean([abs(mean) >= found for mean in means]))


def flips(count: int) -> list[tuple[int, ...]]:
    return list(product((-1, 1), repeat=count))


@examples(40)
@given(st.lists(VALUES, min_size=3, max_size=7))
def test_p_is_the_share_of_sign_flips_that_are_as_far_out(differences: list[float]) -> None:
    found = compare(differences, [0.0] * len(differences))
    assert found.p == pytest.approx(min(flipped(differences), 1.0), abs=1e-12)


@examples(20)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=3, max_size=6))
def test_exchanged_methods_are_the_same_comparison_reversed(
    pairs: list[tuple[float, float]],
) -> None:
    ours, theirs = map(list, zip(*pairs, strict=True))
    there, back = compare(ours, theirs), compare(theirs, ours)
    assert there.difference == pytest.approx(-back.difference, abs=1e-12)
    assert there.p == pytest.approx(back.p)
    assert there.effect == pytest.approx(-back.effect, nan_ok=True)
    assert there.interval.low <= there.difference + 1e-12
    assert there.interval.high >= there.difference - 1e-12


def test_pairs_matter() -> None:
    """A small difference on every seed is found, though seeds differ far more than methods."""
    seeds = [0.1, 0.9, 0.3, 0.7, 0.5, 0.2, 0.8, 0.4]
    ours = [value + 0.01 + 0.001 * i for i, value in enumerate(seeds)]
    assert compare(ours, seeds).p < 0.01
    assert compare(ours, seeds[::-1]).p > 0.5


def test_three_seeds_cannot_be_significant_and_two_say_nothing() -> None:
    assert compare([1.0, 1.1, 1.2], [0.0, 0.0, 0.0]).p == 0.25
    found: Comparison = compare([1.0, 1.1], [0.0, 0.0])
    assert found.difference == pytest.approx(1.05)
    assert all(math.isnan(x) for x in (found.p, found.effect, found.interval.low))


def test_equal_methods_have_no_effect_and_no_evidence() -> None:
    found = compare([0.5, 0.6, 0.7], [0.5, 0.6, 0.7])
    assert (found.difference, found.p) == (0.0, 1.0)
    assert math.isnan(found.effect)
    assert (found.interval.low, found.interval.high) == (0.0, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_of_what_is_not_finite_nothing_is_said(value: float) -> None:
    for ours, theirs in (([value, 1, 1], [0.0, 0, 0]), ([0.0, 0, 0], [value, 1, 1])):
        found = compare(ours, theirs)
        numbers = (found.difference, *vars(found.interval).values(), found.effect, found.p)
        assert all(map(math.isnan, numbers))
    assert math.isnan(compare([value] * 3, [value] * 3).p)


def test_rounding_is_no_difference() -> None:
    found = compare([0.1 + 0.2] * 8, [0.3] * 8)
    assert (found.difference, found.p) == (0.0, 1.0)
    assert compare([0.3 + 1e-9] * 8, [0.3] * 8).p < 0.01


def test_the_effect_is_in_standard_deviations_of_the_differences() -> None:
    assert compare([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]).effect == pytest.approx(2.0)


@pytest.mark.parametrize("count", [3, 5, 8, 20])
def test_an_interval_covers_the_mean_as_often_as_it_says(count: int) -> None:
    """Of normal values, in 4000 draws: 95% with a standard error of 0.3%."""
    draws = np.random.default_rng(count).normal(size=(4000, count))
    found = [interval(draw.tolist()) for draw in draws]
    covered = np.mean([i.low <= 0 <= i.high for i in found])
    assert 0.93 < covered < 0.97


@pytest.mark.parametrize(("count", "most"), [(3, 0.80), (5, 0.90), (8, 0.93)])
def test_percentiles_of_few_values_would_cover_it_less_often(count: int, most: float) -> None:
    """The twin of the test before: means of resamples, from the 2.5th to the 97.5th percentile."""
    random = np.random.default_rng(count)
    draws = random.normal(size=(1000, count))
    rows = np.arange(1000)[:, None, None]
    means = draws[rows, random.integers(count, size=(1000, 500, count))].mean(axis=2)
    low, high = np.percentile(means, [2.5, 97.5], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < most


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holms_correction_rejects_what_his_procedure_does(p_values: list[float]) -> None:
    """Step down: the smallest p against alpha / m, the next against alpha / (m - 1), and so on."""
    corrected, alpha = holm(p_values), 0.05
    rejected = set()
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        if p_values[index] * (len(p_values) - rank) > alpha:
            break
        rejected.add(index)
    assert {i for i, p in enumerate(corrected) if p <= alpha} == rejected
    assert all(c >= p for c, p in zip(corrected, p_values, strict=True))


def test_no_test_does_not_count_as_one() -> None:
    assert holm([0.01, math.nan, 0.03])[::2] == pytest.approx([0.02, 0.03])
    assert math.isnan(holm([0.01, math.nan])[1])
    assert holm([]) == []


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0])])
def test_what_are_no_pairs_is_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="are not pairs"):
        compare(ours, theirs)
