"""Particle swarm optimisation (Kennedy and Eberhart 1995) of all weights, without any gradient.

Every particle i is one network x_i that remembers its best position p_i; g is the best of them.
With fresh uniform random numbers r, s in [0, 1) for every particle and weight::

    v_i <- w v_i + c1 r (p_i - x_i) + c2 s (g - x_i)
    x_i <- x_i + v_i

Two implementations of this, :class:`Pyswarms` and :class:`TorchSwarm`, share the fitness function
:class:`~baselines.swarm_fitness.SwarmFitness`, and follow the same trajectory from the same random
numbers. There are two named recipes, :data:`PAPER` and :data:`STABLE`, which the options
(:class:`SwarmSettings`) begin with.
"""

from baselines.pso.options import StableSwarmSettings, SwarmSettings
from baselines.pso.recipe import PAPER, STABLE, Recipe
from baselines.pso.swarms import Pyswarms, Swarm, TorchSwarm
from baselines.pso.trainer import (
    PSO,
    PaperPSO,
    PaperTorchPSO,
    StablePSO,
    StableTorchPSO,
    free_bytes,
)

__all__ = [
    "PAPER",
    "PSO",
    "STABLE",
    "PaperPSO",
    "PaperTorchPSO",
    "Pyswarms",
    "Recipe",
    "StablePSO",
    "StableSwarmSettings",
    "StableTorchPSO",
    "Swarm",
    "SwarmSettings",
    "TorchSwarm",
    "free_bytes",
]
