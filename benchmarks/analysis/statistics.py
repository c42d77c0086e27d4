"""What seeds allow to say: intervals of means, and paired tests of one method against another.

Two methods with the same seed share the draw of the data, the initial weights and the order of the
batches (:mod:`benchmarks.runs.training`), so their differences are compared seed by seed. Tests
assume nothing about the distribution of the differences but that it is symmetric if the methods are
equal. Intervals are Student's: of few seeds, percentile bootstrap intervals of 95% are too narrow
(three seeds have none wider than from the smallest to the largest, which covers 76%).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

FEWEST_SEEDS = 3  # below, a spread over seeds is no basis for any test
CONFIDENCE = 0.95
RESAMPLES = 9999  # of more sign flips than there are with 13 seeds
ROUNDING = 1e-12  # of a mean of float64, relative to it
#: Two-sided, after Holm's correction.
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a mean, of 95%."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A method against a reference, over the seeds that both have.

    Attributes:
        seeds: the number n of pairs.
        difference: the mean of method minus reference.
        interval: of the difference.
        effect: the mean over the sample standard deviation of the differences (Cohen's d_z), NaN
            where there is none.
        p: two-sided, of all 2^n ways to flip signs of differences, or of 9999 random ones where
            there are more; NaN for fewer than three seeds, of which nothing should be said.
    """

    seeds: int
    difference: float
    interval: Interval
    effect: float
    p: float


def interval(values: Sequence[float]) -> Interval:
    """Return Student's interval of the mean of values (n,); NaN for fewer than three."""
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < FEWEST_SEEDS:
        return Interval(nan, nan)
    half, middle = half_width(sample.std(ddof=1), len(sample)), float(sample.mean())
    return Interval(middle - half, middle + half)


def half_width(deviation: float, count: int) -> float:
    """Return half of the interval of the mean of normal values with this sample deviation.

    A mean that is closer to 0 than this cannot be told from 0.
    """
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    return float(quantile * deviation / np.sqrt(count))


def compare(method: Sequence[float], reference: Sequence[float]) -> Comparison:
    """Return what can be said about values (n,) of a method and of a reference, in pairs.

    A difference that rounding can make is none. Where a value is not finite, nothing can be said.

    Raises:
        ValueError: the two have different lengths, or are empty.
    """
    if len(method) != len(reference) or not method:
        raise ValueError(
            f"method, reference: {len(method)} and {len(reference)} values are not pairs"
        )
    ours, theirs = np.asarray(method, np.float64), np.asarray(reference, np.float64)
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return Comparison(len(ours), nan, Interval(nan, nan), nan, nan)
    differences = np.where(np.isclose(ours, theirs, rtol=ROUNDING, atol=0), 0, ours - theirs)
    return Comparison(
        seeds=len(differences),
        difference=float(differences.mean()),
        interval=interval(differences.tolist()),
        effect=_effect(differences),
        p=_p(differences),
    )


def _effect(differences: NDArray[np.float64]) -> float:
    if len(differences) < FEWEST_SEEDS or np.ptp(differences) == 0:
        return nan
    return float(differences.mean() / differences.std(ddof=1))


def _p(differences: NDArray[np.float64]) -> float:
    if len(differences) < FEWEST_SEEDS:
        return nan
    found = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def smallest_p(seeds: int) -> float:
    """Return the smallest p that so many pairs can have.

    >>> smallest_p(3), smallest_p(8)
    (0.25, 0.0078125)
    """
    return max(2.0 ** (1 - seeds), 2 / (RESAMPLES + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979); NaN is no test and stays NaN.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN comes last
    corrected = np.full_like(p, nan)
    scaled = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected.tolist()


def median_half_width(found: pd.DataFrame) -> float:
    """Return the median of the half-widths of intervals, of those that there are; else NaN."""
    # Without NaN: pandas 2 warns where nothing else is left.
    return float(((found["high"] - found["low"]) / 2).dropna().median())
