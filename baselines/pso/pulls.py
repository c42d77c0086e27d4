"""How the pulls of a swarm's best positions decay where these do not change."""

from typing import Any

import torch
from torch import Tensor

from baselines.pso.recipe import Recipe


class Pulls:
    """What the coefficients of a recipe are multiplied by, for each particle and for the swarm.

    The authors of arXiv 2308.12053 write of both coefficients: "We decay this if" the best position
    "was not update for a while" (``nbs/clock-times/clock-time-comparison_pso.ipynb``). Their change
    of torch-pso is not published, so how fast, and after how long, is for the options to say. A
    pull that has decayed stays as it is when its best position changes again.

    Attributes:
        cognitive: (particles,), of their own best positions.
        social: scalar, of the swarm's.
    """

    def __init__(self, recipe: Recipe, like: Tensor) -> None:
        """Begin with 1, in the dtype and on the device of a tensor."""
        self.decay, self.patience = recipe.decay, recipe.patience
        self.cognitive = like.new_ones(recipe.particles)
        self.social = like.new_ones(())
        self.waited = torch.zeros(recipe.particles, dtype=torch.int64, device=like.device)
        self.swarm_waited = torch.zeros((), dtype=torch.int64, device=like.device)

    def note(self, better: Tensor, best_is_better: Tensor) -> None:
        """Note which best positions an iteration changed, and let the pulls of the others decay.

        Args:
            better: (particles,) truth values, whose best positions have changed.
            best_is_better: scalar, whether the best of them has.
        """
        for waited, changed, factor in (
            (self.waited, better, self.cognitive),
            (self.swarm_waited, best_is_better, self.social),
        ):
            waited.add_(1).masked_fill_(changed, 0)
            factor.mul_(torch.where(waited >= self.patience, self.decay, 1.0))

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes."""
        names = ("cognitive", "social", "waited", "swarm_waited")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state of a swarm of the same size was taken."""
        for name, saved in state.items():
            getattr(self, name).copy_(saved)
