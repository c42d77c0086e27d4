"""The sections of a report on one comparison; a section that has nothing to show is left out."""

from collections.abc import Callable, Sequence
from functools import partial
from math import isinf
from typing import Any

import numpy as np
import pandas as pd

from baselines import LFPSettings
from benchmarks.analysis import pace
from benchmarks.data import Split, load
from benchmarks.experiments.comparison import figure, panels
from benchmarks.experiments.comparison.divergence import divergences
from benchmarks.experiments.comparison.published import published
from benchmarks.experiments.comparison.study import Outcome
from benchmarks.experiments.comparison.summary import (
    REFERENCE,
    comparison_lines,
    comparison_notes,
    comparisons,
    summarise,
)
from benchmarks.experiments.comparison.summary import lines as summary_lines
from benchmarks.experiments.comparison.summary import notes as summary_notes
from benchmarks.experiments.comparison.verdict import verdict
from benchmarks.rendering.curves import any_line, highest_end, left_out, lowest_end
from benchmarks.rendering.document import Figure as Image
from benchmarks.rendering.document import Section, Table
from benchmarks.rendering.text import (
    Lines,
    mean_and_deviation,
    number,
    origins,
    seeds_of,
    with_deviation,
)
from benchmarks.runs.inspection import SMALL, Layer
from benchmarks.runs.run import Result

OLD = (
    "Runs that were stored before this was recorded do not have it; delete them to make them again."
)
#: Columns of the results that a terminal shows at first.
SHOWN = (
    *("activation", "method", "test accuracy %", "published %", "learning rate", "other options"),
    *("time / SGD", "memory / SGD", "diverged"),
)


def sections(outcome: Outcome) -> list[Section]:
    """Return the sections of a study of which at least one run is stored."""
    make: list[Callable[[Outcome], Section | None]] = [
        results,
        statistics,
        verdict,
        curves,
        time,
        boundaries,
        sparsity,
        histograms,
        divergences,
        runs,
    ]
    return [section for one in make if (section := one(outcome)) is not None]


def _final(outcome: Outcome) -> list[Result]:
    """Return the reported runs."""
    return [s.result for s in outcome.results if s.result.run.kind == "final"]


def results(outcome: Outcome) -> Section:
    """Return accuracies and costs, and what others published beside them."""
    study, summary = outcome.study, summarise(outcome)
    (header, rows), notes = summary_lines(summary), summary_notes(outcome, summary)
    reward = LFPSettings.of(study.settings["lfp"]).reward if "lfp" in study.methods else ""
    others = published(study.dataset, study.model, reward)
    found = [others.get((row["activation"], row["method"])) for _, row in summary.iterrows()]
    if any(found):
        sources = list(dict.fromkeys(str(one[1]) for one in found if one))
        column = [
            f"{'≈ ' if one[1].obtained == 'digitised' else ''}{100 * one[0]:.4g} "
            f"[{sources.index(str(one[1])) + 1}]"
            if one
            else "-"
            for one in found
        ]
        header = (*header[:3], "published %", *header[3:])
        rows = [(*row[:3], cell, *row[3:]) for row, cell in zip(rows, column, strict=True)]
        notes += [f"[{number}] {source}" for number, source in enumerate(sources, start=1)]
        summary["published_accuracy"] = [one[0] if one else None for one in found]
        summary["published_obtained"] = [one[1].obtained if one else None for one in found]
    caption = "Accuracy, time and memory"
    one = Table("results", caption, (header, rows), summary, notes, shown=SHOWN)
    grid = Image(
        "Test accuracy in % per activation and method, "
        f"{seeds_of(study.seeds, 'mean and sample standard deviation')}.",
        partial(figure.png, outcome, summarise(outcome)),
        "png",
    )
    return Section("Results", tables=[one], figures=[grid] if _final(outcome) else [])


def statistics(outcome: Outcome) -> Section | None:
    """Return the paired tests."""
    found = comparisons(outcome)
    if found.empty:
        return None
    notes = comparison_notes(outcome.study, found)
    lines = comparison_lines(found)
    caption = f"Differences to {REFERENCE}, in percentage points"
    return Section("Paired statistics", tables=[Table("paired", caption, lines, found, notes)])


def curves(outcome: Outcome) -> Section | None:
    """Return accuracy and loss by epoch, where there is more than one point of them."""
    final = _final(outcome)
    told = seeds_of(outcome.study.seeds, "mean and range")
    running = f"{told}, of those that are still running" if outcome.study.seeds > 1 else told
    accuracy, loss = panels.accuracy_curves(final), panels.loss_curves(final)
    figures = []
    if any_line(accuracy):
        caption = f"Test accuracy by epoch: {running}.{left_out(accuracy, highest_end)}"
        figures.append(Image(caption, partial(panels.accuracies, final)))
    if any_line(loss):
        caption = f"Training loss by epoch, logarithmic if it is over decades: {running}."
        caption += left_out(loss, lowest_end)
        figures.append(Image(caption, partial(panels.losses, final)))
    return Section("Learning curves", figures=figures, detail=True) if figures else None


def time(outcome: Outcome) -> Section | None:
    """Return how accuracy relates to training time."""
    final = _final(outcome)
    if not final:
        return None
    title = "Accuracy and time"
    if not pace.timed(final):
        return Section(title, text=[OLD], detail=True)
    equal, to_target = pace.at_equal_cost(final), pace.times_to_targets(final)
    tables = []
    if len(equal):
        notes = [
            "Equal time: for each activation, the training time of the method that is done first "
            "(of its slowest run). Equal epochs: as many as every run has but those that end by "
            "time. Mean ± sample standard deviation of the last accuracy that was measured by "
            "then. Accuracies are measured after epochs: where these are long, the last one may be "
            "of long before.",
        ]
        caption = "Accuracy at equal wall-clock time and after equally many epochs"
        tables.append(Table("equal", caption, _equal_lines(equal), equal, notes))
    if len(to_target):
        notes = [
            "Seconds of training until the test accuracy is first at least the target, median over "
            "seeds; in brackets, how many of the runs got there. ∞: at most half of them did.",
        ]
        caption = "Time to a target accuracy"
        tables.append(Table("targets", caption, _target_lines(to_target), to_target, notes))
    front = Image(
        "Mean test accuracy after each epoch against mean training time; the grey line joins the "
        "points that no other one beats in both."
        + left_out(panels.accuracy_curves(final), highest_end),
        partial(panels.fronts, final),
    )
    figures = [front] if any_line(panels.timed_curves(final)) else []
    if not tables and not figures:
        return None
    return Section(title, tables=tables, figures=figures, detail=True)


def _equal_lines(frame: pd.DataFrame) -> Lines:
    header = (
        "activation",
        "method",
        "seconds",
        "accuracy % then",
        "epochs",
        "accuracy % after them",
    )
    return header, [
        (
            row["activation"],
            row["method"],
            number(row["seconds"], ".3g"),
            mean_and_deviation(row["accuracy_at_time_mean"], row["accuracy_at_time_std"]),
            str(row["epochs"]),
            mean_and_deviation(row["accuracy_at_epochs_mean"], row["accuracy_at_epochs_std"]),
        )
        for row in frame.to_dict("records")
    ]


def _target_lines(frame: pd.DataFrame) -> Lines:
    targets = list(dict.fromkeys(frame["target"]))
    header = ("activation", "method", *(f"s to {100 * target:g}%" for target in targets))
    return header, [
        (
            *map(str, cell),
            *(
                f"{'∞' if isinf(row['seconds']) else number(row['seconds'], '.3g')} "
                f"({row['reached']}/{row['seeds']})"
                for row in of_cell.to_dict("records")
            ),
        )
        for cell, of_cell in frame.groupby(["activation", "method"], sort=False)
    ]


def boundaries(outcome: Outcome) -> Section | None:
    """Return the decisions over the plane, where inputs are points of it."""
    found = [r for r in _final(outcome) if r.inspection and r.inspection.decisions]
    if not found:
        return None

    def points(seed: int) -> Split:
        return load(outcome.study.dataset, seed=seed).test

    caption = (
        "Decisions over the plane, of the first seed of each method and activation that did not "
        "diverge, with the points and the accuracy of its test split."
    )
    image = Image(caption, partial(panels.boundaries, found, points))
    return Section("Decision boundaries", figures=[image], detail=True)


def sparsity(outcome: Outcome) -> Section | None:
    """Return how unequal the weights are after training."""
    rows: list[dict[str, Any]] = []
    for (activation, method), of_cell in _inspected(outcome).items():
        small = pd.Series([_share_of_small(layers) for layers in of_cell])
        gini = pd.Series([_mean_gini(layers) for layers in of_cell])
        rows.append(
            {
                "activation": activation,
                "method": method,
                "seeds": len(of_cell),
                "small_mean": small.mean(),
                "small_std": small.std(ddof=1),
                "gini_mean": gini.mean(),
                "gini_std": gini.std(ddof=1),
            }
        )
    if not rows:
        return None
    header = ("activation", "method", "small weights %", "Gini index")
    lines = [
        (
            row["activation"],
            row["method"],
            mean_and_deviation(row["small_mean"], row["small_std"]),
            with_deviation(number(row["gini_mean"], ".3f"), number(row["gini_std"], ".3f")),
        )
        for row in rows
    ]
    notes = [
        f"Small: below {SMALL:g} of the largest magnitude of their layer. Gini index of the "
        "magnitudes, 0 if all are equal: mean over the layers, each as often as it has weights. "
        "Mean ± sample standard deviation over the runs that did not diverge. Weights as torch "
        "draws them at first, uniformly around 0, have 25% and 0.333.",
    ]
    caption, frame = "How unequal trained weights are", pd.DataFrame(rows)
    one = Table("sparsity", caption, (header, lines), frame, notes)
    return Section("Sparsity", tables=[one], detail=True)


def _inspected(outcome: Outcome) -> dict[tuple[str, str], list[tuple[Layer, ...]]]:
    """Return the layers of the runs that have been inspected, by activation and method."""
    found: dict[tuple[str, str], list[tuple[Layer, ...]]] = {}
    for result in _final(outcome):
        if result.inspection is not None:
            cell = (result.run.activation, result.run.method)
            found.setdefault(cell, []).append(result.inspection.layers)
    return found


def _share_of_small(layers: Sequence[Layer]) -> float:
    return float(np.average([x.small for x in layers], weights=[x.size for x in layers]))


def _mean_gini(layers: Sequence[Layer]) -> float:
    return float(np.average([x.gini for x in layers], weights=[x.size for x in layers]))


def histograms(outcome: Outcome) -> Section | None:
    """Return the distributions of weights and feedback."""
    inspected = [r for r in _final(outcome) if r.inspection is not None]
    activations = list(dict.fromkeys(r.run.activation for r in inspected))
    images = [
        Image(
            f"{activation}: weights of each layer after training, over the largest of them, and "
            "the feedback that last moved them (as p.grad, of the last batch, after clipping; what "
            "is exactly 0 is not shown, nor are methods that fill no gradients). All seeds."
            + left_out(panels.accuracy_curves(of_activation), highest_end),
            partial(panels.histograms, of_activation),
        )
        for activation in activations
        for of_activation in [[r for r in inspected if r.run.activation == activation]]
    ]
    return Section("Histograms", figures=images, folded=True, detail=True) if images else None


def runs(outcome: Outcome) -> Section | None:
    """Return every reported run with what identifies it."""
    every = outcome.runs
    final = every[every["kind"] == "final"]
    if final.empty:
        return None
    header = ("activation", "method", "seed", "learning rate", "test accuracy %", "run", "commit")
    lines = [
        (
            row["activation"],
            row["method"],
            str(row["seed"]),
            number(row["learning_rate"], "g"),
            number(row["test_accuracy"], ".2f", 100),
            row["id"],
            (row["commit"] or "unknown")[:12],
        )
        for row in final.to_dict("records")
    ]
    text = [
        f"Every number above is of these {len(final)} runs, and of {len(every) - len(final)} runs "
        "that chose their rates. A run's file is runs/RUN-CODE.json in the study's folder; the "
        "same code, versions and machine give the same bits."
    ]
    notes = [f"Made on: {origin}." for origin in origins(outcome.environments)]
    one = Table("runs", "Reported runs", (header, lines), every, notes)
    return Section("Every run", text=text, tables=[one], folded=True, detail=True)
