"""The section of a report on the runs of a comparison that diverged."""

import pandas as pd

from benchmarks.experiments.comparison.study import Outcome
from benchmarks.rendering.document import Section, Table
from benchmarks.rendering.text import number


def divergences(outcome: Outcome) -> Section:
    """Return which runs diverged, sweeps included, and why."""
    every = outcome.runs
    bad = every[every["diverged"]]
    if bad.empty:
        return Section("Divergence", text=[f"None of {len(every)} runs diverged."], detail=True)
    final = every[every["kind"] == "final"]
    tables = [_divergence_map(outcome, final)] if len(final) else []
    rows = []
    grouping = ["kind", "activation", "method", "learning_rate"]
    failures = dict(iter(bad.groupby(grouping)))
    for key, runs in every.groupby(grouping, sort=False).size().items():
        if key in failures:
            diverged = failures[key]
            rows.append(
                {
                    **dict(zip(grouping, key, strict=True)),
                    "diverged": len(diverged),
                    "runs": runs,
                    "first_step": int(diverged["diverged_step"].min()),
                    "reason": ", ".join(dict.fromkeys(diverged["diverged_reason"])),
                    "feedback_norm_max": diverged["feedback_norm_max"].max(),
                }
            )
    frame = pd.DataFrame(rows)
    header = (
        *("activation", "method", "kind", "learning rate"),
        *("diverged", "first step", "largest norm", "reason"),
    )
    lines = [
        (
            row["activation"],
            row["method"],
            row["kind"],
            number(row["learning_rate"], "g"),
            f"{row['diverged']}/{row['runs']}",
            str(row["first_step"]),
            number(row["feedback_norm_max"], ".2g"),
            row["reason"],
        )
        for row in rows
    ]
    notes = [
        "Kind: final runs are reported, those of a sweep only choose a rate. First step: the "
        "earliest, from 1, after which a run could not go on. Largest norm: finite, of the "
        "feedback of any step until then, before clipping."
    ]
    tables.append(Table("diverged", "Where and why", (header, lines), frame, notes))
    return Section("Divergence", tables=tables, detail=True)


def _divergence_map(outcome: Outcome, final: pd.DataFrame) -> Table:
    """Return how many of the reported runs diverged, by activation and method."""
    study = outcome.study
    methods = list(dict.fromkeys(cell.method for cell in study.cells))
    frame = (
        final.groupby(["activation", "method"], sort=False)["diverged"]
        .agg(diverged="sum", runs="size")
        .reset_index()
    )
    counts = {
        (row["activation"], row["method"]): (row["diverged"], row["runs"])
        for row in frame.to_dict("records")
    }
    lines, heat = [], []
    for activation in dict.fromkeys(cell.activation for cell in study.cells):
        found = [counts.get((activation, method)) for method in methods]
        lines.append((activation, *(f"{one[0]}/{one[1]}" if one else "-" for one in found)))
        heat.append([None, *(one[0] / one[1] if one and one[0] else None for one in found)])
    caption = "Reported runs that diverged, of all"
    return Table("divergence", caption, (("activation", *methods), lines), frame, heat=heat)
