"""How a swarm starts and moves, and two named recipes for it."""

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Recipe:
    """How a swarm starts and moves; all lengths are in units of the weights.

    Attributes:
        particles: size of the swarm.
        inertia: w.
        cognitive: c1, the pull of a particle's own best position.
        social: c2, the pull of the swarm's best position.
        start: positions start uniformly in [-start, start].
        start_speed: velocities start uniformly in [-start_speed, start_speed].
        bound: positions are clipped to [-bound, bound].
        speed_limit: velocities are clipped to [-speed_limit, speed_limit].
        fresh: whether every step's batch counts, for which the p_i are evaluated again as well, at
            twice the work. Otherwise the first batch is the one that all costs are of.
        kept: whether, with fresh batches, the costs of the p_i stay as they were measured, at half
            the work. Then costs of different batches are compared, and a lucky one is hard to beat.
        decay: what c1 or c2 is multiplied by in each iteration from `patience` on in which the
            position that it pulls to has not changed (:class:`~baselines.pso.pulls.Pulls`).
        patience: see there.
    """

    particles: int
    inertia: float
    cognitive: float
    social: float
    start: float
    start_speed: float
    bound: float
    speed_limit: float
    fresh: bool = False
    kept: bool = False
    decay: float = 1.0
    patience: int = 10


#: The numbers of arXiv 2308.12053, which used the package torch-pso: its range is of the start
#: alone, and its velocities start in twice the range. (torch-pso tells each particle of a new g at
#: once; here all particles move together.) Its batches and its decay are the variant "paper" of
#: :class:`~baselines.pso.options.SwarmSettings`.
PAPER = Recipe(
    particles=1000,
    inertia=0.8,
    cognitive=2.0,
    social=2.0,
    start=0.1,
    start_speed=0.2,
    bound=inf,
    speed_limit=inf,
)

#: The constriction of Clerc and Kennedy (2002), a slow start, and limits. The variance of a
#: particle's position stays finite for c1 + c2 < 24 (1 - w^2) / (7 - 5 w) (Poli 2009): 2.99 < 3.35
#: here, but 4 > 2.88 in :data:`PAPER`. On an MLP the speed limit alone makes almost all of the
#: difference between the two, and the bound none (``benchmarks/experiments/swarm_ablation.py``).
STABLE = Recipe(
    particles=1000,
    inertia=0.729,
    cognitive=1.494,
    social=1.494,
    start=0.1,
    start_speed=0.0,
    bound=1.0,
    speed_limit=0.02,
)
