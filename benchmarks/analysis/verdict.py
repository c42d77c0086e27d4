"""What paired tests allow to say: which method is better, in how many cases, and how sure that is.

Nothing is tested here. The verdict is made of the same rows that the table of the tests shows: a
headline, a line for each pair of methods, and, folded, the sizes of all differences by group.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.analysis.statistics import (
    FEWEST_SEEDS,
    SIGNIFICANCE,
    median_half_width,
    smallest_p,
)
from benchmarks.rendering.document import VERDICT, Section
from benchmarks.rendering.text import counted

Row = Mapping[Hashable, Any]
NAMED = 2  # groups with a difference that a line names; of more it has the number alone


@dataclass(frozen=True)
class Words:
    """How differences are told.

    Attributes:
        above: what a positive difference is, as in "2.1 points more accurate than".
        below: what a negative one is.
        better: what the first method of a pair is where the difference is positive.
        worse: what it is where the difference is negative.
        unit: of differences; may be empty.
        digits: behind the point.
        times: what differences are multiplied by.
    """

    above: str
    below: str
    better: str
    worse: str
    unit: str
    digits: int
    times: float = 1.0

    def size(self, *differences: float) -> str:
        """Return the smallest and the largest size of differences, without their signs."""
        sizes = sorted(abs(self.times * difference) for difference in differences)
        ends = dict.fromkeys(f"{size:.{self.digits}f}" for size in (sizes[0], sizes[-1]))
        return f"{' to '.join(ends)}{self.unit and ' '}{self.unit}"

    def told(self, row: Row, *, corrected: bool = False) -> str:
        """Return a difference with its interval, and with its p where that counts."""
        direction = self.above if row["difference"] > 0 else self.below
        p = f", p {row['p_holm']:.2g}" if corrected else ""
        return (
            f"{row['one']} is {self.size(row['difference'])} {direction} {row['other']} "
            f"(95% interval {self.interval(row)}{p})"
        )

    def interval(self, row: Row) -> str:
        """Return the interval of the size of a difference, which is below 0 if it may be none."""
        low, high = self.times * row["low"], self.times * row["high"]
        ends = (low, high) if row["difference"] >= 0 else (-high, -low)
        return f"{ends[0]:.{self.digits}f} to {ends[1]:.{self.digits}f}"


def section(
    found: pd.DataFrame,
    words: Words,
    leads: Mapping[str, str] | None = None,
    caveats: Sequence[str] = (),
) -> Section:
    """Return the verdict as a section; its first paragraph is the shortest form.

    Args:
        found: a row for each difference, `one` minus `other`, with columns group, one, other,
            seeds, difference, low, high, p and p_holm; p is NaN where nothing was tested.
        words: how differences are told.
        leads: for groups, what is said of them before their tests.
        caveats: sentences that are not folded.
    """
    tested = _tested(found)
    told = {name: [lead] for name, lead in (leads or {}).items()}
    if len(tested):
        for name, rows in tested.groupby("group", sort=False):
            told.setdefault(str(name), []).append(_of_group(rows, words))
    groups = [f"{name}: {' '.join(sentences)}" for name, sentences in told.items()]
    return Section(
        VERDICT,
        text=[headline(found, words), *_level(tested, words), *caveats],
        points=pairs(tested, words),
        folded_text=[*_least_p(tested), *groups],
        detail=True,
    )


def headline(found: pd.DataFrame, words: Words) -> str:
    """Return in a few words what the tests say, or why they say nothing."""
    if found.empty:
        return "No two methods were compared seed by seed, so nothing is said of which is better."
    tested = _tested(found)
    if tested.empty:
        return (
            f"Nothing can be said of which method is better: a test takes at least {FEWEST_SEEDS} "
            f"pairs of runs with the same seed, not {int(found['seeds'].max())}."
        )
    return f"{_by_intervals(tested, words)} {_after_correction(tested)}"


def pairs(tested: pd.DataFrame, words: Words) -> list[tuple[str, str]]:
    """Return for each pair of methods in how many groups the first is better, level and worse."""
    if tested.empty:
        return []
    alone = tested["one"].nunique() == 1
    return [
        (f"against {other}" if alone else f"{one} against {other}", _of_pair(rows, words))
        for (one, other), rows in tested.groupby(["one", "other"], sort=False)
    ]


def _tested(found: pd.DataFrame) -> pd.DataFrame:
    """Return the differences that were tested, each with its side, and whether it is significant.

    The side is 1, 0 or -1. A difference is level, 0, if its interval has 0 in it, unless it is
    significant.
    """
    if found.empty:
        return found
    tested = found[found["p"].notna()]
    significant = tested["p_holm"] <= SIGNIFICANCE
    apart = significant | (tested["low"] > 0) | (tested["high"] < 0)
    sign = (tested["difference"] > 0).astype(int) - (tested["difference"] < 0).astype(int)
    return tested.assign(significant=significant, side=sign.where(apart, 0))


def _sides(words: Words) -> list[tuple[int, str]]:
    return [(1, words.better), (0, "level"), (-1, words.worse)]


def _by_intervals(tested: pd.DataFrame, words: Words) -> str:
    """Return how many differences there are in each direction."""
    if tested["one"].nunique() > 1:
        differ = int((tested["side"] != 0).sum())
        shows = "shows" if differ == 1 else "show"
        return f"By 95% intervals, {differ} of {len(tested)} comparisons {shows} a difference."
    one, number = tested["one"].iloc[0], len(tested)
    counts = [(told, int((tested["side"] == side).sum())) for side, told in _sides(words)]
    found = [f"{told} in {count}" for told, count in counts if count]
    if len(found) == 1:
        few = {1: "the one comparison", 2: "both comparisons"}
        joined = (
            f"{found[0].removesuffix(str(number))}{few.get(number, f'all {number} comparisons')}"
        )
    else:
        joined = f"{', '.join(found[:-1])} and {found[-1]} of {number} comparisons"
    return f"By 95% intervals, {one} is {joined}."


def _after_correction(tested: pd.DataFrame) -> str:
    """Return how many of the differences are significant, and whether any could have been."""
    differ, clear = int((tested["side"] != 0).sum()), int(tested["significant"].sum())
    seeds = int(tested["seeds"].max())
    if not clear:
        none = "No difference is significant after Holm's correction"
        too_few = len(tested) * smallest_p(seeds) > SIGNIFICANCE
        return f"{none}{f', and with {seeds} pairs none could be' if too_few else ''}."
    if clear == differ:
        which = "This difference is" if differ == 1 else "These differences are"
    else:
        which = f"{clear} of these differences {'is' if clear == 1 else 'are'}"
    return f"{which} significant after Holm's correction."


def _of_pair(rows: pd.DataFrame, words: Words) -> str:
    """Return in which groups a method is better than, level with and worse than another."""
    found = []
    for side, told in _sides(words):
        those = rows[rows["side"] == side]
        if those.empty:
            continue
        number, clear = len(those), int(those["significant"].sum())
        few = number <= (NAMED if side else 1)
        names = f" ({' and '.join(map(str, those['group']))})" if few else ""
        size = f" by {words.size(*those['difference'])}" if side else ""
        sure = f", {'' if clear == number else f'{clear} '}significant" if clear else ""
        found.append(f"{told} in {number}{names}{size}{sure}")
    return "; ".join(found)


def _of_group(rows: pd.DataFrame, words: Words) -> str:
    """Return what the tests of a group say, the largest differences first."""
    ordered = rows.iloc[(-rows["difference"].abs()).argsort(kind="stable")]
    clear = ordered[ordered["significant"]].to_dict("records")
    apart = ordered[~ordered["significant"] & (ordered["side"] != 0)].to_dict("records")
    found = [f"{'; '.join(words.told(row, corrected=True) for row in clear)}."] if clear else []
    if apart:
        told = "; ".join(words.told(row) for row in apart)
        found.append(f"By the interval alone, not after the correction: {told}.")
    others: dict[str, list[str]] = {}
    for row in ordered[ordered["side"] == 0].to_dict("records"):
        rounded = round(words.times * row["difference"], words.digits) + 0.0  # no "-0.0"
        told = f"{rounded:+.{words.digits}f}"
        others.setdefault(row["one"], []).append(f"{row['other']} ({told})")
    found += [f"{one} is level with {', '.join(told)}." for one, told in others.items()]
    return " ".join(found)


def _level(tested: pd.DataFrame, words: Words) -> list[str]:
    """Say which difference could have been shown; what is level may still differ by less."""
    if tested.empty or not (tested["side"] == 0).any():
        return []
    half = median_half_width(tested)
    if not half > 0:
        return []
    return [
        "Level: these seeds cannot tell the two apart, which may still differ by about "
        f"{words.size(half)} (the median of the half-widths of the intervals)."
    ]


def _least_p(tested: pd.DataFrame) -> list[str]:
    """Say that these seeds could have shown nothing after the correction, if that is so."""
    if tested.empty:
        return []
    seeds, number = int(tested["seeds"].max()), len(tested)
    least = smallest_p(seeds)
    if number * least <= SIGNIFICANCE:
        return []
    return [
        f"With {seeds} seeds p is at least {least:.2g}. For a difference to be significant after "
        f"Holm's correction for {counted(number, 'comparison')}, the smallest p has to be at most "
        f"{SIGNIFICANCE / number:.2g}."
    ]
