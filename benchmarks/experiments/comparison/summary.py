"""What a study found, as data frames and as lines of tables."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import pandas as pd

from baselines import METHODS
from baselines.options import fields_of
from benchmarks.analysis.statistics import (
    FEWEST_SEEDS,
    SIGNIFICANCE,
    compare,
    holm,
    median_half_width,
)
from benchmarks.costs.memory import MEGABYTE
from benchmarks.experiments.comparison.study import Cell, Outcome, Study
from benchmarks.experiments.options import DECIDED
from benchmarks.models import ACTIVATIONS
from benchmarks.rendering.text import (
    EDGE,
    NEAR_EDGE,
    Lines,
    at_edge,
    interval,
    mean_and_deviation,
    number,
    said,
    seeds_of,
)
from benchmarks.runs.tuning import FIRST_SWEEP_SEED, Choice

#: What all other methods are tested against.
REFERENCE = "lfp"


def summarise(outcome: Outcome) -> pd.DataFrame:
    """Return one row for each activation and method, in the study's order.

    The standard deviation is that of a sample (ddof = 1), NaN for one seed. Where the method does
    not go with the activation, `refusal` says why and there are no numbers; nor are there any for
    what is not made yet. `missing` counts the reported runs that are still to come.
    """
    finals = outcome.runs[outcome.runs["kind"] == "final"]
    rows = []
    for cell in outcome.study.cells:
        of_cell = finals[
            (finals["activation"] == cell.activation) & (finals["method"] == cell.method)
        ]
        rows.append(
            {
                "activation": cell.activation,
                "method": cell.method,
                "refusal": cell.refusal or "",
                "remark": "" if cell.refusal else cell.remark,
                "seeds": len(of_cell),
                "missing": 0 if cell.refusal else outcome.study.seeds - len(of_cell),
                "test_accuracy_mean": of_cell["test_accuracy"].mean(),
                "test_accuracy_std": of_cell["test_accuracy"].std(ddof=1),
                "training_seconds": of_cell["seconds"].mean(),
                "spikes": of_cell["spikes"].mean(),
                "feedback_norm_max": of_cell["feedback_norm_max"].max(),
                "overflowed": of_cell["overflowed"].sum() / max(of_cell["steps"].sum(), 1),
                "diverged": int(of_cell["diverged"].sum()),
                **_cost(outcome, cell, of_cell["steps"]),
            }
        )
    return pd.DataFrame(rows)


def _cost(outcome: Outcome, cell: Cell, steps: "pd.Series[int]") -> dict[str, Any]:
    """Return what a step of the cell costs and with which options, as far as either is known."""
    choice, cost = outcome.choices.get(cell), outcome.costs.get(cell)
    tunable = not METHODS[cell.method].learning_rate
    return {
        "learning_rate": choice.learning_rate if choice and tunable else None,
        "learning_rate_edge": choice.edge if choice else None,
        "other_options": _other_options(outcome, cell, steps),
        "sample_seconds": cost.seconds / cost.samples if cost else None,
        "sample_time_ratio": cost.time_ratio if cost else None,
        "peak_bytes": cost.peak_bytes if cost else None,
        "peak_ratio": cost.peak_ratio if cost else None,
        "macs": cost.macs if cost else None,
    }


def _other_options(outcome: Outcome, cell: Cell, steps: "pd.Series[int]") -> str:
    """Return as text what trials chose besides the rate, and what the method wants to be told.

    Args:
        outcome: of the study.
        cell: the line of the table.
        steps: of its reported runs; 0 where older code did not record them.
    """
    study, method, choice = outcome.study, METHODS[cell.method], outcome.choices.get(cell)
    if choice is None or steps.empty:
        return ""
    tried = study.trials is not None and bool(study.tried(cell.method))
    chosen = study.searched[cell.method] if tried else ()
    names = [n for n in dict.fromkeys([*method.shown, *chosen]) if n != "learning_rate"]
    found = told(choice, names)
    if method.steps_name and steps.min() > 0:
        low, high = steps.min(), steps.max()
        found.append(f"{method.steps_name} {low if low == high else f'{low} to {high}'}")
    return ", ".join(found)


def told(choice: Choice, names: Iterable[str]) -> list[str]:
    """Return the chosen values of options as text, each with its name."""
    values = {name: getattr(choice.settings, name) for name in names}
    return [
        f"{name} {f'{value:g}' if isinstance(value, float) else value}"
        f"{at_edge(choice.edges.get(name))}"
        for name, value in values.items()
    ]


def comparisons(outcome: Outcome) -> pd.DataFrame:
    """Return one row for each method but LFP with each activation that both were trained with.

    Differences are of test accuracies in [0, 1], seed by seed
    (:mod:`benchmarks.analysis.statistics`). Holm's correction is for all rows together. There is no
    row without LFP in the study, and seeds that only one of the two methods has do not count.
    """
    accuracies: dict[Cell, dict[int, float]] = defaultdict(dict)
    for stored in outcome.results:
        run, accuracy = stored.result.run, stored.result.test
        if run.kind == "final" and accuracy is not None:
            accuracies[Cell(run.activation, run.method)][run.seed] = accuracy
    rows = []
    for cell in outcome.study.trained:
        ours, lfps = accuracies[cell], accuracies[Cell(cell.activation, REFERENCE)]
        both = sorted(ours.keys() & lfps.keys())
        if cell.method == REFERENCE or not both:
            continue
        found = compare([ours[seed] for seed in both], [lfps[seed] for seed in both])
        rows.append(
            {
                "activation": cell.activation,
                "method": cell.method,
                "seeds": found.seeds,
                "difference": found.difference,
                "low": found.interval.low,
                "high": found.interval.high,
                "effect": found.effect,
                "p": found.p,
            }
        )
    frame = pd.DataFrame(rows)
    if rows:
        frame["p_holm"] = holm(frame["p"].tolist())
    return frame


def comparison_lines(comparisons: pd.DataFrame) -> Lines:
    """Return the comparisons as text; a star is for what is significant after the correction."""
    header = ("activation", "method", "difference", "95% interval", "effect", "p", "p (Holm)")
    found = [
        (
            row["activation"],
            row["method"],
            number(100 * row["difference"], "+.1f") + ("*" if _significant(row) else ""),
            interval(row["low"], row["high"], "+.1f", 100),
            number(row["effect"], "+.1f"),
            number(row["p"], ".2g"),
            number(row["p_holm"], ".2g"),
        )
        for row in comparisons.to_dict("records")
    ]
    return said((header, found))


def comparison_notes(study: Study, comparisons: pd.DataFrame) -> list[str]:
    """Return what a reader of the comparisons has to know."""
    least = 2 ** (1 - study.seeds)
    if study.seeds < FEWEST_SEEDS:
        fewest = " That is too few for any test."
    elif least * len(comparisons) > SIGNIFICANCE:
        fewest = f" With {len(comparisons)} rows, the correction leaves none below that."
    else:
        fewest = ""
    found = [
        f"Test accuracy minus that of {REFERENCE}, in percentage points, in pairs with the same "
        f"seed: mean, Student's interval, mean over standard deviation (Cohen's d_z), and the "
        f"two-sided p of a sign-flip permutation test, also with Holm's correction for all rows. "
        f"(*): at most {SIGNIFICANCE:g} after it; p is at least {least:g} with "
        f"{seeds_of(study.seeds)}.{fewest}",
        "A diverged run counts with the last accuracy it reached.",
    ]
    smallest = 100 * median_half_width(comparisons)
    if smallest > 0:
        found.append(
            f"The smallest difference that these seeds could have shown: {smallest:.1f} points, "
            "the median of the half-widths of the intervals."
        )
    return found


def _significant(row: Mapping[Hashable, Any]) -> bool:
    """Return whether the row deserves a star; fewer than three seeds have a p of NaN."""
    return bool(row["p_holm"] <= SIGNIFICANCE)


def lines(summary: pd.DataFrame) -> Lines:
    """Return the summary as text."""
    others = ["other options"] if summary["other_options"].any() else []
    header = (
        "activation",
        "method",
        "test accuracy %",
        "learning rate",
        *others,
        "µs / sample",
        "time / SGD",
        "peak MB",
        "memory / SGD",
        "kMAC / sample",
        "spikes / sample",
        "training s",
        "largest norm",
        "diverged",
    )
    return header, [
        (
            row["activation"],
            row["method"],
            _accuracy(row),
            number(row["learning_rate"], "g") + at_edge(row["learning_rate_edge"]),
            *([row["other_options"] or "-"] if others else []),
            number(row["sample_seconds"], ".3g", 1e6),
            number(row["sample_time_ratio"], ".2f"),
            number(row["peak_bytes"], ".2f", 1 / MEGABYTE),
            number(row["peak_ratio"], ".2f"),
            number(row["macs"], ".4g", 1e-3),
            number(row["spikes"], ".0f"),
            number(row["training_seconds"], ".3g"),
            _largest_norm(row),
            f"{row['diverged']}/{row['seeds']}" if row["seeds"] else "-",
        )
        for row in summary.to_dict("records")
    ]


def _largest_norm(row: Mapping[Hashable, Any]) -> str:
    """Return the largest finite norm, and in how many steps it was infinite."""
    over = f" (overflow in {100 * row['overflowed']:.2g}% of steps)" if row["overflowed"] else ""
    return number(row["feedback_norm_max"], ".2g") + over


def _accuracy(row: Mapping[Hashable, Any]) -> str:
    """Return the accuracy with what is special about it, or why there is none."""
    if row["refusal"]:
        return f"- ({row['refusal']})"
    if not row["seeds"]:
        return "- (not made yet)"
    remarks = [row["remark"]] if row["remark"] else []
    if row["missing"]:
        remarks.append(f"{row['seeds']} of {row['seeds'] + row['missing']} seeds")
    told = f" ({'; '.join(remarks)})" if remarks else ""
    return mean_and_deviation(row["test_accuracy_mean"], row["test_accuracy_std"]) + told


def notes(outcome: Outcome, summary: pd.DataFrame) -> list[str]:
    """Return what a reader of the table has to know."""
    study = outcome.study
    found = [
        f"{study.dataset}, {study.model}: test accuracy after {study.epochs} epochs with batches "
        f"of {study.batch_size}, {_over(study.seeds)}; a diverged run counts with the last "
        "accuracy it reached.",
        *_note_on_the_optimizer(study),
        *_note_on_options(study),
        *_notes_on_rates(study, summary),
        "Time: of training, median of interleaved steps. Memory: the most that model, optimiser, "
        "batch and a step take together. MAC: multiply-accumulates of products and convolutions in "
        "a training step. Largest norm: of the feedback of any step, before clipping.",
        *(
            f"Batches of {METHODS[method].batch_size}: {method}."
            for method in study.methods
            if METHODS[method].batch_size
        ),
        *(f"Time budget: {seconds:g} s, {method}." for method, seconds in study.budgets.items()),
    ]
    if summary["overflowed"].any():
        found.append(
            "Overflow: the norm is more than float32 holds. Clipping multiplies such a feedback by "
            "0, so the step is that of momentum alone, and the run goes on."
        )
    if not all(ACTIVATIONS[name].differentiable for name in study.activations):
        found.append(
            "No gradient passes a Heaviside step or a spike: with these, methods that need one "
            "train the last layer alone or nothing, and ratios are to SGD's step with ReLU."
        )
    if neurons := [name for name in study.activations if ACTIVATIONS[name].spiking]:
        spiking = study.spiking
        found.append(
            f"{', '.join(neurons)}: beta {spiking.beta:g}, T = {spiking.steps}, "
            f"{spiking.encoding} input; spikes of a validation sample after training, the input's "
            "included."
        )
    return found + _notes_on_dead_parameters(outcome)


def _notes_on_dead_parameters(outcome: Outcome) -> list[str]:
    """Say what LFP could not train from the start, once for all activations that are alike."""
    runs = [s.result for s in outcome.results if s.result.run.method == "lfp"]
    dead = {str(r.dead_at_start) for r in runs if r.dead_at_start and r.dead_at_start.names}
    return [f"Before training with lfp: {found}." for found in sorted(dead)]


def _note_on_the_optimizer(study: Study) -> list[str]:
    return [
        f"Optimiser: {name}, which takes the p.grad of {', '.join(methods)}; "
        "sgd names the plain gradient."
        for name, methods in study.optimized.items()
        if name != "sgd"
    ]


def _note_on_options(study: Study) -> list[str]:
    """Name the options that are not the methods' defaults; the optimiser has a note of its own."""
    found: dict[str, list[str]] = {}
    for method in study.methods:
        settings = study.settings[method]
        for name, field in fields_of(type(settings)).items():
            value = getattr(settings, name)
            if name not in (*DECIDED, "optimizer") and value != field.default:
                found.setdefault(f"{name} {value}", []).append(method)
    told = "; ".join(f"{option} ({', '.join(methods)})" for option, methods in found.items())
    return [f"Options that are not the defaults: {told}."] if told else []


def _notes_on_rates(study: Study, summary: pd.DataFrame) -> list[str]:
    found = []
    if study.fixed_rates:
        given = ", ".join(f"{name} {rate:g}" for name, rate in study.fixed_rates.items())
        found.append(f"Learning rates given: {given}.")
    if any(study.tried(cell.method) for cell in study.trained):
        chosen = (
            f"by the mean validation accuracy after {study.sweep_epochs} epochs with "
            f"{_seeds(FIRST_SWEEP_SEED, study.sweep_seeds)}{finalists_told(study)}."
        )
        if study.trials is None:
            grid = ", ".join(f"{rate:g}" for rate in study.rates)
            found.append(f"Learning rates: chosen from {grid} {chosen}")
        else:
            found.append(
                f"Options: chosen for each method and activation from {study.trials} trials, the "
                f"points of a scrambled Sobol sequence in its own space, {chosen} Spaces: "
                f"{_spaces(study)}."
            )
    edges = {
        "learning_rate": summary["learning_rate_edge"].notna(),
        "other_options": summary["other_options"].str.contains("(edge)", regex=False),
    }
    at_ends = summary[edges["learning_rate"] | edges["other_options"]]
    if len(at_ends):
        cells = ", ".join(
            " ".join(filter(None, (row["activation"], row["method"], _end(row))))
            for row in at_ends.to_dict("records")
        )
        found.append(f"{EDGE if study.trials is None else NEAR_EDGE}: {cells}.")
    return found


def finalists_told(study: Study) -> str:
    """Return how the best trials are told apart, if with more seeds."""
    if not study.finalists:
        return ""
    return f", and of the best {study.finalists} with {_seeds(FIRST_SWEEP_SEED, study.seeds)}"


def _end(row: Mapping[Hashable, Any]) -> str:
    # Beside others, None is NaN in a data frame.
    return f"({row['learning_rate_edge']})" if pd.notna(row["learning_rate_edge"]) else ""


def _spaces(study: Study) -> str:
    """Return the spaces of methods, of which several may have the same."""
    methods: dict[str, list[str]] = {}
    for method in study.methods:
        if study.tried(method):
            search = study.settings[method].space()
            told = ", ".join(f"{name} {search[name]}" for name in study.searched[method])
            methods.setdefault(told, []).append(method)
    return "; ".join(f"{', '.join(names)}: {space}" for space, names in methods.items())


def _over(seeds: int) -> str:
    """Return what a number of the table is, of so many reported runs."""
    spread = "mean ± sample standard deviation over " if seeds > 1 else "of "
    return spread + _seeds(0, seeds)


def _seeds(first: int, count: int) -> str:
    return f"seed {first}" if count == 1 else f"seeds {first} to {first + count - 1}"
