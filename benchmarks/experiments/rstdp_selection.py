"""Which cut-off and which rates of R-STDP are best on MNIST's validation split.

``python -m benchmarks.experiments.rstdp_selection --results DIR [--study NAME]`` trains the
decision layer of :data:`~baselines.rstdp.TUNED`, on features that all candidates share, and the
dense one of :data:`~baselines.rstdp.DENSE`, with every cut-off, start of the rates, and with rates
that fade or stay. The test split is not looked at, and the seed is none of those that are reported
elsewhere. It writes ``selection.json`` after every run, and ``selection.md`` at the end; runs that
the former holds are not repeated. On one core it takes half an hour.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from math import ceil
from pathlib import Path
from time import perf_counter

import torch

from baselines.rstdp import DENSE, RSTDP, TUNED, Recipe, RSTDPNetwork
from baselines.trainer import Settings
from benchmarks.data import Dataset, load
from benchmarks.rendering.text import Lines, document, origins
from benchmarks.runs.training import accuracy, train_epoch
from benchmarks.runs.tuning import FIRST_SWEEP_SEED
from benchmarks.storage.files import write
from benchmarks.storage.provenance import describe
from benchmarks.storage.records import Record, Records

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


@dataclass(frozen=True)
class Plan:
    """What all runs have in common, but the data."""

    epochs: int = 3
    cutoffs: tuple[int, ...] = (6, 8, 10, 12, 15)
    rates: tuple[float, ...] = (1.0, 5.0)

    def candidates(self) -> list[Candidate]:
        """Return the candidates; those of the same network and cut-off follow each other."""
        return [
            Candidate(network, cutoff, rate, fading)
            for network in NETWORKS
            for cutoff in self.cutoffs
            for rate in self.rates
            for fading in (False, True)
        ]


class Features:
    """Networks with trained layers of features, which are the same for all candidates."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.trained = cache(self._trained)
        self.last: RSTDPNetwork | None = None

    def network(self, candidate: Candidate) -> RSTDPNetwork:
        """Return a network whose decision layer has learned nothing yet."""
        recipe = replace(
            NETWORKS[candidate.network], cutoff=candidate.cutoff, fading=candidate.fading
        )
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


def run(candidate: Candidate, plan: Plan, data: Dataset, features: Features) -> Record:
    """Train the decision layer and measure."""
    network = features.network(candidate)
    network.features(data.train.inputs)  # so that the time is of learning alone
    steps = plan.epochs * ceil(len(data.train) / BATCH)
    trainer = RSTDP(network, Settings(learning_rate=candidate.rate, total_steps=steps))
    trainer.images = feature_images(network.recipe)
    order = torch.Generator().manual_seed(SEED)
    found, seconds = list[float](), 0.0
    for _ in range(plan.epochs):
        started = perf_counter()
        train_epoch(trainer, data.train, BATCH, order)
        seconds += perf_counter() - started
        found.append(accuracy(network, data.validation))
    return {
        "validation accuracy by epoch": found,
        "seconds": seconds,
        "environment": describe(torch.device("cpu")),
    }


def carry_out(folder: Path, data: Dataset, plan: Plan) -> list[Record]:
    """Return all runs; make and store those that the folder does not have.

    Raises:
        ValueError: ``selection.json`` is there, but not JSON.
    """
    records, features, found = Records(folder / "selection.json"), Features(data), list[Record]()
    for candidate in plan.candidates():
        wanted = {**asdict(candidate), "epochs": plan.epochs, "data": data.name, "seed": SEED}
        found.append(records.get(wanted, partial(run, candidate, plan, data, features)))
        print(*lines(found[-1:])[1][0], sep="  ", file=sys.stderr)
    return found


def lines(records: list[Record]) -> Lines:
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


def remarks(records: list[Record], plan: Plan, data: Dataset) -> list[str]:
    """Return what a reader of the table has to know."""
    best = [
        max(
            (record for record in records if record["network"] == network),
            key=lambda record: record["validation accuracy by epoch"][-1],
        )
        for network in NETWORKS
    ]
    return [
        f"{data.name}: after {plan.epochs} epochs of the decision layer, one run each with seed "
        f"{SEED}; seconds are of learning, with features known.",
        *(
            f"Best of {r['network']}: cut-off {r['cutoff']}, rate {r['rate']:g}, "
            f"{'fading' if r['fading'] else 'constant'}."
            for r in best
        ),
        *(f"Made on: {place}." for place in origins(r["environment"] for r in records)),
    ]


def select(folder: Path, data: Dataset, plan: Plan) -> None:
    """Carry out what is missing in the folder and write the table."""
    records = carry_out(folder, data, plan)
    text = document(lines(records), remarks(records, plan, data))
    write(folder / "selection.md", text.encode())


def main(arguments: list[str]) -> None:
    """Read the options and do it, on one thread."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments.rstdp_selection")
    parser.add_argument("--results", type=Path, required=True, help="folder of all studies")
    parser.add_argument("--study", default="rstdp-selection", help="folder of this study in it")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    select(options.results / options.study, load("mnist"), Plan())


if __name__ == "__main__":
    main(sys.argv[1:])
