"""What stands first in a report on a comparison: which method is better, and how sure that is."""

import pandas as pd

from benchmarks.analysis import verdict as sentences
from benchmarks.experiments.comparison.study import Outcome
from benchmarks.experiments.comparison.summary import REFERENCE, comparisons, summarise
from benchmarks.rendering.document import Section
from benchmarks.rendering.text import counted, number, seeds_of

WORDS = sentences.Words(
    *("more accurate than", "less accurate than", "better", "worse"), "points", 1, times=100
)


def verdict(outcome: Outcome) -> Section | None:
    """Return what the paired tests of a comparison say; nothing where there is one method alone."""
    summary = summarise(outcome)
    made = summary[summary["test_accuracy_mean"].notna()]
    leads = {
        str(activation): _lead(rows)
        for activation, rows in made.groupby("activation", sort=False)
        if len(rows) > 1
    }
    if not leads:
        return None
    found = comparisons(outcome).rename(columns={"activation": "group", "method": "other"})
    turned = found.assign(one=REFERENCE)
    if len(found):  # which has the others minus LFP
        ends = {"difference": -found["difference"], "low": -found["high"], "high": -found["low"]}
        turned = turned.assign(**ends)
    return sentences.section(turned, WORDS, leads, _caveats(outcome, made))


def _lead(rows: pd.DataFrame) -> str:
    """Return which method has the highest mean, and what LFP has if that is another."""
    highest = rows["test_accuracy_mean"].max()
    best = rows[rows["test_accuracy_mean"] == highest]
    names = ", ".join(best["method"])
    told = f"The highest mean test accuracy is {number(highest, '.1f', 100)}% ({names})"
    ours = rows[rows["method"] == REFERENCE]
    if ours.empty or REFERENCE in set(best["method"]):
        return f"{told}."
    return f"{told}; {REFERENCE} has {number(ours['test_accuracy_mean'].iloc[0], '.1f', 100)}%."


def _caveats(outcome: Outcome, made: pd.DataFrame) -> list[str]:
    """Return what the sentences rest on."""
    seeds, diverged = int(made["seeds"].max()), int(made["diverged"].sum())
    found = [f"Means are of {seeds_of(seeds)}, and tests are against {REFERENCE} alone."]
    if seeds == 1:
        found = ["Each number is of a single run: another seed may turn the order around."]
    if diverged:
        found.append(
            f"{counted(diverged, 'run')} of {int(made['seeds'].sum())} diverged, and count with "
            "the last accuracy that they reached."
        )
    missing = int(outcome.study.seeds > 0 and made["missing"].sum())
    if missing:
        found.append(f"{counted(missing, 'run')} of these methods are still to be made.")
    return found
