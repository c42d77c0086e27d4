"""The report: accuracy after pruning, differences between methods, and what the weights are."""

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import mean

import pandas as pd

from benchmarks.analysis import paired
from benchmarks.experiments.pruning.options import Options
from benchmarks.experiments.pruning.runs import CRITERIA, Pruned
from benchmarks.rendering import curves
from benchmarks.rendering.curves import Curve, Curves
from benchmarks.rendering.document import Figure, Section, Table
from benchmarks.rendering.text import Lines, at_edge, edge_notes, seeds_of, spread
from benchmarks.runs.run import Result
from benchmarks.runs.tuning import Choice

#: The criterion that is tested.
PRIMARY = "magnitude, all layers"


#: Pairs whose differences are of interest, where the study has both.
PAIRS = (("lfp", "sgd"), ("wsgd", "sgd"), ("lfp", "wsgd"))


#: Accuracy that may be lost before a network counts as damaged.
TOLERANCE = 0.05


SHOWN = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)  # shares in the table


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


def curves_of(results: Sequence[Result], shares: Sequence[float]) -> pd.DataFrame:
    """Return a row for each run and criterion: the two summaries of its curve, and the curve."""
    return pd.DataFrame(
        {
            "method": result.run.method,
            "seed": result.run.seed,
            "learning_rate": result.run.settings.learning_rate,
            "criterion": criterion,
            "mean_accuracy": mean(result.details["accuracy"][criterion]),
            "tolerated": tolerated(shares, result.details["accuracy"][criterion]),
            **dict(zip(map(column, shares), result.details["accuracy"][criterion], strict=True)),
        }
        for criterion in CRITERIA
        for result in results
    )


def column(share: float) -> str:
    """Return the name of the column with the accuracies at a share.

    >>> column(0.05)
    '5%'
    """
    return f"{100 * share:g}%"


def layers_of(results: Sequence[Result]) -> pd.DataFrame:
    """Return a row for each run and layer."""
    return pd.DataFrame(
        {"method": result.run.method, "seed": result.run.seed, **layer}
        for result in results
        for layer in result.details["layers"]
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


def unpruned(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracies at the share 0, in percent, for :func:`paired.differences`."""
    once = frame[frame["criterion"] == PRIMARY]
    values = once[["method", "seed"]].assign(value=100 * once[column(0)])
    return values.assign(quantity="accuracy % without pruning")


def differences_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the differences of both summaries: those of :data:`PRIMARY` tested, then the rest.

    The rest begins with the accuracies before pruning, which should be level.
    """
    primary = frame["criterion"] == PRIMARY
    return pd.concat(
        [
            paired.differences(measured(frame[primary]), PAIRS),
            paired.differences(unpruned(frame), PAIRS, tested=False),
            paired.differences(measured(frame[~primary]), PAIRS, tested=False),
        ],
        ignore_index=True,
    )


def training_of(results: Sequence[Result]) -> pd.DataFrame:
    """Return a row for each run: how long it was trained, and what it reached."""
    return pd.DataFrame(
        {
            "method": result.run.method,
            "seed": result.run.seed,
            "epochs": len(result.history) - 1,
            "train_loss": result.train_loss,
            "test_accuracy": result.test,
            "at_rest": isinstance(result.run, Pruned) and result.run.ended(result.history),
        }
        for result in results
    )


def training_lines(frame: pd.DataFrame) -> Lines:
    """Return how networks were trained as text, a row for each method."""
    header = ("method", "epochs", "training loss", "test accuracy %", "converged")
    return header, [
        (
            str(method),
            spread(of_method["epochs"].tolist(), 1),
            spread(of_method["train_loss"].tolist(), 4),
            spread((100 * of_method["test_accuracy"]).tolist(), 1),
            f"{of_method['at_rest'].sum()}/{len(of_method)}",
        )
        for method, of_method in frame.groupby("method", sort=False)
    ]


def layer_lines(layers: pd.DataFrame) -> Lines:
    """Return as text how unequal the weights are, a row for each method and layer."""
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


def correlations_of(results: Sequence[Result]) -> pd.DataFrame:
    """Return the rank correlations of |w| with what is lost without w, a row for each run."""
    return pd.DataFrame(
        {"method": result.run.method, "seed": result.run.seed, **result.details["correlation"]}
        for result in results
    )


def correlation_lines(frame: pd.DataFrame) -> Lines:
    """Return the correlations as text, a row for each method."""
    header = ("method", "with loss", "with lost accuracy")
    rows = []
    for method, of_method in frame.groupby("method", sort=False):
        found = [of_method[kind].dropna().tolist() for kind in ("loss", "accuracy")]
        rows.append((str(method), *(spread(values, 2) if values else "-" for values in found)))
    return header, rows


def panels_of(frame: pd.DataFrame, shares: Sequence[float]) -> dict[str, Curves]:
    """Return accuracy against sparsity, both in percent, by criterion and method."""
    names, percent = [column(share) for share in shares], [100 * share for share in shares]
    return {
        str(criterion): {
            str(method): Curve.of(percent, (100 * of_both[names]).to_numpy().tolist())
            for method, of_both in of_criterion.groupby("method", sort=False)
        }
        for criterion, of_criterion in frame.groupby("criterion", sort=False)
    }


def report(
    options: Options, choices: Mapping[str, Choice], results: Sequence[Result]
) -> list[Section]:
    """Return the accuracies after pruning, their differences, and what the weights are."""
    study, shares = options.study(), options.shares
    healthy = [result for result in results if not result.diverged]
    if results and not healthy:
        raise ValueError("learning_rate: all runs diverged, so there is nothing to prune")
    if not healthy:
        return []
    examples = max(result.details["examples"] for result in healthy)
    remarks = [
        f"{study.dataset}, {study.model}: accuracy on {examples} test "
        "examples after pruning, mean ± sample standard deviation over the seeds 0 to "
        f"{study.seeds - 1}, without any training in between. Weights of linear and convolutional "
        "layers, ranked once; see `benchmarks/analysis/sparsity.py`.",
        f"Mean: over the shares {column(shares[0])} to {column(shares[-1])} in steps of "
        f"{column(options.step)}. Tolerated: the largest share up to which at most "
        f"{100 * TOLERANCE:g} points of accuracy are lost.",
        f"Diverged, and left out: {len(results) - len(healthy)} of {len(results)} runs.",
        *edge_notes(choice.edge for choice in choices.values()),
    ]
    frame, layers, correlations = (
        curves_of(healthy, shares),
        layers_of(healthy),
        correlations_of(healthy),
    )
    training = training_of(healthy)
    of_tests = (
        f"Tested is what the code says beforehand: {PRIMARY}, the paper's claim. The other "
        "criteria have intervals alone, as correcting for all rows would ask for more seeds."
    )
    of_layers = "Small: weights under a quarter of the layer's largest. Gini: 0 if all are equal."
    of_removal = (
        "Spearman's rank correlation of |w| with the increase of the cross-entropy, or the loss "
        f"of accuracy, when one of {options.removed} weights is removed alone. Accuracy is coarse: "
        "most weights alone cost none."
    )
    lines = accuracy_lines(frame, shares, choices)
    panels = panels_of(frame, shares)
    curve = Figure(
        "Test accuracy against the share of the weights that is pruned."
        + curves.left_out(panels, curves.highest),
        partial(
            curves.png,
            panels,
            curves.highest,
            across="weights pruned (%)",
            up="test accuracy (%)",
            title=f"{study.dataset}, {study.model}: {seeds_of(study.seeds, 'mean and range')}",
        ),
        "png",
        "accuracy-by-sparsity",
    )
    return [
        Section(
            "Pruning",
            tables=[
                Table("curves", "Accuracy after pruning", lines, frame, remarks),
                Table(
                    "training",
                    "Training before pruning",
                    training_lines(training),
                    training,
                    [options.trained],
                ),
            ],
            figures=[curve],
        ),
        *paired.sections(differences_of(frame), digits=1, note=of_tests, unit="points"),
        Section(
            "Weights",
            tables=[
                Table("layers", "Weights of the layers", layer_lines(layers), layers, [of_layers]),
                Table(
                    "correlations",
                    "Magnitude and what is lost",
                    correlation_lines(correlations),
                    correlations,
                    [of_removal],
                ),
            ],
        ),
    ]
