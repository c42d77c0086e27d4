"""Time and memory of particle swarms, next to other ways of doing the same.

``lfp-bench perf swarms`` stores JSON; by default of 1000 particles, batches of 1000 and 3 repeats,
which takes about six minutes and 9 GB. All runs on one thread, as pyswarms does, and in float32 but
for pyswarms. It measures

* the costs of a swarm by :class:`~baselines.swarm_fitness.SwarmFitness`, by a loop over particles
  and by ``torch.vmap``, in turn, on the CPU and on a GPU if there is one;
* the update (``judge`` and ``move``) of both swarms in turn, for both recipes, on the CPU;
* the resident memory of whole steps, in a process for each swarm, against what the swarm states.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.pso import (
    PAPER,
    PSO,
    STABLE,
    Pyswarms,
    Recipe,
    StablePSO,
    StableTorchPSO,
    Swarm,
    TorchSwarm,
)
from baselines.swarm_fitness import SwarmFitness
from baselines.trainer import Settings
from baselines.workers import ended, pool_of, submitted
from benchmarks.costs.timing import compared, interleaved
from benchmarks.models import CLASSES, SHAPES, build
from benchmarks.storage.provenance import describe

MODELS = ("lenet", "mlp")
RECIPES = {"paper": PAPER, "stable": STABLE}
SWARMS: dict[str, type[Swarm]] = {"torch": TorchSwarm, "pyswarms": Pyswarms}
TRAINERS: tuple[type[PSO], ...] = (StableTorchPSO, StablePSO)
#: How many particles the loop and vmap have; their time is scaled to the whole swarm.
SUBSET = 20

Costs = Callable[[Tensor, Tensor, Tensor], Tensor]


def model_of(name: str) -> nn.Module:
    """Return a network with ReLU for MNIST."""
    return build(name, activation="relu", input_shape=SHAPES[name], classes=CLASSES, seed=0)


def batch_of(name: str, samples: int) -> tuple[Tensor, Tensor]:
    """Return random inputs (samples, ...) and targets (samples,) for a network."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, *SHAPES[name], generator=generator)
    return inputs, torch.randint(CLASSES, (samples,), generator=generator)


# --- fitness --------------------------------------------------------------------------------------


def one_cost(model: nn.Module) -> Costs:
    """Return a function from a position (dimensions,), inputs and targets to the cost (scalar)."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]

    def cost(position: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        parts = zip(shapes.items(), position.split(sizes), strict=True)
        parameters = {name: part.view(shape) for (name, shape), part in parts}
        return F.cross_entropy(torch.func.functional_call(model, parameters, inputs), targets)

    return cost


def in_a_loop(model: nn.Module) -> Costs:
    """Return a function to the costs (particles,) of positions (particles, dimensions)."""
    cost = one_cost(model)
    return lambda positions, *batch: torch.stack([cost(x, *batch) for x in positions])


def by_vmap(model: nn.Module) -> Costs:
    """Return the same function, vectorised by torch."""
    return torch.vmap(one_cost(model), in_dims=(0, None, None))


@torch.no_grad()
def fitness(
    name: str, particles: int, samples: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Return seconds and differences of three ways to the costs of particles."""
    model = model_of(name).to(device).eval()
    batch = [part.to(device) for part in batch_of(name, samples)]
    dimensions = sum(parameter.numel() for parameter in model.parameters())
    generator = torch.Generator().manual_seed(0)
    positions = torch.empty(particles, dimensions).uniform_(-0.1, 0.1, generator=generator)
    positions = positions.to(device)
    few = positions[:SUBSET]
    ours, loop, vmap = SwarmFitness(model), in_a_loop(model), by_vmap(model)
    steps: dict[str, Callable[[], Tensor]] = {
        "swarm": partial(ours, positions, *batch),
        "loop": partial(loop, few, *batch),
        "vmap": partial(vmap, few, *batch),
    }
    seconds = interleaved(steps, repeats, device)
    shares = {"swarm": 1.0, "loop": len(few) / particles, "vmap": len(few) / particles}
    seconds = {way: [s / shares[way] for s in seconds[way]] for way in steps}
    expected = loop(few, *batch)
    return {
        "dimensions": dimensions,
        "particles of loop and vmap, scaled": len(few),
        **compared(seconds, "swarm"),
        "costs from": float(expected.min()),
        "costs to": float(expected.max()),
        "largest difference to loop": {
            way: float((steps[way]()[: len(few)] - expected).abs().max()) for way in steps
        },
    }


# --- update ---------------------------------------------------------------------------------------


def update_of(swarm: Swarm, particles: int) -> Callable[[], None]:
    """Return an update of a swarm for which half of the particles improve, at random."""
    generator = torch.Generator().manual_seed(0)

    def update() -> None:
        swarm.revise(torch.full((particles,), 0.5))
        swarm.judge(torch.rand(particles, generator=generator))
        swarm.move()

    return update


def update(recipe: Recipe, dimensions: int, repeats: int) -> dict[str, Any]:
    """Return the seconds that an iteration of each swarm takes without the fitness."""
    like = torch.empty(dimensions)
    steps = {
        name: update_of(swarm(recipe, like, seed=0), recipe.particles)
        for name, swarm in SWARMS.items()
    }
    return compared(interleaved(steps, repeats, torch.device("cpu")), "torch")


# --- memory ---------------------------------------------------------------------------------------


def memory(trainer: type[PSO], particles: int, samples: int) -> dict[str, Any]:
    """Return the peak resident memory of two steps on the MLP, and what was stated, in bytes."""
    pool = pool_of(1)
    try:
        (peak,) = submitted(pool, partial(peak_of_steps, trainer, particles), [samples])
        return peak.result()
    finally:
        ended(pool)


def peak_of_steps(trainer: type[PSO], particles: int, samples: int) -> dict[str, Any]:
    """Measure in this process, whose peak so far must be lower."""
    torch.set_num_threads(1)
    take_steps(trainer, 2, samples)  # what libraries set up at first use is not the swarm's
    before = resident("VmRSS")
    swarm = take_steps(trainer, particles, samples)
    peak = resident("VmHWM") - before
    like = swarm.swarm.positions[0].to(swarm.fitness.dtype)
    stated = swarm.swarm_type.bytes_needed(particles, like) + swarm.fitness.bytes_needed
    return {"peak bytes": peak, "stated bytes": stated, "peak / stated": round(peak / stated, 4)}


def take_steps(trainer: type[PSO], particles: int, samples: int) -> PSO:
    """Return a trainer of a swarm of that many particles that has taken two steps."""
    recipe = replace(trainer.recipe, particles=particles)
    swarm = trainer(model_of("mlp"), Settings(learning_rate=1.0), recipe)
    batch = batch_of("mlp", samples)
    for _ in range(2):
        swarm.step(*batch)
    return swarm


def resident(field: str) -> int:
    """Return VmRSS, the resident memory of this process, or VmHWM, its peak, in bytes (Linux)."""
    found = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


# --- report ---------------------------------------------------------------------------------------


def measure(particles: int, samples: int, repeats: int) -> dict[str, Any]:
    """Return all figures, of one thread."""
    torch.set_num_threads(1)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    devices = (cpu, gpu) if torch.cuda.is_available() else (cpu,)
    dimensions = sum(parameter.numel() for parameter in model_of("mlp").parameters())
    return {
        "environment": [describe(device) for device in devices],
        "particles": particles,
        "batch": samples,
        "repeats": repeats,
        "memory of a step": {
            trainer.name: memory(trainer, particles, samples) for trainer in TRAINERS
        },
        "update": {
            name: update(replace(recipe, particles=particles), dimensions, repeats)
            for name, recipe in RECIPES.items()
        },
        "fitness": {
            f"{name} on {device.type}": fitness(name, particles, samples, repeats, device)
            for device in devices
            for name in MODELS
        },
    }
