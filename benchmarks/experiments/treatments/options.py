"""Which networks are trained with which options of LFP, as a study file says it."""

from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from baselines import LFP, SGD, LFPSettings, Settings
from baselines.options import fields_of
from baselines.registry import pick
from benchmarks.experiments.base import STRICT
from benchmarks.experiments.options import DECIDED, Seeds, Whole
from benchmarks.experiments.treatments.networks import NETWORKS
from benchmarks.storage.names import refuse_repeated

#: The arm that every study has besides those of LFP.
GRADIENT = "gradient"


class Options(BaseModel):
    """The keys of a part in a study file.

    Attributes:
        networks: of :data:`~benchmarks.experiments.treatments.networks.NETWORKS`.
        arms: options of LFP by the name of the arm; the gradient is one more.
        optimizer: that steps on ``p.grad``.
        learning_rates, epsilons: the grid that each arm of LFP is chosen from; the gradient has as
            many rates over the same decades.
        epochs, seeds: of the reported runs.
        sweep_epochs, sweep_seeds: of the runs that an arm is chosen by.
    """

    model_config = STRICT

    networks: Annotated[list[str], Field(min_length=1)]
    arms: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rates: Annotated[list[float], Field(min_length=1)]
    epsilons: Annotated[list[float], Field(min_length=1)]
    epochs: Whole
    seeds: Seeds = 5
    sweep_epochs: Whole
    sweep_seeds: Seeds = 2

    def check(self) -> None:
        """Raise `ValueError` naming a field that is wrong."""
        for field in ("networks", "learning_rates", "epsilons"):
            refuse_repeated(field, getattr(self, field))
        for name in self.networks:
            pick("networks", name, NETWORKS)
        for arm, own in self.arms.items():
            if arm == GRADIENT:
                raise ValueError(f"arms: {arm!r} is always there; allowed: other names")
            chosen = (*DECIDED, "epsilon", "optimizer")  # which the other keys say
            known = {n: f for n, f in fields_of(LFP.Options).items() if n not in chosen}
            for name in own:
                pick(f"arms.{arm}", name, known)
            self.trials(arm)
        self.trials(GRADIENT)

    @property
    def every_arm(self) -> list[str]:
        """The names of the arms, the gradient last."""
        return [*self.arms, GRADIENT]

    def trials(self, arm: str) -> list[Settings]:
        """Return the options that an arm is chosen from, as many as every other arm has."""
        if arm != GRADIENT:
            return [
                LFPSettings(rate, epsilon=epsilon, optimizer=self.optimizer, **self.arms[arm])
                for rate, epsilon in product(self.learning_rates, self.epsilons)
            ]
        count = len(self.learning_rates) * len(self.epsilons)
        rates = np.geomspace(min(self.learning_rates), max(self.learning_rates), count)
        rounded = dict.fromkeys(float(f"{rate:.3g}") for rate in rates)
        return [Settings(rate, optimizer=self.optimizer) for rate in rounded]


def method_of(arm: str) -> str:
    """Return the name of the arm's method."""
    return SGD.name if arm == GRADIENT else LFP.name
