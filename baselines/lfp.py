"""Layer-wise Feedback Propagation, by default with the softmax reward (#3 of the paper's table).

Spiking networks get the reward of a rate code instead.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

import lfp_core as lfp
from baselines.options import Choice, LogUniform, Named, Search, options
from baselines.rewards import REWARDS
from baselines.spiking_network import SpikingNetwork
from baselines.surrogate import loss_over_time
from baselines.trainer import DescentTrainer, Settings
from lfp_core.propagation import Attention, Gates, Normalisation, Units


@options
class FeedbackSettings(Settings):
    """The options of a method that propagates feedback: those of :class:`lfp_core.feedback`."""

    epsilon: Annotated[  # type: ignore[misc]  # of the class above it is no option
        float, Field(ge=0, allow_inf_nan=False, description="Stabiliser of the epsilon rule.")
    ] = 1e-6
    units: Annotated[Units, Field(description="Which slope functions with f(0) != 0 have.")] = (
        "identity"
    )
    gates: Annotated[
        Gates, Field(description="Who shares the reward of a product with a gate.")
    ] = "signal"
    attention: Annotated[Attention, Field(description="Who shares attention's reward.")] = "uniform"
    normalisation: Annotated[
        Normalisation, Field(description="What happens to the statistics of a normalisation.")
    ] = "gradient"

    search: ClassVar[Mapping[str, Search]] = {
        **Settings.search,
        "epsilon": LogUniform(1e-6, 1),
        "units": Choice(("identity", "reverse", "shifted")),
    }

    def feedback(self) -> lfp.feedback:
        """Return the context of a forward pass with these options, but for spiking networks."""
        return lfp.feedback(
            self.epsilon,
            attention=self.attention,
            gates=self.gates,
            units=self.units,
            normalisation=self.normalisation,
        )


@options
class LFPSettings(FeedbackSettings):
    """The options of LFP."""

    reward: Annotated[
        str,
        Named(REWARDS),
        Field(description="Reward of the logits; spiking networks have their own."),
    ] = "softmax"
    #: No part of the search, of which every stored choice by trials would be another one.
    output_epsilon: Annotated[
        Annotated[float, Field(ge=0, allow_inf_nan=False)] | None,
        Field(description="Stabiliser of the logits alone, if not epsilon; spikes have none."),
    ] = None
    normaliser: Annotated[
        Literal["current", "earlier"],
        Field(description="Which N_t divides the rewards of spiking neurons."),
    ] = "current"
    max_norm: Annotated[
        bool, Field(description="Divide the rewards of spiking layers by their largest magnitude.")
    ] = False


class LFP(DescentTrainer):
    """By the epsilon rule, as :mod:`lfp_core` propagates rewards."""

    name: ClassVar[str] = "lfp"
    label: ClassVar[str] = "LFP"
    graphable: ClassVar[bool] = True
    Options: ClassVar[type[Settings]] = LFPSettings
    settings: LFPSettings

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Propagate the reward of the logits, or of the spikes; see :class:`DescentTrainer`."""
        if isinstance(self.model, SpikingNetwork):
            return self._fill_from_spikes(self.model, inputs, targets)
        with self.settings.feedback():
            logits = self.model(inputs)
        reward_of = REWARDS[self.settings.reward]
        reward = reward_of(logits, targets, self.settings.reduction)
        lfp.backward(logits, reward, epsilon=self.settings.output_epsilon)
        with torch.no_grad():
            return F.cross_entropy(logits, targets)

    def _fill_from_spikes(self, model: SpikingNetwork, inputs: Tensor, targets: Tensor) -> Tensor:
        from lfp_core import spiking  # noqa: PLC0415  (snntorch is slow to import)

        options = self.settings
        with spiking.feedback(
            options.epsilon, normaliser=options.normaliser, max_norm=options.max_norm
        ):
            spikes = model.spikes(inputs)
        reward = lfp.rewards.spike_rate(spikes.detach(), targets, options.reduction)
        lfp.backward(spikes, reward)
        with torch.no_grad():
            return loss_over_time(spikes, targets)
