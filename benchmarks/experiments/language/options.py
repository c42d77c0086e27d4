"""The arms and how they are trained, as a study file says it."""

from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, Field

from baselines import LFPSettings, Settings
from benchmarks.experiments.base import STRICT
from lfp_core.propagation import Attention, Normalisation

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


Optimizer = Literal["sgd", "adam"]


EVALUATIONS = 10  # of the validation loss within a run, the last one at its end


#: Names in :data:`baselines.METHODS`.
METHODS = {"gradient": "sgd", "lfp": "lfp"}


class Arm(NamedTuple):
    """What fills ``p.grad``, and what steps; the gradient has no options of LFP."""

    method: str
    optimizer: Optimizer
    epsilon: float | None = None
    attention: Attention | None = None
    normalisation: Normalisation | None = None

    def settings(self, learning_rate: float, clip_norm: float) -> Settings:
        """Return the options of the method."""
        shared = Settings(learning_rate, clip_norm=clip_norm, optimizer=self.optimizer)
        if self.epsilon is None or self.attention is None:
            return shared
        own = LFPSettings(learning_rate, clip_norm=clip_norm, optimizer=self.optimizer)
        treated = replace(own, epsilon=self.epsilon, attention=self.attention)
        if self.normalisation is None:
            return treated
        return replace(treated, normalisation=self.normalisation)


class Options(BaseModel):
    """The keys of a part in a study file.

    Attributes:
        model: a GPT, or a Llama with two heads.
        optimizers: that each arm is made with.
        epsilons: of LFP.
        attentions: LFP's treatments of attention.
        normalisations: LFP's treatments of what a normalisation divides by.
        learning_rates: by optimiser: those that every arm with it chooses from.
        seeds: of initialisation and batches.
        steps: of training.
        batch: how many sequences a step sees.
        context: how many characters a sequence has.
        features: of a character; heads of a GPT have 16 of them.
        layers: how many blocks.
        clip_norm: the 2-norm that ``p.grad`` is clipped to.
    """

    model_config = STRICT
    model: Literal["gpt", "llama"] = "gpt"
    optimizers: list[Optimizer] = ["sgd", "adam"]
    epsilons: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = [1e-6, 1e-2, 1.0]
    attentions: list[Attention] = ["uniform", "constant"]
    normalisations: Annotated[list[Normalisation], Field(min_length=1)] = ["gradient"]
    learning_rates: dict[Optimizer, Annotated[list[Positive], Field(min_length=1)]]
    seeds: Annotated[int, Field(ge=1)] = 3
    steps: Annotated[int, Field(ge=EVALUATIONS)] = 1000
    batch: Annotated[int, Field(ge=1)] = 16
    context: Annotated[int, Field(ge=2, le=1000)] = 64
    features: Annotated[int, Field(ge=16, multiple_of=16)] = 64
    layers: Annotated[int, Field(ge=1)] = 2
    clip_norm: Positive = 1.0

    def arms(self) -> list[Arm]:
        """Return the gradient with every optimiser, then LFP with every combination."""
        gradients = [Arm("gradient", optimizer) for optimizer in self.optimizers]
        return gradients + [
            Arm("lfp", optimizer, epsilon, attention, normalisation)
            for optimizer in self.optimizers
            for attention in self.attentions
            for normalisation in self.normalisations
            for epsilon in self.epsilons
        ]
