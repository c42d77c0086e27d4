"""Which cut-off and which rates of R-STDP are best on the validation split.

The experiment `rstdp-selection` of study files: it trains the decision layer of
:data:`~baselines.rstdp.TUNED`, on features that all candidates share, and the dense one of
:data:`~baselines.rstdp.DENSE`, with every cut-off, start of the rates, and with rates that fade or
stay. The test split is not looked at, and the seed is none of those that are reported elsewhere.
All is on the CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Annotated

import torch
from pydantic import BaseModel, Field

from baselines.registry import pick
from baselines.rstdp import DENSE, RSTDP, TUNED, Recipe, RSTDPNetwork
from baselines.trainer import Settings
from benchmarks.data import DATASETS, Dataset, load
from benchmarks.experiments.base import STRICT, Experiment, Place, Report
from benchmarks.experiments.options import Whole, refuse_repeated
from benchmarks.rendering.text import Lines, document, origins
from benchmarks.runs.training import accuracy, train_epoch
from benchmarks.runs.tuning import FIRST_SWEEP_SEED
from benchmarks.storage.files import write
from benchmarks.storage.provenance import describe
from benchmarks.storage.records import Record

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
    """Which candidates there are, and how they are trained.

    Attributes:
        dataset: a name.
        networks: of :data:`NETWORKS`.
        cutoffs, rates: as in :class:`Candidate`.
        epochs: of the decision layer.
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


def run(candidate: Candidate, options: Options, data: Dataset, features: Features) -> Record:
    """Train the decision layer and measure."""
    network = features.network(candidate)
    network.features(data.train.inputs)  # so that the time is of learning alone
    steps = options.epochs * ceil(len(data.train) / BATCH)
    trainer = RSTDP(network, Settings(learning_rate=candidate.rate, total_steps=steps))
    trainer.images = feature_images(network.recipe)
    order = torch.Generator().manual_seed(SEED)
    found, seconds = list[float](), 0.0
    for _ in range(options.epochs):
        started = perf_counter()
        train_epoch(trainer, data.train, BATCH, order)
        seconds += perf_counter() - started
        found.append(accuracy(network, data.validation))
    return {
        "validation accuracy by epoch": found,
        "seconds": seconds,
        "environment": describe(torch.device("cpu")),
    }


class RSTDPSelection(Experiment[Options]):
    """See the module."""

    schema = Options
    axes = frozenset({"networks", "cutoffs", "rates"})

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

    def carry_out(self, options: Options, folder: Path, place: Place) -> Report:
        """See :class:`Experiment`."""
        data, records, found = load(options.dataset), self.records(options, folder), list[Record]()
        features = Features(data)
        for candidate in options.candidates():
            make = partial(run, candidate, options, data, features)
            found.append(records.get(asdict(candidate), make))
            place.advance(f"{candidate.network}, {candidate.cutoff}")
        table, notes = lines(found), remarks(found, options, place.command)
        write(folder / "table.md", document(table, notes).encode())
        return Report(table, notes, found)


def lines(records: Sequence[Record]) -> Lines:
    """Return the table, a row for each candidate."""
    header = ("network", "cut-off", "rate", "fading", "validation accuracy %", "training s")
    return header, [
        (
            record["network"],
            str(record["cutoff"]),
            f"{record['rate']:g}",
            "yes" if record["fading"] else "no",
            f"{100 * record['validation accuracy by epoch'][-1]:.2f}",
            f"{record['seconds']:.0f}",
        )
        for record in records
    ]


def remarks(records: Sequence[Record], options: Options, command: str) -> list[str]:
    """Return what a reader of the table has to know."""
    best = [
        max(
            (record for record in records if record["network"] == network),
            key=lambda record: record["validation accuracy by epoch"][-1],
        )
        for network in options.networks
    ]
    return [
        f"{options.dataset}: after {options.epochs} epochs of the decision layer, one run each "
        f"with seed {SEED}; seconds are of learning, with features known.",
        *(
            f"Best of {r['network']}: cut-off {r['cutoff']}, rate {r['rate']:g}, "
            f"{'fading' if r['fading'] else 'constant'}."
            for r in best
        ),
        *(f"Made on: {place}." for place in origins(r["environment"] for r in records)),
        f"Command: `{command}`",
    ]
