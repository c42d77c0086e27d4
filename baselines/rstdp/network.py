"""The network: integrate-and-fire neurons that spike at most once."""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import islice
from math import prod
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.rstdp.options import DecisionSettings
from baselines.rstdp.recipe import CANONICAL, DENSE, TUNED, FeatureLayer, Recipe, resolution
from baselines.spike_encoding import RankOrderEncoder
from baselines.trainer import BasicSettings

Bits: TypeAlias = NDArray[np.bool_]
Indices: TypeAlias = NDArray[np.int64]

#: Images that go through the feature layers at a time.
CHUNK = 32
#: Images whose features are remembered at most; those of MNIST take 35 MB of bits.
MEMORY = 2**17


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
        settings: options that come before the recipe.

    Raises:
        ValueError: an input shape or a number of classes that cannot be, or options that do not go
            together.
    """

    recipe: Recipe = CANONICAL

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        seed: int,
        recipe: Recipe | None = None,
        settings: BasicSettings | None = None,
    ) -> None:
        super().__init__()
        recipe = self.recipe if recipe is None else recipe
        if isinstance(settings, DecisionSettings):
            recipe = settings.built(recipe)
        self.recipe = recipe
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
            weights = rounded(weights, resolution(prod(kernel)))
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
        """Decide by given potentials, which may have been summed up in any order in float32.

        The error of a sum of n numbers >= 0 in floating point is at most n 2^-24 times the sum.
        Candidates within it are compared by their exact sums: weights in [0.2, 0.8] are multiples
        of 2^-26, of which float64 can add many millions.

        Returns:
            The neuron that decides, or None if no potential is above 0.
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


def rounded(weights: Tensor, step: float) -> Tensor:
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
