"""A study as one figure: test accuracy per activation and method, and how it was reached."""

from collections.abc import Hashable, Mapping, Sequence
from io import BytesIO
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from baselines import METHODS
from benchmarks.experiments.comparison.study import Outcome
from benchmarks.models import ACTIVATIONS
from benchmarks.rendering.style import label_of, styles
from benchmarks.runs.run import Result

GREY = "#666666"

COLUMNS = 7  # learning curves beside each other, at most

MANY = 6  # methods, from which on numbers stand upright and the legend takes more lines


def png(outcome: Outcome, summary: pd.DataFrame) -> bytes:
    """Return the figure: bars above, below them a panel of learning curves per activation."""
    activations = list(dict.fromkeys(summary["activation"]))
    columns = min(COLUMNS, len(activations))
    rows = ceil(len(activations) / columns)
    figure = Figure(figsize=(11, 4.2 + 2.3 * rows), layout="constrained")
    bars, curves = figure.subfigures(2, 1, squeeze=False, height_ratios=[4.2, 2.3 * rows])[:, 0]
    _draw_bars(bars.subplots(), summary)
    axes = curves.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axis, activation in zip(axes, activations, strict=False):
        _draw_curves(axis, activation, [stored.result for stored in outcome.results])
    for axis in axes[len(activations) :]:
        axis.remove()
    curves.supxlabel("epoch", fontsize=9)
    axes[0].set_ylabel("test accuracy")
    study = outcome.study
    title = f"{study.dataset}, {study.model}: mean and standard deviation over {study.seeds} seeds"
    if set(study.optimized) - {"sgd"}:
        title += f"; all that have p.grad stepped by {' or '.join(study.optimized)}"
    if summary["diverged"].any():
        title += "; ✗ k/n: k of n runs diverged"
    figure.suptitle(title, fontsize=11)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def called(activation: str) -> str:
    """Return what figures call an activation."""
    return ACTIVATIONS[activation].label or activation


def _bare(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
    axis.set_ylim(0, 1.08)
    axis.set_yticks(np.linspace(0, 1, 6))


def _draw_bars(axis: Axes, summary: pd.DataFrame) -> None:
    activations = list(dict.fromkeys(summary["activation"]))
    methods = [method for method in METHODS if method in set(summary["method"])]
    width = 0.8 / len(methods)
    for number, method in enumerate(methods):
        of_method = summary[summary["method"] == method].to_dict("records")
        colour, _, hatch = styles()[method]
        centres = np.arange(len(activations)) + (number - (len(methods) - 1) / 2) * width
        axis.bar(
            centres,
            [np.nan_to_num(row["test_accuracy_mean"]) for row in of_method],
            width * 0.92,
            yerr=[np.nan_to_num(row["test_accuracy_std"]) for row in of_method],
            color=colour,
            hatch=hatch,
            edgecolor="white",
            label=label_of(method),
            error_kw={"linewidth": 1, "capsize": 2, "ecolor": "#333333"},
        )
        for centre, row in zip(centres, of_method, strict=True):
            if not row["refusal"]:
                _annotate(axis, centre, row, rotation=0 if len(methods) <= MANY else 90)
    _bare(axis)
    axis.set_xticks(range(len(activations)), map(called, activations), fontsize=10)
    axis.tick_params(axis="x", length=0)
    axis.set_ylabel("test accuracy")
    axis.legend(
        ncols=min(len(methods), MANY), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False
    )


def _annotate(axis: Axes, centre: float, row: Mapping[Hashable, Any], rotation: int) -> None:
    """Write the accuracy in percent above a bar, and how many of its runs diverged."""
    top = row["test_accuracy_mean"] + np.nan_to_num(row["test_accuracy_std"])
    text = f"{100 * row['test_accuracy_mean']:.1f}"
    if row["diverged"]:
        text = f"✗ {row['diverged']}/{row['seeds']}\n{text}"
    axis.annotate(
        text,
        (centre, top),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        rotation=rotation,
        fontsize=7,
        color=GREY,
    )


def _draw_curves(axis: Axes, activation: str, results: Sequence[Result]) -> None:
    """Draw the mean and the range over the seeds that are still running."""
    for method, (colour, stroke, _) in styles().items():
        curves = [
            [epoch.test for epoch in result.history]
            for result in results
            if (result.run.kind, result.run.activation, result.run.method)
            == ("final", activation, method)
        ]
        if not curves:
            continue
        accuracy = pd.DataFrame(curves, dtype=float)  # a row a seed, NaN after a divergence
        axis.plot(accuracy.columns, accuracy.mean(), stroke, color=colour, linewidth=1.5)
        axis.fill_between(
            accuracy.columns, accuracy.min(), accuracy.max(), color=colour, alpha=0.2, linewidth=0
        )
    _bare(axis)
    axis.set_title(called(activation), fontsize=9)
