"""The figures of a report, as SVG: curves, fronts, decision boundaries, histograms."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.analysis.pace import front
from benchmarks.data import Split
from benchmarks.experiments.comparison.figure import called
from benchmarks.rendering import curves
from benchmarks.rendering.curves import Curve, Curves, highest_end, lowest_end
from benchmarks.rendering.panels import Draw, image
from benchmarks.rendering.style import PALETTE, colours, label_of, strokes
from benchmarks.runs.inspection import DECADES, SIDE, Layer
from benchmarks.runs.run import Epoch, Result, of_methods

SMALL = 2.1  # inches, of panels beside each other
ACCURACY = "test accuracy (%)"


def accuracies(results: Sequence[Result]) -> bytes:
    """Return test accuracies by epoch, a panel for each activation."""
    return _by_epoch(accuracy_curves(results), highest_end, ACCURACY)


def losses(results: Sequence[Result]) -> bytes:
    """Return training losses by epoch, a panel for each activation."""
    return _by_epoch(loss_curves(results), lowest_end, "training loss")


def accuracy_curves(results: Sequence[Result]) -> dict[str, Curves]:
    """Return test accuracies in percent by epoch, by activation and method."""
    return _curves(results, lambda epoch: None if epoch.test is None else 100 * epoch.test)


def loss_curves(results: Sequence[Result]) -> dict[str, Curves]:
    """Return training losses by epoch; 0 is left out, as it has no logarithm."""
    return _curves(results, lambda epoch: epoch.train_loss or None)


def _curves(results: Sequence[Result], value: Callable[[Epoch], float | None]) -> dict[str, Curves]:
    found: dict[str, Curves] = {}
    for activation, of_activation in _of_activations(results).items():
        found[activation] = {
            method: Curve.of(
                range(max(len(run.history) for run in runs)),
                [[value(epoch) for epoch in run.history] for run in runs],
            )
            for method, runs in of_methods(of_activation).items()
        }
    return found


def _of_activations(results: Sequence[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(called(result.run.activation), []).append(result)
    return found


def _by_epoch(of_panels: Mapping[str, Curves], score: curves.Score, label: str) -> bytes:
    def draw(axis: Axes, activation: str, of_activation: Curves) -> None:
        curves.draw(axis, of_activation, curves.shown(of_activation, score))
        curves.whole_numbers(axis)
        if score is lowest_end:
            _in_decades(axis, "y")
        axis.set(title=activation, xlabel="epoch", ylabel=label)

    return image([partial(draw, activation=a, of_activation=c) for a, c in of_panels.items()])


def fronts(results: Sequence[Result]) -> bytes:
    """Return mean accuracy after mean training time, a point an epoch, and the best of all."""

    def draw(axis: Axes, activation: str, of_activation: Curves) -> None:
        timed = _over_time(of_activation, _of_activations(results)[activation])
        pairs = [np.column_stack([curve.x, curve.mean]) for curve in timed.values()]
        points = [(float(x), float(y)) for x, y in np.concatenate(pairs)]
        best = front(points)
        axis.step(
            [seconds for seconds, _ in best],
            [accuracy for _, accuracy in best],
            where="post",
            color="#333333",
            linewidth=5,
            alpha=0.18,
        )
        names = [name for name in curves.shown(of_activation, highest_end) if timed[name].x.size]
        curves.draw(axis, timed, names, marker="o")
        _in_decades(axis, "x")
        axis.set(title=activation, xlabel="training time (s)", ylabel=ACCURACY)

    of_panels = accuracy_curves(results)
    return image([partial(draw, activation=a, of_activation=c) for a, c in of_panels.items()])


def timed_curves(results: Sequence[Result]) -> dict[str, Curves]:
    """Return mean accuracies in percent by mean training time, by activation and method."""
    by_activation = _of_activations(results)
    return {
        activation: _over_time(of_activation, by_activation[activation])
        for activation, of_activation in accuracy_curves(results).items()
    }


def _over_time(of_activation: Curves, results: Sequence[Result]) -> dict[str, Curve]:
    """Return the mean accuracies after training times above 0."""
    found = {}
    for method, runs in of_methods(results).items():
        epochs = range(max(len(run.history) for run in runs))
        times = Curve.of(epochs, [[epoch.seconds for epoch in run.history] for run in runs])
        accuracy = of_activation[method]
        _, of_times, of_both = np.intersect1d(times.x, accuracy.x, return_indices=True)
        seconds, mean = times.mean[of_times], accuracy.mean[of_both]
        found[method] = Curve(seconds[seconds > 0], mean[None, seconds > 0])
    return found


def boundaries(results: Sequence[Result], data: Callable[[int], Split]) -> bytes:
    """Return the decisions of one run of each method and activation, over the plane.

    Args:
        results: runs with decisions; the first of each method and activation is shown.
        data: the points to show for a seed.
    """
    first = {(r.run.activation, r.run.method): r for r in reversed(results)}
    shown = [result for result in results if result in first.values()]

    def draw(axis: Axes, result: Result) -> None:
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
        name = label_of(result.run.method)
        axis.set_title(f"{called(result.run.activation)}, {name}: {100 * (result.test or 0):.1f}%")

    panels = [partial(draw, result=result) for result in shown]
    return image(panels, columns=3, height=SMALL)


def histograms(results: Sequence[Result]) -> bytes:
    """Return weights and feedback of every layer, a curve a method, over all seeds.

    The runs are of one activation, and inspected.
    """
    names = inspected(results)
    layers: dict[str, dict[str, list[Layer]]] = {}
    for result in results:
        assert result.inspection is not None
        if result.run.method in names:
            for layer in result.inspection.layers:
                layers.setdefault(layer.name, {}).setdefault(result.run.method, []).append(layer)

    def weights(axis: Axes, name: str) -> None:
        counts = {
            method: np.sum([layer.weights for layer in of_method], axis=0)
            for method, of_method in layers[name].items()
        }
        bins = len(next(iter(counts.values())))
        _steps(axis, names, (np.arange(bins) + 0.5) / bins * 2 - 1, counts)
        axis.set(title=f"{name}: weights", xlabel="w / largest |w|", ylabel="share of weights")

    def feedback(axis: Axes, name: str) -> None:
        found = {
            method: [layer.feedback for layer in of_method if layer.feedback is not None]
            for method, of_method in layers[name].items()
        }
        counts = {method: np.sum(one, axis=0) for method, one in found.items() if one}
        _steps(axis, names, (DECADES[1:] + DECADES[:-1]) / 2, counts)
        axis.set(title=f"{name}: feedback", xlabel="log10 |p.grad|", ylabel="share of weights")

    panels: list[Draw] = [
        partial(panel, name=name) for name in layers for panel in (weights, feedback)
    ]
    return image(panels, columns=2, height=SMALL, legend=True)


def inspected(results: Sequence[Result]) -> list[str]:
    """Return the methods that the histograms of runs with one activation show."""
    (of_activation,) = accuracy_curves(results).values()
    return curves.shown(of_activation, highest_end)


def _steps(
    axis: Axes, names: Sequence[str], centres: np.ndarray, counts: Mapping[str, np.ndarray]
) -> None:
    """Draw shares of weights, each method as in all panels of the figure."""
    colour = colours(names, names)
    for name, stroke in zip(names, strokes(len(names)), strict=True):
        if name in counts:
            total = max(counts[name].sum(), 1)
            shares = np.where(counts[name] > 0, counts[name] / total, np.nan)
            style: dict[str, Any] = {"color": colour[name], "label": label_of(name), **stroke}
            axis.plot(centres, shares, drawstyle="steps-mid", **style)
    _in_decades(axis, "y")


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
