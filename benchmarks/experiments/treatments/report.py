"""The table of the arms, how they differ, and what a reader has to know."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from baselines import LFPSettings
from benchmarks.analysis import paired
from benchmarks.experiments.treatments.options import GRADIENT, Options
from benchmarks.experiments.treatments.runs import BATCH
from benchmarks.rendering import curves
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
from benchmarks.runs.tuning import Choice, Edge, edge_of


class Arm(NamedTuple):
    """An arm of a network, what was chosen for it, and what that reached."""

    network: str
    name: str
    choice: Choice
    results: Sequence[Result]

    def edge(self, options: Options) -> Edge | None:
        """Return the end of the grid of rates that the chosen one is, if it is one."""
        rates = {settings.learning_rate for settings in options.trials(self.name)}
        return edge_of(rates, self.choice.learning_rate)


def report(options: Options, arms: Sequence[Arm]) -> list[Section]:
    """Return the table of the arms of which at least one reported run is made."""
    rows = [_row(arm, options) for arm in arms if arm.results]
    if not rows:
        return []
    caption = f"{options.dataset.capitalize()} by arm"
    table = Table("arms", caption, lines(rows), pd.DataFrame(rows), notes(options, rows))
    told = "Test accuracy by epoch: mean over the seeds, and their range."
    figure = Figure(told, lambda: drawn(options, arms), "png", "curves")
    main = Section("Treatments", tables=[table], figures=[figure])
    return [main, *_differences(options, arms)]


def drawn(options: Options, arms: Sequence[Arm]) -> bytes:
    """Return the figure: a panel for each network, a line for each arm."""
    panels: dict[str, dict[str, Curve]] = {}
    for arm in arms:
        rows = [
            [None if epoch.test is None else 100 * epoch.test for epoch in result.history]
            for result in arm.results
        ]
        epochs = range(max(map(len, rows), default=0))
        panels.setdefault(arm.network, {})[arm.name] = Curve.of(epochs, rows)
    return curves.png(
        panels,
        curves.highest_end,
        across="epoch",
        up="test accuracy (%)",
        title=options.dataset.capitalize(),
    )


def _differences(options: Options, arms: Sequence[Arm]) -> list[Section]:
    """Return how the arms differ from the one that they are compared with, if there is one."""
    if not options.against:
        return []
    measured = pd.DataFrame(
        {"quantity": arm.network, "method": arm.name, "seed": r.run.seed, "value": 100 * r.test}
        for arm in arms
        for r in arm.results
        if r.test is not None
    )
    pairs = [(arm, options.against) for arm in options.every_arm if arm != options.against]
    note = f"All arms are tested against {options.against!r}."
    return paired.sections(paired.differences(measured, pairs), 1, note, "points")


def _row(arm: Arm, options: Options) -> dict[str, Any]:
    accuracies = pd.Series([result.test for result in arm.results], dtype=float)
    chosen = arm.choice.settings
    slope = {"slope": getattr(chosen, "slope", None)} if options.slopes else {}
    return {
        "network": arm.network,
        "arm": arm.name,
        "epsilon": None if arm.name == GRADIENT else LFPSettings.of(chosen).epsilon,
        **slope,
        "learning_rate": arm.choice.learning_rate,
        "edge": arm.edge(options),
        "validation_accuracy": arm.choice.score,
        "test_accuracy_mean": accuracies.mean(),
        "test_accuracy_std": accuracies.std(ddof=1),
        "diverged": sum(result.diverged for result in arm.results),
        "seeds": len(accuracies),
    }


def lines(rows: Sequence[Mapping[str, Any]]) -> Lines:
    """Return a line for each network and arm."""
    slopes = any("slope" in row for row in rows)
    header = (
        *("network", "arm", "epsilon", *(["slope"] if slopes else [])),
        *("rate", "validation (%)", "test (%)", "diverged"),
    )
    return header, [
        (
            row["network"],
            row["arm"],
            number(row["epsilon"], "g"),
            *([number(row["slope"], "g")] if slopes else []),
            f"{row['learning_rate']:g}{at_edge(row['edge'])}",
            number(row["validation_accuracy"], ".1f", 100),
            mean_and_deviation(row["test_accuracy_mean"], row["test_accuracy_std"]),
            f"{row['diverged']}/{row['seeds']}",
        )
        for row in rows
    ]


def notes(options: Options, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how networks were trained and chosen."""
    trials = len(options.learning_rates) * len(options.epsilons)
    return [
        f"{options.dataset.capitalize()}, {options.optimizer} with momentum 0.9, batches of "
        f"{BATCH}, norm clipped to 3: test accuracy after {options.epochs} epochs, "
        f"{seeds_of(options.seeds, 'mean ± sample standard deviation')}; a diverged run counts "
        "with the last accuracy it reached.",
        f"Each arm was chosen out of {trials} trials by validation accuracy, "
        f"{options.sweep_seeds} other seeds after {options.sweep_epochs} epochs: the rates "
        f"{', '.join(f'{r:g}' for r in options.learning_rates)} with the epsilons "
        f"{', '.join(f'{e:g}' for e in options.epsilons)}; for the gradient "
        + _of_gradient(options, trials),
        *edge_notes(row["edge"] for row in rows),
    ]


def _of_gradient(options: Options, trials: int) -> str:
    """Return what the gradient was chosen from."""
    if not options.slopes:
        return f"{trials} rates evenly over the same decades."
    slopes = ", ".join(f"{slope:g}" for slope in options.slopes)
    return f"the same rates with surrogates of the slopes {slopes}."
