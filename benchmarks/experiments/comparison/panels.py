"""The figures of a report, as SVG: curves, fronts, decision boundaries, histograms."""

from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from math import ceil
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from benchmarks.analysis.pace import front
from benchmarks.data import Split
from benchmarks.experiments.comparison.figure import called
from benchmarks.rendering.style import PALETTE, label_of, styles
from benchmarks.runs.inspection import DECADES, SIDE, Layer
from benchmarks.runs.run import Epoch, Result

LOSS = "training loss"
COLUMNS = 4  # panels beside each other, at most
WIDTH, HEIGHT = 2.9, 2.3  # of a panel, in inches
#: Text stays text, and the same results give the same bytes.
SVG: Any = {"svg.fonttype": "none", "svg.hashsalt": "lfp-bench", "font.size": 9.0}
Draw = Callable[[Axes], None]


def accuracies(results: Sequence[Result]) -> bytes:
    """Return test accuracies by epoch, a panel for each activation."""
    return _curves(results, lambda epoch: epoch.test, "test accuracy")


def losses(results: Sequence[Result]) -> bytes:
    """Return training losses by epoch; 0 is left out, as it has no logarithm."""
    return _curves(results, lambda epoch: epoch.train_loss or None, LOSS)


def _curves(
    results: Sequence[Result],
    value: Callable[[Epoch], float | None],
    label: str,
) -> bytes:
    """Return the mean and the range over the seeds that are still running."""

    def draw(axis: Axes, of_activation: Sequence[Result]) -> None:
        for method, runs in _methods(of_activation):
            colour, stroke, _ = styles()[method]
            # A row a seed, NaN where nothing was measured.
            values = pd.DataFrame([[value(e) for e in r.history] for r in runs], dtype=float)
            axis.plot(
                values.columns, values.mean(), stroke, color=colour, linewidth=1.5, label=method
            )
            axis.fill_between(
                values.columns, values.min(), values.max(), color=colour, alpha=0.2, linewidth=0
            )
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        if label == LOSS:
            _in_decades(axis, "y")

    return _by_activation(results, draw)


def fronts(results: Sequence[Result]) -> bytes:
    """Return mean accuracy after mean training time, a point an epoch, and the best of all."""

    def draw(axis: Axes, of_activation: Sequence[Result]) -> None:
        points: list[tuple[float, float]] = []
        for method, runs in _methods(of_activation):
            colour, stroke, _ = styles()[method]
            seconds, accuracy = (
                pd.DataFrame([[getattr(e, f) for e in r.history] for r in runs], dtype=float).mean()
                for f in ("seconds", "test")
            )
            axis.plot(
                seconds[1:],
                accuracy[1:],
                stroke,
                color=colour,
                marker="o",
                markersize=2.5,
                linewidth=1.2,
                label=method,
            )
            known = accuracy.notna() & (seconds > 0)
            points += zip(seconds[known].tolist(), accuracy[known].tolist(), strict=True)
        best = front(points)
        axis.step(
            [seconds for seconds, _ in best],
            [accuracy for _, accuracy in best],
            where="post",
            color="#333333",
            linewidth=4,
            alpha=0.18,
            label="front",
        )
        _in_decades(axis, "x")
        axis.set_xlabel("training time (s)")
        axis.set_ylabel("test accuracy")

    return _by_activation(results, draw)


def boundaries(results: Sequence[Result], data: Callable[[int], Split]) -> bytes:
    """Return the decisions of one run of each method and activation, over the plane.

    Args:
        results: runs with decisions; the first of each method and activation is shown.
        data: the points to show for a seed.
    """
    first = {(r.run.activation, r.run.method): r for r in reversed(results)}
    shown = [result for result in results if result in first.values()]

    def drawing(result: Result) -> Draw:
        def draw(axis: Axes) -> None:
            assert result.inspection is not None
            decisions = result.inspection.decisions
            assert decisions is not None
            points = data(result.run.seed)
            classes = int(points.targets.max()) + 1
            colours = ListedColormap(PALETTE[: max(classes, 2)])
            grid = np.array(list(decisions.classes), dtype=int).reshape(SIDE, SIDE)
            style: dict[str, Any] = {"cmap": colours, "vmin": 0, "vmax": max(classes, 2) - 1}
            axis.imshow(
                grid,
                origin="lower",
                extent=(*decisions.x, *decisions.y),
                aspect="auto",
                alpha=0.3,
                **style,
            )
            x, y = points.inputs.cpu().numpy().T
            axis.scatter(x, y, c=points.targets.cpu(), s=4, linewidths=0, rasterized=True, **style)
            axis.set(xlim=decisions.x, ylim=decisions.y, xticks=[], yticks=[])
            percent = 100 * (result.test or 0)
            name = label_of(result.run.method)
            axis.set_title(f"{called(result.run.activation)}, {name}: {percent:.1f}%", fontsize=9)

        return draw

    return _svg([drawing(result) for result in shown])


def histograms(results: Sequence[Result]) -> bytes:
    """Return weights and feedback of every layer, a curve a method, over all seeds.

    The runs are of one activation, and inspected.
    """
    layers: dict[str, dict[str, list[Layer]]] = {}
    for result in results:
        assert result.inspection is not None
        for layer in result.inspection.layers:
            layers.setdefault(layer.name, {}).setdefault(result.run.method, []).append(layer)

    def weights(name: str) -> Draw:
        def draw(axis: Axes) -> None:
            for method, of_method in layers[name].items():
                counts = np.sum([layer.weights for layer in of_method], axis=0)
                centres = (np.arange(len(counts)) + 0.5) / len(counts) * 2 - 1
                _step(axis, method, centres, counts)
            axis.set_title(f"{name}: weights", fontsize=9)
            axis.set_xlabel("w / largest |w|")
            axis.set_ylabel("share of weights")

        return draw

    def feedback(name: str) -> Draw:
        def draw(axis: Axes) -> None:
            centres = (DECADES[1:] + DECADES[:-1]) / 2
            for method, of_method in layers[name].items():
                found = [layer.feedback for layer in of_method if layer.feedback is not None]
                if found:
                    _step(axis, method, centres, np.sum(found, axis=0))
            axis.set_title(f"{name}: feedback", fontsize=9)
            axis.set_xlabel("log10 |p.grad|")
            axis.set_ylabel("share of weights")

        return draw

    return _svg([panel(name) for name in layers for panel in (weights, feedback)])


def _in_decades(axis: Axes, x_or_y: str) -> None:
    """Make the axis logarithmic where it spans more than one decade, with few and plain numbers."""
    low, high = getattr(axis.dataLim, f"interval{x_or_y}")
    if not 0 < 10 * low < high:
        return
    axis.set(**{f"{x_or_y}scale": "log"})
    drawn = getattr(axis, f"{x_or_y}axis")
    subs = (1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)
    drawn.set_major_locator(LogLocator(subs=subs, numticks=6))
    drawn.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    drawn.set_minor_locator(NullLocator())


def _step(axis: Axes, method: str, centres: np.ndarray, counts: np.ndarray) -> None:
    colour, stroke, _ = styles()[method]
    shares = np.where(counts > 0, counts / max(counts.sum(), 1), np.nan)
    axis.plot(
        centres,
        shares,
        stroke,
        drawstyle="steps-mid",
        color=colour,
        linewidth=1.2,
        label=method,
    )
    _in_decades(axis, "y")


def _methods(results: Iterable[Result]) -> list[tuple[str, list[Result]]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.run.method, []).append(result)
    return list(found.items())


def _by_activation(
    results: Sequence[Result], draw: Callable[[Axes, Sequence[Result]], None]
) -> bytes:
    """Return a panel for each activation."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.run.activation, []).append(result)

    def drawing(activation: str, of_activation: Sequence[Result]) -> Draw:
        def draw_one(axis: Axes) -> None:
            draw(axis, of_activation)
            axis.set_title(called(activation), fontsize=9)

        return draw_one

    return _svg([drawing(*group) for group in groups.items()])


def _svg(panels: Sequence[Draw]) -> bytes:
    """Return the panels in rows, with one legend of all that they label."""
    with matplotlib.rc_context(SVG):
        columns = min(COLUMNS, len(panels))
        rows = ceil(len(panels) / columns)
        figure = Figure(
            figsize=(max(WIDTH * columns, 5.8), HEIGHT * rows + 0.4), layout="constrained"
        )
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        labels: dict[str, Artist] = {}
        for axis, draw in zip(axes, panels, strict=False):
            draw(axis)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
            if not axis.images:
                axis.grid(color="#e3e3e3", linewidth=0.6)
            axis.set_axisbelow(True)
            handles, names = axis.get_legend_handles_labels()
            labels |= {label_of(name): handle for name, handle in zip(names, handles, strict=True)}
        for axis in axes[len(panels) :]:
            axis.remove()
        if labels:
            figure.legend(
                list(labels.values()),
                list(labels),
                loc="outside upper left",
                ncols=5,
                frameon=False,
                fontsize=8,
            )
        file = BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
