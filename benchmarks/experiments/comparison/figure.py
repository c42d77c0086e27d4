"""A study as one figure: a grid of methods and activations with their test accuracies."""

from collections.abc import Hashable, Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from baselines import METHODS
from benchmarks.experiments.comparison.study import Outcome
from benchmarks.models import ACTIVATIONS
from benchmarks.rendering.labels import height_of, width_of, wrapped
from benchmarks.rendering.style import LINE, RC, SIZE, TEXT, WIDTH, label_of
from benchmarks.rendering.text import seeds_of

# All sizes here are in points.
NUMBER = 10.0  # size of the accuracies, which are larger than all else
LABEL = 72.0  # width of the methods' names
GAP = 4.0  # between texts, and around them
WIDEST = 90.0  # width of a cell

ABSENT = ("not", "made")
COLOURS = colormaps["viridis"]  # of accuracies from 0 to 1: even steps for any eyes
Row = Mapping[Hashable, Any]  # of the summary


def png(outcome: Outcome, summary: pd.DataFrame) -> bytes:
    """Return the figure: a row for each method, a column for each activation."""
    with matplotlib.rc_context(RC):
        rows = summary.to_dict("records")
        figure = _figure(Grid(rows), _title(outcome), _notes(outcome, rows))
        file = BytesIO()
        figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def called(activation: str) -> str:
    """Return what figures call an activation."""
    return ACTIVATIONS[activation].label or activation


class Grid:
    """What is in the cells and beside them, and how much room that needs.

    Attributes:
        cells: the summary's rows, and what is written of them, by method and activation.
        names: of the methods, each in lines.
        heads: texts above the columns.
        upright: whether these have to stand upright.
        left: width of what is to the left of the cells.
        cell: width of a cell.
        heights: of the rows.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        """Measure the texts."""
        self.cells = {(row["method"], row["activation"]): (row, _lines(row)) for row in rows}
        methods = [method for method in METHODS if method in {row["method"] for row in rows}]
        self.names = {method: wrapped(label_of(method), LABEL) for method in methods}
        self.activations = list(dict.fromkeys(row["activation"] for row in rows))
        self.left = max(map(width_of, self.names.values())) + 3 * GAP
        written = [line for _, lines in self.cells.values() for line in lines]
        least = max((width_of(line, NUMBER) for line in written), default=0) + GAP
        room = (72 * WIDTH - self.left - GAP) / len(self.activations)
        labels = [called(activation) for activation in self.activations]
        self.cell = max(min(room, WIDEST), least)
        self.upright = not _beside_each_other(labels, self.cell)
        self.heads = [wrapped(label, 2 * LABEL) for label in labels] if self.upright else labels
        if self.upright:
            self.cell = max(self.cell, LINE * max(map(height_of, self.heads)))
        self.heights = {
            method: LINE * max(height_of(name), *self._line_counts(method)) + 2 * GAP
            for method, name in self.names.items()
        }

    def _line_counts(self, method: str) -> list[int]:
        return [len(self.cells[method, activation][1]) for activation in self.activations]

    @property
    def width(self) -> float:
        """The width of all, with a gap to its right."""
        return self.left + self.cell * len(self.activations) + GAP

    @property
    def head(self) -> float:
        """The height of the texts above the columns."""
        if self.upright:
            return max(map(width_of, self.heads))
        return LINE * max(map(height_of, self.heads))


def _beside_each_other(labels: Sequence[str], cell: float) -> bool:
    """Return whether labels have room above cells of a width."""
    widths = [width_of(label) for label in labels]
    at_ends = max(widths[0], widths[-1]) <= cell + GAP
    return at_ends and all((a + b) / 2 + 0.75 * GAP <= cell for a, b in pairwise(widths))


def _figure(grid: Grid, title: str, notes: Sequence[str]) -> Figure:
    """Return the grid between a title and notes."""
    width = max(72 * WIDTH, grid.width)
    above = wrapped(title, width - 2 * GAP)
    below = "\n".join(wrapped(note, width - 2 * GAP) for note in notes)
    top = LINE * height_of(above) + 3 * GAP + grid.head
    bottom = LINE * height_of(below) + 2 * GAP if below else GAP
    height = top + sum(grid.heights.values()) + bottom
    figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
    # Points from the upper left corner.
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axis.set_axis_off()
    axis.text(GAP, GAP, above, va="top")
    axis.text(GAP, height - GAP, below, va="bottom")
    for number, text in enumerate(grid.heads):
        x = grid.left + (number + 0.5) * grid.cell
        axis.text(x, top - GAP, text, rotation=90 * grid.upright, ha="center", va="bottom")
    y = top
    for method, size in grid.heights.items():
        axis.text(grid.left - GAP, y + size / 2, grid.names[method], ha="right", va="center")
        for number, activation in enumerate(grid.activations):
            box = (grid.left + number * grid.cell, y, grid.cell, size)
            _draw_cell(axis, box, *grid.cells[method, activation])
        y += size
    return figure


def _title(outcome: Outcome) -> str:
    study = outcome.study
    seeds = seeds_of(study.seeds, "mean ± standard deviation")
    return f"{study.dataset}, {study.model}: test accuracy in %, {seeds}"


def _notes(outcome: Outcome, rows: Sequence[Row]) -> list[str]:
    """Return what the cells do not say themselves."""
    found = []
    if any(row["diverged"] for row in rows):
        found.append("✗ k/n: k of n runs diverged.")
    if any(row["missing"] and row["seeds"] for row in rows):
        found.append("n = k: the mean is of k seeds, as the others are not made yet.")
    if any(row["refusal"] for row in rows):
        found.append("Hatched: the method does not go with the activation.")
    optimizers = outcome.study.optimized
    if set(optimizers) - {"sgd"}:
        found.append(f"All that have p.grad are stepped by {' or '.join(optimizers)}.")
    return found


def _lines(row: Row) -> tuple[str, ...]:
    """Return what is written in a cell."""
    if row["refusal"]:
        return ()
    if not row["seeds"]:
        return ABSENT
    mean, deviation = row["test_accuracy_mean"], row["test_accuracy_std"]
    return (
        "–" if pd.isna(mean) else f"{100 * mean:.1f}",
        *([] if pd.isna(deviation) else [f"±{100 * deviation:.1f}"]),
        *([f"✗ {row['diverged']}/{row['seeds']}"] if row["diverged"] else []),
        *([f"n = {row['seeds']}"] if row["missing"] else []),
    )


def _draw_cell(
    axis: Axes,
    box: tuple[float, float, float, float],
    row: Row,
    lines: Sequence[str],
) -> None:
    """Draw a cell: a colour for its accuracy, and what is written in it."""
    x, y, width, height = box
    known = bool(row["seeds"]) and not pd.isna(row["test_accuracy_mean"])
    colour = _colour(row["test_accuracy_mean"]) if known else None
    axis.add_patch(
        Rectangle(
            (x, y),
            width,
            height,
            facecolor=colour or "white",
            edgecolor="white" if known else "#c9d0d6",
            hatch="///" if row["refusal"] else None,
            linewidth=1,
        )
    )
    ink = _ink(colour) if colour else TEXT
    first = y + (height - LINE * len(lines)) / 2
    for number, line in enumerate(lines):
        axis.text(
            x + width / 2,
            first + (number + 0.5) * LINE,
            line,
            ha="center",
            va="center",
            color=ink,
            fontsize=NUMBER if known and number == 0 else SIZE,
        )


def _colour(accuracy: float) -> tuple[float, float, float]:
    """Return the colour of an accuracy in [0, 1]."""
    red, green, blue, _ = np.ravel(COLOURS(accuracy))
    return float(red), float(green), float(blue)


def _ink(colour: tuple[float, float, float]) -> str:
    """Return black or white, whichever has the higher contrast (WCAG 2) to a colour."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "white"
