"""The files of a study that are derived from its runs."""

import json
from typing import Any

import pandas as pd

from benchmarks import figure, table
from benchmarks.rendering.text import document, origins
from benchmarks.runs.store import Store
from benchmarks.storage.files import write
from benchmarks.study import Outcome


def write_report(store: Store, outcome: Outcome, command: str) -> pd.DataFrame:
    """Write `results.csv`, `results.parquet`, `table.md` and `figure.png`; return the summary."""
    tidy, summary = table.tidy(outcome), table.summary(outcome)
    write(store.folder / "results.csv", tidy.to_csv(index=False).encode())
    write(store.folder / "results.parquet", tidy.to_parquet(index=False))
    write(store.folder / "table.md", markdown(outcome, summary, command).encode())
    write(store.folder / "figure.png", figure.png(outcome, summary))
    return summary


def markdown(outcome: Outcome, summary: pd.DataFrame, command: str) -> str:
    """Return the table with what is needed to judge and to repeat it."""
    remarks = [
        *table.notes(outcome, summary),
        *(f"Made on: {origin}." for origin in origins(outcome.environments)),
        f"Command: `{command}`",
    ]
    text = document(table.lines(summary), remarks)
    comparisons = table.comparisons(outcome)
    if len(comparisons):
        notes = table.comparison_notes(outcome.study)
        text += "\n" + document(table.comparison_lines(comparisons), notes)
    return text


def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame in plain JSON types, NaN as None."""
    found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return found
