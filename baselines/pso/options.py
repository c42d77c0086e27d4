"""What a swarm can be tuned by."""

from collections.abc import Mapping
from math import inf
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from baselines.options import LogUniform, Search, options
from baselines.pso.recipe import PAPER, STABLE, Recipe
from baselines.trainer import BasicSettings

#: What the costs of a swarm are of; see :attr:`SwarmSettings.variant`.
Variant = Literal["fixed", "paper", "fresh"]
Inertia = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="Share of a velocity that stays, w.")
]
Cognitive = Annotated[
    float,
    Field(ge=0, allow_inf_nan=False, description="Pull of a particle's own best position, c1."),
]
Social = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="Pull of the swarm's best position, c2.")
]
StartSpeed = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="Largest velocity at the start.")
]
Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bound = Annotated[Limit | None, Field(description="Largest magnitude of a weight.")]
SpeedLimit = Annotated[Limit | None, Field(description="Largest magnitude of a velocity.")]


@options
class SwarmSettings(BasicSettings):
    """How a swarm starts and moves, by default as :data:`~baselines.pso.recipe.PAPER`.

    The variants differ in what costs are of. "fixed": the first batch, for ever. "paper": each
    iteration has the next batch, and the costs of best positions stay as they were measured, as in
    the authors' code; where a best position has not changed for `patience` iterations, its pull
    decays. "fresh": each iteration has the next batch, on which best positions are evaluated again,
    at twice the work.
    """

    particles: Annotated[int, Field(ge=1, description="Particles in a swarm.")] = PAPER.particles
    inertia: Inertia = PAPER.inertia
    cognitive: Cognitive = PAPER.cognitive
    social: Social = PAPER.social
    start: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="Largest weight at the start.")
    ] = PAPER.start
    start_speed: StartSpeed = PAPER.start_speed
    bound: Bound = None
    speed_limit: SpeedLimit = None
    variant: Annotated[
        Variant,
        Field(description="Whether costs are of the first batch, or of new ones (see the method)."),
    ] = "fixed"
    decay: Annotated[
        float,
        Field(gt=0, le=1, description="Factor of a pull per iteration after that (paper)."),
    ] = 0.99
    patience: Annotated[
        int,
        Field(ge=1, description="Iterations without a new best position until its pull decays."),
    ] = 10

    search: ClassVar[Mapping[str, Search]] = {
        **BasicSettings.search,
        "inertia": LogUniform(0.4, 0.95),
        "cognitive": LogUniform(0.5, 2.5),
        "social": LogUniform(0.5, 2.5),
        "start": LogUniform(0.01, 1),
    }

    def recipe(self) -> Recipe:
        """Return how the swarm starts and moves."""
        authors = self.variant == "paper"
        return Recipe(
            particles=self.particles,
            inertia=self.inertia,
            cognitive=self.cognitive,
            social=self.social,
            start=self.start,
            start_speed=self.start_speed,
            bound=inf if self.bound is None else self.bound,
            speed_limit=inf if self.speed_limit is None else self.speed_limit,
            fresh=self.variant != "fixed",
            kept=authors,
            decay=self.decay if authors else 1.0,
            patience=self.patience,
        )


@options
class StableSwarmSettings(SwarmSettings):
    """The options of a swarm, by default as :data:`~baselines.pso.recipe.STABLE`."""

    inertia: Inertia = STABLE.inertia
    cognitive: Cognitive = STABLE.cognitive
    social: Social = STABLE.social
    start_speed: StartSpeed = STABLE.start_speed
    bound: Bound = STABLE.bound
    speed_limit: SpeedLimit = STABLE.speed_limit

    search: ClassVar[Mapping[str, Search]] = {
        **SwarmSettings.search,
        "speed_limit": LogUniform(0.001, 1),
    }
