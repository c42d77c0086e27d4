"""Which of the changes from :data:`~baselines.pso.PAPER` to :data:`~baselines.pso.STABLE` matters.

The experiment `swarm-ablation` of study files: swarms train a network on the first images of a data
set by the paper's recipe, by it with each change alone, by the stable recipe, and by that with each
change taken back. All is on the CPU.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from pydantic import BaseModel

from baselines.pso import PAPER, STABLE, Recipe, StableTorchPSO
from baselines.registry import pick
from baselines.trainer import Settings
from benchmarks.data import DATASETS, Dataset, load
from benchmarks.experiments.base import STRICT, Experiment, Place, Report
from benchmarks.experiments.options import Seeds, Whole
from benchmarks.models import MODELS, build
from benchmarks.rendering.text import Lines, document, origins, spread
from benchmarks.runs.training import accuracy
from benchmarks.storage.files import write
from benchmarks.storage.provenance import describe
from benchmarks.storage.records import Record

#: The fields of a recipe that each change sets.
CHANGES: Mapping[str, tuple[str, ...]] = {
    "constriction": ("inertia", "cognitive", "social"),
    "zero start velocity": ("start_speed",),
    "velocity clamp": ("speed_limit",),
    "position bound": ("bound",),
}


class Options(BaseModel):
    """How swarms train.

    Attributes:
        dataset, model: names; the network has ReLU.
        particles: of a swarm.
        iterations: that it makes.
        samples: the first training images, which are its only batch.
        seeds: runs of each recipe.
    """

    model_config = STRICT

    dataset: str = "mnist"
    model: str = "mlp"
    particles: Whole = 200
    iterations: Whole = 60
    samples: Whole = 1000
    seeds: Seeds = 2


def recipes() -> dict[str, Recipe]:
    """Return the recipes in the order of the table."""
    added = {f"paper with {name}": changed(PAPER, STABLE, name) for name in CHANGES}
    taken_back = {f"stable without {name}": changed(STABLE, PAPER, name) for name in CHANGES}
    return {"paper": PAPER, **added, "stable": STABLE, **taken_back}


def changed(recipe: Recipe, other: Recipe, change: str) -> Recipe:
    """Return a recipe with the fields that belong to a change from the other one."""
    return replace(recipe, **{field: getattr(other, field) for field in CHANGES[change]})


def run(recipe: Recipe, seed: int, options: Options, data: Dataset) -> Record:
    """Train; runs of the same seed draw the same random numbers, whatever the recipe."""
    started = perf_counter()
    model = build(
        options.model,
        activation="relu",
        input_shape=data.input_shape,
        classes=data.classes,
        seed=seed,
    )
    batch = data.train.inputs[: options.samples], data.train.targets[: options.samples]
    recipe = replace(recipe, particles=options.particles)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        swarm = StableTorchPSO(model, Settings(learning_rate=1.0), recipe)
    return {
        "cost by iteration": [float(swarm.step(*batch).loss) for _ in range(options.iterations)],
        "test accuracy": accuracy(model, data.test),
        "seconds": perf_counter() - started,
        "environment": describe(torch.device("cpu")),
    }


class SwarmAblation(Experiment[Options]):
    """See the module."""

    schema = Options
    axes = frozenset({"seeds"})

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        pick("dataset", options.dataset, DATASETS)
        pick("model", options.model, MODELS)
        return options.seeds * len(recipes())

    def check(self, options: Options) -> None:
        """See :class:`Experiment`; fetches the data."""
        there = len(load(options.dataset).train)
        if options.samples > there:
            raise ValueError(f"samples: {options.samples}; allowed: up to {there}")

    def carry_out(self, options: Options, folder: Path, place: Place) -> Report:
        """See :class:`Experiment`."""
        data, records, found = load(options.dataset), self.records(options, folder), list[Record]()
        for name, recipe in recipes().items():
            for seed in range(options.seeds):
                make = partial(run, recipe, seed, options, data)
                found.append(records.get({"name": name, "seed": seed}, make))
                place.advance(f"{name}, {seed}")
        table, notes = lines(found), remarks(found, options, place.command)
        write(folder / "table.md", document(table, notes).encode())
        return Report(table, notes, found)


def lines(records: Sequence[Record]) -> Lines:
    """Return the table, a row for each recipe."""
    header = ("recipe", "test accuracy %", "cost", "cost at the start")
    return header, [
        (
            name,
            spread([100 * record["test accuracy"] for record in of_recipe], digits=1),
            spread([record["cost by iteration"][-1] for record in of_recipe], digits=3),
            spread([record["cost by iteration"][0] for record in of_recipe], digits=3),
        )
        for name, of_recipe in by_recipe(records)
    ]


def by_recipe(records: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Yield each recipe's name and its runs, in the order of the runs."""
    for name in dict.fromkeys(record["name"] for record in records):
        yield name, [record for record in records if record["name"] == name]


def remarks(records: Sequence[Record], options: Options, command: str) -> list[str]:
    """Return what a reader of the table has to know."""
    return [
        f"{options.dataset}, {options.model} with ReLU: swarms of {options.particles} particles "
        f"after {options.iterations} iterations on the first {options.samples} training images, "
        f"mean ± sample standard deviation over the seeds 0 to {options.seeds - 1}. Cost: "
        "cross-entropy of the best position on these images.",
        "Constriction: inertia and pulls of Clerc and Kennedy (2002). The other changes: "
        "velocities start at 0; velocities are clipped to "
        f"{STABLE.speed_limit:g}; positions are clipped to {STABLE.bound:g}.",
        "Runs of the same seed draw the same random numbers.",
        *(f"Made on: {place}." for place in origins(r["environment"] for r in records)),
        f"Command: `{command}`",
    ]
