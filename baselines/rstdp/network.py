"""Reward-modulated STDP: a spiking network that learns by the times of first spikes alone.

Mozafari et al. (2019, arXiv:1804.00227), in the variant that the authors later published as a
script. An image becomes first spikes (:mod:`baselines.spike_encoding`). Layers of convolutional
integrate-and-fire neurons without leak follow; a neuron spikes at most once, at the first time at
which its potential, the sum of the weights of all inputs that have spiked so far, is above its
threshold. Layers are trained one after the other, each with those below frozen:

* *STDP* in the layers of features, without labels. Neurons compete (:class:`Competition`), and
  the winners are drawn to what made them fire: with w(1 - w) as a stabiliser, ``dw = a w (1 - w)``,
  where a > 0 for an input that spiked before the winner or with it, and a < 0 for any other.
* *R-STDP* in the decision layer. Its neurons belong to classes, and the neuron with the largest
  potential decides. If it is right, it is rewarded by STDP, otherwise punished by anti-STDP:
  ``dw = a`` with two pairs of a, whose sizes follow the share of errors (:class:`AdaptiveRates`).

What makes this fast and leaves every weight as it is in a simulation step by step:

* A decision neuron fires at the last step, and nothing inhibits the features below it. So they are
  needed at one time only: whether they have fired by then is one convolution of the last frame.
* Features of frozen layers do not change: they are remembered as bits.
* The weights of features that have fired are summed up by index, and the others are not read.
* Winners are found in the order of time. The search ends with the last of them, later time steps
  are not simulated in the layers below either, and a place is looked at when enough of its inputs
  have spiked.

Weights of the feature layers are multiples of a power of two (:func:`resolution`): sums of them
are exact in float32, so no spike depends on the order in which a library adds. This rounding, of
at most 2^-16 in the canonical network, is the one deviation from real numbers. Potentials of
decisions that are too close to call in float32 are summed up exactly.

The methods are of the CPU: they take one image after the other, and an image is little work.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from math import ceil, log2, prod
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.spike_encoding import Encoding, RankOrderEncoder, box
from baselines.trainer import Settings, Step, Trainer

Bits: TypeAlias = NDArray[np.bool_]
Indices: TypeAlias = NDArray[np.int64]

#: Images that go through the feature layers at a time.
CHUNK = 32
#: Images whose features are remembered at most; those of MNIST take 35 MB of bits.
MEMORY = 2**17


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
        fading: whether the rates of R-STDP also fall to 0, linearly over ``Settings.total_steps``.
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
        """Return both a of STDP for a layer's image 0, 1, ..."""
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
    """Return of what weights in [0, 1] have to be multiples for exact sums of so many in float32.

    >>> resolution(270) == 2**-15
    True
    """
    return 2.0 ** (ceil(log2(inputs)) - 24)


# --- the network ----------------------------------------------------------------------------------


class Winner(NamedTuple):
    """A neuron that won.

    Attributes:
        map: its feature map, or its number in the decision layer.
        place: row * width + column.
        time: when it fired.
        spiked: (inputs,) truth values, which of its inputs had spiked by then.
    """

    map: int
    place: int
    time: int
    spiked: Tensor


class RSTDPNetwork(nn.Module):
    """Integrate-and-fire neurons that classify images with one channel, in float32 on the CPU.

    No weight has a gradient. ``synapses[i]``, (maps, channels, kernel, kernel), are of the i-th
    feature layer. ``decisions``, (channels * kernel * kernel, neurons), has one row for each input
    of a decision neuron, so that summing up the rows of those that have spiked gives the potentials
    of all neurons. The first ``neurons_per_class`` neurons are of class 0, and so on.

    Args:
        input_shape: (1, height, width).
        classes: number of classes, at least 2.
        seed: of the weights; torch's default generator is not used.
        recipe: what to build; by default the one of the class.

    Raises:
        ValueError: an input shape or a number of classes that cannot be.
    """

    recipe: Recipe = CANONICAL

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, seed: int, recipe: Recipe | None = None
    ) -> None:
        super().__init__()
        self.recipe = recipe = self.recipe if recipe is None else recipe
        self.shapes = _shapes(tuple(input_shape), recipe)
        if classes < 2:
            raise ValueError(f"classes: {classes} is too few; allowed: 2 and above")
        self.input_shape, self.classes = tuple(input_shape), classes
        self.encoder = RankOrderEncoder(recipe.encoding, *input_shape[1:])
        generator = torch.Generator().manual_seed(seed)

        def synapses(shape: tuple[int, ...], low: float, high: float) -> Tensor:
            weights = torch.empty(shape).normal_(recipe.mean, recipe.deviation, generator=generator)
            return weights.clamp_(low, high)

        self.synapses = nn.ParameterList()
        for layer, (channels, *_) in zip(recipe.layers, self.shapes[:-1], strict=True):
            kernel = (channels, layer.kernel, layer.kernel)
            weights = synapses((layer.maps, *kernel), 0, 1)
            weights = _round(weights, resolution(prod(kernel)))
            self.synapses.append(nn.Parameter(weights, requires_grad=False))
        fields = receptive_fields(self.shapes[-1], recipe.kernel)
        self.wiring = _Wiring(fields, prod(self.shapes[-1]))
        decisions = synapses((fields.shape[1], classes * recipe.neurons_per_class), *recipe.bounds)
        self.decisions = nn.Parameter(decisions, requires_grad=False)
        self.memory = _Memory(prod(self.shapes[-1]), MEMORY)

    def forward(self, images: Tensor) -> Tensor:
        """Return the largest potential of the neurons of each class, (N, classes).

        Args:
            images: (N, 1, height, width) in [-1, 1].

        Raises:
            ValueError: images of another shape, or not on the CPU.
        """
        largest = self.decisions.new_empty(len(images), self.classes)
        for i, features in enumerate(self.features(images)):
            of_neurons = self.potentials(features).amax(dim=0)
            largest[i] = of_neurons.view(self.classes, -1).amax(dim=1)
        return largest

    def features(self, images: Tensor) -> Bits:
        """Return which features have spiked in time for the decision, (N, features).

        Features are in the order (channel, row, column). Those of images that were seen before are
        remembered until a weight of a feature layer changes.
        """
        self._check(images)
        return self.memory(images, list(self.synapses), self._features)

    def potentials(self, features: Bits) -> Tensor:
        """Return the potentials (places, neurons) in the decision layer for features (features,).

        They are rounded as sums in float32 are; :meth:`decide` is exact.
        """
        rows, bags = self.wiring.active(features)
        return F.embedding_bag(
            torch.from_numpy(rows), self.decisions, torch.from_numpy(bags), mode="sum"
        )

    def decide(self, features: Bits) -> Winner | None:
        """Return the decision neuron with the largest potential, None if no feature has spiked.

        Of equal potentials, that of the smallest neuron wins, and then that of the smallest place.
        """
        potentials = self.potentials(features)
        return self.first_of_largest(potentials, features)

    def first_of_largest(self, potentials: Tensor, features: Bits) -> Winner | None:
        """Do the same for given potentials, which may have been summed up in any order in float32.

        The error of a sum of n numbers >= 0 in floating point is at most n 2^-24 times the sum.
        Candidates within it are compared by their exact sums: weights in [0.2, 0.8] are multiples
        of 2^-26, of which float64 can add many millions.
        """
        of_neurons = potentials.amax(dim=0)
        largest = float(of_neurons.max())
        if largest <= 0:
            return None
        least = largest - 2.0**-23 * np.count_nonzero(features) * largest
        near = (of_neurons >= least).nonzero().flatten().tolist()
        candidates = [
            Winner(neuron, place, self.recipe.cutoff - 1, self.wiring.spiked(features, place))
            for neuron in near
            for place in (potentials[:, neuron] >= least).nonzero().flatten().tolist()
        ]
        if len(candidates) == 1:
            return candidates[0]
        return max(candidates, key=self._exact_potential)

    def encode(self, images: Tensor) -> Tensor:
        """Return the spike times of the encoder's cells, (N, channels, height, width) uint8.

        These are time steps, or ``encoding.bins`` for no spike. ValueError as in :meth:`forward`.
        """
        self._check(images)
        return self.encoder(images)

    def frames(self, times: Tensor, depth: int) -> Iterator[Tensor]:
        """Go through time, and yield what has spiked so far in the input of a layer.

        Args:
            times: of the encoder's spikes, (N, channels, height, width).
            depth: 0 for the input of the first layer, which are the encoded images; the number of
                layers for that of the decision.

        Yields:
            (N, channels, height, width) with 0 and 1, for each of the time steps.
        """
        for step in range(self.recipe.encoding.bins):
            yield self._through((times <= step).float(), depth)

    @torch.no_grad()
    def spike_count(self, images: Tensor) -> Tensor:
        """Return the number of spikes (N,), int64, that a decision about each image takes.

        These are the encoded spikes, those of all convolutional neurons up to the decision, and the
        one that makes it. A neuron spikes at most once; pooling only passes spikes on.
        """
        self._check(images)
        counts = []
        for chunk in images.split(CHUNK):
            spikes = self._encoded(chunk)
            count = _count(spikes)
            for layer, weights in zip(self.recipe.layers, self.synapses, strict=True):
                spikes = _fire(spikes, layer, weights)
                count += _count(spikes)
                spikes = F.max_pool2d(spikes, layer.pooling)
            counts.append(count + spikes.flatten(1).any(dim=1))
        return torch.cat(counts)

    def _check(self, images: Tensor) -> None:
        """Raise ValueError for images that the network does not take."""
        if images.shape[1:] != self.input_shape:
            raise ValueError(
                f"images: shape {tuple(images.shape)} does not fit (N, *{self.input_shape})"
            )
        if images.device.type != "cpu" or self.decisions.device.type != "cpu":
            raise ValueError("images: R-STDP runs on the CPU, where images and network have to be")

    def _encoded(self, images: Tensor) -> Tensor:
        """Return which cells of the encoder spike in time (N, channels, height, width), 0 or 1."""
        return (self.encoder(images) < self.recipe.cutoff).float()

    @torch.no_grad()
    def _features(self, images: Tensor) -> Bits:
        """Compute the features: without inhibition, the frame at the cut-off tells all."""
        chunks = []
        for chunk in images.split(CHUNK):
            spikes = self._through(self._encoded(chunk), len(self.synapses))
            chunks.append(spikes.flatten(1).bool())
        return torch.cat(chunks).numpy()

    def _through(self, spikes: Tensor, depth: int) -> Tensor:
        """Return what has fired after so many layers, given what has in the encoder."""
        for layer, weights in zip(self.recipe.layers[:depth], self.synapses, strict=False):
            spikes = F.max_pool2d(_fire(spikes, layer, weights), layer.pooling)
        return spikes

    def _exact_potential(self, winner: Winner) -> float:
        """Return the potential of one decision neuron, without rounding."""
        return float(self.decisions[winner.spiked, winner.map].double().sum())


class TunedRSTDPNetwork(RSTDPNetwork):
    """The convolutional network of :data:`TUNED`."""

    recipe: Recipe = TUNED


class DenseRSTDPNetwork(RSTDPNetwork):
    """A dense decision layer on the encoded spikes; see :data:`DENSE`."""

    recipe: Recipe = DENSE


def receptive_fields(shape: tuple[int, int, int], kernel: int | None) -> Indices:
    """Return what each place of a convolution sees, (places, inputs).

    Args:
        shape: (channels, height, width) of the input; there are height * width places.
        kernel: odd width of the kernel; None: there is one place, which sees everything.

    Returns:
        Indices into the flattened input, in the order (channel, row, column) of the kernel; those
        of the padding are channels * height * width.
    """
    size, (_, height, width) = prod(shape), shape
    if kernel is None:
        return np.arange(size)[None]
    edge = kernel // 2
    indices = np.pad(
        np.arange(size).reshape(shape),
        ((0, 0), (edge, edge), (edge, edge)),
        constant_values=size,
    )
    windows = np.lib.stride_tricks.sliding_window_view(indices, (kernel, kernel), axis=(1, 2))
    return windows.transpose(1, 2, 0, 3, 4).reshape(height * width, -1).astype(np.int64)


def _shapes(input_shape: tuple[int, ...], recipe: Recipe) -> list[tuple[int, int, int]]:
    """Return the input shapes of all layers, the decision layer's last; ValueError if empty."""
    allowed = prod(layer.pooling for layer in recipe.layers)
    if len(input_shape) != 3 or input_shape[0] != 1 or min(input_shape[1:]) < allowed:
        raise ValueError(
            f"input_shape: {input_shape} does not fit; allowed: (1, height, width) with height and "
            f"width of at least {allowed}"
        )
    _, height, width = input_shape
    shapes = [(recipe.encoding.channels, height, width)]
    for layer in recipe.layers:
        height, width = height // layer.pooling, width // layer.pooling
        shapes.append((layer.maps, height, width))
    return shapes


def _fire(spikes: Tensor, layer: FeatureLayer, weights: Tensor) -> Tensor:
    """Return which neurons have fired, given which inputs have, both (N, ., height, width)."""
    potentials = F.conv2d(spikes, weights, padding=layer.kernel // 2)
    return (potentials > layer.threshold).to(spikes.dtype)


def _count(spikes: Tensor) -> Tensor:
    """Return the number of spikes (N,)."""
    return spikes.flatten(1).bool().sum(dim=1)


def _round(weights: Tensor, step: float) -> Tensor:
    """Round to multiples of a power of two."""
    return (weights / step).round_().mul_(step)


class _Wiring:
    """Which features each place of the decision layer sees, without the padding."""

    def __init__(self, fields: Indices, features: int) -> None:
        places, rows = np.nonzero(fields < features)
        self.rows = rows.astype(np.int64)  # which input of a neuron ...
        self.sources = fields[places, rows]  # ... is which feature
        self.bounds = np.searchsorted(places, np.arange(len(fields) + 1))  # of each place
        self.inputs = fields.shape[1]

    def active(self, features: Bits) -> tuple[Indices, Indices]:
        """Return the inputs that have spiked, place after place, and where each place begins."""
        active = np.flatnonzero(features[self.sources])
        return self.rows[active], np.searchsorted(active, self.bounds[:-1])

    def spiked(self, features: Bits, place: int) -> Tensor:
        """Return which inputs (inputs,) of the neurons at a place have spiked."""
        here = slice(*self.bounds[place : place + 2])
        spiked = np.zeros(self.inputs, dtype=np.bool_)
        spiked[self.rows[here]] = features[self.sources[here]]
        return torch.from_numpy(spiked)


class _Memory:
    """Features of the images seen last, as bits; forgotten when the weights below change."""

    def __init__(self, features: int, limit: int) -> None:
        self.features, self.limit = features, limit
        self.bits: dict[bytes, bytes] = {}
        self.weights: list[Tensor] = []

    def __call__(
        self, images: Tensor, weights: list[Tensor], compute: Callable[[Tensor], Bits]
    ) -> Bits:
        """Return the features (N, features) of images; compute only those that are not known."""
        # To compare all weights takes microseconds, and whoever changes them need not tell.
        if len(weights) != len(self.weights) or not all(map(torch.equal, weights, self.weights)):
            self.weights = [weight.detach().clone() for weight in weights]
            self.bits.clear()
        keys = [blake2b(x.tobytes(), digest_size=16).digest() for x in images.detach().numpy()]
        new = {key: i for i, key in enumerate(keys) if key not in self.bits}
        known = {key: self.bits[key] for key in keys if key not in new}
        if new:
            packed = np.packbits(compute(images[list(new.values())]), axis=1)
            fresh = {key: row.tobytes() for key, row in zip(new, packed, strict=True)}
            known.update(fresh)
            self.bits.update(fresh)
            for key in list(islice(self.bits, max(len(self.bits) - self.limit, 0))):
                del self.bits[key]
        rows = np.frombuffer(b"".join(known[key] for key in keys), dtype=np.uint8)
        rows = rows.reshape(len(keys), -(-self.features // 8))
        return np.unpackbits(rows, axis=1, count=self.features).view(np.bool_)


# --- learning features ----------------------------------------------------------------------------


class Competition:
    """Who may learn in a feature layer: pointwise inhibition, then k-winners-take-all.

    At each place, the neuron that fires first is the only candidate (of several, the one with the
    largest potential at that time, then the smallest map). Then, k times, the candidate that fired
    first wins (of several, the one with the largest potential, then the smallest place): it
    silences its own map, and all maps within its radius.
    """

    def __init__(self, layer: FeatureLayer, shape: tuple[int, int, int]) -> None:
        self.layer = layer
        _, self.height, self.width = shape
        self.fields = receptive_fields(shape, layer.kernel)
        self.boxes = [box(n, layer.kernel // 2).float() for n in shape[1:]]

    def winners(self, frames: Iterable[Tensor], weights: Tensor) -> list[Winner]:
        """Return up to k winners in the order in which they win.

        Candidates of later times cannot win before those of earlier ones, so frames are only taken
        until the last winner is found. At a place where no neuron has fired yet, the neuron with
        the largest potential is the candidate as soon as it fires.

        Args:
            frames: for each time step, which inputs have spiked by then, (channels, height, width)
                with 0 and 1.
            weights: (maps, channels * kernel * kernel) in [0, 1].
        """
        layer, won = self.layer, list[Winner]()
        waiting = np.ones((self.height, self.width), dtype=np.bool_)  # for a first spike
        silent = np.zeros_like(waiting)
        for time, frame in enumerate(frames):
            places = np.flatnonzero(waiting & ~silent & self._may_fire(frame))
            if not len(places):
                continue
            spiked = self._seen(frame, places)
            potentials, maps = (spiked @ weights.T).max(dim=1)
            order = potentials.argsort(descending=True, stable=True)
            for i in order[: int((potentials > layer.threshold).sum())].tolist():
                neuron, place = int(maps[i]), int(places[i])
                waiting.flat[place] = False
                if silent.flat[place] or any(neuron == winner.map for winner in won):
                    continue
                won.append(Winner(neuron, place, time, spiked[i].bool()))
                if len(won) == layer.winners:
                    return won
                silent[self._around(place)] = True
        return won

    def _may_fire(self, frame: Tensor) -> Bits:
        """Return where so many inputs have spiked that weights of 1 would do, (height, width)."""
        rows, columns = self.boxes
        return (rows @ frame.sum(dim=0) @ columns > self.layer.threshold).numpy()

    def _seen(self, frame: Tensor, places: Indices) -> Tensor:
        """Return what the places see of a frame, (places, inputs)."""
        return torch.from_numpy(np.append(frame.numpy(), np.float32(0))[self.fields[places]])

    def _around(self, place: int) -> tuple[slice, slice]:
        """Return the places within the radius."""
        y, x = divmod(place, self.width)
        radius = self.layer.radius
        return slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1)


# --- training -------------------------------------------------------------------------------------


@dataclass
class AdaptiveRates:
    """How much a reward and a punishment count, which follows the share of errors.

    After every window of images, rewards are scaled by the share of wrong decisions in it and
    punishments by that of right ones; before, they count fully. This keeps the neurons from fitting
    images that they know, and those in doubt from being punished for everything
    (Mozafari et al. 2018, arXiv:1705.09132). Images without any feature are neither right nor
    wrong.

    Attributes:
        reward, punishment: the present factors in [0, 1].
        seen, right, wrong: images and decisions since the window began.
    """

    reward: float = 1.0
    punishment: float = 1.0
    seen: int = 0
    right: int = 0
    wrong: int = 0

    def count(self, seen: int, right: int, wrong: int, window: int) -> None:
        """Count images and decisions; begin a new window if the present one is full."""
        self.seen, self.right, self.wrong = self.seen + seen, self.right + right, self.wrong + wrong
        if self.seen >= window:
            self.reward, self.punishment = self.wrong / self.seen, self.right / self.seen
            self.seen = self.right = self.wrong = 0


class RSTDP(Trainer):
    """R-STDP online, as published: every image changes the weights before the next one is seen.

    The first images that are given train the first layer of features, the next ones the second, and
    so on; all that are left train the decision layer (:class:`FeatureLayer` says how many). A batch
    is only a number of images in a row.

    Of a :class:`~baselines.trainer.Step`, the loss is the share of the batch's images that were not
    decided rightly before their update: 1 while features are learned, as nothing is decided then.
    The feedback norm is the 2-norm of the change of all weights in the step.

    ``Settings.learning_rate`` multiplies the rates of the decision layer: 1 is canonical. A recipe
    whose rates fade also needs ``Settings.total_steps``, without which they stay. No other field of
    the settings applies.

    Raises:
        ValueError: the model is not the method's network.
    """

    name: ClassVar[str] = "rstdp"
    refusals: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("relu", "silu", "elu", "tanh", "sigmoid", "heaviside"), "its neurons spike: see lif"
    )
    remarks: ClassVar[Mapping[str, str]] = {"lif": "own network"}
    numpy: ClassVar[bool] = True
    #: There is nothing to choose: the rates are the recipe's.
    learning_rate: ClassVar[float | None] = 1.0
    #: Images that the decision layer learns from at a time; None takes all of a batch.
    together: ClassVar[int | None] = 1
    #: Builds the network from (input_shape, classes, seed).
    network: ClassVar[type[RSTDPNetwork]] = RSTDPNetwork

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        """Begin with the first layer."""
        if not isinstance(model, RSTDPNetwork) or type(model) is not self.network:
            raise ValueError(
                f"model: {self.name} trains a {self.network.__name__}, not {type(model).__name__}"
            )
        self.model = model
        self.rate = settings.learning_rate
        self.total_steps = settings.total_steps if model.recipe.fading else None
        self.steps = self.images = 0
        self.rates = AdaptiveRates()
        recipe = model.recipe
        self.competitions = [
            Competition(layer, shape)
            for layer, shape in zip(recipe.layers, model.shapes, strict=False)
        ]

    @torch.no_grad()
    def step(self, inputs: Tensor, targets: Tensor) -> Step:
        """Learn from images (N, 1, height, width) in their order; see :class:`RSTDP`."""
        change, right, total = _Change(), 0, len(inputs)
        while len(inputs) > 0:
            depth, seen, left = self._phase()
            images = inputs[:left]
            if depth < len(self.competitions):
                self._learn_features(depth, seen, images, change)
            else:
                right += self._learn_decisions(images, targets[:left].tolist(), change)
            self.images += len(images)
            inputs, targets = inputs[len(images) :], targets[len(images) :]
        self.steps += 1
        return Step(torch.tensor(1 - right / total), change.norm())

    def state_dict(self) -> dict[str, int | float]:
        """Return what the next steps depend on besides the network."""
        return {"steps": self.steps, "images": self.images, **asdict(self.rates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, with a network that was saved with it."""
        state = dict(state)
        self.steps, self.images = state.pop("steps"), state.pop("images")
        self.rates = AdaptiveRates(**state)

    def _rate(self) -> float:
        """Return what the rates of the decision layer are multiplied by in this step."""
        if self.total_steps is None:
            return self.rate
        return self.rate * max(1 - self.steps / self.total_steps, 0)

    def _phase(self) -> tuple[int, int, int | None]:
        """Return which layer learns, from how many images it has, and has still to come.

        The decision layer comes after the last layer of features and learns from all images left.
        """
        seen, layers = self.images, self.model.recipe.layers
        for depth, layer in enumerate(layers):
            if seen < layer.images:
                return depth, seen, layer.images - seen
            seen -= layer.images
        return len(layers), seen, None

    def _learn_features(self, depth: int, seen: int, images: Tensor, change: "_Change") -> None:
        """Change a layer by STDP, image by image; ``seen`` others came before."""
        competition, weights = self.competitions[depth], self.model.synapses[depth].flatten(1)
        step = resolution(weights.shape[1])
        for image, times in enumerate(self.model.encode(images).split(1), start=seen):
            frames = (frame[0] for frame in self.model.frames(times, depth))
            winners = competition.winners(frames, weights)
            if not winners:
                continue
            rates = weights.new_tensor(self.model.recipe.stdp_rates(image))
            spiked = torch.stack([winner.spiked for winner in winners])
            a = torch.where(spiked, rates[0], rates[1])
            maps = [winner.map for winner in winners]
            before = weights[maps]
            after = _round(before + a * before * (1 - before), step).clamp_(0, 1)
            weights[maps] = after
            for row in zip(maps, before, after, strict=True):
                change.record(depth, *row)

    def _learn_decisions(self, images: Tensor, targets: list[int], change: "_Change") -> int:
        """Change the decision layer by R-STDP; return how many images were decided rightly."""
        features = self.model.features(images)
        size = len(images) if self.together is None else self.together
        groups = (slice(start, start + size) for start in range(0, len(images), size))
        return sum(self._reinforce(features[g], targets[g], change) for g in groups)

    def _reinforce(self, features: Bits, targets: list[int], change: "_Change") -> int:
        """Learn from decisions about features (N, features) that the same weights make."""
        model, recipe, rates = self.model, self.model.recipe, self.rates
        updates: dict[int, Tensor] = {}
        right = wrong = 0
        for winner, target in zip(map(model.decide, features), targets, strict=True):
            if winner is None:
                continue
            rewarded = winner.map // recipe.neurons_per_class == target
            right, wrong = right + rewarded, wrong + (not rewarded)
            pair, factor = (
                (recipe.reward, rates.reward) if rewarded else (recipe.punishment, rates.punishment)
            )
            a = model.decisions.new_tensor(pair) * (factor * self._rate())
            update = torch.where(winner.spiked, a[0], a[1])
            updates[winner.map] = updates.get(winner.map, 0) + update
        for neuron, update in updates.items():
            before = model.decisions[:, neuron].clone()
            after = (before + update).clamp_(*recipe.bounds)
            model.decisions[:, neuron] = after
            change.record(len(self.competitions), neuron, before, after)
        rates.count(len(features), right, wrong, recipe.window)
        return right


class BatchedRSTDP(RSTDP):
    """An approximation of R-STDP: the decision layer takes the images of a batch together.

    All decisions about a batch are made by the same weights, with the same rates; the changes are
    summed up and applied, and the weights are clipped once. Features are learned online. With one
    image to a batch this is :class:`RSTDP`.
    """

    name: ClassVar[str] = "rstdp-batched"
    remarks: ClassVar[Mapping[str, str]] = {"lif": "approximation; own network"}
    batch_size: ClassVar[int | None] = 32
    together: ClassVar[int | None] = None


class TunedRSTDP(RSTDP):
    """Online R-STDP with :data:`TUNED`; its rates start at five times the published ones."""

    name: ClassVar[str] = "rstdp-tuned"
    remarks: ClassVar[Mapping[str, str]] = {"lif": "tuned; own network"}
    learning_rate: ClassVar[float | None] = 5.0
    network: ClassVar[type[RSTDPNetwork]] = TunedRSTDPNetwork


class DenseRSTDP(RSTDP):
    """Online R-STDP of a dense decision layer on the encoded spikes, without any features."""

    name: ClassVar[str] = "rstdp-dense"
    remarks: ClassVar[Mapping[str, str]] = {"lif": "readout alone"}
    network: ClassVar[type[RSTDPNetwork]] = DenseRSTDPNetwork


class _Change:
    """Which neurons changed in a step, and how far."""

    def __init__(self) -> None:
        self.before: dict[tuple[int, int], Tensor] = {}
        self.after: dict[tuple[int, int], Tensor] = {}

    def record(self, depth: int, neuron: int, before: Tensor, after: Tensor) -> None:
        """Take down the weights (inputs,) of a neuron (or map) of a layer."""
        self.before.setdefault((depth, neuron), before)
        self.after[depth, neuron] = after

    def norm(self) -> Tensor:
        """Return the 2-norm of the change of all weights (scalar)."""
        moves = [self.after[key] - before for key, before in self.before.items()]
        return torch.cat([torch.zeros(1), *moves]).norm()
