"""The report: losses at the rates that validation chooses."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import mean
from typing import Any

import pandas as pd

from benchmarks.analysis.feedback import between
from benchmarks.experiments.language.options import EVALUATIONS, Arm, Options
from benchmarks.experiments.language.runs import steps_at
from benchmarks.experiments.language.text import corpus, entropy
from benchmarks.rendering import curves
from benchmarks.rendering.curves import Curve, Curves
from benchmarks.rendering.document import Figure, Section, Table
from benchmarks.rendering.text import Lines, edge_notes, seeds_of, spread
from benchmarks.runs.run import Result
from benchmarks.runs.tuning import edge_of

#: What the models are called in a title.
NAMES = {"gpt": "GPT", "llama": "Llama"}
#: What a reader of the columns on the first step has to know.
START = (
    "Over |w| dL/dw, and cosine: of the whole feedback in the first step, least and largest of the "
    "seeds. By depth: the norm of each block's feedback then over that of the first block's, mean "
    "of the seeds; for the gradient, of |w| dL/dw."
)


def chosen(arm: Arm, tried: Mapping[float, Sequence[Result]]) -> dict[str, Any]:
    """Return the arm's rate with the least validation loss, and the losses there.

    Args:
        arm: whose runs they are.
        tried: results by learning rate.

    Returns:
        A row of the report; the losses of a diverged run are None.
    """

    def total(rate: float) -> float:
        return sum(math.inf if r.diverged else r.validation or 0.0 for r in tried[rate])

    rates = sorted(tried)
    best = min(rates, key=total)
    return {
        **arm._asdict(),
        "learning_rate": best,
        "at_edge": edge_of(rates, best) is not None,
        "validation_losses": [[e.validation for e in r.history[1:]] for r in tried[best]],
        "validation_loss": [r.history[-1].validation for r in tried[best]],
        "test_loss": [r.history[-1].test for r in tried[best]],
        "at_start": [r.details for r in tried[best] if r.details],
    }


def report(options: Options, rows: Sequence[dict[str, Any]]) -> list[Section]:
    """Return the losses of the rows that :func:`chosen` returns."""
    text = corpus()
    remarks = [
        "Losses in nats a character, mean ± sample standard deviation, seeds: "
        f"{options.seeds}; after {options.steps} steps of {options.batch} sequences of "
        f"{options.context} characters.",
        f"Guessing evenly among the {text.characters} characters costs "
        f"{math.log(text.characters):.2f}, and by their frequency {entropy(text):.2f}.",
        "The learning rate was chosen for each arm by its validation loss, out of "
        + "; ".join(f"{n}: {r}" for n, r in options.learning_rates.items())
        + ".",
        *([START] if rows and all(map(_knows_its_start, rows)) else []),
        *edge_notes(row["at_edge"] for row in rows),
    ]
    frame = pd.DataFrame(
        {
            **{name: row[name] for name in (*Arm._fields, "learning_rate", "at_edge")},
            "seed": seed,
            "validation_loss": row["validation_loss"][seed],
            "test_loss": row["test_loss"][seed],
        }
        for row in rows
        for seed in range(len(row["test_loss"]))
    )
    panels, seeds = panels_of(rows, options), seeds_of(options.seeds, "mean and range")
    by_step = Figure(
        "Validation loss by step." + curves.left_out(panels, curves.lowest_end),
        partial(
            curves.png,
            panels,
            curves.lowest_end,
            across="step",
            up="validation loss (nats a character)",
            title=f"A small {NAMES[options.model]} by optimiser: {seeds}",
        ),
        "png",
        "validation-loss-by-step",
    )
    one = Table("losses", "Losses at the chosen rates", lines(rows), frame, remarks)
    return [Section("Language", tables=[one], figures=[by_step])]


def panels_of(rows: Sequence[dict[str, Any]], options: Options) -> dict[str, Curves]:
    """Return the validation losses of the rows that :func:`chosen` returns, by step."""
    steps = [steps_at(epoch, options.steps) for epoch in range(1, EVALUATIONS + 1)]
    panels: dict[str, dict[str, Curve]] = {name: {} for name in options.optimizers}
    several = _has_several_normalisations(rows)
    for row in rows:
        own = [
            row["method"],
            *([f"{row['epsilon']:g}", row["attention"]] if row["attention"] else []),
            *([row["normalisation"]] if row["normalisation"] and several else []),
        ]
        # A diverged run has no values from somewhere on.
        panels[row["optimizer"]][" ".join(own)] = Curve.of(steps, row["validation_losses"])
    return dict(panels)


def lines(rows: Sequence[dict[str, Any]]) -> Lines:
    """Return the table of the rows that :func:`chosen` returns."""
    several, begun = _has_several_normalisations(rows), all(map(_knows_its_start, rows))
    header = (
        *("method", "optimiser", "epsilon", "attention"),
        *(["normalisation"] if several else []),
        *("rate", "validation loss", "test loss"),
        *(["over |w| dL/dw", "cosine", "by depth"] if begun else []),
    )
    return header, [
        (
            row["method"],
            row["optimizer"],
            "-" if row["epsilon"] is None else f"{row['epsilon']:g}",
            row["attention"] or "-",
            *([row["normalisation"] or "-"] if several else []),
            f"{row['learning_rate']:g}" + (" (edge)" if row["at_edge"] else ""),
            told(row["validation_loss"]),
            told(row["test_loss"]),
            *(_start(row) if begun else []),
        )
        for row in rows
    ]


def _has_several_normalisations(rows: Sequence[Mapping[str, Any]]) -> bool:
    return len({row["normalisation"] for row in rows if row["method"] == "lfp"}) > 1


def _knows_its_start(row: Mapping[str, Any]) -> bool:
    """Return whether all runs of a row have measured what their first batch feeds back."""
    return len(row["at_start"]) == len(row["test_loss"])


def _start(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what the first batch feeds back: of the whole model, then by depth."""
    runs = row["at_start"]
    depths = zip(*(run["by_depth"] for run in runs), strict=True)
    of_lfp = row["method"] == "lfp"
    return (
        between([run["ratio"] for run in runs], ".2g") if of_lfp else "-",
        between([run["cosine"] for run in runs], ".2f") if of_lfp else "-",
        ", ".join("not finite" if None in d else f"{mean(d):.2f}" for d in depths),
    )


def told(losses: Sequence[float | None]) -> str:
    """Return mean ± sample standard deviation; None is the loss of a diverged run."""
    finite = [loss for loss in losses if loss is not None]
    return spread(finite, 3) if len(finite) == len(losses) else "diverged"
