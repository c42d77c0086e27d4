"""What R-STDP can be tuned by: its network and its rates, by default as published."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from baselines.options import Choice, LogUniform, Search, options
from baselines.rstdp.recipe import CANONICAL, DENSE, TUNED, FeatureLayer, Recipe
from baselines.spike_encoding import Encoding
from baselines.trainer import BasicSettings


def _odd(width: int) -> int:
    """Return a width that has a middle; ValueError for one that has none."""
    if width % 2 == 0:
        raise ValueError("must be odd")
    return width


#: How far a weight changes in one decision or spike.
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fading = Annotated[bool, Field(description="Let the rates of decisions fall to 0.")]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1), AfterValidator(_odd)]
Cutoff = Annotated[int, Field(ge=1, description="Time step at which a decision is made.")]
Kernel = Annotated[
    Width | None,
    Field(description="Width of the decision layer's kernels; None: neurons see all features."),
]
Images = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    Field(description="Images that each layer of features is trained with."),
]


@options
class DecisionSettings(BasicSettings):
    """The options of the encoding and of the decision layer.

    The learning rate multiplies the four rates of the decision layer.
    """

    contrast_windows: Annotated[
        tuple[Annotated[int, Field(ge=3), AfterValidator(_odd)], ...],
        Field(min_length=1, description="Widths of the filters that find contrasts, in pixels."),
    ] = CANONICAL.encoding.windows
    contrast_threshold: Annotated[
        Weight, Field(description="Least contrast that becomes a spike, of pixels in 0 ... 255.")
    ] = CANONICAL.encoding.threshold
    contrast_radius: Annotated[
        int, Field(ge=0, description="Radius of the mean that contrasts are divided by, in pixels.")
    ] = CANONICAL.encoding.radius
    time_bins: Annotated[
        int, Field(ge=1, le=255, description="Time steps of the encoded spikes.")
    ] = CANONICAL.encoding.bins
    cutoff: Cutoff = CANONICAL.cutoff
    decision_kernel: Kernel = CANONICAL.kernel
    neurons_per_class: Annotated[
        Count, Field(description="Kernels of the decision layer for each class.")
    ] = CANONICAL.neurons_per_class
    weight_mean: Annotated[Weight, Field(description="Mean of the weights at the start.")] = (
        CANONICAL.mean
    )
    weight_deviation: Annotated[
        Weight, Field(description="Standard deviation of the weights at the start.")
    ] = CANONICAL.deviation
    lowest_weight: Annotated[
        Weight, Field(description="Lower bound of the decision layer's weights.")
    ] = CANONICAL.bounds[0]
    highest_weight: Annotated[
        Weight, Field(description="Upper bound of the decision layer's weights.")
    ] = CANONICAL.bounds[1]

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

    def built(self, recipe: Recipe) -> Recipe:
        """Return a recipe with those of the options that say what the network is.

        Raises:
            ValueError: two options do not go together.
        """
        if self.lowest_weight > self.highest_weight:
            raise ValueError(
                f"lowest_weight must be <= highest_weight, which is {self.highest_weight}, not "
                f"{self.lowest_weight}"
            )
        encoding = Encoding(
            self.contrast_windows, self.contrast_threshold, self.contrast_radius, self.time_bins
        )
        return replace(
            recipe,
            encoding=encoding,
            kernel=self.decision_kernel,
            cutoff=self.cutoff,
            neurons_per_class=self.neurons_per_class,
            mean=self.weight_mean,
            deviation=self.weight_deviation,
            bounds=(self.lowest_weight, self.highest_weight),
        )

    def applied(self, recipe: Recipe) -> Recipe:
        """Return a recipe with those of the options that say how the network learns."""
        return replace(
            recipe,
            reward=(self.reward_plus, -self.reward_minus),
            punishment=(-self.punish_minus, self.punish_plus),
            window=self.window,
            fading=self.fading,
        )


#: The fields of a layer of features, and the options that have their values in all layers.
LAYERS = {
    "maps": "feature_maps",
    "kernel": "feature_kernels",
    "threshold": "feature_thresholds",
    "pooling": "feature_pooling",
    "winners": "feature_winners",
    "radius": "feature_radius",
    "images": "feature_images",
}


def _of_layers(field: str, recipe: Recipe = CANONICAL) -> tuple[Any, ...]:
    """Return what a field of the layers of features is, in their order."""
    return tuple(getattr(layer, field) for layer in recipe.layers)


@options
class RSTDPSettings(DecisionSettings):
    """The options of a network that learns features by STDP first.

    Those of its layers of features have a value for each layer.
    """

    feature_maps: Annotated[
        tuple[Count, ...], Field(description="Feature maps of each layer of features.")
    ] = _of_layers("maps")
    feature_kernels: Annotated[
        tuple[Width, ...], Field(description="Widths of the kernels of each layer of features.")
    ] = _of_layers("kernel")
    feature_thresholds: Annotated[
        tuple[Weight, ...], Field(description="Potentials above which neurons of each layer fire.")
    ] = _of_layers("threshold")
    feature_pooling: Annotated[
        tuple[Count, ...], Field(description="Widths of the pooling after each layer of features.")
    ] = _of_layers("pooling")
    feature_winners: Annotated[
        tuple[Count, ...], Field(description="Most neurons of each layer that learn from an image.")
    ] = _of_layers("winners")
    feature_radius: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...],
        Field(description="How far a winner of each layer silences the others."),
    ] = _of_layers("radius")
    feature_images: Images = _of_layers("images")
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

    def built(self, recipe: Recipe) -> Recipe:
        """See :class:`DecisionSettings`."""
        values = {field: getattr(self, option) for field, option in LAYERS.items()}
        if len({len(of_layers) for of_layers in values.values()}) > 1:
            told = ", ".join(f"{LAYERS[field]} {len(own)}" for field, own in values.items())
            raise ValueError(f"layers of features need a value of each option, not: {told}")
        layers = zip(*values.values(), strict=True)
        return replace(
            super().built(recipe),
            layers=tuple(FeatureLayer(**dict(zip(values, own, strict=True))) for own in layers),
        )

    def applied(self, recipe: Recipe) -> Recipe:
        """See :class:`DecisionSettings`."""
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

    cutoff: Cutoff = TUNED.cutoff
    feature_images: Images = _of_layers("images", TUNED)
    fading: Fading = TUNED.fading


@options
class DenseRSTDPSettings(DecisionSettings):
    """The options of a decision layer alone, by default as in :data:`.recipe.DENSE`."""

    cutoff: Cutoff = DENSE.cutoff
    decision_kernel: Kernel = DENSE.kernel
