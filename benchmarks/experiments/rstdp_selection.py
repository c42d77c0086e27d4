"""Which cut-off and which rates of R-STDP are best on the validation split.

The experiment `rstdp-selection` of study files: it trains the decision layer of
:data:`~baselines.rstdp.TUNED`, on features that all candidates share, and the dense one of
:data:`~baselines.rstdp.DENSE`, with every cut-off, start of the rates, and with rates that fade or
stay. The test split is not looked at, and the seed is none of those that are reported elsewhere.
All is on the CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import ceil
from time import perf_counter
from typing import Annotated, ClassVar

import pandas as pd
import torch
from pydantic import BaseModel, Field

from baselines.registry import pick
from baselines.rstdp import DENSE, RSTDP, TUNED, Recipe, RSTDPNetwork
from baselines.trainer import BasicSettings, Settings
from benchmarks.data import DATASETS, Dataset, load
from benchmarks.experiments.base import STRICT, Experiment, Found, Results
from benchmarks.experiments.options import Whole
from benchmarks.rendering.document import Section, Table
from benchmarks.rendering.text import Lines
from benchmarks.runs.run import Epoch, Result, Run, Task
from benchmarks.runs.training import accuracy, train_epoch
from benchmarks.runs.tuning import FIRST_SWEEP_SEED
from benchmarks.storage.checkpoint import Checkpoint
from benchmarks.storage.names import refuse_repeated

SEED = FIRST_SWEEP_SEED
BATCH = 128  # only a number of images in a row

NETWORKS: Mapping[str, Recipe] = {"tuned": TUNED, "dense": DENSE}


@dataclass(frozen=True)
class Candidate:
    """A decision layer; see :class:`~baselines.rstdp.Recipe`.

    Attributes:
        network: of :data:`NETWORKS`.
        cutoff: the time step at which it decides.
        rate: what the published rates are multiplied by at the start.
        fading: whether the rates fall to 0.
    """

    network: str
    cutoff: int
    rate: float
    fading: bool


class Options(BaseModel):
    """Choose the decision layer of R-STDP on a grid.

    Attributes:
        dataset: the name of a data set.
        networks: recipes of the network; by default both that there are.
        cutoffs: time steps at which a decision is made.
        rates: factors of the published learning rates at the start.
        epochs: epochs of the decision layer.
    """

    model_config = STRICT

    dataset: str = "mnist"
    networks: Annotated[list[str], Field(min_length=1)] = list(NETWORKS)
    cutoffs: Annotated[list[Whole], Field(min_length=1)] = [6, 8, 10, 12, 15]
    rates: Annotated[list[float], Field(min_length=1)] = [1.0, 5.0]
    epochs: Whole = 3

    def candidates(self) -> list[Candidate]:
        """Return the candidates; those of the same network and cut-off follow each other.

        Raises `ValueError` for a value that is given twice.
        """
        for field in ("networks", "cutoffs", "rates"):
            refuse_repeated(field, getattr(self, field))
        return [
            Candidate(network, cutoff, rate, fading)
            for network in self.networks
            for cutoff in self.cutoffs
            for rate in self.rates
            for fading in (False, True)
        ]


def recipe_of(candidate: Candidate) -> Recipe:
    """Return the whole recipe; raises `ValueError` naming a field that is wrong."""
    recipe = pick("networks", candidate.network, NETWORKS)
    return replace(recipe, cutoff=candidate.cutoff, fading=candidate.fading)


class Features:
    """Networks with trained layers of features, which are the same for all candidates."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.trained = cache(self._trained)
        self.last: RSTDPNetwork | None = None

    def network(self, candidate: Candidate) -> RSTDPNetwork:
        """Return a network whose decision layer has learned nothing yet."""
        recipe = recipe_of(candidate)
        network = self._new(recipe)
        network.load_state_dict(self.trained(candidate.network).state_dict())
        # Features depend on the weights and the cut-off, and are the most of the work.
        last = self.last
        if last is not None and replace(last.recipe, fading=recipe.fading) == recipe:
            network.memory = last.memory
        self.last = network
        return network

    def _trained(self, name: str) -> RSTDPNetwork:
        """Return the network of a recipe after STDP, of which the cut-off is no part."""
        network, images = self._new(NETWORKS[name]), feature_images(NETWORKS[name])
        if images:
            split, random = self.data.train, torch.Generator().manual_seed(SEED)
            drawn = torch.randint(len(split), (images,), generator=random)
            RSTDP(network, Settings(learning_rate=1.0)).step(
                split.inputs[drawn], split.targets[drawn]
            )
        return network

    def _new(self, recipe: Recipe) -> RSTDPNetwork:
        return RSTDPNetwork(self.data.input_shape, self.data.classes, SEED, recipe)


def feature_images(recipe: Recipe) -> int:
    """Return how many images the layers of features learn from."""
    return sum(layer.images for layer in recipe.layers)


@dataclass(frozen=True, kw_only=True)
class SelectionRun(Run):
    """A run of a candidate, which never sees the test split; see :class:`Candidate`."""

    task: ClassVar[Task] = Task("rstdp-selection", "none", "accuracy")

    network: str
    cutoff: int
    fading: bool

    @property
    def candidate(self) -> Candidate:
        """What is tried."""
        return Candidate(self.network, self.cutoff, self.settings.learning_rate, self.fading)

    @property
    def label(self) -> str:
        """See :class:`Run`."""
        return f"{self.network}, {self.cutoff}"


@cache
def features_of(name: str) -> Features:
    """Return what the candidates on a data set share in this process."""
    return Features(load(name))


def train(run: SelectionRun, device: torch.device, checkpoint: Checkpoint | None = None) -> Result:
    """Train the decision layer of a candidate, always on the CPU, and measure after each epoch."""
    return learn(run, features_of(run.dataset))


def learn(run: SelectionRun, features: Features) -> Result:
    """Train the decision layer on features that may be trained already, and measure."""
    data, network = features.data, features.network(run.candidate)
    network.features(data.train.inputs)  # so that the time is of learning alone
    steps = run.epochs * ceil(len(data.train) / run.batch_size)
    # Settings without the options of R-STDP, which are the recipe's.
    trainer = RSTDP(network, BasicSettings(run.settings.learning_rate, steps))
    trainer.images = feature_images(network.recipe)
    order = torch.Generator().manual_seed(run.seed)
    history, seconds = [Epoch(seconds=0.0)], 0.0
    for _ in range(run.epochs):
        started = perf_counter()
        train_epoch(trainer.step, data.train, run.batch_size, order)
        seconds += perf_counter() - started
        history.append(Epoch(validation=accuracy(network, data.validation), seconds=seconds))
    return Result(run, tuple(history), None, steps, seconds)


class RSTDPSelection(Experiment[Options]):
    """See the module."""

    schema = Options
    make = staticmethod(train)

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        pick("dataset", options.dataset, DATASETS)
        for candidate in options.candidates():
            recipe_of(candidate)
            Settings(learning_rate=candidate.rate)
        return len(options.candidates())

    def check(self, options: Options) -> None:
        """See :class:`Experiment`; fetches the data."""
        load(options.dataset)

    def model(self, options: Options) -> str:
        """See :class:`Experiment`; its operations are as small as that one's."""
        return "mlp"

    def plan(self, options: Options, results: Results) -> Sequence[Run]:
        """See :class:`Experiment`."""
        return [run_of(candidate, options) for candidate in options.candidates()]

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`."""
        frame = tidy([stored.result for stored in found.runs.values()])
        if frame.empty:
            return []
        caption = "Candidates by validation accuracy"
        one = Table("candidates", caption, lines(frame), frame, remarks(frame, options))
        return [Section("R-STDP", tables=[one])]


def run_of(candidate: Candidate, options: Options) -> SelectionRun:
    """Return the run of a candidate."""
    return SelectionRun(
        kind="sweep",
        dataset=options.dataset,
        model="rstdp",
        method=RSTDP.name,
        activation="lif",
        seed=SEED,
        epochs=options.epochs,
        batch_size=BATCH,
        settings=Settings(learning_rate=candidate.rate),
        network=candidate.network,
        cutoff=candidate.cutoff,
        fading=candidate.fading,
    )


def tidy(results: Sequence[Result]) -> pd.DataFrame:
    """Return a row for each run."""
    return pd.DataFrame(
        {
            **asdict(result.run.candidate),
            "validation_accuracy": result.validation,
            "seconds": result.seconds,
        }
        for result in results
        if isinstance(result.run, SelectionRun)
    )


def lines(frame: pd.DataFrame) -> Lines:
    """Return the table, a row for each candidate."""
    header = ("network", "cut-off", "rate", "fading", "validation accuracy %", "training s")
    return header, [
        (
            row["network"],
            str(row["cutoff"]),
            f"{row['rate']:g}",
            "yes" if row["fading"] else "no",
            f"{100 * row['validation_accuracy']:.2f}",
            f"{row['seconds']:.0f}",
        )
        for row in frame.to_dict("records")
    ]


def remarks(frame: pd.DataFrame, options: Options) -> list[str]:
    """Return what a reader of the table has to know."""
    best = [
        max(of_network.to_dict("records"), key=lambda row: float(row["validation_accuracy"]))
        for _, of_network in frame.groupby("network", sort=False)
    ]
    return [
        f"{options.dataset}: after {options.epochs} epochs of the decision layer, one run each "
        f"with seed {SEED}; seconds are of learning, with features known.",
        *(
            f"Best of {r['network']}: cut-off {r['cutoff']}, rate {r['rate']:g}, "
            f"{'fading' if r['fading'] else 'constant'}."
            for r in best
        ),
    ]
