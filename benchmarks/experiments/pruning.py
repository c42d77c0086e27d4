"""Do networks that were trained by LFP lose more weights before they lose accuracy?

The experiment `pruning` of study files: every method trains networks, at learning rates that were
chosen on the validation split, which then are pruned in small steps
(:mod:`benchmarks.analysis.sparsity`).

What is tested is decided here, for all studies: the two summaries of the curve by magnitude over
all layers, for each of :data:`PAIRS`. These are the paper's claim, that LFP leaves many weights
small enough to be left out. Magnitude per layer and relevance are shown with intervals alone:
Holm's correction for all 24 rows would ask of each a p that eight seeds cannot reach (2/2^8 at
least). A first run with the same eight seeds of swirls and digits had been seen before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from math import ceil
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import pandas as pd
import torch
from pydantic import Field

from baselines import FeedbackSettings
from benchmarks.analysis import paired, sparsity
from benchmarks.analysis.sparsity import Scope
from benchmarks.data import Dataset, Split
from benchmarks.experiments import comparison
from benchmarks.experiments.base import Experiment, Place, Report, Status, recorded, rows
from benchmarks.experiments.comparison.study import Study, check, tune
from benchmarks.experiments.options import Names, Whole
from benchmarks.models import ACTIVATIONS
from benchmarks.rendering import curves
from benchmarks.rendering.text import Lines, at_edge, document, edge_notes, origins, spread
from benchmarks.runs.executors import dataset
from benchmarks.runs.inspection import inspect
from benchmarks.runs.run import Run
from benchmarks.runs.store import Store
from benchmarks.runs.training import train, untrained
from benchmarks.runs.tuning import Choice
from benchmarks.storage.checkpoint import Checkpoint
from benchmarks.storage.files import write
from benchmarks.storage.provenance import code_version
from benchmarks.storage.records import Record

#: By what weights are ranked, and among which others.
CRITERIA: dict[str, tuple[str, Scope]] = {
    "magnitude, all layers": ("magnitude", "global"),
    "magnitude, each layer": ("magnitude", "layer"),
    "relevance, all layers": ("relevance", "global"),
    "relevance, each layer": ("relevance", "layer"),
}
#: The criterion that is tested.
PRIMARY = "magnitude, all layers"
#: Pairs whose differences are of interest, where the study has both.
PAIRS = (("lfp", "sgd"), ("wsgd", "sgd"), ("lfp", "wsgd"))
#: Accuracy that may be lost before a network counts as damaged.
TOLERANCE = 0.05
SHOWN = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)  # shares in the table


class Options(comparison.Options):
    """How networks are trained, as in a comparison, and pruned.

    Attributes:
        step: the shares that are pruned are its multiples below 1, and 0.
        removed: how many weights are removed one at a time, for the correlation.
        examples: of the test split, on which pruned networks are measured; the first ones.
    """

    activations: Names = Field(default=["relu"])
    step: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    removed: Whole = 200
    examples: Whole = 10000

    @property
    def shares(self) -> list[float]:
        """The shares that are pruned, in ascending order."""
        # Up to rounding errors, so that 1 itself is none of them.
        return [round(i * self.step, 9) for i in range(ceil(1 / self.step - 1e-9))]

    def study(self) -> Study:
        """See `comparison.Options`; also refuses spiking networks, and several activations."""
        study = super().study()
        names = study.activations
        if len(names) != 1 or ACTIVATIONS[names[0]].spiking:
            raise ValueError(f"activations: {', '.join(names)}; allowed: one that does not spike")
        return study


class Pruning(Experiment[Options]):
    """Train, prune, measure; see the module."""

    schema = Options
    # The chosen rate is a place on an axis, and so is whatever decides it.
    axes = frozenset(
        {"methods", "seeds", "learning_rates", "learning_rate", "sweep_epochs", "sweep_seeds"}
    )

    @property
    def code(self) -> str:
        """See :class:`Experiment`; what prunes is in a module of its own."""
        return code_version(Path(__file__), Path(sparsity.__file__))

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        return options.study().runs

    def check(self, options: Options) -> None:
        """See :class:`Experiment`."""
        check(options.study())

    def model(self, options: Options) -> str:
        """See :class:`Experiment`."""
        return options.study().model

    def configuration(self, options: Options) -> dict[str, Any]:
        """See :class:`Experiment`; with all that a preset decides."""
        own = {field: getattr(options, field) for field in ("step", "removed", "examples")}
        return {**asdict(options.study()), **own}

    def status(self, options: Options, folder: Path) -> Status:
        """See :class:`Experiment`; a sweep's runs are in a :class:`Store`."""
        finals, study, store = super().status(options, folder), options.study(), Store(folder)
        wanted = [run for cell in study.trained for run in study.sweep(cell)]
        swept = [stored.result for run in wanted if (stored := store.load(run)) is not None]
        return finals._replace(
            done=finals.done + len(swept),
            diverged=finals.diverged + sum(result.divergence is not None for result in swept),
            of_other_code=finals.of_other_code + store.of_other_code(),
        )

    def carry_out(self, options: Options, folder: Path, place: Place) -> Report:
        """See :class:`Experiment`."""
        study, store, records = options.study(), Store(folder), self.records(options, folder)
        _, choices = tune(study, store, place.executor(folder), place.advance)
        found = []
        for cell, choice in choices.items():
            for run in study.final(cell, choice.learning_rate):
                make = partial(train_and_prune, run, options, place.device)
                found.append(recorded(run, make, store, records, place))
        by_method = {cell.method: choice for cell, choice in choices.items()}
        return write_report(folder, options, by_method, found, place.command)


def train_and_prune(
    run: Run, options: Options, device: torch.device, checkpoint: Checkpoint
) -> Record:
    """Return what a run measures; of a diverged one nothing is pruned."""
    data = dataset(run.dataset, run.seed, device.type)
    model = untrained(run, data, device)
    result = train(model, run, data, device, checkpoint)
    record = {
        "test accuracy": result.test_accuracy,
        "seconds": result.seconds,
        "diverged": result.divergence is not None,
        **result.dead,
    }
    if result.divergence is not None:
        return {**record, "examples": 0, "accuracy": {}, "layers": [], "correlation": {}}
    return {**record, **prune(model, data, run, options)}


def prune(model: torch.nn.Module, data: Dataset, run: Run, options: Options) -> Record:
    """Return the accuracies by criterion, in the order of the shares, and what the weights are."""
    whole = sparsity.merged(model)
    magnitudes = sparsity.magnitude(sparsity.weights_of(whole))
    epsilon = FeedbackSettings.of(options.settings("lfp")).epsilon
    relevance = sparsity.relevance(whole, data.train, epsilon)
    scores = {"magnitude": magnitudes, "relevance": relevance}
    some = Split(data.test.inputs[: options.examples], data.test.targets[: options.examples])
    return {
        "examples": len(some),
        "accuracy": {
            name: sparsity.curve(whole, scores[by], scope, options.shares, some)
            for name, (by, scope) in CRITERIA.items()
        },
        "layers": [
            {"layer": layer.name, "weights": layer.size, "gini": layer.gini, "small": layer.small}
            for layer in inspect(whole, data.train, data.classes).layers
        ],
        "correlation": asdict(sparsity.correlation(whole, some, options.removed, run.seed)),
    }


# --- the report -----------------------------------------------------------------------------------


def tolerated(shares: Sequence[float], accuracies: Sequence[float]) -> float:
    """Return the largest share up to which no more than :data:`TOLERANCE` of accuracy is lost.

    >>> tolerated([0.0, 0.5, 0.9], [0.97, 0.93, 0.5])
    0.5
    """
    fine = 0.0
    for share, accuracy in zip(shares, accuracies, strict=True):
        if accuracy < accuracies[0] - TOLERANCE:
            break
        fine = share
    return fine


def curves_of(records: Sequence[Record], shares: Sequence[float]) -> pd.DataFrame:
    """Return a row for each run and criterion: the two summaries of its curve, and the curve."""
    return pd.DataFrame(
        {
            "method": record["run"]["method"],
            "seed": record["run"]["seed"],
            "learning_rate": record["run"]["settings"]["learning_rate"],
            "criterion": criterion,
            "mean_accuracy": mean(record["accuracy"][criterion]),
            "tolerated": tolerated(shares, record["accuracy"][criterion]),
            **dict(zip(map(column, shares), record["accuracy"][criterion], strict=True)),
        }
        for criterion in CRITERIA
        for record in records
    )


def column(share: float) -> str:
    """Return the name of the column with the accuracies at a share.

    >>> column(0.05)
    '5%'
    """
    return f"{100 * share:g}%"


def layers_of(records: Sequence[Record]) -> pd.DataFrame:
    """Return a row for each run and layer."""
    return pd.DataFrame(
        {"method": record["run"]["method"], "seed": record["run"]["seed"], **layer}
        for record in records
        for layer in record["layers"]
    )


def accuracy_lines(
    frame: pd.DataFrame, shares: Sequence[float], choices: Mapping[str, Choice]
) -> Lines:
    """Return the accuracies as text, a row for each criterion and method."""
    shown = [column(share) for share in SHOWN if share in shares]
    header = ("criterion", "method", "learning rate", *shown, "mean", "tolerated %")
    return header, [
        (
            str(criterion),
            str(method),
            f"{of_both['learning_rate'].iloc[0]:g}{at_edge(choices[str(method)].edge)}",
            *(spread((100 * of_both[name]).tolist(), 1) for name in (*shown, "mean_accuracy")),
            spread((100 * of_both["tolerated"]).tolist(), 1),
        )
        for (criterion, method), of_both in frame.groupby(["criterion", "method"], sort=False)
    ]


def measured(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the two summaries of all curves, in percent, for :func:`paired.differences`."""
    summaries = {
        "mean_accuracy": "mean accuracy %, by ",
        "tolerated": "tolerated %, by ",
    }
    return pd.concat(
        pd.DataFrame(
            {
                "quantity": text + frame["criterion"],
                "method": frame["method"],
                "seed": frame["seed"],
                "value": 100 * frame[summary],
            }
        )
        for summary, text in summaries.items()
    )


def differences_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the differences of both summaries: those of :data:`PRIMARY` tested, then the rest."""
    primary = frame["criterion"] == PRIMARY
    return pd.concat(
        [
            paired.differences(measured(frame[primary]), PAIRS),
            paired.differences(measured(frame[~primary]), PAIRS, tested=False),
        ],
        ignore_index=True,
    )


def layer_lines(layers: pd.DataFrame) -> Lines:
    """Return what the weights are as text, a row for each method and layer."""
    header = ("method", "layer", "weights", "Gini index", "small %")
    return header, [
        (
            str(method),
            str(layer),
            str(of_layer["weights"].iloc[0]),
            spread(of_layer["gini"].tolist(), 3),
            spread((100 * of_layer["small"]).tolist(), 1),
        )
        for (method, layer), of_layer in layers.groupby(["method", "layer"], sort=False)
    ]


def correlation_lines(records: Sequence[Record]) -> Lines:
    """Return the rank correlations of |w| with what is lost without w, a row for each method."""
    header = ("method", "with loss", "with lost accuracy")
    rows = []
    for method in dict.fromkeys(record["run"]["method"] for record in records):
        found = [r["correlation"] for r in records if r["run"]["method"] == method]
        cells = []
        for kind in ("loss", "accuracy"):
            values = [c[kind] for c in found if c.get(kind) is not None]
            cells.append(spread(values, 2) if values else "-")
        rows.append((method, *cells))
    return header, rows


def figure(frame: pd.DataFrame, shares: Sequence[float], title: str) -> bytes:
    """Return accuracy against sparsity, a panel for each criterion."""
    names = [column(share) for share in shares]
    panels = {
        str(criterion): {
            str(method): of_both[names].to_numpy().tolist()
            for method, of_both in of_criterion.groupby("method", sort=False)
        }
        for criterion, of_criterion in frame.groupby("criterion", sort=False)
    }
    percent = [100 * share for share in shares]
    across, up = "weights pruned (%)", "test accuracy"
    return curves.png(panels, percent, across=across, up=up, title=title)


def write_report(
    folder: Path,
    options: Options,
    choices: Mapping[str, Choice],
    records: Sequence[Record],
    command: str,
) -> Report:
    """Write ``table.md``, ``accuracy-by-sparsity.png`` and the frames behind both as CSV."""
    study, shares = options.study(), options.shares
    healthy = [record for record in records if not record["diverged"]]
    remarks = [
        f"{study.dataset}, {study.model}: accuracy on {max(r['examples'] for r in records)} test "
        "examples after pruning, mean ± sample standard deviation over the seeds 0 to "
        f"{study.seeds - 1}. Trained for {study.epochs} epochs, and not again in between. Weights "
        "of linear and convolutional layers, ranked once; see `benchmarks/analysis/sparsity.py`.",
        f"Mean: over the shares {column(shares[0])} to {column(shares[-1])} in steps of "
        f"{column(options.step)}. Tolerated: the largest share up to which at most "
        f"{100 * TOLERANCE:g} points of accuracy are lost.",
        f"Diverged, and left out: {len(records) - len(healthy)} of {len(records)} runs.",
        *edge_notes(choice.edge for choice in choices.values()),
        *(f"Made on: {place}." for place in origins(r["environment"] for r in records)),
        f"Command: `{command}`",
    ]
    if not healthy:
        raise ValueError("learning_rate: all runs diverged, so there is nothing to prune")
    frame, layers = curves_of(healthy, shares), layers_of(healthy)
    differences = differences_of(frame)
    lines = accuracy_lines(frame, shares, choices)
    text = "# Accuracy after pruning\n\n" + document(lines, remarks)
    of_tests = (
        f"Tested is what the code says beforehand: {PRIMARY}, the paper's claim. The other "
        "criteria have intervals alone, as correcting for all rows would ask for more seeds."
    )
    text += paired.section(differences, digits=1, note=of_tests)
    of_layers = "Small: weights under a quarter of the layer's largest. Gini: 0 if all are equal."
    text += "\n# Weights of the layers\n\n" + document(layer_lines(layers), [of_layers])
    of_removal = (
        "Spearman's rank correlation of |w| with the increase of the cross-entropy, or the loss "
        f"of accuracy, when one of {options.removed} weights is removed alone. Accuracy is coarse: "
        "most weights alone cost none."
    )
    text += "\n# Magnitude and what is lost\n\n"
    text += document(correlation_lines(healthy), [of_removal])
    title = f"{study.dataset}, {study.model}: mean and range over {study.seeds} seeds"
    write(folder / "table.md", text.encode())
    write(folder / "accuracy-by-sparsity.png", figure(frame, shares, title))
    for name, content in (("curves", frame), ("layers", layers), ("paired", differences)):
        write(folder / f"{name}.csv", content.to_csv(index=False).encode())
    return Report(lines, remarks, rows(frame))
