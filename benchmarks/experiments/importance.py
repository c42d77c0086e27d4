"""Do the magnitudes of trained weights tell how important they are?

The experiment `importance` of study files: every method trains networks until they have converged,
at options that were chosen on the validation split, and each of their weights is then removed alone
(:mod:`benchmarks.analysis.importance`). |w| is correlated with what is lost: by the authors'
metric, Pearson's coefficient with the magnitude of the change of accuracy, and by Spearman's, which
asks for no proportion, with that and with the increase of the loss. As layers differ in the size of
their weights, which alone can make or hide a correlation over all of them, both are given within
layers as well.

What is tested is decided here: the authors' metric, and Spearman's with the loss, over all weights,
for each of :data:`PAIRS`. The others have intervals alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

import pandas as pd
import torch

from benchmarks.analysis import importance, paired
from benchmarks.analysis.importance import Effects, by_rank, correlations, effects, weights_of
from benchmarks.data import Split
from benchmarks.experiments.base import Experiment, Found, Results
from benchmarks.experiments.comparison.choosing import choices
from benchmarks.experiments.comparison.choosing import plan as comparison_plan
from benchmarks.experiments.comparison.study import check
from benchmarks.experiments.converged import ConvergedOptions
from benchmarks.experiments.options import Whole
from benchmarks.rendering import curves
from benchmarks.rendering.curves import Curve
from benchmarks.rendering.document import Figure, Section, Table
from benchmarks.rendering.text import Lines, at_edge, edge_notes, number, seeds_of, spread
from benchmarks.runs.convergence import at_rest
from benchmarks.runs.run import Epoch, Result, Run, Task
from benchmarks.runs.training import classify, dataset, train, untrained
from benchmarks.runs.tuning import Edge
from benchmarks.storage.checkpoint import Checkpoint
from benchmarks.storage.provenance import code_version

#: Pairs whose differences are of interest, where the study has both.
PAIRS = (("lfp", "sgd"), ("wsgd", "sgd"), ("lfp", "wsgd"))
#: What is measured, by its name in the results.
METRICS = {
    "pearson_accuracy": "Pearson, |change of accuracy|",
    "spearman_accuracy": "Spearman, |change of accuracy|",
    "spearman_loss": "Spearman, increase of loss",
}
TESTED = ("pearson_accuracy", "spearman_loss")
#: Parts of the ranking by |w| in the figure.
BINS = 20


class Options(ConvergedOptions):
    """Train networks, and remove their weights one at a time.

    Attributes:
        removed: how many weights are removed, drawn at random; null for every one.
        examples: how many of the test examples losses are measured on, from the first on.
    """

    removed: Whole | None = None
    examples: Whole = 10000


@dataclass(frozen=True, kw_only=True)
class Weighed(Run):
    """A run whose network's weights are removed one at a time after its training.

    Attributes:
        removed, examples, patience, fall: as in :class:`Options`.
    """

    task: ClassVar[Task] = Task("importance", "cross-entropy", "accuracy")

    removed: int | None
    examples: int
    patience: int | None
    fall: float

    def ended(self, history: Sequence[Epoch]) -> bool:
        """Return whether training has converged, if it is to."""
        return at_rest(history, self.patience, self.fall)


def make(run: Run, device: torch.device, checkpoint: Checkpoint | None = None) -> Result:
    """Make a run of the sweep, or one whose weights are removed."""
    if not isinstance(run, Weighed):
        return classify(run, device, checkpoint)
    data = dataset(run.dataset, run.seed, device.type)
    model = untrained(run, data, device)
    result = train(model, run, data, device, checkpoint, ended=run.ended)
    if result.diverged:
        return result
    some = Split(data.test.inputs[: run.examples], data.test.targets[: run.examples])
    found = effects(model.cpu(), some.to("cpu"), drawn(model, run))
    return replace(result, details=details_of(found))


def drawn(model: torch.nn.Module, run: Weighed) -> list[int] | None:
    """Return which weights are removed; None for all."""
    count = sum(weight.numel() for weight in weights_of(model).values())
    if run.removed is None or run.removed >= count:
        return None
    random = torch.Generator().manual_seed(run.seed)
    return torch.randperm(count, generator=random)[: run.removed].tolist()


def details_of(found: Effects) -> dict[str, Any]:
    """Return what is kept of the effects: correlations over all weights and within each layer."""
    layers = [found.of(found.layers == layer) for layer in found.layers.unique()]
    return {
        "weights": len(found.magnitude),
        "without_effect": float((found.accuracy == 0).double().mean()),
        "all": asdict(correlations(found)),
        "layers": [asdict(correlations(layer)) for layer in layers],
        "by_rank": list(by_rank(found, min(BINS, len(found.magnitude)))),
    }


class Importance(Experiment[Options]):
    """See the module."""

    schema = Options
    make = staticmethod(make)

    @property
    def code(self) -> str:
        """See :class:`Experiment`; what removes weights is in a module of its own."""
        return code_version(Path(__file__), Path(importance.__file__))

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
        own = {name: getattr(options, name) for name in ("removed", "examples", "patience", "fall")}
        return {**asdict(options.study()), **own}

    def plan(self, options: Options, results: Results) -> Sequence[Run]:
        """See :class:`Experiment`; of the runs of the sweep no weight is removed."""
        return [
            run if run.kind == "sweep" else weighed(run, options)
            for run in comparison_plan(options.study(), results)
        ]

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`."""
        results = [s.result for run, s in found.runs.items() if isinstance(run, Weighed)]
        healthy = [result for result in results if not result.diverged]
        if results and not healthy:
            raise ValueError("learning_rate: all runs diverged, so there is no weight to remove")
        if not healthy:
            return []
        chosen = choices(options.study(), found.runs)
        edges = {cell.method: choice.edge for cell, choice in chosen.items()}
        frame, caption = tidy(healthy), "|w| and what is lost without w"
        remarks = [
            *told(options, healthy, len(results) - len(healthy)),
            *edge_notes(edges.values()),
        ]
        table = Table("importance", caption, lines(frame, edges), frame, remarks)
        note = "Tested is what the code says beforehand; within layers there are intervals alone."
        differences = differences_of(frame)
        return [
            Section("Importance", tables=[table], figures=[figure(options, healthy)]),
            *paired.sections(differences, digits=3, note=note),
        ]


def weighed(run: Run, options: Options) -> Weighed:
    """Return the same run, with its weights removed after it."""
    return Weighed(
        **{field.name: getattr(run, field.name) for field in fields(Run)},
        removed=options.removed,
        examples=options.examples,
        patience=options.patience,
        fall=options.fall,
    )


def tidy(results: Sequence[Result]) -> pd.DataFrame:
    """Return a row for each run: its correlations, over all weights and as means of the layers."""
    return pd.DataFrame(
        {
            "method": result.run.method,
            "seed": result.run.seed,
            "learning_rate": result.run.settings.learning_rate,
            "epochs": len(result.history) - 1,
            "train_loss": result.train_loss,
            "test_accuracy": result.test,
            "weights": result.details["weights"],
            "without_effect": result.details["without_effect"],
            **result.details["all"],
            **{f"{name}_within": within(result, name) for name in METRICS},
        }
        for result in results
    )


def within(result: Result, metric: str) -> float | None:
    """Return the mean of a correlation over the layers that have one."""
    values = [layer[metric] for layer in result.details["layers"]]
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def lines(frame: pd.DataFrame, edges: Mapping[str, Edge | None]) -> Lines:
    """Return a line for each method, whose rate may end the grid that it was chosen from."""
    header = ("method", "learning rate", "epochs", "test accuracy %", "without effect %")
    metrics = [*METRICS, *(f"{name}_within" for name in METRICS)]
    return (*header, *map(_title, metrics)), [
        (
            str(method),
            f"{of_method['learning_rate'].iloc[0]:g}{at_edge(edges[str(method)])}",
            spread(of_method["epochs"].tolist(), 1),
            spread((100 * of_method["test_accuracy"]).tolist(), 1),
            spread((100 * of_method["without_effect"]).tolist(), 1),
            *(_spread(of_method[name]) for name in metrics),
        )
        for method, of_method in frame.groupby("method", sort=False)
    ]


def _title(metric: str) -> str:
    name = METRICS[metric.removesuffix("_within")]
    return f"{name}, within layers" if metric.endswith("_within") else name


def _spread(values: pd.Series) -> str:
    known = values.dropna().tolist()
    return spread(known, 3) if known else number(None, "")


def differences_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the differences between methods: those of :data:`TESTED`, then the rest."""
    rest = [name for name in METRICS if name not in TESTED]
    others = ["test_accuracy", *rest, *(f"{name}_within" for name in METRICS)]
    return pd.concat(
        [
            paired.differences(_measured(frame, TESTED), PAIRS),
            paired.differences(_measured(frame, others), PAIRS, tested=False),
        ],
        ignore_index=True,
    )


def _measured(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return values for :func:`paired.differences`."""
    return pd.concat(
        frame[["method", "seed"]].assign(
            quantity="test accuracy" if name == "test_accuracy" else _title(name),
            value=frame[name].astype(float),
        )
        for name in names
    )


def told(options: Options, results: Sequence[Result], diverged: int) -> list[str]:
    """Return what a reader of the table has to know."""
    study = options.study()
    weights = results[0].details["weights"]
    which = f"each of all {weights}" if options.removed is None else f"{weights} evenly drawn"
    converged = sum(isinstance(r.run, Weighed) and r.run.ended(r.history) for r in results)
    return [
        f"{study.dataset}, {study.model}: {which} weights of linear and convolutional layers is "
        f"removed alone, and losses are measured on at most {options.examples} examples of the "
        f"test split; mean ± sample standard deviation over {seeds_of(study.seeds)}. "
        f"{options.trained} Converged: {converged} of {len(results)} runs.",
        "Pearson's coefficient of |w| and |change of accuracy|, over all weights, is the authors' "
        "metric. Spearman's asks for order alone. Within layers: the mean of the layers' "
        "coefficients, as layers differ in the size of their weights.",
        "Without effect: weights without which the accuracy is the same; their order is none.",
        f"Diverged, and left out: {diverged} of {diverged + len(results)} runs.",
    ]


def figure(options: Options, results: Sequence[Result]) -> Figure:
    """Return what is lost by the rank of |w|."""
    study = options.study()
    by_method: dict[str, list[list[float]]] = {}
    for result in results:
        lost = [100 * value for value in result.details["by_rank"]]
        by_method.setdefault(result.run.method, []).append(lost)
    bins = len(results[0].details["by_rank"])
    across = [100 * (i + 0.5) / bins for i in range(bins)]
    panels = {"": {method: Curve.of(across, rows) for method, rows in by_method.items()}}
    return Figure(
        f"Mean |change of accuracy| without one weight, by the rank of its magnitude in {bins} "
        "equal parts.",
        partial(
            curves.png,
            panels,
            curves.highest_end,
            across="rank of |w| (%)",
            up="|change of accuracy| (points)",
            title=f"{study.dataset}, {study.model}: {seeds_of(study.seeds, 'mean and range')}",
        ),
        "png",
        "importance-by-rank",
    )
