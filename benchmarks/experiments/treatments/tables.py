"""The tables of the studies, and what a reader of them has to know."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean, stdev

from benchmarks.experiments.treatments.arms import BATCH, GATES
from benchmarks.experiments.treatments.trials import Budget
from benchmarks.rendering.text import Lines, at_edge, document, edge_notes, origins
from benchmarks.runs.tuning import edge_of
from benchmarks.storage.files import write
from benchmarks.storage.records import Record


def spread(values: Sequence[float | None], form: str = ".1f") -> str:
    """Return mean ± sample standard deviation; "not finite" if a value is none."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "not finite"
    deviation = stdev(known) if len(known) > 1 else 0.0
    return f"{mean(known):{form}} ± {deviation:{form}}"


def between(values: Sequence[float | None], form: str) -> str:
    """Return the least and the largest of some values, or "not finite" if one is none."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "not finite"
    low, high = f"{min(known):{form}}", f"{max(known):{form}}"
    return low if low == high else f"{low} to {high}"


def lines_of_norms(records: Sequence[Record]) -> Lines:
    """Return a line for each network and arm: ranges over the seeds."""
    header = ("network", "arm", "feedback over |w| dL/dw", "cosine")
    rows = []
    for name, arm in product(dict.fromkeys(r["model"] for r in records), GATES):
        if GATES[arm] is not None:
            found = [r["arms"][arm] for r in records if r["model"] == name]
            ratio = between([f["ratio"] for f in found], ".2g")
            cosine = between([f["cosine"] for f in found], ".2f")
            rows.append((name, arm, ratio, cosine))
    return header, rows


def lines_of_training(records: Sequence[Record]) -> Lines:
    """Return a line for each network and arm: what was chosen, and what that reaches."""
    header = ("network", "arm", "epsilon", "rate", "validation (%)", "test (%)", "diverged")
    return header, [row_of_training(record) for record in records]


def row_of_training(record: Record) -> tuple[str, ...]:
    """Return the line of one record."""
    best = record["chosen"]
    edge = edge_of({trial["rate"] for trial in record["trials"]}, best["rate"])
    return (
        record["network"],
        record["arm"],
        "-" if best["epsilon"] is None else f"{best['epsilon']:g}",
        f"{best['rate']:g}{at_edge(edge)}",
        f"{100 * mean(best['validation']):.1f}",
        spread([100 * value for value in record["test_accuracy"]]),
        f"{sum(epoch is not None for epoch in record['diverged'])}/{len(record['diverged'])}",
    )


def lines_of_llama(records: Sequence[Record]) -> Lines:
    """Return a line for each arm: losses, and the feedback at the start."""
    header = ("arm", "rate", "validation loss", "test loss", "over |w| dL/dw", "cosine", "by depth")
    return header, [row_of_llama(record) for record in records]


def row_of_llama(record: Record) -> tuple[str, ...]:
    """Return the line of one record."""
    best = record["chosen"]
    runs = [run for run in record["runs"] if run["rate"] == best]
    edge = edge_of({run["rate"] for run in record["runs"]}, best)
    depths = zip(*(run["by_depth"] for run in runs), strict=True)
    is_gradient = record["options"] is None
    return (
        record["arm"],
        f"{best:g}{at_edge(edge)}",
        *(spread([run[loss] for run in runs], ".3f") for loss in ("validation_loss", "test_loss")),
        "-" if is_gradient else between([run["ratio"] for run in runs], ".2g"),
        "-" if is_gradient else between([run["cosine"] for run in runs], ".2f"),
        ", ".join("not finite" if None in d else f"{mean(d):.2f}" for d in depths),
    )


def report(name: str, folder: Path, parts: Sequence[tuple[Lines, list[str]]]) -> str:
    """Write the tables of a study, each with what has to be known of it, and return them."""
    text = "\n".join(document(lines, remarks) for lines, remarks in parts)
    write(folder / f"{name}.md", text.encode())
    return text


def remarks_of(name: str, records: Sequence[Record]) -> list[str]:
    """Return where numbers were made, and with which command."""
    return [
        *(f"Made on: {o}." for o in origins([record["environment"] for record in records])),
        f"Command: `python -m benchmarks.experiments.treatments {name}`",
    ]


def remarks_on(name: str, budget: Budget, records: Sequence[Record]) -> list[str]:
    """Return how networks were trained."""
    trials = len(budget.rates) * len(budget.epsilons)
    edges = (
        edge_of({t["rate"] for t in r["trials"]}, r["chosen"]["rate"]) is not None for r in records
    )
    return [
        f"Digits, {budget.optimizer} with momentum 0.9, batches of {BATCH}, norm clipped to 3: "
        f"mean ± sample standard deviation of the test accuracy over {budget.seeds} seeds after "
        f"{budget.epochs} epochs. A diverged run counts with what it has become.",
        f"Each arm was chosen out of {trials} trials by validation accuracy, {budget.sweep_seeds} "
        f"other seeds after {budget.sweep_epochs} epochs: the rates "
        f"{', '.join(f'{r:g}' for r in budget.rates)} with the epsilons "
        f"{', '.join(f'{e:g}' for e in budget.epsilons)}; for the gradient {trials} rates evenly "
        "over the same decades.",
        *edge_notes(edges),
        *remarks_of(name, records),
    ]
