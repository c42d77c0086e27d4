"""Which networks are trained with which options of LFP, as a study file says it."""

from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from baselines import LFP, SGD, LFPSettings, Settings
from baselines.options import fields_of
from baselines.registry import pick
from baselines.surrogate import Surrogate, SurrogateSettings
from benchmarks.data import DATASETS
from benchmarks.experiments.base import STRICT
from benchmarks.experiments.options import DECIDED, Seeds, Whole
from benchmarks.experiments.treatments.networks import NETWORKS, Network
from benchmarks.models import ACTIVATIONS
from benchmarks.storage.names import refuse_repeated

#: The arm that every study has besides those of LFP.
GRADIENT = "gradient"


class Options(BaseModel):
    """Compare treatments of an operation in LFP, each tuned by a grid.

    Attributes:
        dataset: the name of a data set of ten classes.
        networks: "squeeze", "lstm", "relu", "tanh", "sigmoid", "softplus", "hardsigmoid",
            "heaviside" or "heaviside to the outputs"; the last two also with ", noise" at the end.
        arms: the treatments: options of LFP by the name of an arm. The gradient is one more arm.
        against: the arm that the others are compared with, paired by seed; empty for no comparison.
        optimizer: what steps on ``p.grad``.
        learning_rates: the learning rates that each arm of LFP is chosen from; the gradient has as
            many trials over the same decades.
        epsilons: the epsilons that each arm of LFP is chosen from.
        slopes: as many slopes of a surrogate derivative as there are epsilons: the gradient is then
            a surrogate gradient, chosen from the same rates and these slopes. Empty for the plain
            gradient.
        epochs: epochs of a reported run.
        seeds: how many runs are reported for each arm.
        sweep_epochs: epochs of a run by which an arm is chosen.
        sweep_seeds: how many runs an arm is chosen by.
    """

    model_config = STRICT

    dataset: str = "digits"
    networks: Annotated[list[str], Field(min_length=1)]
    arms: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    against: str = ""
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rates: Annotated[list[float], Field(min_length=1)]
    epsilons: Annotated[list[float], Field(min_length=1)]
    slopes: list[float] = []
    epochs: Whole
    seeds: Seeds = 5
    sweep_epochs: Whole
    sweep_seeds: Seeds = 2

    def check(self) -> None:
        """Raise `ValueError` naming a field that is wrong."""
        pick("dataset", self.dataset, DATASETS)
        for field in ("networks", "learning_rates", "epsilons", "slopes"):
            refuse_repeated(field, getattr(self, field))
        if self.slopes and len(self.slopes) != len(self.epsilons):
            raise ValueError(
                f"slopes: {len(self.slopes)} values; allowed: as many as epsilons, "
                f"{len(self.epsilons)}, so that every arm has as many trials"
            )
        for name in self.networks:
            self._check_network(name, pick("networks", name, NETWORKS))
        for arm, own in self.arms.items():
            if arm == GRADIENT:
                raise ValueError(f"arms: {arm!r} is always there; allowed: other names")
            chosen = (*DECIDED, "epsilon", "optimizer")  # which the other keys say
            known = {n: f for n, f in fields_of(LFP.Options).items() if n not in chosen}
            for name in own:
                pick(f"arms.{arm}", name, known)
            self.trials(arm)
        self.trials(GRADIENT)
        if self.against:
            pick("against", self.against, dict.fromkeys(self.every_arm))

    def _check_network(self, name: str, network: Network) -> None:
        """Raise `ValueError` for a network that does not go with the other keys."""
        if network.digits and self.dataset != "digits":
            raise ValueError(f"networks: {name!r} with {self.dataset}; allowed: with digits")
        if self.slopes and ACTIVATIONS[network.activation].differentiable:
            raise ValueError(
                f"slopes: {self.slopes} with the network {name!r}; allowed: none, as its units "
                "have a derivative"
            )

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
        if self.slopes:
            return [
                SurrogateSettings(rate, slope=slope, optimizer=self.optimizer)
                for rate, slope in product(self.learning_rates, self.slopes)
            ]
        count = len(self.learning_rates) * len(self.epsilons)
        rates = np.geomspace(min(self.learning_rates), max(self.learning_rates), count)
        rounded = dict.fromkeys(float(f"{rate:.3g}") for rate in rates)
        return [Settings(rate, optimizer=self.optimizer) for rate in rounded]

    def method_of(self, arm: str) -> str:
        """Return the name of the arm's method."""
        if arm != GRADIENT:
            return LFP.name
        return Surrogate.name if self.slopes else SGD.name
