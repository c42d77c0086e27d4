"""Particle swarms, which search for weights and need no gradient (:mod:`baselines.pso`)."""

import math
import sys
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines.activation import Activation
from baselines.machine import available_memory
from baselines.pso.options import StableSwarmSettings, SwarmSettings
from baselines.pso.recipe import PAPER, STABLE, Recipe
from baselines.pso.swarms import Pyswarms, Swarm, TorchSwarm
from baselines.swarm_fitness import SwarmFitness
from baselines.trainer import BasicSettings, Step, Trainer


class PSO(Trainer):
    """A swarm of networks; the model becomes its best one after every step.

    A step is one iteration of the swarm: evaluate, remember, move. The loss of a step is the cost
    of the best position so far, on the batch that it was measured on; there is no feedback and its
    norm is 0. While no particle has a finite cost the loss is infinite: a divergence. There is no
    learning rate. The particles start at random and not from the model's weights; the seed is drawn
    from torch's default generator.

    Args:
        model: the network; the swarm has its dtype and device.
        settings: how the swarm starts and moves, if they are
            :class:`~baselines.pso.options.SwarmSettings`; all others have nothing for a swarm.
        recipe: instead of these; by default that of the settings, or else of the class.

    Raises:
        ValueError: a layer of the model is not one that
            :class:`~baselines.swarm_fitness.SwarmFitness` knows.
        MemoryError: swarm and fitness would not fit into the memory that is free.
    """

    Options: ClassVar[type[BasicSettings]] = SwarmSettings
    shown: ClassVar[tuple[str, ...]] = ("particles",)
    steps_name: ClassVar[str] = "iterations"
    recipe: ClassVar[Recipe]
    swarm_type: ClassVar[type[Swarm]]
    batch_size: ClassVar[int | None] = 1000  # the one batch of all costs has to stand for the rest
    learning_rate: ClassVar[float | None] = 1.0  # there is none

    @classmethod
    def supports(cls, activation: Activation) -> str | None:
        """Refuse neurons that spike."""
        return "no fitness of spiking networks" if activation.spiking else None

    def __init__(
        self, model: nn.Module, settings: BasicSettings, recipe: Recipe | None = None
    ) -> None:
        """Scatter the swarm, if it fits into memory."""
        if recipe is None:
            own = settings.recipe() if isinstance(settings, SwarmSettings) else None
            recipe = own or self.recipe
        self.fresh, self.kept = recipe.fresh, recipe.kept
        self.fitness = SwarmFitness(model)
        like = torch.empty(
            self.fitness.dimensions, dtype=self.fitness.dtype, device=self.fitness.device
        )
        needed = self.swarm_type.bytes_needed(recipe.particles, like) + self.fitness.bytes_needed
        device = torch.device("cpu") if self.swarm_type is Pyswarms else like.device
        free = free_bytes(device)
        if needed > free:
            raise MemoryError(
                f"{self.name}: {recipe.particles} particles in {like.numel()} dimensions need "
                f"{needed / 1e9:.2f} GB on {device}, where {free / 1e9:.2f} GB are free"
            )
        self.swarm = self.swarm_type(recipe, like, seed=int(torch.randint(2**32, ())))
        self.batch: tuple[Tensor, Tensor] | None = None

    def step(self, inputs: Tensor, targets: Tensor) -> Step:
        """Make one iteration on the batch, or on the first one; see :class:`Recipe`.

        A batch without samples has no cost, so that nothing moves.

        Returns:
            The loss, which of no samples is not a number, as with gradient descent; and the norm 0.
        """
        if not len(inputs):
            nothing = torch.zeros((), dtype=self.fitness.dtype, device=self.fitness.device)
            return Step(torch.full_like(nothing, math.nan), nothing)
        if self.batch is None:
            self.batch = inputs, targets
        elif self.fresh:
            self.batch = inputs, targets
            if not self.kept:
                self.swarm.revise(self.fitness(self.swarm.best_positions, *self.batch))
        self.swarm.judge(self.fitness(self.swarm.positions, *self.batch))
        position, cost = self.swarm.best()
        self.fitness.write(position)
        self.swarm.move()
        loss = cost.to(self.fitness.device, self.fitness.dtype, copy=True)
        return Step(loss, torch.zeros_like(loss))

    def state_dict(self) -> dict[str, Any]:
        """Return the swarm's state, and the last batch that costs were measured on."""
        return {"swarm": self.swarm.state_dict(), "batch": self.batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`~baselines.trainer.Trainer`."""
        self.swarm.load_state_dict(state["swarm"])
        if state["batch"] is not None:
            inputs, targets = (part.to(self.fitness.device) for part in state["batch"])
            self.batch = inputs, targets


def free_bytes(device: torch.device) -> int:
    """Return how many bytes a device can give; no limit of a CPU's is known but on Linux."""
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reusable
    memory = available_memory()
    return sys.maxsize if memory == math.inf else int(memory)


class PaperPSO(PSO):
    """A swarm of pyswarms with the numbers of the paper."""

    name: ClassVar[str] = "pso-paper"
    label: ClassVar[str] = "PSO, paper"
    numpy: ClassVar[bool] = True
    recipe: ClassVar[Recipe] = PAPER
    swarm_type: ClassVar[type[Swarm]] = Pyswarms


class StablePSO(PSO):
    """A swarm of pyswarms with numbers that keep it stable."""

    Options: ClassVar[type[BasicSettings]] = StableSwarmSettings
    name: ClassVar[str] = "pso-stable"
    label: ClassVar[str] = "PSO, stable"
    numpy: ClassVar[bool] = True
    recipe: ClassVar[Recipe] = STABLE
    swarm_type: ClassVar[type[Swarm]] = Pyswarms


class PaperTorchPSO(PSO):
    """A swarm in torch with the numbers of the paper."""

    name: ClassVar[str] = "pso-torch-paper"
    label: ClassVar[str] = "PSO (torch), paper"
    recipe: ClassVar[Recipe] = PAPER
    swarm_type: ClassVar[type[Swarm]] = TorchSwarm


class StableTorchPSO(PSO):
    """A swarm in torch with numbers that keep it stable."""

    Options: ClassVar[type[BasicSettings]] = StableSwarmSettings
    name: ClassVar[str] = "pso-torch-stable"
    label: ClassVar[str] = "PSO (torch), stable"
    recipe: ClassVar[Recipe] = STABLE
    swarm_type: ClassVar[type[Swarm]] = TorchSwarm
