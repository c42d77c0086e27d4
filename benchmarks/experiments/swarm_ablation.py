"""Which of the changes from :data:`~baselines.pso.PAPER` to :data:`~baselines.pso.STABLE` matters.

The experiment `swarm-ablation` of study files: swarms train a network on the first images of a data
set by the paper's recipe, by it with each change alone, by the stable recipe, and by that with each
change taken back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import ClassVar

import pandas as pd
import torch
from pydantic import BaseModel

from baselines.pso import PAPER, STABLE, Recipe, StableTorchPSO
from baselines.registry import pick
from baselines.trainer import Settings
from benchmarks.data import DATASETS, load
from benchmarks.experiments.base import STRICT, Experiment, Found, Results
from benchmarks.experiments.options import Seeds, Whole
from benchmarks.models import MODELS, build
from benchmarks.rendering.document import Section, Table
from benchmarks.rendering.text import Lines, spread
from benchmarks.runs.run import Epoch, Result, Run, Task
from benchmarks.runs.training import accuracy, dataset
from benchmarks.storage.checkpoint import Checkpoint

#: The fields of a recipe that each change sets.
CHANGES: Mapping[str, tuple[str, ...]] = {
    "constriction": ("inertia", "cognitive", "social"),
    "zero start velocity": ("start_speed",),
    "velocity clamp": ("speed_limit",),
    "position bound": ("bound",),
}


class Options(BaseModel):
    """Train swarms with and without each change of the recipe.

    Attributes:
        dataset: the name of a data set.
        model: the name of a network, whose units are ReLU.
        particles: particles of a swarm.
        iterations: iterations of a swarm.
        samples: how many training images, from the first on, make its only batch.
        seeds: how many runs there are for each recipe.
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


@dataclass(frozen=True, kw_only=True)
class SwarmRun(Run):
    """A run of a swarm, an epoch of which is an iteration.

    Attributes:
        recipe: a name in :func:`recipes`.
        particles, samples: as in :class:`Options`.
    """

    task: ClassVar[Task] = Task("swarm", "cross-entropy of the best position", "accuracy")

    recipe: str
    particles: int
    samples: int

    @property
    def label(self) -> str:
        """See :class:`Run`."""
        return f"{self.recipe}, {self.seed}"


def train(run: SwarmRun, device: torch.device, checkpoint: Checkpoint | None = None) -> Result:
    """Train; runs of the same seed draw the same random numbers, whatever the recipe.

    Returns:
        The cost after each iteration, and the test accuracy after the last one.
    """
    data = dataset(run.dataset, 0, device.type)
    started = perf_counter()
    model = build(
        run.model,
        activation=run.activation,
        input_shape=data.input_shape,
        classes=data.classes,
        seed=run.seed,
    ).to(device)
    batch = data.train.inputs[: run.samples], data.train.targets[: run.samples]
    recipe = replace(recipes()[run.recipe], particles=run.particles)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        swarm = StableTorchPSO(model, run.settings, recipe)
    costs = [float(swarm.step(*batch).loss) for _ in range(run.epochs)]
    history = [Epoch(), *(Epoch(train_loss=cost) for cost in costs)]
    history[-1] = replace(history[-1], test=accuracy(model, data.test))
    return Result(run, tuple(history), None, run.epochs, perf_counter() - started)


class SwarmAblation(Experiment[Options]):
    """See the module."""

    schema = Options
    make = staticmethod(train)

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

    def plan(self, options: Options, results: Results) -> Sequence[SwarmRun]:
        """See :class:`Experiment`."""
        return [
            SwarmRun(
                kind="final",
                dataset=options.dataset,
                model=options.model,
                method=StableTorchPSO.name,
                activation="relu",
                seed=seed,
                epochs=options.iterations,
                batch_size=options.samples,
                settings=Settings(learning_rate=1.0),
                recipe=name,
                particles=options.particles,
                samples=options.samples,
            )
            for name in recipes()
            for seed in range(options.seeds)
        ]

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`."""
        frame = tidy([stored.result for stored in found.runs.values()])
        if frame.empty:
            return []
        caption = "Swarms by recipe"
        return [
            Section(
                caption, tables=[Table("swarms", caption, lines(frame), frame, remarks(options))]
            )
        ]


def tidy(results: Sequence[Result]) -> pd.DataFrame:
    """Return a row for each run."""
    return pd.DataFrame(
        {
            "recipe": result.run.recipe,
            "seed": result.run.seed,
            "test_accuracy": result.test,
            "cost_at_the_start": result.history[1].train_loss,
            "cost": result.train_loss,
            "seconds": result.seconds,
        }
        for result in results
        if isinstance(result.run, SwarmRun)
    )


def lines(frame: pd.DataFrame) -> Lines:
    """Return the table, a row for each recipe."""
    header = ("recipe", "test accuracy %", "cost", "cost at the start")
    return header, [
        (
            str(recipe),
            spread((100 * of_recipe["test_accuracy"]).tolist(), digits=1),
            spread(of_recipe["cost"].tolist(), digits=3),
            spread(of_recipe["cost_at_the_start"].tolist(), digits=3),
        )
        for recipe, of_recipe in frame.groupby("recipe", sort=False)
    ]


def remarks(options: Options) -> list[str]:
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
    ]
