"""The files of a study that are derived from its runs."""

import pandas as pd

from benchmarks.experiments.comparison import figure
from benchmarks.experiments.comparison.study import Outcome
from benchmarks.experiments.comparison.summary import (
    comparison_lines,
    comparison_notes,
    comparisons,
    lines,
    notes,
    summarise,
    tidy,
)
from benchmarks.rendering.text import document, origins
from benchmarks.runs.store import Store
from benchmarks.storage.files import write


def write_report(store: Store, outcome: Outcome, command: str) -> pd.DataFrame:
    """Write `results.csv`, `results.parquet`, `table.md` and `figure.png`; return the summary."""
    runs, summary = tidy(outcome), summarise(outcome)
    write(store.folder / "results.csv", runs.to_csv(index=False).encode())
    write(store.folder / "results.parquet", runs.to_parquet(index=False))
    write(store.folder / "table.md", markdown(outcome, summary, command).encode())
    write(store.folder / "figure.png", figure.png(outcome, summary))
    return summary


def markdown(outcome: Outcome, summary: pd.DataFrame, command: str) -> str:
    """Return the table with what is needed to judge and to repeat it."""
    remarks = [
        *notes(outcome, summary),
        *(f"Made on: {origin}." for origin in origins(outcome.environments)),
        f"Command: `{command}`",
    ]
    text = document(lines(summary), remarks)
    found = comparisons(outcome)
    if len(found):
        text += "\n" + document(comparison_lines(found), comparison_notes(outcome.study))
    return text
