"""Accuracy against the number of training examples.

The experiment `samples` of study files: methods are compared as in a comparison, on the first n of
a random order of the training examples, for several n. The order is another one for every seed, and
the smaller sets are parts of the larger ones. Examples are repeated until there are as many as in
the whole set, so every network sees as many and takes as many steps, however few are different: a
method is not taken for slow where it has little to learn from.

Options are chosen anew for each n, by as many trials for every method, of other draws of examples.
They are chosen on the whole validation split, which who has 50 examples would not have.

What is tested is decided here: LFP against gradient descent or, with a step function, against the
surrogate gradient. The other pairs have intervals alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from math import ceil
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.random import SeedSequence
from pydantic import Field

from benchmarks.analysis import paired
from benchmarks.analysis.statistics import interval
from benchmarks.data import Dataset, Split
from benchmarks.experiments import comparison
from benchmarks.experiments.base import Experiment, Found, Results
from benchmarks.experiments.comparison.choosing import choices
from benchmarks.experiments.comparison.choosing import plan as comparison_plan
from benchmarks.experiments.comparison.study import Study, check
from benchmarks.experiments.comparison.summary import finalists_told, told
from benchmarks.experiments.options import Whole
from benchmarks.models import ACTIVATIONS
from benchmarks.rendering import curves, panels, text
from benchmarks.rendering.curves import Curve, Curves
from benchmarks.rendering.document import Figure, Section, Table
from benchmarks.rendering.text import Lines, at_edge, seeds_of, spread
from benchmarks.runs.run import Result, Run, Task
from benchmarks.runs.training import dataset, execute
from benchmarks.runs.tuning import FIRST_SWEEP_SEED, Choice
from benchmarks.storage.checkpoint import Checkpoint
from benchmarks.storage.names import refuse_repeated

ALL = "all"
#: Pairs whose differences are shown, where the study has both.
PAIRS = (
    *(("lfp", "sgd"), ("lfp", "wsgd"), ("wsgd", "sgd")),
    *(("lfp", "surrogate"), ("lfp", "wsurrogate"), ("wsurrogate", "surrogate")),
)


class Options(comparison.Options):
    """Compare methods by their accuracy with several numbers of training examples.

    Attributes:
        samples: numbers of training examples; "all" for all that the data set has.
    """

    activations: Annotated[list[str], Field(min_length=1, max_length=1)] = Field(default=["relu"])
    samples: Annotated[list[Whole | Literal["all"]], Field(min_length=1)]

    @property
    def numbers(self) -> list[int | None]:
        """The numbers of examples; None for all."""
        return [None if number == ALL else int(number) for number in self.samples]

    @property
    def tested(self) -> tuple[str, str]:
        """The pair whose differences are tested."""
        gradient = ACTIVATIONS[self.activations[0]].differentiable
        return ("lfp", "sgd" if gradient else "surrogate")


@dataclass(frozen=True, kw_only=True)
class Sampled(Run):
    """A run on some of the training examples.

    Attributes:
        samples: how many; None for all.
    """

    task: ClassVar[Task] = Task("samples", "cross-entropy", "accuracy")

    samples: int | None

    @property
    def label(self) -> str:
        """See :class:`Run`."""
        return f"{super().label}, {self.samples or ALL} examples"


def subset(data: Dataset, samples: int | None, seed: int) -> Dataset:
    """Return the data set with some of its training examples, repeated until there are as many.

    Args:
        data: all splits of it.
        samples: how many, at most all; None for all.
        seed: of their order.
    """
    if samples is None:
        return data
    whole, order_seed = len(data.train), SeedSequence(seed).generate_state(3)[-1]
    order = torch.randperm(whole, generator=torch.Generator().manual_seed(int(order_seed)))
    rows = order[:samples].repeat(ceil(whole / samples))[:whole].to(data.train.targets.device)
    return replace(data, train=Split(data.train.inputs[rows], data.train.targets[rows]))


def learn(run: Run, device: torch.device, checkpoint: Checkpoint | None = None) -> Result:
    """Make a run, whose details say how many examples it had."""
    assert isinstance(run, Sampled)
    whole = dataset(run.dataset, run.seed, device.type)
    result = execute(run, subset(whole, run.samples, run.seed), device, checkpoint)
    return replace(result, details={"examples": run.samples or len(whole.train)})


def sampled(run: Run, samples: int | None) -> Sampled:
    """Return a run of a comparison, on some of the examples."""
    return Sampled(**{f.name: getattr(run, f.name) for f in fields(Run)}, samples=samples)


def of_comparison(results: Results, samples: int | None) -> Results:
    """Return the results with so many examples, each by the run that a comparison has for it."""
    return {
        Run(**{f.name: getattr(run, f.name) for f in fields(Run)}): stored
        for run, stored in results.items()
        if isinstance(run, Sampled) and run.samples == samples
    }


class Samples(Experiment[Options]):
    """See the module."""

    schema = Options
    make = staticmethod(learn)

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        refuse_repeated("samples", [str(number) for number in options.samples])
        return len(options.samples) * options.study().runs

    def check(self, options: Options) -> None:
        """See :class:`Experiment`; fetches the data."""
        check(options.study())
        there = len(dataset(options.dataset, 0, "cpu").train)
        if (most := max((n for n in options.numbers if n), default=0)) > there:
            raise ValueError(f"samples: {most}; allowed: up to {there}, or {ALL}")

    def model(self, options: Options) -> str:
        """See :class:`Experiment`."""
        return options.study().model

    def configuration(self, options: Options) -> dict[str, Any]:
        """See :class:`Experiment`; with all that a preset decides."""
        return {**asdict(options.study()), "samples": options.samples}

    def plan(self, options: Options, results: Results) -> Sequence[Run]:
        """See :class:`Experiment`; all sweeps come first, and then seed by seed."""
        study = options.study()
        runs = [
            sampled(run, samples)
            for samples in options.numbers
            for run in comparison_plan(study, of_comparison(results, samples))
        ]
        return sorted(runs, key=lambda run: (run.kind == "final", run.seed))

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`."""
        results = [s.result for run, s in found.runs.items() if run.kind == "final"]
        frame = tidy(results)
        if frame.empty:
            return []
        study = options.study()
        chosen = {
            (str(samples or ALL), cell.method): choice
            for samples in options.numbers
            for cell, choice in choices(study, of_comparison(found.runs, samples)).items()
        }
        caption, note = "Accuracy by the number of training examples", remarks(options, study)
        table = Table("samples", caption, lines(study, frame, chosen), frame, note)
        by_method = curves_of(frame)
        figure = Figure(
            "Test accuracy against the number of training examples.",
            partial(drawn, by_method, f"{study.dataset}, {study.model}, {options.activations[0]}"),
            "png",
            "samples",
        )
        return [
            Section("Results", tables=[table], figures=[figure]),
            *paired.sections(
                differences_of(frame, options.tested),
                digits=1,
                note=f"Tested is what the code says beforehand: {' - '.join(options.tested)}. The "
                "other pairs have intervals alone.",
                unit="points",
            ),
        ]


def tidy(results: Sequence[Result]) -> pd.DataFrame:
    """Return a row for each reported run, in the order of the numbers of examples."""
    ordered = sorted(results, key=lambda result: int(result.details["examples"]))
    return pd.DataFrame(
        {
            "examples": result.details["examples"],
            "samples": str(result.run.samples or ALL),
            "method": result.run.method,
            "seed": result.run.seed,
            "learning_rate": result.run.settings.learning_rate,
            "test_accuracy": result.test,
            "train_loss": result.train_loss,
            "diverged": result.diverged,
        }
        for result in ordered
        if isinstance(result.run, Sampled)
    )


def lines(study: Study, frame: pd.DataFrame, chosen: Mapping[tuple[str, str], Choice]) -> Lines:
    """Return a line for each number of examples and method, in the order of the methods."""
    header = ("examples", "method", "test accuracy %", "95% interval", "learning rate")
    rows = []
    places = frame["method"].map(study.methods.index)
    ordered = frame.assign(place=places).sort_values(["examples", "place"], kind="stable")
    for (samples, method), of_cell in ordered.groupby(["samples", "method"], sort=False):
        accuracies = (100 * of_cell["test_accuracy"]).tolist()
        bounds = interval(accuracies)
        choice = chosen[str(samples), str(method)]
        others = [name for name in study.searched[str(method)] if name != "learning_rate"]
        rows.append(
            (
                str(of_cell["examples"].iloc[0]),
                str(method),
                spread(accuracies, 1),
                text.interval(bounds.low, bounds.high, ".1f"),
                f"{choice.learning_rate:g}{at_edge(choice.edge)}",
                ", ".join(told(choice, others)) or "-",
                f"{of_cell['diverged'].sum()}/{len(of_cell)}",
            )
        )
    return (*header, "other options", "diverged"), rows


def differences_of(frame: pd.DataFrame, tested: tuple[str, str]) -> pd.DataFrame:
    """Return the differences at each number of examples, in percent: those tested, then others."""
    measured = pd.DataFrame(
        {
            "quantity": frame["examples"].astype(str) + " examples",
            "method": frame["method"],
            "seed": frame["seed"],
            "value": 100 * frame["test_accuracy"],
        }
    )
    rest = [pair for pair in PAIRS if pair != tested]
    return pd.concat(
        [
            paired.differences(measured, [tested]),
            paired.differences(measured, rest, tested=False),
        ],
        ignore_index=True,
    )


def remarks(options: Options, study: Study) -> list[str]:
    """Return what a reader of the table has to know."""
    measured = [
        f"{study.dataset}, {study.model}, {options.activations[0]}: test accuracy, mean ± sample "
        f"standard deviation and Student's interval over {seeds_of(study.seeds)}, of which each "
        "draws other examples; smaller sets are parts of larger ones. Examples are repeated until "
        "there are as many as in the whole set, so every network takes the steps of "
        f"{study.epochs} epochs of it."
    ]
    if not any(study.tried(method) for method in study.methods):
        return [*measured, "Options are given, and the same for each number of examples."]
    trials = study.trials or len(study.rates)
    return [
        *measured,
        f"Options were chosen for each number of examples: {trials} trials of {study.sweep_epochs} "
        f"epochs for every method and {study.sweep_seeds} seed(s) from {FIRST_SWEEP_SEED} on"
        f"{finalists_told(study)}, on the whole validation split.",
        f"{text.NEAR_EDGE}.",
    ]


def curves_of(frame: pd.DataFrame) -> dict[str, Curve]:
    """Return the accuracies in percent by the number of examples, of each method."""
    found = {}
    for method, of_method in frame.groupby("method", sort=False):
        wide = of_method.pivot_table(index="seed", columns="examples", values="test_accuracy")
        found[str(method)] = Curve.of(
            wide.columns.astype(float).tolist(), (100 * wide).to_numpy().tolist()
        )
    return found


def drawn(by_method: Curves, title: str) -> bytes:
    """Return the figure, with a logarithmic axis of the number of examples."""

    def one(axis: Axes) -> None:
        curves.draw(axis, by_method, curves.shown(by_method, curves.highest), marker="o")
        at = sorted({x for curve in by_method.values() for x in curve.x.tolist()})
        axis.set(title=title, xlabel="training examples", ylabel="test accuracy (%)")
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(FixedLocator(at))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")

    return panels.image([one], height=3.2, media="png")
