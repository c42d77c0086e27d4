"""How far the update of LFP is one that a gradient would make, layer by layer, during training.

The experiment `alignment` of study files: networks are trained with LFP, and before training and
after every epoch the feedback of each weight matrix is compared with what others would descend on
the same batch. These are the gradient, and |w| times the gradient; with a step function, which has
no gradient, a surrogate gradient and |w| times it. Two numbers tell how alike two updates are: the
cosine between them, and the share of weights that both would move in the same direction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from matplotlib.axes import Axes
from numpy.random import SeedSequence
from pydantic import BaseModel, Field
from torch import Tensor, nn

from baselines import LFP, SGD, Activation, LFPSettings
from baselines.registry import pick
from baselines.surrogate import Surrogate, SurrogateSettings
from baselines.trainer import DescentTrainer
from baselines.wsgd import WeightScaledSGD
from baselines.wsurrogate import WeightScaledSurrogate
from benchmarks.analysis.feedback import filled, finite
from benchmarks.data import DATASETS, Split
from benchmarks.experiments.base import STRICT, Experiment, Found, Results
from benchmarks.experiments.options import Seeds, Whole
from benchmarks.models import ACTIVATIONS
from benchmarks.rendering import curves, panels
from benchmarks.rendering.curves import Curve
from benchmarks.rendering.document import Figure, Section, Table
from benchmarks.rendering.style import colours
from benchmarks.rendering.text import Lines, mean_and_deviation, number, seeds_of
from benchmarks.runs.run import Result, Run, Task
from benchmarks.runs.training import accuracy, dataset, train
from benchmarks.storage.checkpoint import Checkpoint
from benchmarks.storage.names import refuse_repeated

SCALED = "|w| dL/dw"
GRADIENT = "dL/dw"
#: What is compared, by the name of what would descend it.
REFERENCES: Mapping[str, type[DescentTrainer]] = {SCALED: WeightScaledSGD, GRADIENT: SGD}
SURROGATES: Mapping[str, type[DescentTrainer]] = {
    f"{SCALED}, surrogate": WeightScaledSurrogate,
    f"{GRADIENT}, surrogate": Surrogate,
}
DIGITS = 6  # behind the point, of what is stored
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Options(BaseModel):
    """Compare LFP with the gradient while networks learn by LFP.

    Attributes:
        dataset: the name of a data set.
        activations: names of activations that do not spike.
        epsilons: stabilisers of LFP; a network is trained with each.
        depths: numbers of hidden layers.
        width: units of a hidden layer.
        batches: numbers of training samples that the updates are compared on.
        slope: slope k of the surrogate derivative that stands in for that of a step function.
        learning_rate: learning rate of LFP.
        epochs: epochs of a run.
        batch_size: samples in a batch.
        seeds: how many runs, with other data, weights and orders of the batches, there are of each
            network.
    """

    model_config = STRICT

    dataset: str = "digits"
    activations: Annotated[list[str], Field(min_length=1)]
    epsilons: Annotated[
        list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(min_length=1)
    ] = [1e-6]
    depths: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(min_length=1)] = [2]
    width: Whole = 64
    batches: Annotated[list[Whole], Field(min_length=1)] = [64]
    slope: Positive = 1.0
    learning_rate: Positive = 0.1
    epochs: Whole = 10
    batch_size: Whole = 64
    seeds: Seeds = 3


@dataclass(frozen=True, kw_only=True)
class AlignmentRun(Run):
    """A network that is trained with LFP, and watched.

    Attributes:
        depth, width, batches, slope: as in :class:`Options`.
    """

    task: ClassVar[Task] = Task("alignment", "cross-entropy", "accuracy")

    depth: int
    width: int
    batches: tuple[int, ...]
    slope: float

    @property
    def label(self) -> str:
        """See :class:`Run`."""
        return f"{self.activation}, {self.depth} hidden layers"


def untrained(run: AlignmentRun, input_shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Return the network: flat inputs, hidden layers of one width, and a layer of logits."""
    sizes = [prod(input_shape), *[run.width] * run.depth]
    _, weight_seed = SeedSequence(run.seed).generate_state(2)
    model = nn.Sequential(nn.Flatten())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(weight_seed))
        for size in sizes[:-1]:
            model.extend([nn.Linear(size, run.width), ACTIVATIONS[run.activation]()])
        return model.append(nn.Linear(sizes[-1], classes))


def references(activation: Activation) -> Mapping[str, type[DescentTrainer]]:
    """Return what LFP is compared with, of which |w| times something comes first."""
    return REFERENCES if activation.differentiable else SURROGATES


def updates(trainer: DescentTrainer, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """Return the ``p.grad`` of every weight matrix that a method fills in for a batch."""
    filled(trainer, inputs, targets)
    weights = [p for p in trainer.model.parameters() if p.dim() > 1]
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
    return [gradient.detach().double().flatten() for gradient in found]


def agreement(ours: Tensor, theirs: Tensor) -> dict[str, float | None]:
    """Return the cosine of two updates, and in which share of the weights their signs agree.

    Weights that one of them does not move do not count. None stands for what is not defined.
    """
    cosine = (ours / ours.norm()) @ (theirs / theirs.norm())
    moved = (ours != 0) & (theirs != 0)
    signs = (ours.sign() == theirs.sign())[moved].double().mean()
    return {"cosine": finite(float(cosine)), "signs": finite(float(signs))}


def rounded(values: dict[str, float | None]) -> dict[str, float | None]:
    """Return the values with the digits that are stored, as a run has thousands of them."""
    return {n: value if value is None else round(value, DIGITS) for n, value in values.items()}


class Watch:
    """The metric of a run, which compares updates on the way.

    Attributes:
        measured: a list for each look, before training and after each epoch: of every number of
            samples and every reference, the agreement in each layer.
    """

    def __init__(self, run: AlignmentRun, training: Split, validation: Split) -> None:
        self.run, self.training, self.validation = run, training, validation
        self.measured: list[list[dict[str, Any]]] = []

    def __call__(self, model: nn.Module, split: Split) -> float:
        """Return the accuracy; where that is of the validation split, look at the updates."""
        if split is self.validation:
            self.measured.append(self._look(model))
        return accuracy(model, split)

    def _look(self, model: nn.Module) -> list[dict[str, Any]]:
        found = []
        for size in self.run.batches:
            batch = self.training.inputs[:size], self.training.targets[:size]
            ours = updates(LFP(model, self.run.settings), *batch)
            for name, method in references(ACTIVATIONS[self.run.activation]).items():
                settings = SurrogateSettings(1.0, slope=self.run.slope)
                theirs = updates(method(model, settings), *batch)
                layers = [rounded(agreement(a, b)) for a, b in zip(ours, theirs, strict=True)]
                found.append({"batch": size, "reference": name, "layers": layers})
        model.zero_grad()
        return found


def watch(run: AlignmentRun, device: torch.device, checkpoint: Checkpoint | None = None) -> Result:
    """Train a network with LFP and compare its updates; an interrupted run begins anew.

    Returns:
        The result, with what :class:`Watch` measured as `details`.
    """
    data = dataset(run.dataset, run.seed, device.type)
    model = untrained(run, data.input_shape, data.classes).to(device)
    metric = Watch(run, data.train, data.validation)
    result = train(model, run, data, device, metric=metric)
    result.details["measured"] = metric.measured
    return result


class Alignment(Experiment[Options]):
    """See the module."""

    schema = Options
    make = staticmethod(watch)

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        pick("dataset", options.dataset, DATASETS)
        for field in ("activations", "epsilons", "depths", "batches"):
            refuse_repeated(field, getattr(options, field))
        for name in options.activations:
            if pick("activations", name, ACTIVATIONS).spiking:
                raise ValueError(f"activations: {name!r}; allowed: those without time")
        return len(self.plan(options, {}))

    def check(self, options: Options) -> None:
        """See :class:`Experiment`; fetches the data."""
        there = len(dataset(options.dataset, 0, "cpu").train)
        if max(options.batches) > there:
            raise ValueError(f"batches: {max(options.batches)}; allowed: up to {there}")

    def plan(self, options: Options, results: Results) -> Sequence[Run]:
        """See :class:`Experiment`."""
        cells = product(options.activations, options.epsilons, options.depths, range(options.seeds))
        return [
            AlignmentRun(
                kind="final",
                dataset=options.dataset,
                model="chain",
                method=LFP.name,
                activation=activation,
                seed=seed,
                epochs=options.epochs,
                batch_size=options.batch_size,
                settings=LFPSettings(options.learning_rate, epsilon=epsilon),
                depth=depth,
                width=options.width,
                batches=tuple(options.batches),
                slope=options.slope,
            )
            for activation, epsilon, depth, seed in cells
        ]

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`."""
        frame = tidy([stored.result for stored in found.runs.values()])
        if frame.empty:
            return []
        caption = "Agreement of LFP's update with others"
        told = summary(frame)
        table = Table("alignment", caption, lines(told), told, remarks(options, told))
        shown = (
            "Cosine of LFP's update in the first layer with |w| times the gradient, by epoch: mean "
            "over the seeds, and their range. Crosses below the lines are epochs at which no seed "
            "has a cosine, as an update is 0 in float32; a line ends where all runs have diverged."
        )
        figure = Figure(shown, lambda: drawn(options, frame), "png", "alignment")
        return [Section("Alignment", tables=[table], figures=[figure])]


CROSSES = 0.09  # between two lines' crosses
CELL = ["activation", "epsilon", "depth", "batch", "reference"]


def tidy(results: Sequence[Result]) -> pd.DataFrame:
    """Return a row for each run, look, number of samples, reference and layer."""
    return pd.DataFrame(
        {
            "activation": run.activation,
            "epsilon": LFPSettings.of(run.settings).epsilon,
            "depth": run.depth,
            "batch": one["batch"],
            "reference": one["reference"],
            "seed": run.seed,
            "epoch": epoch,
            "layer": layer,
            **values,
            "test_accuracy": result.test,
            "diverged": result.diverged,
        }
        for result in results
        if isinstance(run := result.run, AlignmentRun)
        for epoch, look in enumerate(result.details["measured"])
        for one in look
        for layer, values in enumerate(one["layers"], start=1)
    )


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each network and reference, of means over the seeds that have a value."""
    return pd.DataFrame(
        {**dict(zip(CELL, cell, strict=True)), **_measured(of_cell)}
        for cell, of_cell in frame.groupby(CELL, sort=False)
    )


def _measured(cell: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of a line."""
    first = cell[cell["layer"] == 1]
    last = cell[cell["epoch"] == cell.groupby("seed")["epoch"].transform("max")]
    hidden = last[last["layer"] < last["layer"].max()]
    least = hidden.groupby("seed")["cosine"].min()
    at_last = last[last["layer"] == 1]
    accuracies = cell.groupby("seed")["test_accuracy"].first()
    return {
        "first_at_first": first[first["epoch"] == 0]["cosine"].mean(),
        "first_at_last": at_last["cosine"].mean(),
        "least_hidden_at_last": least.mean(),
        "signs_first_at_last": at_last["signs"].mean(),
        "undefined_at_last": int(at_last["cosine"].isna().sum()),
        "test_accuracy_mean": accuracies.mean(),
        "test_accuracy_std": accuracies.std(ddof=1),
        "diverged": int(cell.groupby("seed")["diverged"].first().sum()),
        "seeds": len(at_last),
    }


def lines(told: pd.DataFrame) -> Lines:
    """Return the summary as text."""
    header = (
        *("activation", "epsilon", "hidden layers", "batch", "compared with"),
        *("cosine, first layer, at first", "at last", "least of hidden layers, at last"),
        *("equal signs, first layer, at last", "test accuracy %", "diverged"),
    )
    return header, [
        (
            *(row["activation"], f"{row['epsilon']:g}", str(row["depth"]), str(row["batch"])),
            row["reference"],
            number(row["first_at_first"], ".2f"),
            number(row["first_at_last"], ".2f"),
            number(row["least_hidden_at_last"], ".2f"),
            number(row["signs_first_at_last"], ".2f"),
            mean_and_deviation(row["test_accuracy_mean"], row["test_accuracy_std"]),
            f"{row['diverged']}/{row['seeds']}",
        )
        for row in told.to_dict("records")
    ]


def remarks(options: Options, told: pd.DataFrame) -> list[str]:
    """Return what a reader of the table has to know."""
    undefined = (
        "An update that is 0 in float32 has no cosine: means are of the seeds that have one, and a "
        "line stands for none."
    )
    return [
        f"{options.dataset}: networks with hidden layers of {options.width} units that LFP trains "
        f"for {options.epochs} epochs at the rate {options.learning_rate:g}, with batches of "
        f"{options.batch_size}; means over {seeds_of(options.seeds)}. Updates are compared on the "
        "first training samples, as many as the batch says, before training (at first) and after "
        "it (at last).",
        "Cosine: of two updates of a weight matrix. Equal signs: of the weights that both move. "
        "The rate is not tuned: a network that does not learn shows what its updates are like, and "
        "the last ones of a run that diverged are those before that.",
        f"Surrogate: the fast sigmoid's derivative with the slope {options.slope:g} in place of "
        "that of a step, which has none.",
        *([undefined] if told["undefined_at_last"].any() else []),
    ]


def drawn(options: Options, frame: pd.DataFrame) -> bytes:
    """Return the figure: a panel for each activation, a line for each epsilon.

    With several depths there is a panel for each activation and epsilon, and a line for each depth.
    """
    scaled = frame[(frame["layer"] == 1) & frame["reference"].str.startswith(SCALED)]
    scaled = scaled[scaled["batch"] == options.batches[-1]]
    of_panels: dict[str, dict[str, pd.DataFrame]] = {}
    for (name, epsilon, depth), cell in scaled.groupby(CELL[:3], sort=False):
        title, line = ACTIVATIONS[str(name)].label or str(name), f"epsilon {epsilon:g}"
        if len(options.depths) > 1:
            title, line = f"{title}, {line}", f"{depth} layers"
        wide = cell.pivot_table(index="seed", columns="epoch", values="cosine", dropna=False)
        of_panels.setdefault(title, {})[line] = wide
    lowest = min(0.0, scaled["cosine"].min())
    draw = [partial(_panel, title=t, lines=one, lowest=lowest) for t, one in of_panels.items()]
    return panels.image(draw, share=True, title=f"{options.dataset}, first layer", media="png")


def _panel(axis: Axes, title: str, lines: Mapping[str, pd.DataFrame], lowest: float) -> None:
    """Draw a line for each table of seeds by epochs, and below all what no seed has a value of."""
    found = {
        name: Curve.of(range(wide.shape[1]), wide.to_numpy().tolist())
        for name, wide in lines.items()
    }
    curves.draw(axis, found, [name for name, curve in found.items() if curve.x.size])
    for row, (name, wide) in enumerate(lines.items(), start=1):
        nowhere = wide.columns[wide.isna().all()]
        axis.plot(
            nowhere,
            [lowest - CROSSES * row] * len(nowhere),
            "x",
            color=colours([*found], [*found])[name],
            label="_" if found[name].x.size else name,
            markersize=4,
        )
    curves.whole_numbers(axis)
    axis.set(title=title, xlabel="epoch", ylabel="cosine")
