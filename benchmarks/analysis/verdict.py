"""What paired tests allow to say, in sentences: who is ahead, by how much, and how sure that is.

Nothing is tested here. The sentences are made of the same rows that the table of the tests shows.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.analysis.statistics import FEWEST_SEEDS, SIGNIFICANCE, smallest_p
from benchmarks.rendering.document import VERDICT, Section
from benchmarks.rendering.text import counted

Row = Mapping[Hashable, Any]


@dataclass(frozen=True)
class Words:
    """How differences are told.

    Attributes:
        above: what a positive difference is, as in "2.1 points more accurate than".
        below: what a negative one is.
        ahead, behind: what the other method is where the difference is negative, and positive.
        unit: of differences; may be empty.
        digits: behind the point.
        times: what differences are multiplied by.
    """

    above: str
    below: str
    ahead: str
    behind: str
    unit: str
    digits: int
    times: float = 1.0

    def size(self, difference: float) -> str:
        """Return how large a difference is, without its sign."""
        return f"{abs(self.times * difference):.{self.digits}f}{self.unit and ' '}{self.unit}"

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
        caveats: sentences at the end.
    """
    tested = found[found["p"].notna()] if len(found) else found
    told = {name: [lead] for name, lead in (leads or {}).items()}
    if len(tested):
        for name, rows in tested.groupby("group", sort=False):
            told.setdefault(str(name), []).append(_of_group(rows, words))
    groups = [f"{name}: {' '.join(sentences)}" for name, sentences in told.items()]
    text = [headline(found, words), *groups, *_smallest(tested, words), *caveats]
    return Section(VERDICT, text=text, detail=True)


def headline(found: pd.DataFrame, words: Words) -> str:
    """Return in a few words what the tests say, or why they say nothing."""
    if found.empty:
        return "No two methods were compared seed by seed, so nothing is said of who is ahead."
    tested = found[found["p"].notna()]
    if tested.empty:
        return (
            f"Nothing can be said of who is ahead: a test takes at least {FEWEST_SEEDS} pairs of "
            f"runs with the same seed, not {int(found['seeds'].max())}."
        )
    clear, by_interval, equal = (tested[kind] for kind in _kinds(tested))
    of = counted(len(tested), "comparison")
    if len(clear):
        corrected = f"p of at most {SIGNIFICANCE:g} after Holm's correction"
        told = f"{_directions(clear, words)} (of {of}, {corrected})."
    else:
        none = "The one comparison does not show" if len(tested) == 1 else f"None of {of} shows"
        told = f"{none} a difference after Holm's correction{_too_few(tested)}."
    if len(by_interval):
        told += f" By 95% intervals alone, {_directions(by_interval, words)}."
    if len(equal):
        told += (
            f" {'The' if len(tested) == 1 else f'In {len(equal)} the'} two cannot be told apart."
        )
    return told


def _kinds(tested: pd.DataFrame) -> list[pd.Series]:
    """Return which rows are significant, which have an interval without 0 alone, and the others."""
    clear = tested["p_holm"] <= SIGNIFICANCE
    apart = ((tested["low"] > 0) | (tested["high"] < 0)) & ~clear
    return [clear, apart, ~clear & ~apart]


def _too_few(tested: pd.DataFrame) -> str:
    """Say that these seeds could not have shown anything, if that is so."""
    seeds, number = int(tested["seeds"].max()), len(tested)
    least = smallest_p(seeds)
    if number * least <= SIGNIFICANCE:
        return ""
    return (
        f", and with {seeds} seeds none could: they give a p of at least {least:.2g}, where "
        f"{SIGNIFICANCE / number:.2g} is needed"
    )


def _directions(rows: pd.DataFrame, words: Words) -> str:
    """Return how many differences are in which direction, if all are to the same method."""
    others = list(dict.fromkeys(rows["other"]))
    if len(others) > 1:
        return ", ".join(f"{row.one} and {row.other} differ" for row in rows.itertuples())
    behind = int((rows["difference"] > 0).sum())
    counts = {words.ahead: len(rows) - behind, words.behind: behind}
    told = [f"{where} in {number}" for where, number in counts.items() if number]
    return f"{others[0]} is {' and '.join(told)}"


def _of_group(rows: pd.DataFrame, words: Words) -> str:
    """Return what the tests of a group say, the largest differences first."""
    ordered = rows.iloc[(-rows["difference"].abs()).argsort(kind="stable")]
    clear, by_interval, equal = (ordered[kind].to_dict("records") for kind in _kinds(ordered))
    found = [f"{'; '.join(words.told(row, corrected=True) for row in clear)}."] if clear else []
    if by_interval:
        told = "; ".join(words.told(row) for row in by_interval)
        found.append(f"By its interval alone, not after the correction: {told}.")
    others: dict[str, list[str]] = {}
    for row in equal:
        told = f"{words.times * row['difference']:+.{words.digits}f}"
        others.setdefault(row["other"], []).append(f"{row['one']} ({told})")
    found += [f"Cannot be told apart from {o}: {', '.join(ones)}." for o, ones in others.items()]
    return " ".join(found)


def _smallest(tested: pd.DataFrame, words: Words) -> list[str]:
    """Say which difference could have been shown; what cannot be told apart may still differ."""
    if tested.empty:
        return []
    half = float(((tested["high"] - tested["low"]) / 2).median())
    if not half > 0:
        return []
    return [
        f"The smallest difference that these seeds could have shown is about {words.size(half)} "
        "before the correction (the median of the half-widths of the intervals): what cannot be "
        "told apart may still differ by less."
    ]
