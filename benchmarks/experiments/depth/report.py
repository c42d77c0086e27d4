"""The table of depths, its figures, and how methods differ in the deepest networks."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator

from baselines import LFP
from benchmarks.analysis import paired
from benchmarks.experiments.depth.options import Cell, Options
from benchmarks.rendering import curves, panels
from benchmarks.rendering.curves import Curve
from benchmarks.rendering.document import Figure, Section, Table
from benchmarks.rendering.text import (
    Lines,
    at_edge,
    edge_notes,
    mean_and_deviation,
    number,
    seeds_of,
)
from benchmarks.runs.run import Result
from benchmarks.runs.tuning import Choice


class Reached(NamedTuple):
    """What was chosen for a cell, and the reported runs that there are."""

    cell: Cell
    choice: Choice
    results: list[Result]

    @property
    def accuracies(self) -> list[float]:
        """Of the test split, in percent."""
        return [100 * result.test for result in self.results if result.test is not None]


def report(options: Options, reached: Sequence[Reached]) -> list[Section]:
    """Return the table, the figures and the differences at the largest depth."""
    frame = pd.DataFrame([_row(one) for one in reached])
    caption = f"{options.dataset.capitalize()} with {options.activation}, by depth"
    table = Table("depth", caption, lines(frame), frame, remarks(options, frame))
    told = (
        "Test accuracy against the number of hidden layers: mean over the seeds, and their range."
    )
    figures = [Figure(told, lambda: by_depth(options, reached), "png", "depth")]
    if norms := norms_by_layer(options, reached):
        told = (
            f"Norm of the update of each weight matrix before training, {max(options.depths)} "
            "hidden layers, from the inputs to the logits: mean over the seeds, and their range. "
            "What is 0 in float32 is not drawn, so that a line begins where there is an update."
        )
        figures.append(Figure(told, lambda: by_layer(norms), "png", "norms"))
    return [Section("Depth", tables=[table], figures=figures), *_differences(options, reached)]


def _row(one: Reached) -> dict[str, Any]:
    accuracies = pd.Series(one.accuracies, dtype=float)
    return {
        **one.cell._asdict(),
        "learning_rate": one.choice.learning_rate,
        "edge": one.choice.edge,
        "validation_accuracy": one.choice.score,
        "test_accuracy_mean": accuracies.mean() / 100,
        "test_accuracy_std": accuracies.std(ddof=1) / 100,
        "test_accuracy_min": accuracies.min() / 100,
        "diverged": sum(result.diverged for result in one.results),
        "seeds": len(one.results),
    }


def lines(frame: pd.DataFrame) -> Lines:
    """Return a line for each network and method."""
    header = (
        *("network", "hidden layers", "method", "rate", "validation (%)", "test (%)"),
        *("worst seed (%)", "diverged"),
    )
    return header, [
        (
            row["structure"],
            str(row["depth"]),
            row["method"],
            f"{row['learning_rate']:g}{at_edge(row['edge'])}",
            number(row["validation_accuracy"], ".1f", 100),
            mean_and_deviation(row["test_accuracy_mean"], row["test_accuracy_std"]),
            number(row["test_accuracy_min"], ".1f", 100),
            f"{row['diverged']}/{row['seeds']}",
        )
        for row in frame.to_dict("records")
    ]


def remarks(options: Options, frame: pd.DataFrame) -> list[str]:
    """Return how networks were trained and chosen."""
    rates = ", ".join(f"{rate:g}" for rate in options.learning_rates)
    return [
        f"Hidden layers of {options.width} {options.activation} units with torch's default "
        "weights. Residual: x + f(W x + b); normalised: f(LayerNorm(W x + b)); both: x + "
        "f(LayerNorm(W x + b)); the first hidden layer is plain in all.",
        f"Momentum 0.9, batches of {options.batch_size}, norm clipped to 3, {options.epochs} "
        f"epochs, {seeds_of(options.seeds, 'mean ± sample standard deviation')}; LFP with epsilon "
        f"{options.epsilons[0]:g}; a diverged run counts with the last accuracy it reached.",
        f"The rate of each network and method is the best of {rates} by validation accuracy, "
        f"{seeds_of(options.sweep_seeds)} that no reported run has, after as many epochs.",
        *edge_notes(frame["edge"]),
    ]


def by_depth(options: Options, reached: Sequence[Reached]) -> bytes:
    """Return the figure of accuracies: a panel for each structure, a line for each method."""

    def one(axis: Axes, structure: str) -> None:
        values: dict[str, dict[int, list[float]]] = {}
        for of_cell in reached:
            if of_cell.cell.structure == structure:
                of_method = values.setdefault(of_cell.cell.method, {})
                of_method[of_cell.cell.depth] = of_cell.accuracies
        found = {method: _curve(of_method) for method, of_method in values.items()}
        curves.draw(axis, found, [*found], marker="o")
        axis.set_xscale("log")
        axis.set_xticks(options.depths)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set(title=structure, xlabel="hidden layers", ylabel="test accuracy (%)")

    drawn = [partial(one, structure=structure) for structure in options.structures]
    title = f"{options.dataset.capitalize()}, {options.activation}"
    return panels.image(drawn, share=True, title=title, media="png")


def _curve(values: Mapping[int, Sequence[float]]) -> Curve:
    """Return the curve of values of seeds by what is across."""
    across = sorted(values)
    seeds = max(len(values[x]) for x in across)
    rows = [[values[x][i] if i < len(values[x]) else None for x in across] for i in range(seeds)]
    return Curve.of(across, rows)


def norms_by_layer(options: Options, reached: Sequence[Reached]) -> dict[str, dict[str, Curve]]:
    """Return the norms in the deepest networks, by structure and what made the update."""
    found: dict[str, dict[str, Curve]] = {}
    for one in reached:
        measured = [result.details["norms"] for result in one.results if result.details]
        if one.cell.depth == max(options.depths) and measured:
            layers = range(1, one.cell.depth + 2)
            found[one.cell.structure] = {
                name: Curve.of(layers, [[n or None for n in seed[name]] for seed in measured])
                for name in measured[0]
            }
    return found


def by_layer(norms: Mapping[str, Mapping[str, Curve]]) -> bytes:
    """Return the figure of norms: a panel for each structure."""

    def one(axis: Axes, title: str, of_panel: Mapping[str, Curve]) -> None:
        shown = [name for name, curve in of_panel.items() if np.isfinite(curve.mean).any()]
        curves.draw(axis, of_panel, shown)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set(title=title, xlabel="weight matrix", ylabel="norm")

    drawn = [partial(one, title=title, of_panel=curve) for title, curve in norms.items()]
    return panels.image(drawn, title="Before training", media="png")


def _differences(options: Options, reached: Sequence[Reached]) -> list[Section]:
    """Return how LFP differs in the deepest networks, seed by seed."""
    if LFP.name not in options.methods:
        return []
    deepest = max(options.depths)
    measured = pd.DataFrame(
        {"quantity": one.cell.structure, "method": one.cell.method, "seed": seed, "value": value}
        for one in reached
        if one.cell.depth == deepest
        for seed, value in enumerate(one.accuracies)
    )
    pairs = [(LFP.name, other) for other in options.methods if other != LFP.name]
    if measured.empty:
        return []
    note = f"Of the networks with {deepest} hidden layers."
    return paired.sections(paired.differences(measured, pairs), 1, note, "points")
