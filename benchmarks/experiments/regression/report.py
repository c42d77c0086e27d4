"""The report: errors by epoch, and differences between methods."""

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd

from benchmarks.analysis import paired
from benchmarks.experiments.regression.options import Options
from benchmarks.experiments.regression.runs import Choice, errors
from benchmarks.rendering import curves
from benchmarks.rendering.curves import Curve
from benchmarks.rendering.document import Figure, Section, Table
from benchmarks.rendering.text import Lines, at_edge, edge_notes, seeds_of, spread
from benchmarks.runs.run import Result, of_methods

#: Epochs that the table shows, with the last one.
SHOWN = (1, 5, 10, 20, 50, 100)
#: Pairs whose differences are tested, at the last epoch and at the one that validation chose.
TESTED = (("lfp-cubic", "sgd"), ("lfp-squared", "sgd"), ("wsgd", "sgd"))
#: Pairs whose differences are shown beside them: what the scaling, and what the reward explains.
SHOWN_PAIRS = (("lfp-squared", "wsgd"), ("lfp-cubic", "lfp-squared"))


def error_lines(results: Sequence[Result], choices: Mapping[str, Choice], epochs: int) -> Lines:
    """Return the errors as text, a row for each method."""
    shown = [epoch for epoch in SHOWN if epoch < epochs] + [epochs]
    of_epochs = [f"epoch {epoch}" for epoch in shown]
    header = ("method", "learning rate", *of_epochs, "chosen epoch", "error there", "diverged")
    found = []
    for method, of_method in of_methods(results).items():
        choice = choices[method]
        reached = [errors_at(of_method, epoch) for epoch in (*shown, choice.epoch)]
        *by_epoch, chosen = (spread(values, 3) if values else "-" for values in reached)
        found.append(
            (
                method,
                f"{choice.learning_rate:g}{at_edge(choice.edge)}",
                *by_epoch,
                "-" if choice.epoch is None else str(choice.epoch),
                chosen,
                f"{sum(r.diverged for r in of_method)}/{len(of_method)}",
            )
        )
    return header, found


def errors_at(results: Sequence[Result], epoch: int | None) -> list[float]:
    """Return the errors after an epoch, of the runs that reached it; none if there is no epoch."""
    if epoch is None:
        return []
    return [errors(result)[epoch] for result in results if len(errors(result)) > epoch]


def tidy(results: Sequence[Result]) -> pd.DataFrame:
    """Return a row for each run and epoch, of which 0 is before training."""
    return pd.DataFrame(
        {
            "method": result.run.method,
            "seed": result.run.seed,
            "learning_rate": result.run.settings.learning_rate,
            "epoch": epoch,
            "test_mse": value,
        }
        for result in results
        for epoch, value in enumerate(errors(result))
    )


def differences_of(frame: pd.DataFrame, choices: Mapping[str, Choice], epochs: int) -> pd.DataFrame:
    """Return the differences at the last epoch and at the chosen ones: those tested, then others.

    Args:
        frame: of :func:`tidy`.
        choices: by method.
        epochs: the number of the last one.
    """
    chosen = frame["epoch"] == frame["method"].map({m: c.epoch for m, c in choices.items()})
    measured = pd.concat(
        [
            frame[frame["epoch"] == epochs].assign(quantity=f"test MSE, epoch {epochs}"),
            frame[chosen].assign(quantity="test MSE, chosen epoch"),
        ]
    ).rename(columns={"test_mse": "value"})
    return pd.concat(
        [
            paired.differences(measured, TESTED),
            paired.differences(measured, SHOWN_PAIRS, tested=False),
        ],
        ignore_index=True,
    )


def report(
    options: Options, choices: Mapping[str, Choice], results: Sequence[Result]
) -> list[Section]:
    """Return the errors by epoch, and the differences between methods."""
    if not results:
        return []
    frame = tidy(results)
    rates = ", ".join(f"{rate:g}" for rate in options.learning_rates)
    remarks = [
        f"{options.dataset}, MLP with ReLU and dropout: mean squared error on the test split, mean "
        f"± sample standard deviation over the seeds 0 to {options.seeds - 1}, each with a split "
        f"of its own. Rewards and losses: {options.told('reduction', options.methods)} over "
        f"batches of {options.batch_size}.",
        f"Learning rates, where they are not given: from {rates} by the mean error on the "
        f"validation split after {options.epochs} epochs, {options.sweep_seeds} seeds. Chosen "
        "epoch: the one with the lowest mean error there.",
        *edge_notes(choice.edge for choice in choices.values()),
    ]
    lines = error_lines(results, choices, options.epochs)
    note = "Tested is what the code says beforehand: every method against sgd, at both epochs."
    panels = {
        options.dataset: {
            method: Curve.of(range(1, options.epochs + 1), [errors(r)[1:] for r in runs])
            for method, runs in of_methods(results).items()
        }
    }
    by_epoch = Figure(
        "Test error by epoch." + curves.left_out(panels, curves.lowest_end),
        partial(
            curves.png,
            panels,
            curves.lowest_end,
            across="epoch",
            up="test MSE",
            title=f"{options.dataset}: {seeds_of(options.seeds, 'mean and range')}",
        ),
        "png",
        "test-error-by-epoch",
    )
    differences = differences_of(frame, choices, options.epochs)
    return [
        Section(
            "Regression",
            tables=[Table("errors", "Test error", lines, frame, remarks)],
            figures=[by_epoch] if curves.any_line(panels) else [],
        ),
        *paired.sections(differences, digits=3, note=note),
    ]
