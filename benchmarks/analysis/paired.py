"""Differences between methods in what a study of few runs measures, paired by seed."""

from collections.abc import Iterable, Sequence
from math import nan

import pandas as pd

from benchmarks.analysis.statistics import (
    FEWEST_SEEDS,
    SIGNIFICANCE,
    compare,
    holm,
    median_half_width,
)
from benchmarks.analysis.verdict import Words, section
from benchmarks.rendering.document import Section, Table
from benchmarks.rendering.text import Lines, interval, number, said


def differences(
    measured: pd.DataFrame, pairs: Iterable[tuple[str, str]], *, tested: bool = True
) -> pd.DataFrame:
    """Return a row for each quantity and pair of methods that have values of the same seeds.

    Holm's correction is for all rows together, so the more is tested, the less is found: a study
    says beforehand which few rows answer its question, and shows the others untested.

    Args:
        measured: with columns quantity, method, seed and value.
        pairs: the first of two methods minus the second.
        tested: whether there are p-values; NaN if not.
    """
    rows = []
    for quantity, of_quantity in measured.groupby("quantity", sort=False):
        wide = of_quantity.pivot_table(index="seed", columns="method", values="value")
        for one, other in pairs:
            both = wide.reindex(columns=[one, other]).dropna()
            if len(both):
                found = compare(both[one].tolist(), both[other].tolist())
                row = {"quantity": quantity, "methods": f"{one} - {other}", "seeds": found.seeds}
                bounds = {"low": found.interval.low, "high": found.interval.high}
                row |= {"difference": found.difference, **bounds}
                rows.append({**row, "effect": found.effect, "p": found.p if tested else nan})
    frame = pd.DataFrame(rows)
    if rows:
        frame["p_holm"] = holm(frame["p"].tolist())
    return frame


def lines(found: pd.DataFrame, digits: int) -> Lines:
    """Return the differences as text; a star is for what is significant after the correction."""
    header = ("quantity", "methods", "difference", "95% interval", "effect", "p", "p (Holm)")
    signed = f"+.{digits}f"
    found_lines = [
        (
            row["quantity"],
            row["methods"],
            number(row["difference"], signed) + ("*" if row["p_holm"] <= SIGNIFICANCE else ""),
            interval(row["low"], row["high"], signed),
            number(row["effect"], "+.1f"),
            number(row["p"], ".2g"),
            number(row["p_holm"], ".2g"),
        )
        for row in found.to_dict("records")
    ]
    return said((header, found_lines))


def sections(
    found: pd.DataFrame, digits: int, note: str, unit: str = "", pair: str = "seed"
) -> list[Section]:
    """Return the differences, and what they say in sentences; nothing if there are none.

    Args:
        found: of :func:`differences`.
        digits: behind the point.
        note: tells which of the differences are tested, and why.
        unit: of all differences.
        pair: what the values of a pair have in common.
    """
    if found.empty:
        return []
    seeds = int(found["seeds"].max())
    caption = f"Differences, paired by {pair}"
    one = Table(
        "paired",
        caption,
        lines(found, digits),
        found,
        [*remarks(seeds, pair), *smallest(found, digits), note],
    )
    names = found["methods"].str.split(" - ", n=1, expand=True)
    told = found.assign(group=found["quantity"], one=names[0], other=names[1])
    words = Words("above", "below", "above", "below", unit, digits)
    return [Section("Paired statistics", tables=[one]), section(told, words)]


def remarks(seeds: int, pair: str = "seed") -> Sequence[str]:
    """Return what a reader of the differences has to know."""
    few = " These are too few for any test." if seeds < FEWEST_SEEDS else ""
    return [
        f"Differences are in pairs with the same {pair}: mean, Student's interval, mean over "
        "standard deviation (Cohen's d_z), and the two-sided p of a sign-flip permutation test, "
        "also with Holm's correction for all rows that have one. (*): at most "
        f"{SIGNIFICANCE:g} after it; p is at least {2 ** (1 - seeds):g} with {seeds} pairs.{few}"
    ]


def smallest(found: pd.DataFrame, digits: int) -> list[str]:
    """Say which differences of each quantity could have been shown at the least."""
    rows = found.groupby("quantity", sort=False)
    halves = [(name, median_half_width(own)) for name, own in rows]
    told = "; ".join(f"{name}: {half:.{digits}f}" for name, half in halves if half > 0)
    if not told:
        return []
    return [
        "The smallest difference that these pairs could have shown, the median of the half-widths "
        f"of the intervals: {told}."
    ]
