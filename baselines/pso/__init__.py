"""Particle swarm optimisation (Kennedy and Eberhart 1995) of all weights, without any gradient."""

from baselines.pso.swarms import (
    PAPER,
    PSO,
    STABLE,
    PaperPSO,
    PaperTorchPSO,
    Pyswarms,
    Recipe,
    StablePSO,
    StableTorchPSO,
    Swarm,
    TorchSwarm,
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
    "StableTorchPSO",
    "Swarm",
    "TorchSwarm",
    "free_bytes",
]
