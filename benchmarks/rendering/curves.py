"""Curves, one for each method: the mean over the seeds, and the range of them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from benchmarks.rendering import panels
from benchmarks.rendering.inline import of_line
from benchmarks.rendering.style import colours, label_of, strokes

MOST = 6  # lines in a panel; more cannot be followed
Rows = Sequence[Sequence[float | None]]  # a row of values for each seed


@dataclass(frozen=True)
class Curve:
    """Values of all seeds.

    Attributes:
        x: where there is a value of at least one seed.
        rows: (seeds, len(x)), NaN where a seed has none.
    """

    x: NDArray[np.float64]
    rows: NDArray[np.float64]

    @classmethod
    def of(cls, x: Sequence[float], rows: Rows) -> "Curve":
        """Return the curve of rows with as many values as `x`, or fewer where a run broke off."""
        values = np.full((len(rows), len(x)), np.nan)
        for row, of_seed in zip(values, rows, strict=True):
            row[: len(of_seed)] = np.array(of_seed, dtype=float)
        values[~np.isfinite(values)] = np.nan
        seen = ~np.isnan(values).all(axis=0)
        return cls(np.asarray(x, dtype=float)[seen], values[:, seen])

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean over the seeds that have a value."""
        return np.asarray(np.nanmean(self.rows, axis=0)) if self.x.size else self.x


Curves = Mapping[str, Curve]  # by method
Score = Callable[[Curve], float]


def highest_end(curve: Curve) -> float:
    """Return how good a curve is whose last value should be high."""
    return float(curve.mean[-1])


def lowest_end(curve: Curve) -> float:
    """Return how good a curve is whose last value should be low."""
    return -float(curve.mean[-1])


def highest(curve: Curve) -> float:
    """Return how good a curve is that should be high everywhere."""
    return float(curve.mean.mean())


def shown(curves: Curves, score: Score) -> list[str]:
    """Return the names of the curves that are drawn, in their order: LFP's and the best others."""
    some = [name for name in curves if curves[name].x.size]
    ranked = sorted(some, key=lambda name: -score(curves[name]))
    ours = [name for name in ranked if re.match(r"lfp\b", name)][:1]
    best = {*ours, *[name for name in ranked if name not in ours][: MOST - len(ours)]}
    return [name for name in curves if name in best]


def left_out(panels: Mapping[str, Curves], score: Score) -> str:
    """Return a sentence on the curves that are not drawn, to go behind a caption; "" if all are.

    A curve without any value is not one of them.
    """
    missing = {
        title: [
            label_of(name)
            for name, curve in curves.items()
            if curve.x.size and name not in shown(curves, score)
        ]
        for title, curves in panels.items()
    }
    told = [f"{title}: {'; '.join(names)}" for title, names in missing.items() if names]
    if not told:
        return ""
    return f" A panel shows LFP and the best, {MOST} lines at most. Left out are {'. '.join(told)}."


def any_line(panels: Mapping[str, Curves]) -> bool:
    """Return whether a curve has more than one point: there is no line of one."""
    return any(curve.x.size > 1 for of_panel in panels.values() for curve in of_panel.values())


def draw(axis: Axes, curves: Curves, names: Sequence[str], marker: str = "") -> None:
    """Draw the curves of these names, their points with a marker if there is one."""
    colour = colours(names, list(curves))
    for name, stroke in zip(names, strokes(len(names)), strict=True):
        curve = curves[name]
        low, high = np.nanmin(curve.rows, axis=0), np.nanmax(curve.rows, axis=0)
        area = axis.fill_between(curve.x, low, high, color=colour[name], alpha=0.12, linewidth=0)
        area.set_gid(of_line(label_of(name)))
        axis.plot(
            curve.x,
            curve.mean,
            color=colour[name],
            label=label_of(name),
            marker=marker or ("o" if curve.x.size == 1 else ""),  # or it could not be seen
            markersize=3.5,
            **stroke,
        )


def whole_numbers(axis: Axes) -> None:
    """Have ticks at whole numbers alone: there is no half epoch."""
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def png(
    of_panels: Mapping[str, Curves], score: Score, *, across: str, up: str, title: str
) -> bytes:
    """Return the figure: a panel for each title, all with the same axes.

    Args:
        of_panels: curves over whole numbers, by the titles of their panels.
        score: how good a curve is; the best ones are shown.
        across: what is on the horizontal axis.
        up: what is on the vertical one.
        title: of the figure.
    """

    def one(axis: Axes, name: str, curves: Curves) -> None:
        draw(axis, curves, shown(curves, score))
        whole_numbers(axis)
        axis.set(title=name, xlabel=across, ylabel=up)

    drawn = [partial(one, name=name, curves=curves) for name, curves in of_panels.items()]
    return panels.image(drawn, share=True, title=title, media="png")
