"""The layers of a network for R-STDP, and how it is trained."""

from dataclasses import dataclass, field, replace
from math import ceil, log2

from baselines.spike_encoding import Encoding


@dataclass(frozen=True)
class FeatureLayer:
    """A convolution (stride 1, zero padding that keeps the size), pooling, and its competition.

    Attributes:
        maps: number of feature maps F.
        kernel: odd width of the square kernels.
        threshold: a neuron fires when its potential is greater.
        pooling: width and stride of the pooling, which passes the first spike on.
        winners: how many neurons learn from an image at most.
        radius: a winner silences all maps at most so many places away in rows and columns.
        images: how many images the layer is trained with.
    """

    maps: int
    kernel: int
    threshold: float
    pooling: int
    winners: int
    radius: int
    images: int

    def __post_init__(self) -> None:
        """Raise ValueError for a field out of range, naming it."""
        for name in ("maps", "pooling", "winners"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, not {getattr(self, name)!r}")
        for name in ("threshold", "radius", "images"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, not {getattr(self, name)!r}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and >= 1, not {self.kernel!r}")


@dataclass(frozen=True)
class Recipe:
    """The network and how it is trained. The defaults are the published script's.

    Only the number of images per feature layer is not: the script takes 2 and 4 epochs of MNIST.

    Attributes:
        encoding: of the images.
        layers: of features, trained in turn.
        kernel: odd width of the decision layer's kernels (stride 1, zero padding that keeps the
            size); None: each neuron sees the whole of its input, as in a dense layer.
        cutoff: the time step at which the decision is made; later spikes do not count for it, but
            the layers of features learn from those too.
        neurons_per_class: how many kernels of the decision layer belong to each class.
        mean, deviation: of the normally distributed weights at the start, clipped to the bounds.
        rate, rate_limit, doubling: a > 0 of STDP starts at rate and doubles every so many images,
            up to the limit.
        depression: a < 0 of STDP is minus this times a > 0.
        reward, punishment: a of R-STDP for inputs that have spiked and for those that have not.
        bounds: of the decision layer's weights; features' are in [0, 1].
        window: number of images after which the rates of R-STDP are adapted.
        fading: whether the rates of R-STDP also fall to 0, linearly over `total_steps`.
    """

    encoding: Encoding = field(default_factory=Encoding)
    layers: tuple[FeatureLayer, ...] = (
        FeatureLayer(30, 5, 15.0, pooling=2, winners=5, radius=3, images=6000),
        FeatureLayer(250, 3, 10.0, pooling=3, winners=8, radius=1, images=6000),
    )
    kernel: int | None = 5
    cutoff: int = 15
    neurons_per_class: int = 20
    mean: float = 0.8
    deviation: float = 0.05
    rate: float = 0.004
    rate_limit: float = 0.15
    doubling: int = 500
    depression: float = 0.75
    reward: tuple[float, float] = (0.004, -0.003)
    punishment: tuple[float, float] = (-0.004, 0.0005)
    bounds: tuple[float, float] = (0.2, 0.8)
    window: int = 1000
    fading: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a field out of range, naming it."""
        if self.kernel is not None and (self.kernel < 1 or self.kernel % 2 == 0):
            raise ValueError(f"kernel must be odd and >= 1, or None, not {self.kernel!r}")
        if not 1 <= self.cutoff <= self.encoding.bins:
            raise ValueError(
                f"cutoff must lie in 1 ... {self.encoding.bins} (bins), not {self.cutoff!r}"
            )
        for name in ("neurons_per_class", "doubling", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, not {getattr(self, name)!r}")
        if not self.bounds[0] <= self.bounds[1]:
            raise ValueError(f"bounds must be in order, not {self.bounds!r}")

    def stdp_rates(self, image: int) -> tuple[float, float]:
        """Return the rates of potentiation and depression for the n-th image of a layer, from 0."""
        doublings = min(image // self.doubling, 100)  # more are beyond any limit, and of floats
        potentiation = min(self.rate * 2.0**doublings, self.rate_limit)
        return potentiation, -self.depression * potentiation


#: Two layers of features and a convolutional decision layer.
CANONICAL = Recipe()

#: What was best on MNIST's validation split among a few runs of one seed: the second layer sees
#: more images, spikes after the tenth of the fifteen time steps do not count, and rates fade.
TUNED = replace(
    CANONICAL,
    layers=(CANONICAL.layers[0], replace(CANONICAL.layers[1], images=20_000)),
    cutoff=10,
    fading=True,
)

#: Nothing but a dense decision layer on the first half of the encoded spikes: a smoke test.
DENSE = Recipe(layers=(), kernel=None, cutoff=8)


def resolution(inputs: int) -> float:
    """Return the step of weights in [0, 1] of which float32 sums so many without rounding.

    >>> resolution(270) == 2**-15
    True
    """
    return 2.0 ** (ceil(log2(inputs)) - 24)
