"""Panels of curves, one for each method: its mean over the seeds, and the range of them."""

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.rendering.style import PALETTE, label_of

#: Later curves stay visible where they lie on earlier ones.
STROKES = ("-", "-", "--", "-.")
Curves = Mapping[str, Sequence[Sequence[float]]]  # by method, a row of values for each seed


def png(
    panels: Mapping[str, Curves], x: Sequence[float], *, across: str, up: str, title: str
) -> bytes:
    """Return the figure: panels beside each other, by their titles, with the same axes.

    Args:
        panels: curves with as many values as `x`, or fewer where a run broke off.
        x: where the values are.
        across: what is on the horizontal axis.
        up: what is on the vertical one.
        title: of the figure.
    """
    figure = Figure(figsize=(1.2 + 2.8 * max(len(panels), 2), 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (name, curves) in zip(axes, panels.items(), strict=True):
        for number, (method, rows) in enumerate(curves.items()):
            values = np.full((len(rows), len(x)), np.nan)
            for row, of_seed in zip(values, rows, strict=True):
                row[: len(of_seed)] = of_seed
            seen = ~np.isnan(values).all(axis=0)
            at, values = np.asarray(x)[seen], values[:, seen]
            style = {"color": PALETTE[number % len(PALETTE)], "linewidth": 1.5}
            stroke, label = STROKES[number % len(STROKES)], label_of(method)
            axis.plot(at, np.nanmean(values, axis=0), stroke, label=label, **style)
            low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
            axis.fill_between(at, low, high, color=style["color"], alpha=0.2, linewidth=0)
        axis.set_title(name, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(6))
    figure.supxlabel(across, fontsize=9)
    axes[0].set_ylabel(up, fontsize=9)
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()
