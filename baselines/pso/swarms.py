"""Particles, their memory, and how they move: in torch, and by the package pyswarms."""

import os
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from baselines.pso.pulls import Pulls
from baselines.pso.recipe import Recipe
from baselines.swarm_fitness import comparable


class Swarm(Protocol):
    """Particles, their memory, and how they move.

    A cost that is not finite counts as infinite and never becomes a particle's best. While no
    particle has a finite one, g is the first particle's best position, which it started at.

    Attributes:
        positions: (particles, dimensions), the x_i.
        best_positions: (particles, dimensions), the p_i.
        best_costs: (particles,), the costs of the p_i; infinity before they are known.
        pulls: how far c1 and c2 have decayed; None where they stay.
    """

    positions: Tensor
    best_positions: Tensor
    best_costs: Tensor
    pulls: Pulls | None

    def __init__(self, recipe: Recipe, like: Tensor, seed: int) -> None:
        """Scatter particles in as many dimensions as ``like`` (dimensions,) has.

        Dtype and device are those of ``like`` too, if there is a choice; 0 <= seed < 2^32.
        """

    @staticmethod
    @abstractmethod
    def bytes_needed(particles: int, like: Tensor) -> int:
        """Return how much memory the swarm takes at most while it lives.

        Returns:
            The number of bytes.
        """

    @abstractmethod
    def judge(self, costs: Tensor) -> None:
        """Update the best positions, given the costs (particles,) of the positions."""

    @abstractmethod
    def revise(self, costs: Tensor) -> None:
        """Replace the costs (particles,) of the best positions; :meth:`judge` must come next."""

    @abstractmethod
    def move(self) -> None:
        """Update velocities and positions."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return all that changes, in types that `torch.load` reads with `weights_only`."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state of a swarm of the same size was taken."""

    def best(self) -> tuple[Tensor, Tensor]:
        """Return g (dimensions,) and its cost (scalar); g is always one of the p_i."""
        i = self.best_costs.argmin()
        return self.best_positions[i], self.best_costs[i]


class TorchSwarm(Swarm):
    """A swarm in the dtype of the model and on its device, moved a block of particles at a time."""

    #: Numbers in a block by type of device; on the CPU, a few blocks fit into its cache.
    BLOCK: ClassVar[dict[str, int]] = {"cpu": 2**17, "cuda": 2**26}

    def __init__(self, recipe: Recipe, like: Tensor, seed: int) -> None:
        """See :class:`Swarm`."""
        self.recipe = recipe
        self.generator = torch.Generator(like.device).manual_seed(seed)
        shape = (recipe.particles, like.numel())
        self.positions = self.draw(like.new_empty(shape)).sub_(0.5).mul_(2 * recipe.start)
        self.velocities = self.draw(like.new_empty(shape)).sub_(0.5).mul_(2 * recipe.start_speed)
        self.best_positions = self.positions.clone()
        self.best_costs = like.new_full(shape[:1], inf)
        self.pulls = Pulls(recipe, like) if recipe.decay < 1 else None

    @staticmethod
    def bytes_needed(particles: int, like: Tensor) -> int:
        """Return how much memory positions, velocities, best positions and two blocks take.

        Returns:
            The number of bytes.
        """
        rows = 3 * particles + 2 * TorchSwarm._rows(particles, like)
        return rows * like.numel() * like.dtype.itemsize

    def draw(self, out: Tensor) -> Tensor:
        """Fill a tensor with random numbers in [0, 1) and return it."""
        return out.uniform_(generator=self.generator)

    def judge(self, costs: Tensor) -> None:
        """See :class:`Swarm`."""
        costs = comparable(costs)
        better = costs < self.best_costs
        if self.pulls is not None:
            self.pulls.note(better, costs.min() < self.best_costs.min())
        torch.where(better[:, None], self.positions, self.best_positions, out=self.best_positions)
        torch.minimum(costs, self.best_costs, out=self.best_costs)

    def revise(self, costs: Tensor) -> None:
        """See :class:`Swarm`."""
        self.best_costs.copy_(comparable(costs))

    def move(self) -> None:
        """See :class:`Swarm`."""
        recipe, (g, _) = self.recipe, self.best()
        rows = self._rows(recipe.particles, g)
        arrays = (self.positions, self.velocities, self.best_positions)
        pulls = self.pulls
        for block, (x, v, p) in enumerate(
            zip(*(array.split(rows) for array in arrays), strict=True)
        ):
            random, pull = torch.empty_like(x), p - x
            if pulls is not None:
                pull.mul_(pulls.cognitive.split(rows)[block][:, None])
            v.mul_(recipe.inertia).addcmul_(self.draw(random), pull, value=recipe.cognitive)
            torch.sub(g, x, out=pull)
            if pulls is not None:
                pull.mul_(pulls.social)
            v.addcmul_(self.draw(random), pull, value=recipe.social)
            if isfinite(recipe.speed_limit):
                v.clamp_(-recipe.speed_limit, recipe.speed_limit)
            x.add_(v)
            if isfinite(recipe.bound):
                x.clamp_(-recipe.bound, recipe.bound)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Swarm`."""
        return {
            **self._arrays(),
            "random": self.generator.get_state(),
            "pulls": None if self.pulls is None else self.pulls.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Swarm`."""
        if self.pulls is not None:
            self.pulls.load_state_dict(state["pulls"])
        self.generator.set_state(state["random"])
        for name, array in self._arrays().items():
            array.copy_(state[name])

    def _arrays(self) -> dict[str, Tensor]:
        names = ("positions", "velocities", "best_positions", "best_costs")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def _rows(cls, particles: int, like: Tensor) -> int:
        """Return how many particles make a block."""
        return min(max(cls.BLOCK[like.device.type] // like.numel(), 1), particles)


class Pyswarms(Swarm):
    """The global-best swarm of the package pyswarms 1.3 (Miranda 2018), in float64 on the CPU.

    The steps are those of ``GlobalBestPSO.optimize`` and made of pyswarms' own parts, which its
    documentation calls a custom optimisation loop. ``optimize`` itself keeps the positions and
    velocities of all iterations (1.7 GB each for 1000 particles in 105,214 dimensions) and forgets
    the costs of the p_i when it is called again, for the next batch. Particles that leave the
    bounds are put on the ``nearest`` one.

    pyswarms uses NumPy's global random state and reconfigures logging; both are put back for the
    caller, so swarms must not run in several threads at once.
    """

    #: The arrays of pyswarms' state that change.
    ARRAYS: ClassVar[tuple[str, ...]] = (
        "position",
        "velocity",
        "pbest_pos",
        "pbest_cost",
        "best_pos",
        "best_cost",
    )

    def __init__(self, recipe: Recipe, like: Tensor, seed: int) -> None:
        """See :class:`Swarm`."""
        with _logging_untouched():  # and imported late: it is slow
            from pyswarms.backend.handlers import BoundaryHandler, VelocityHandler  # noqa: PLC0415
            from pyswarms.backend.operators import compute_pbest  # noqa: PLC0415
            from pyswarms.backend.swarms import Swarm as State  # noqa: PLC0415
            from pyswarms.backend.topology import Star  # noqa: PLC0415

            self.topology = Star()
            self.on_bounds = BoundaryHandler(strategy="nearest")
            self.on_velocities = VelocityHandler(strategy="unmodified")
        self.compute_pbest = compute_pbest
        shape = (recipe.particles, like.numel())
        edge = np.full(shape[1], recipe.bound)
        self.bounds = (-edge, edge) if isfinite(recipe.bound) else None
        limit = recipe.speed_limit
        self.clamp = (-limit, limit) if isfinite(limit) else None
        random = np.random.RandomState(seed)
        self.state = State(
            position=random.uniform(-recipe.start, recipe.start, shape),
            velocity=random.uniform(-recipe.start_speed, recipe.start_speed, shape),
            pbest_cost=np.full(shape[0], inf),
            options={"w": recipe.inertia, "c1": recipe.cognitive, "c2": recipe.social},
        )
        self.recipe = recipe
        self.pulls = Pulls(recipe, torch.empty(0).double()) if recipe.decay < 1 else None
        self.random_state: Any = random.get_state()
        self._share()

    @staticmethod
    def bytes_needed(particles: int, like: Tensor) -> int:
        """Return the bytes of eight arrays of float64 and two of truth values, as measured.

        The last term is of what does not grow: small arrays, random states, and the objects of
        Python, of which Python 3.10 with NumPy 2.2 makes 80 kB, and later ones less.

        Returns:
            The number of bytes.
        """
        dimensions = like.numel()
        small = 8 * particles**2 + 4 * 8 * dimensions + 100_000
        return particles * dimensions * (8 * 8 + 2) + small

    def judge(self, costs: Tensor) -> None:
        """See :class:`Swarm`."""
        state = self.state
        state.current_cost = comparable(costs.double().cpu()).numpy()
        if self.pulls is not None:
            found = torch.from_numpy(state.current_cost)
            self.pulls.note(found < self.best_costs, found.min() < self.best_costs.min())
            state.options["c1"] = self.recipe.cognitive * self.pulls.cognitive.numpy()[:, None]
            state.options["c2"] = self.recipe.social * float(self.pulls.social)
        state.pbest_pos, state.pbest_cost = self.compute_pbest(state)
        if state.pbest_cost.min() < inf:
            state.best_pos, state.best_cost = self.topology.compute_gbest(state)
        else:  # of which the topology knows no best, and could not move
            state.best_pos, state.best_cost = state.pbest_pos[0], inf
        self._share()

    def revise(self, costs: Tensor) -> None:
        """See :class:`Swarm`."""
        self.state.pbest_cost = comparable(costs.double().cpu()).numpy()
        self.state.best_cost = inf

    def move(self) -> None:
        """See :class:`Swarm`."""
        state, callers = self.state, np.random.get_state()
        np.random.set_state(self.random_state)
        try:
            state.velocity = self.topology.compute_velocity(
                state, self.clamp, self.on_velocities, self.bounds
            )
            self.random_state = np.random.get_state()
        finally:
            np.random.set_state(callers)
        state.position = self.topology.compute_position(state, self.bounds, self.on_bounds)
        self._share()

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Swarm`."""
        arrays = {name: np.asarray(getattr(self.state, name)) for name in self.ARRAYS}
        kind, keys, *others = self.random_state
        return {
            **{name: torch.from_numpy(array) for name, array in arrays.items()},
            "random": (kind, torch.from_numpy(keys), *others),
            "pulls": None if self.pulls is None else self.pulls.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Swarm`."""
        for name in self.ARRAYS:
            setattr(self.state, name, state[name].numpy()[()])  # a scalar where it was one
        if self.pulls is not None:
            self.pulls.load_state_dict(state["pulls"])
        kind, keys, *others = state["random"]
        self.random_state = (kind, keys.numpy(), *others)
        self._share()

    def _share(self) -> None:
        """Look at pyswarms' arrays, which are new ones every time, as tensors."""
        self.positions = torch.from_numpy(self.state.position)
        self.best_positions = torch.from_numpy(self.state.pbest_pos)
        self.best_costs = torch.from_numpy(self.state.pbest_cost)


@contextmanager
def _logging_untouched() -> Iterator[None]:
    """Keep pyswarms from configuring the root logger and from opening ``report.log``.

    It does so on import and in every constructor, unless $LOG_CFG names a configuration; here that
    is one which changes nothing.
    """
    before = os.environ.get("LOG_CFG")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "logging.yaml"
        path.write_text("{version: 1, incremental: true}")
        os.environ["LOG_CFG"] = str(path)
        try:
            yield
        finally:
            del os.environ["LOG_CFG"]
            if before is not None:
                os.environ["LOG_CFG"] = before
