"""A study as one figure: a grid of methods and activations with their test accuracies."""

from collections.abc import Hashable, Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from baselines import METHODS
from benchmarks.experiments.comparison.study import Outcome
from benchmarks.models import ACTIVATIONS
from benchmarks.rendering.labels import height_of, width_of, wrapped
from benchmarks.rendering.style import LINE, RC, SIZE, TEXT, WIDTH, label_of
from benchmarks.rendering.text import seeds_of

# In points, as all sizes here are.
NUMBER = 10.0  # size of the accuracies, which are larger than all else
LABEL = 72.0  # width of the methods' names
GAP = 4.0  # between texts, and around them
WIDEST = 90.0  # width of a cell

Cells = Mapping[tuple[str, str], tuple[str, ...]]  # by method and activation, the lines in it
ABSENT = ("not", "made")


def png(outcome: Outcome, summary: pd.DataFrame) -> bytes:
    """Return the figure: a row for each method, a column for each activation."""
    with matplotlib.rc_context(RC):
        figure = _figure(outcome, summary.to_dict("records"))
        file = BytesIO()
        figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def called(activation: str) -> str:
    """Return what figures call an activation."""
    return ACTIVATIONS[activation].label or activation


def _figure(outcome: Outcome, rows: Sequence[Mapping[Hashable, Any]]) -> Figure:
    """Return the figure, laid out from the widths of its texts."""
    cells = {(row["method"], row["activation"]): _lines(row) for row in rows}
    methods = [method for method in METHODS if any(method == row["method"] for row in rows)]
    names = {method: wrapped(label_of(method), LABEL) for method in methods}
    activations = list(dict.fromkeys(row["activation"] for row in rows))
    left = max(map(width_of, names.values())) + 3 * GAP
    least = max((width_of(line, NUMBER) for lines in cells.values() for line in lines), default=0)
    room = (72 * WIDTH - left - GAP) / len(activations)
    cell = max(min(room, WIDEST), least + GAP)
    width = max(72 * WIDTH, left + cell * len(activations) + GAP)
    heads, upright = _heads([called(activation) for activation in activations], cell)
    heights = [
        LINE * max(height_of(names[m]), *(len(cells[m, a]) for a in activations)) + 2 * GAP
        for m in methods
    ]
    above = wrapped(_title(outcome), width - 2 * GAP)
    below = "\n".join(wrapped(note, width - 2 * GAP) for note in _notes(outcome, rows))
    head = max(map(width_of, heads)) if upright else LINE * max(map(height_of, heads))
    top = LINE * height_of(above) + 2 * GAP + head + GAP
    bottom = LINE * height_of(below) + 2 * GAP if below else GAP
    height = top + sum(heights) + bottom
    figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
    # Points from the upper left corner.
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axis.set_axis_off()
    axis.text(GAP, GAP, above, va="top")
    axis.text(GAP, height - GAP, below, va="bottom")
    for number, text in enumerate(heads):
        place = left + (number + 0.5) * cell
        axis.text(place, top - GAP, text, rotation=90 * upright, ha="center", va="bottom")
    y = top
    for method, size in zip(methods, heights, strict=True):
        axis.text(left - GAP, y + size / 2, names[method], ha="right", va="center")
        for number, activation in enumerate(activations):
            row = next(r for r in rows if (r["method"], r["activation"]) == (method, activation))
            box = (left + number * cell, y, cell, size)
            _draw_cell(axis, box, row, cells[method, activation])
        y += size
    return figure


def _title(outcome: Outcome) -> str:
    study = outcome.study
    seeds = seeds_of(study.seeds, "mean ± standard deviation")
    return f"{study.dataset}, {study.model}: test accuracy in %, {seeds}"


def _notes(outcome: Outcome, rows: Sequence[Mapping[Hashable, Any]]) -> list[str]:
    """Return what the cells do not say themselves."""
    found = []
    if any(row["diverged"] for row in rows):
        found.append("✗ k/n: k of n runs diverged.")
    if any(row["refusal"] for row in rows):
        found.append("Hatched: the method does not go with the activation.")
    optimizers = set(outcome.study.optimized)
    if optimizers - {"sgd"}:
        found.append(f"All that have p.grad are stepped by {' or '.join(outcome.study.optimized)}.")
    return found


def _lines(row: Mapping[Hashable, Any]) -> tuple[str, ...]:
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


def _heads(labels: Sequence[str], cell: float) -> tuple[list[str], bool]:
    """Return the texts above the columns, and whether they have to be upright."""
    widths = [width_of(label) for label in labels]
    ends = max(widths[0], widths[-1]) <= cell + GAP
    beside = all((a + b) / 2 + 0.75 * GAP <= cell for a, b in pairwise(widths))
    if ends and beside:
        return list(labels), False
    return [wrapped(label, 2 * LABEL) for label in labels], True


def _draw_cell(
    axis: Axes,
    box: tuple[float, float, float, float],
    row: Mapping[Hashable, Any],
    lines: Sequence[str],
) -> None:
    """Draw a cell: a colour for its accuracy, and what is written in it."""
    x, y, width, height = box
    known = bool(row["seeds"]) and not pd.isna(row["test_accuracy_mean"])
    colour = to_rgb(matplotlib.colormaps["viridis"](row["test_accuracy_mean"])) if known else None
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


def _ink(colour: tuple[float, float, float]) -> str:
    """Return black or white, whichever has the higher contrast (WCAG 2) to a colour."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "white"
