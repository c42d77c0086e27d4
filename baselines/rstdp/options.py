"""What R-STDP can be tuned by, with the published rates."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from baselines.options import Choice, LogUniform, Search, options
from baselines.rstdp.recipe import CANONICAL, TUNED, Recipe
from baselines.trainer import BasicSettings

#: How far a weight changes in one decision or spike.
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fading = Annotated[bool, Field(description="Let the rates of decisions fall to 0.")]


@options
class DecisionSettings(BasicSettings):
    """The options of the decision layer; the learning rate multiplies its four rates."""

    reward_plus: Annotated[
        Size, Field(description="Growth for an input that spiked, in a right decision.")
    ] = CANONICAL.reward[0]
    reward_minus: Annotated[
        Size, Field(description="Loss for an input that did not, in a right decision.")
    ] = -CANONICAL.reward[1]
    punish_minus: Annotated[
        Size, Field(description="Loss for an input that spiked, in a wrong decision.")
    ] = -CANONICAL.punishment[0]
    punish_plus: Annotated[
        Size, Field(description="Growth for an input that did not, in a wrong decision.")
    ] = CANONICAL.punishment[1]
    window: Annotated[
        int, Field(ge=1, description="Images after which rewards and punishments are adapted.")
    ] = CANONICAL.window
    fading: Fading = CANONICAL.fading

    search: ClassVar[Mapping[str, Search]] = {
        **BasicSettings.search,
        "punish_minus": LogUniform(0.0005, 0.05),
        "fading": Choice((False, True)),
    }

    def applied(self, recipe: Recipe) -> Recipe:
        """Return a network's recipe with these options."""
        return replace(
            recipe,
            reward=(self.reward_plus, -self.reward_minus),
            punishment=(-self.punish_minus, self.punish_plus),
            window=self.window,
            fading=self.fading,
        )


@options
class RSTDPSettings(DecisionSettings):
    """The options of a network that learns features by STDP first."""

    feature_rate: Annotated[
        Size, Field(description="Rate of STDP at the start, for an input that spiked in time.")
    ] = CANONICAL.rate
    feature_rate_limit: Annotated[Size, Field(description="Largest rate of STDP.")] = (
        CANONICAL.rate_limit
    )
    doubling: Annotated[
        int, Field(ge=1, description="Images after which the rate of STDP doubles.")
    ] = CANONICAL.doubling
    depression: Annotated[
        Size, Field(description="Rate of STDP for all other inputs, over that one.")
    ] = CANONICAL.depression

    def applied(self, recipe: Recipe) -> Recipe:
        """Return a network's recipe with these options."""
        return replace(
            super().applied(recipe),
            rate=self.feature_rate,
            rate_limit=self.feature_rate_limit,
            doubling=self.doubling,
            depression=self.depression,
        )


@options
class TunedRSTDPSettings(RSTDPSettings):
    """The options of such a network, by default as :data:`~baselines.rstdp.recipe.TUNED`."""

    fading: Fading = TUNED.fading
