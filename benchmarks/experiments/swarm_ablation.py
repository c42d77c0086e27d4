"""Which of the changes from :data:`~baselines.pso.PAPER` to :data:`~baselines.pso.STABLE` matters.

``python -m benchmarks.experiments.swarm_ablation --results DIR --study NAME [--seeds N]`` trains
the MLP on the first 1000 images of MNIST by swarms of 200 particles, in 60 iterations: the paper's
recipe, with each change alone, the stable recipe, and with each change taken back. It writes
``ablation.json`` after every run, and ``ablation.md`` at the end; runs that the former holds are
not repeated. With two seeds it takes twelve minutes on one core.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from time import perf_counter

import torch

from baselines.pso import PAPER, STABLE, Recipe, StableTorchPSO
from baselines.trainer import Settings
from benchmarks.data import Dataset, load
from benchmarks.models import build
from benchmarks.rendering.text import Lines, document, origins, spread
from benchmarks.runs.training import accuracy
from benchmarks.storage.files import write
from benchmarks.storage.provenance import describe
from benchmarks.storage.records import Record, Records

#: The fields of a recipe that each change sets.
CHANGES: Mapping[str, tuple[str, ...]] = {
    "constriction": ("inertia", "cognitive", "social"),
    "zero start velocity": ("start_speed",),
    "velocity clamp": ("speed_limit",),
    "position bound": ("bound",),
}


@dataclass(frozen=True)
class Plan:
    """What all runs have in common, but the data."""

    particles: int = 200
    iterations: int = 60
    samples: int = 1000
    model: str = "mlp"


def recipes() -> dict[str, Recipe]:
    """Return the recipes in the order of the table."""
    added = {f"paper with {name}": changed(PAPER, STABLE, name) for name in CHANGES}
    taken_back = {f"stable without {name}": changed(STABLE, PAPER, name) for name in CHANGES}
    return {"paper": PAPER, **added, "stable": STABLE, **taken_back}


def changed(recipe: Recipe, other: Recipe, change: str) -> Recipe:
    """Return a recipe with the fields that belong to a change from the other one."""
    return replace(recipe, **{field: getattr(other, field) for field in CHANGES[change]})


def run(recipe: Recipe, seed: int, plan: Plan, data: Dataset) -> Record:
    """Train; runs of the same seed draw the same random numbers, whatever the recipe."""
    started = perf_counter()
    model = build(
        plan.model,
        activation="relu",
        input_shape=data.input_shape,
        classes=data.classes,
        seed=seed,
    )
    batch = data.train.inputs[: plan.samples], data.train.targets[: plan.samples]
    recipe = replace(recipe, particles=plan.particles)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        swarm = StableTorchPSO(model, Settings(learning_rate=1.0), recipe)
    return {
        "cost by iteration": [float(swarm.step(*batch).loss) for _ in range(plan.iterations)],
        "test accuracy": accuracy(model, data.test),
        "seconds": perf_counter() - started,
        "environment": describe(torch.device("cpu")),
    }


def description(name: str, recipe: Recipe, seed: int, plan: Plan, data: Dataset) -> Record:
    """Return what identifies a run; an infinite limit is None, as JSON has no infinity."""
    recipe = replace(recipe, particles=plan.particles)
    fields = {field: value if isfinite(value) else None for field, value in asdict(recipe).items()}
    return {"name": name, "seed": seed, "data": data.name, **asdict(plan), "recipe": fields}


def carry_out(folder: Path, data: Dataset, seeds: int, plan: Plan) -> list[Record]:
    """Return all runs, by recipe and seed; make and store those that the folder does not have.

    Raises:
        ValueError: ``ablation.json`` is there, but not JSON.
    """
    records, found = Records(folder / "ablation.json"), list[Record]()
    for name, recipe in recipes().items():
        for seed in range(seeds):
            wanted = description(name, recipe, seed, plan, data)
            found.append(records.get(wanted, partial(run, recipe, seed, plan, data)))
            print(told(found[-1]), file=sys.stderr)
    return found


def told(record: Record) -> str:
    """Return a line about a run."""
    cost, share = record["cost by iteration"][-1], record["test accuracy"]
    return f"{record['name']}, seed {record['seed']}: cost {cost:.3f}, test accuracy {share:.3f}"


def lines(records: list[Record]) -> Lines:
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


def by_recipe(records: list[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Yield each recipe's name and its runs, in the order of the runs."""
    for name in dict.fromkeys(record["name"] for record in records):
        yield name, [record for record in records if record["name"] == name]


def remarks(records: list[Record], plan: Plan, data: Dataset) -> list[str]:
    """Return what a reader of the table has to know."""
    seeds = sorted({record["seed"] for record in records})
    return [
        f"{data.name}, {plan.model} with ReLU: swarms of {plan.particles} particles after "
        f"{plan.iterations} iterations on the first {plan.samples} training images, mean ± sample "
        f"standard deviation over the seeds {seeds[0]} to {seeds[-1]}. Cost: cross-entropy of the "
        "best position on these images.",
        "Constriction: inertia and pulls of Clerc and Kennedy (2002). The other changes: "
        "velocities start at 0; velocities are clipped to "
        f"{STABLE.speed_limit:g}; positions are clipped to {STABLE.bound:g}.",
        "Runs of the same seed draw the same random numbers.",
        *(f"Made on: {place}." for place in origins(r["environment"] for r in records)),
    ]


def ablate(folder: Path, data: Dataset, seeds: int, plan: Plan) -> None:
    """Carry out what is missing in the folder and write the table."""
    records = carry_out(folder, data, seeds, plan)
    text = document(lines(records), remarks(records, plan, data))
    write(folder / "ablation.md", text.encode())


def main(arguments: list[str]) -> None:
    """Read the options and do it, on one thread."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments.swarm_ablation")
    parser.add_argument("--results", type=Path, required=True, help="folder of all studies")
    parser.add_argument("--study", default="pso-ablation", help="folder of this study in it")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each recipe")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    ablate(options.results / options.study, load("mnist"), options.seeds, Plan())


if __name__ == "__main__":
    main(sys.argv[1:])
