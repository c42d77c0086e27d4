"""How much of a table's number is the luck of one search.

The experiment `searches` of study files: a comparison is made several times, each time by a search
of its own, with other trials (another scrambling of the Sobol sequence) and other seeds, for the
trials as for the reported runs. A table of one comparison has intervals over the seeds that
followed one search, and does not say what another search would have chosen. Here the searches are
what means and intervals are over, so that these cover the choice of options as well.

Whatever differs between two searches of the same method is chance. The deviation that seeds alone
would give to a mean of a search is beside the one that was measured, so that a reader sees how much
of it the choice adds.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from math import sqrt
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from benchmarks.analysis import paired
from benchmarks.analysis.statistics import interval
from benchmarks.experiments import comparison
from benchmarks.experiments.base import Experiment, Found, Results
from benchmarks.experiments.comparison.choosing import choices
from benchmarks.experiments.comparison.choosing import plan as comparison_plan
from benchmarks.experiments.comparison.study import Cell, Study, check
from benchmarks.experiments.comparison.summary import REFERENCE, finalists_told, told
from benchmarks.experiments.options import Whole
from benchmarks.rendering import panels, text
from benchmarks.rendering.document import Figure, Section, Table
from benchmarks.rendering.style import colours, label_of
from benchmarks.rendering.text import Lines, counted, mean_and_deviation, number
from benchmarks.runs.run import Run
from benchmarks.runs.tuning import FIRST_SWEEP_SEED, Choice


class Options(comparison.Options):
    """Repeat a comparison, each time by a search of its own.

    Attributes:
        searches: how often.
    """

    searches: Whole = 5

    def repeated(self) -> list[Study]:
        """Return the comparison of each search.

        Raises:
            ValueError: a field is wrong; it is named.
        """
        if self.searches * self.seeds > FIRST_SWEEP_SEED:  # or reported runs had seeds of trials
            raise ValueError(
                f"searches: {self.searches} of {self.seeds} seeds each; allowed: up to "
                f"{FIRST_SWEEP_SEED} seeds together"
            )
        study = self.study()
        return [replace(study, search=search) for search in range(self.searches)]


class Searches(Experiment[Options]):
    """See the module."""

    schema = Options

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        return sum(study.runs for study in options.repeated())

    def check(self, options: Options) -> None:
        """See :class:`Experiment`; fetches the data."""
        check(options.study())

    def model(self, options: Options) -> str:
        """See :class:`Experiment`."""
        return options.study().model

    def configuration(self, options: Options) -> dict[str, Any]:
        """See :class:`Experiment`; with all that a preset decides."""
        return {**asdict(options.study()), "searches": options.searches}

    def plan(self, options: Options, results: Results) -> Sequence[Run]:
        """See :class:`Experiment`; one search after the other."""
        return [run for study in options.repeated() for run in comparison_plan(study, results)]

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`; of the searches that are whole."""
        frame = tidy(options, found)
        if frame.empty:
            return []
        caption, spread = "Accuracy by independent searches", spreads(frame)
        notes = remarks(options, options.study())
        figure = Figure(
            "Test accuracies of the searches, each the mean over its seeds; a bar is at the mean "
            "of the searches.",
            partial(drawn, frame),
            "png",
            "searches",
        )
        chosen = Table("chosen", "What each search chose", chosen_lines(frame), frame)
        return [
            Section(
                "Results",
                tables=[Table("searches", caption, lines(spread), spread, notes), chosen],
                figures=[figure],
            ),
            *paired.sections(
                differences_of(frame),
                digits=1,
                note="In a search both methods have the same seeds, and each has its own trials.",
                unit="points",
                pair="search",
            ),
        ]


def tidy(options: Options, found: Found) -> pd.DataFrame:
    """Return a row for each activation, method and search whose reported runs are all there.

    Accuracies are in [0, 1]; the deviation is that of a sample, over the seeds of the search.
    """
    studies = [(study, choices(study, found.runs)) for study in options.repeated()]
    rows = [
        row
        for cell in options.study().trained
        for study, chosen in studies
        if cell in chosen and (row := _row(study, cell, chosen[cell], found))
    ]
    return pd.DataFrame(rows)


def _row(study: Study, cell: Cell, choice: Choice, found: Found) -> dict[str, Any] | None:
    """Return what a search found of a cell; None while one of its reported runs is to come."""
    results = found.results_of(study.final(cell, choice.settings))
    if len(results) < study.seeds:
        return None
    accuracies = pd.Series([result.test for result in results], dtype=float)
    return {
        "activation": cell.activation,
        "method": cell.method,
        "search": study.search,
        "seeds": study.seeds,
        "test_accuracy": accuracies.mean(),
        "test_accuracy_std": accuracies.std(ddof=1),
        "validation_accuracy": choice.score,
        "options": ", ".join(told(choice, study.searched[cell.method])),
        "diverged": sum(result.diverged for result in results),
    }


def spreads(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each activation and method, of the accuracies of its searches.

    `from_seeds` is the deviation that a search's mean would have if all searches had chosen the
    same options: the deviation within a search, pooled, over the root of the number of its seeds.
    """
    rows = []
    for (activation, method), of_cell in frame.groupby(["activation", "method"], sort=False):
        accuracies, seeds = of_cell["test_accuracy"], int(of_cell["seeds"].iloc[0])
        bounds = interval(accuracies.tolist())
        within = sqrt((of_cell["test_accuracy_std"] ** 2).mean())
        rows.append(
            {
                "activation": activation,
                "method": method,
                "searches": len(accuracies),
                "test_accuracy_mean": accuracies.mean(),
                "test_accuracy_std": accuracies.std(ddof=1),
                "low": bounds.low,
                "high": bounds.high,
                "lowest": accuracies.min(),
                "highest": accuracies.max(),
                "within": within,
                "from_seeds": within / sqrt(seeds),
            }
        )
    return pd.DataFrame(rows)


def lines(spread: pd.DataFrame) -> Lines:
    """Return the spreads as text."""
    header = (
        *("activation", "method", "test accuracy %", "95% interval", "lowest to highest"),
        *("deviation of searches", "expected from seeds", "deviation of seeds", "searches"),
    )
    return header, [
        (
            row["activation"],
            row["method"],
            mean_and_deviation(row["test_accuracy_mean"], row["test_accuracy_std"]),
            text.interval(row["low"], row["high"], ".1f", 100),
            text.interval(row["lowest"], row["highest"], ".1f", 100),
            number(row["test_accuracy_std"], ".2f", 100),
            number(row["from_seeds"], ".2f", 100),
            number(row["within"], ".2f", 100),
            str(row["searches"]),
        )
        for row in spread.to_dict("records")
    ]


def chosen_lines(frame: pd.DataFrame) -> Lines:
    """Return what each search chose, and what that reached, as text."""
    header = (
        *("activation", "method", "search", "test accuracy %", "validation accuracy %"),
        *("options", "diverged"),
    )
    return header, [
        (
            row["activation"],
            row["method"],
            str(row["search"]),
            mean_and_deviation(row["test_accuracy"], row["test_accuracy_std"]),
            number(row["validation_accuracy"], ".1f", 100),
            row["options"] or "-",
            f"{row['diverged']}/{row['seeds']}",
        )
        for row in frame.to_dict("records")
    ]


def differences_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the differences from LFP in percent, in pairs of the same search."""
    measured = pd.DataFrame(
        {
            "quantity": frame["activation"],
            "method": frame["method"],
            "seed": frame["search"],
            "value": 100 * frame["test_accuracy"],
        }
    )
    others = [name for name in dict.fromkeys(frame["method"]) if name != REFERENCE]
    return paired.differences(measured, [(name, REFERENCE) for name in others])


def remarks(options: Options, study: Study) -> list[str]:
    """Return what a reader of the table has to know."""
    trials = study.trials or len(study.rates)
    most = max(study.seeds, study.sweep_seeds)
    return [
        f"{study.dataset}, {study.model}, {study.epochs} epochs, batches of {study.batch_size}: "
        "test accuracy, mean ± sample standard deviation and Student's interval over "
        f"{options.searches} searches. The accuracy of a search is the mean over {study.seeds} "
        "seeds that no other search has; a diverged run counts with the last accuracy it reached.",
        f"A search: {trials} trials of {study.sweep_epochs} epochs, chosen by the mean validation "
        f"accuracy with {counted(study.sweep_seeds, 'seed')}{finalists_told(study)}; the seeds of "
        f"the next search begin {most} later, and its trials are another scrambling of the Sobol "
        "sequence. The images and their splits are the same for all.",
        "Deviation of seeds: within a search, pooled. Expected from seeds: what the deviation of "
        "searches would be if all had chosen the same options, which is the deviation of seeds "
        "over the root of their number.",
        f"{text.NEAR_EDGE}.",
    ]


def drawn(frame: pd.DataFrame) -> bytes:
    """Return the figure: a panel for each activation, a row of points for each method."""

    def one(axis: Axes, of_activation: pd.DataFrame) -> None:
        methods = list(dict.fromkeys(of_activation["method"]))
        colour = colours(methods, methods)
        for height, method in enumerate(methods):
            own = 100 * of_activation[of_activation["method"] == method]["test_accuracy"]
            axis.plot(own, [height] * len(own), "o", color=colour[method], alpha=0.6)
            axis.plot(own.mean(), height, "|", color=colour[method], markersize=22)
        axis.set_yticks(range(len(methods)), [label_of(method) for method in methods])
        axis.set(ylim=(len(methods) - 0.5, -0.5), title=str(of_activation["activation"].iloc[0]))
        axis.set_xlabel("test accuracy (%)")

    by_activation = frame.groupby("activation", sort=False)
    return panels.image([partial(one, of_activation=own) for _, own in by_activation], media="png")
