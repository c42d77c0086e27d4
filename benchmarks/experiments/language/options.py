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
    """Train small language models on characters of a text.

    Attributes:
        model: the kind of network; a Llama has two heads.
        optimizers: what steps on the gradient or on the feedback; each is an arm.
        epsilons: stabilisers of LFP; each is an arm.
        attentions: how LFP shares rewards in attention; each is an arm.
        normalisations: how LFP treats the number that a normalisation divides by; each is an arm.
        learning_rates: by the name of an optimiser, the learning rates that every arm with it
            chooses from.
        seeds: how many runs, with other initial weights and batches, there are for each arm.
        steps: training steps of a run.
        batch: sequences in a batch.
        context: characters in a sequence.
        features: how many features a character has; a head of a GPT has 16 of them.
        layers: how many blocks the network has.
        clip_norm: the largest 2-norm of ``p.grad``; larger ones are clipped.
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
