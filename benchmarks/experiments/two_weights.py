"""A network of two weights, whose way over the loss can be drawn: the paper's smallest experiment.

The experiment `two-weights` of study files: ``o = w1 x1 + w2 x2`` tells two clouds of points apart,
and begins at given points. LFP has the reward ``o (t - sigmoid(o))``, gradient descent the binary
cross-entropy. The two clouds lie around (-1, -1) and (1, 1), as in the authors' notebook, and not
where the toy set `blobs` has them, which no line through the origin divides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from numpy.random import RandomState, SeedSequence
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor, nn

import lfp_core as lfp
from baselines import Step, Trainer
from baselines.lfp import FeedbackSettings
from baselines.sgd import SGD
from baselines.trainer import DescentTrainer, Settings
from benchmarks.data import Dataset, Split
from benchmarks.data.toy import Points, toy_set
from benchmarks.experiments.base import STRICT, Experiment, Found, Results
from benchmarks.experiments.options import Seeds, Whole
from benchmarks.rendering import panels
from benchmarks.rendering.document import Figure, Section, Table
from benchmarks.rendering.style import PALETTE, label_of
from benchmarks.rendering.text import Lines, seeds_of, spread
from benchmarks.runs.run import Epoch, Result, Run, Task
from benchmarks.runs.training import reproducible, train_epoch
from benchmarks.storage.checkpoint import Checkpoint
from benchmarks.storage.names import refuse_repeated
from lfp_core.rewards import Reduction

CENTRES = ((-1, -1), (1, 1))
DEVIATION = 0.2
EXAMPLES = (1000, 100)  # of training, and of test, as of the toy set
Start = tuple[float, float]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class BinaryLFP(DescentTrainer):
    """LFP with the reward of the binary cross-entropy."""

    name: ClassVar[str] = "lfp"
    Options: ClassVar[type[Settings]] = FeedbackSettings
    settings: FeedbackSettings

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Propagate the reward of outputs (batch,); return the mean cross-entropy."""
        with self.settings.feedback():
            outputs = self.model(inputs)
        wanted = targets.to(outputs.dtype)
        reward = lfp.rewards.binary_sigmoid(outputs, wanted, self.settings.reduction)
        lfp.backward(outputs, reward)
        return F.binary_cross_entropy_with_logits(outputs.detach(), wanted)


class BinarySGD(SGD):
    """Gradient descent on the binary cross-entropy."""

    name: ClassVar[str] = "sgd"

    def loss_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of outputs (batch,)."""
        outputs = self.model(inputs)
        return F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype))


METHODS: Mapping[str, type[DescentTrainer]] = {m.name: m for m in (BinaryLFP, BinarySGD)}


class Options(BaseModel):
    """Train a model of two weights from several starts.

    Attributes:
        starts: pairs of initial weights.
        reductions: whether the rewards and losses of a batch are summed or averaged; each is tried
            with both methods.
        learning_rate: learning rate of descent without momentum and clipping.
        epochs: epochs of a run.
        batch_size: samples in a batch.
        seeds: how many draws of the points and of the order of the batches there are.
    """

    model_config = STRICT

    starts: Annotated[list[tuple[Finite, Finite]], Field(min_length=1)] = [
        *((0.0, 4.0), (4.0, 0.0), (2.0, 4.0), (4.0, 2.0)),
        *((-4.0, -4.0), (-4.0, 4.0), (4.0, -4.0)),
    ]
    reductions: Annotated[list[Literal["sum", "mean"]], Field(min_length=1)] = ["sum", "mean"]
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    epochs: Whole = 1
    batch_size: Whole = 8
    seeds: Seeds = 5


@dataclass(frozen=True, kw_only=True)
class TwoWeightsRun(Run):
    """A way from one start; the details of its result are the weights after every step."""

    task: ClassVar[Task] = Task("two-weights", "binary cross-entropy", "accuracy")
    methods: ClassVar[Mapping[str, type[Trainer]]] = METHODS

    start: Start

    @property
    def label(self) -> str:
        """See :class:`Run`."""
        return f"{self.method} from {named(self.start)}"


def named(start: Iterable[float]) -> str:
    """Return a point as text.

    >>> named((-4.0, 0.5))
    '(-4, 0.5)'
    """
    return f"({', '.join(f'{value:g}' for value in start)})"


def clouds(n: int, rng: RandomState) -> Points:
    """Return the points, of which a line through the origin divides the classes."""
    from sklearn.datasets import make_blobs  # noqa: PLC0415  (slow to import)

    return make_blobs(n, centers=CENTRES, cluster_std=DEVIATION, random_state=rng)


@cache
def points(seed: int) -> Dataset:
    """Return the data set that is drawn from a seed."""
    return toy_set("clouds", seed, Path(), draw=clouds, sizes=EXAMPLES, classes=2)


def network(start: Start) -> nn.Sequential:
    """Return the network, of points (N, 2) to outputs (N,)."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([start])
    return nn.Sequential(layer, nn.Flatten(start_dim=0))


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Return the share of the split in [0, 1] on the right side; an output of 0 is on none."""
    signs = 2 * split.targets - 1
    return float((model(split.inputs).sign() == signs).double().mean())


def descend(
    run: TwoWeightsRun, device: torch.device, checkpoint: Checkpoint | None = None
) -> Result:
    """Make a run, and keep its way; an interrupted one begins anew."""
    data = points(run.seed).to(device)
    order_seed = int(SeedSequence(run.seed).generate_state(1)[0])
    with reproducible(device, order_seed):
        model = network(run.start).to(device)
        (weight,) = model.parameters()
        trainer = run.methods[run.method](model, run.settings)
        order = torch.Generator().manual_seed(order_seed)
        way = [list(run.start)]

        def step(inputs: Tensor, targets: Tensor) -> Step:
            told = trainer.step(inputs, targets)
            way.append(weight.detach().flatten().tolist())
            return told

        history, started = [Epoch(test=accuracy(model, data.test))], perf_counter()
        for _ in range(run.epochs):
            losses, _ = train_epoch(step, data.train, run.batch_size, order)
            loss, reached = sum(losses) / len(losses), accuracy(model, data.test)
            history.append(Epoch(train_loss=loss, test=reached))
    seconds = perf_counter() - started
    return Result(run, tuple(history), None, len(way) - 1, seconds, details={"way": way})


class TwoWeights(Experiment[Options]):
    """See the module."""

    schema = Options
    make = staticmethod(descend)

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        refuse_repeated("starts", [named(start) for start in options.starts])
        refuse_repeated("reductions", options.reductions)
        return len(self.plan(options, {}))

    def plan(self, options: Options, results: Results) -> Sequence[Run]:
        """See :class:`Experiment`."""
        cells = product(options.reductions, METHODS, options.starts, range(options.seeds))
        return [
            TwoWeightsRun(
                kind="final",
                dataset="clouds",
                model="two weights",
                method=method,
                activation="none",
                seed=seed,
                epochs=options.epochs,
                batch_size=options.batch_size,
                settings=settings(options.learning_rate, reduction),
                start=start,
            )
            for reduction, method, start, seed in cells
        ]

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`."""
        results = [stored.result for stored in found.runs.values()]
        frame = tidy(results)
        if frame.empty:
            return []
        caption = "A network of two weights"
        table = Table("two-weights", caption, lines(frame), frame, remarks(options))
        told = (
            "The ways of two weights over the training loss, which is higher where it is darker "
            "(logarithmic), with the seed 0: rings are where they start, squares where they end."
        )
        figure = Figure(told, partial(drawn, options, results), "png", "two-weights")
        return [Section("Two weights", tables=[table], figures=[figure])]


def settings(learning_rate: float, reduction: Reduction) -> FeedbackSettings:
    """Return the options of the paper's descent; a method takes those that it has."""
    return FeedbackSettings(learning_rate, momentum=0.0, clip_norm=None, reduction=reduction)


def reduction_of(run: Run) -> Reduction:
    """Return how a run reduces the rewards or the losses of a batch."""
    return Settings.of(run.settings).reduction


def tidy(results: Sequence[Result]) -> pd.DataFrame:
    """Return a row for each run; `moved` is of a weight that is 0 at first: how far it came."""
    return pd.DataFrame(
        {
            "reduction": reduction_of(result.run),
            "method": result.run.method,
            "start": named(result.run.start),
            "seed": result.run.seed,
            "w1": result.details["way"][-1][0],
            "w2": result.details["way"][-1][1],
            "test_accuracy": result.test,
            "moved": moved(result.details["way"]),
        }
        for result in results
        if isinstance(result.run, TwoWeightsRun)
    )


def moved(way: Sequence[Sequence[float]]) -> float | None:
    """Return the largest magnitude on the way of weights that begin at 0; None if none does.

    >>> moved([[0, 4], [-0.5, 3], [0.1, 3]]), moved([[1, 4], [2, 5]])
    (0.5, None)
    """
    at = [i for i, value in enumerate(way[0]) if value == 0]
    return max((abs(step[i]) for step in way for i in at), default=None)


def lines(frame: pd.DataFrame) -> Lines:
    """Return a line for each reduction, method and start."""
    header = ("reduction", "method", "start", "test accuracy %", "w1 at the end", "w2 at the end")
    cells = frame.groupby(["reduction", "method", "start"], sort=False)
    return (*header, "zero weight moved by at most"), [
        (
            *map(str, cell),
            spread((100 * of_cell["test_accuracy"]).tolist(), 1),
            spread(of_cell["w1"].tolist(), 2),
            spread(of_cell["w2"].tolist(), 2),
            _told(of_cell["moved"].max()),
        )
        for cell, of_cell in cells
    ]


def _told(largest: float) -> str:
    """Return how far a weight moved: exactly 0 is another thing than nearly."""
    if pd.isna(largest):
        return "-"
    return "0 (exactly)" if largest == 0 else f"{largest:.2f}"


def remarks(options: Options) -> list[str]:
    """Return what a reader of the table has to know."""
    training, test = EXAMPLES
    return [
        f"o = w1 x1 + w2 x2 on {training} points around (-1, -1) and (1, 1) with a deviation of "
        f"{DEVIATION:g}: SGD at the rate {options.learning_rate:g}, batches of "
        f"{options.batch_size}, no momentum, no clipping, {options.epochs} epoch(s), LFP with "
        f"epsilon {FeedbackSettings.epsilon:g}; mean ± sample standard deviation over "
        f"{seeds_of(options.seeds)} of the points and their order. {test} test points: right are "
        "those on the right side of o = 0, and a point with o = 0 is wrong.",
        "The authors sum rewards over a batch and average losses, so their figure has LFP with "
        "sum beside SGD with mean.",
        "A weight that is exactly 0 has a feedback of exactly 0 under LFP, |w| times something; "
        "the last column tells it of starts with such a weight.",
    ]


# --- the figure -----------------------------------------------------------------------------------


def drawn(options: Options, results: Sequence[Result]) -> bytes:
    """Return the figure: a panel for each reduction and method, with the ways of the first seed."""
    runs = [r for r in results if isinstance(r.run, TwoWeightsRun) and r.run.seed == 0]
    ways = np.array([point for result in runs for point in result.details["way"]])
    low, high = np.floor(ways.min() - 0.5), np.ceil(ways.max() + 0.5)
    surface = losses(points(0).train, np.linspace(low, high, 121))
    made = [
        partial(
            _panel,
            title=f"{label_of(method)}, {reduction}",
            ways=_ways(runs, reduction, method),
            surface=surface,
        )
        for reduction, method in product(options.reductions, METHODS)
    ]
    return panels.image(made, columns=2, height=2.9, share=True, media="png")


def losses(split: Split, axis: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return an axis (n,) and the mean cross-entropy (n, n) at [w2, w1] over it and itself."""
    first, second = np.meshgrid(axis, axis)
    weights = torch.from_numpy(np.stack([first.ravel(), second.ravel()]))
    outputs = split.inputs.double() @ weights
    wanted = split.targets.double()[:, None].expand_as(outputs)
    found = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").mean(dim=0)
    return axis, found.view(len(axis), len(axis)).numpy()


def _ways(results: Sequence[Result], reduction: str, method: str) -> list[NDArray[np.float64]]:
    return [
        np.array(result.details["way"])
        for result in results
        if result.run.method == method and reduction_of(result.run) == reduction
    ]


def _panel(
    axis: Axes,
    title: str,
    ways: Sequence[NDArray[np.float64]],
    surface: tuple[NDArray[Any], NDArray[Any]],
) -> None:
    values, found = surface
    levels = np.linspace(np.log10(found.min()), np.log10(found.max()), 15)
    axis.contourf(values, values, np.log10(found), levels=levels, cmap="Greys", alpha=0.5)
    axis.axhline(0, color="white", linewidth=0.8)
    axis.axvline(0, color="white", linewidth=0.8)
    for number, way in enumerate(ways):
        colour = PALETTE[number % len(PALETTE)]
        axis.plot(*way.T, color=colour, linewidth=1.5)
        axis.plot(*way[0], "o", color=colour, markerfacecolor="white", markersize=5)
        axis.plot(*way[-1], "s", color=colour, markersize=5)
    axis.set(title=title, xlabel="w1", ylabel="w2", aspect="equal")
