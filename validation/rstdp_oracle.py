"""R-STDP as it is defined: loops over time steps, neurons and inputs, one number at a time.

No convolution, no matrix product, and none of the short cuts of :mod:`baselines.rstdp`: of a
network only its weights and its recipe are read. Weights are float32, as there, and so is the
arithmetic of updates; potentials are sums in float64, which are exact for such weights.

:class:`Rules` can be broken on purpose: a test that compares with a broken oracle has to fail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from baselines.rstdp import FeatureLayer, RSTDPNetwork
from baselines.spike_encoding import Encoding

Array = npt.NDArray[Any]
Neuron = tuple[int, int, int]  # map, row, column


@dataclass(frozen=True)
class Rules:
    """What can be done wrong; the defaults are right.

    Attributes:
        inclusive: whether an input that spikes together with the winner counts as before it.
        radius: is added to the radius of the lateral inhibition.
        pointwise: whether only the first neuron of each place is a candidate.
        own_map: whether a winner silences its own map.
        stabilised: whether STDP has the factor w (1 - w).
        swapped: whether right decisions are punished and wrong ones rewarded.
        adaptive: whether the rates of R-STDP are adapted.
    """

    inclusive: bool = True
    radius: int = 0
    pointwise: bool = True
    own_map: bool = True
    stabilised: bool = True
    swapped: bool = False
    adaptive: bool = True


class Oracle:
    """A network and its training, image by image, from the weights that a network has."""

    def __init__(
        self, network: RSTDPNetwork, learning_rate: float = 1.0, rules: Rules | None = None
    ) -> None:
        self.recipe, self.classes = network.recipe, network.classes
        self.rules = Rules() if rules is None else rules
        self.learning_rate = learning_rate
        self.synapses = [weights.detach().numpy().copy() for weights in network.synapses]
        self.decisions = network.decisions.detach().numpy().copy()
        self.images = 0
        self.reward = self.punishment = 1.0
        self.right = self.wrong = self.seen = 0

    def learn(self, image: Array, target: int) -> int | None:
        """Learn from an image (height, width); return the decision, None while there is none."""
        seen = self.images
        self.images += 1
        times = encode(image, self.recipe.encoding)
        for depth, layer in enumerate(self.recipe.layers):
            if seen < layer.images:
                self._learn_features(depth, times, seen)
                return None
            seen -= layer.images
            times = self._after(depth, times)
        return self._learn_decision(times, target)

    def times(self, image: Array) -> list[Array]:
        """Return the spike times of the encoder's cells and after each layer's pooling."""
        found = [encode(image, self.recipe.encoding)]
        for depth in range(len(self.recipe.layers)):
            found.append(self._after(depth, found[-1]))
        return found

    def decide(self, times: Array) -> tuple[float, int, Neuron] | None:
        """Return potential, neuron and (0, row, column) of the decision about features' times."""
        best: tuple[float, int, Neuron] | None = None
        channels, height, width = times.shape
        kernel = self.recipe.kernel
        places = [(0, 0)] if kernel is None else list(np.ndindex(height, width))
        rows, columns = (height, width) if kernel is None else (kernel, kernel)
        for neuron in range(self.decisions.shape[1]):
            for y, x in places:
                potential = 0.0
                weights = self.decisions[:, neuron].reshape(channels, rows, columns)
                for c, i, j in np.ndindex(channels, rows, columns):
                    if self._spiked(times, c, *_seen(kernel, y, x, i, j)):
                        potential += float(weights[c, i, j])
                if potential > (0 if best is None else best[0]):
                    best = potential, neuron, (0, y, x)
        return best

    def spike_count(self, image: Array) -> int:
        """Return the number of spikes up to the decision, which is one itself."""
        times, count = encode(image, self.recipe.encoding), 0
        count += sum(int(t) < self.recipe.cutoff for t in times.flat)
        for depth, layer in enumerate(self.recipe.layers):
            fired = self._fire(depth, times)
            count += sum(time < self.recipe.cutoff for time, _ in fired.values())
            times = pool(fired, layer, times.shape, self.recipe.encoding.bins)
        return count + any(int(t) < self.recipe.cutoff for t in times.flat)

    def _spiked(self, times: Array, c: int, y: int, x: int) -> bool:
        _, height, width = times.shape
        return 0 <= y < height and 0 <= x < width and int(times[c, y, x]) < self.recipe.cutoff

    def _after(self, depth: int, times: Array) -> Array:
        layer = self.recipe.layers[depth]
        return pool(self._fire(depth, times), layer, times.shape, self.recipe.encoding.bins)

    def _fire(self, depth: int, times: Array) -> dict[Neuron, tuple[int, float]]:
        layer = self.recipe.layers[depth]
        return fire(times, self.synapses[depth], layer.threshold, self.recipe.encoding.bins)

    def _learn_features(self, depth: int, times: Array, seen: int) -> None:
        recipe, layer, weights = self.recipe, self.recipe.layers[depth], self.synapses[depth]
        rate = recipe.rate
        for _ in range(seen // recipe.doubling):
            rate = min(2 * rate, recipe.rate_limit)
        rate = min(rate, recipe.rate_limit)
        step = 2.0 ** -(24 - math.ceil(math.log2(weights[0].size)))
        for (f, y, x), time in compete(self._fire(depth, times), layer, self.rules):
            for c, i, j in np.ndindex(weights[f].shape):
                v, u = _seen(layer.kernel, y, x, i, j)
                inside = 0 <= v < times.shape[1] and 0 <= u < times.shape[2]
                before = inside and (
                    times[c, v, u] <= time if self.rules.inclusive else times[c, v, u] < time
                )
                a = np.float32(rate if before else -recipe.depression * rate)
                w, one = weights[f, c, i, j], np.float32(1)
                moved = w + (a * w * (one - w) if self.rules.stabilised else a)
                weights[f, c, i, j] = min(max(round(float(moved) / step) * step, 0.0), 1.0)

    def _learn_decision(self, times: Array, target: int) -> int | None:
        recipe = self.recipe
        self.seen += 1
        decision = self.decide(times)
        if decision is not None:
            _, neuron, (_, y, x) = decision
            right = neuron // recipe.neurons_per_class == target
            self.right, self.wrong = self.right + right, self.wrong + (not right)
            rewarded = right != self.rules.swapped
            pair = recipe.reward if rewarded else recipe.punishment
            factor = self.reward if rewarded else self.punishment
            channels, height, width = times.shape
            kernel = recipe.kernel
            window = (height, width) if kernel is None else (kernel, kernel)
            for row, (c, i, j) in enumerate(np.ndindex(channels, *window)):
                before = self._spiked(times, c, *_seen(kernel, y, x, i, j))
                a = np.float32(pair[0] if before else pair[1])
                a = a * np.float32(factor * self.learning_rate)
                moved = self.decisions[row, neuron] + a
                low, high = map(np.float32, recipe.bounds)
                self.decisions[row, neuron] = min(max(moved, low), high)
        if self.seen == recipe.window:
            if self.rules.adaptive:
                self.reward, self.punishment = self.wrong / self.seen, self.right / self.seen
            self.right = self.wrong = self.seen = 0
        return None if decision is None else decision[1] // recipe.neurons_per_class


# --- encoding -------------------------------------------------------------------------------------


def encode(image: Array, encoding: Encoding) -> Array:
    """Return spike times (channels, height, width) of an image (height, width) in [-1, 1]."""
    height, width = image.shape
    pixels = [[(float(image[y, x]) + 1) * 255 / 2 for x in range(width)] for y in range(height)]
    contrasts: dict[Neuron, float] = {}
    for w, window in enumerate(encoding.windows):
        for side, kernel in enumerate(
            [contrast_kernel(window, 1, 2), contrast_kernel(window, 2, 1)]
        ):
            for y, x in np.ndindex(height, width):
                answer = 0.0
                for i, j in np.ndindex(window, window):
                    v, u = _seen(window, y, x, i, j)
                    if 0 <= v < height and 0 <= u < width:
                        answer += kernel[i][j] * pixels[v][u]
                contrasts[2 * w + side, y, x] = answer if answer > encoding.threshold else 0.0
    normalised = {place: _relative(contrasts, place, encoding.radius) for place in contrasts}
    spikes = [place for place in sorted(contrasts) if contrasts[place] > 0]
    # Rounded, as symmetry makes contrasts equal but for the last digits; sorting is stable.
    spikes.sort(key=lambda place: -round(normalised[place] * 2**20))
    times = np.full((encoding.channels, height, width), encoding.bins)
    for rank, place in enumerate(spikes):
        times[place] = rank * encoding.bins // len(spikes)
    return times


def contrast_kernel(window: int, centre: int, surround: int) -> list[list[float]]:
    """Return the difference of two Gaussians with so many ninths of the window as deviations."""
    kernel = [[0.0] * window for _ in range(window)]
    for i, j in np.ndindex(window, window):
        square = (i - window // 2) ** 2 + (j - window // 2) ** 2
        for sign, ninths in ((1, centre), (-1, surround)):
            variance = (ninths * window / 9) ** 2
            density = math.exp(-square / (2 * variance)) / (2 * math.pi * variance)
            kernel[i][j] += sign * density
    mean = sum(map(sum, kernel)) / window**2
    largest = max(map(max, kernel)) - mean
    return [[(value - mean) / largest for value in row] for row in kernel]


def _relative(contrasts: dict[Neuron, float], place: Neuron, radius: int) -> float:
    """Divide a contrast by the mean around it, where there is nothing outside the image."""
    c, y, x = place
    total = 0.0
    for i, j in np.ndindex(2 * radius + 1, 2 * radius + 1):
        total += contrasts.get((c, y + i - radius, x + j - radius), 0.0)
    return contrasts[place] / (total / (2 * radius + 1) ** 2) if total else 0.0


# --- neurons --------------------------------------------------------------------------------------


def fire(
    times: Array, weights: Array, threshold: float, bins: int
) -> dict[Neuron, tuple[int, float]]:
    """Return when each neuron that fires does so, and with which potential.

    Args:
        times: of the inputs' spikes (channels, height, width).
        weights: (maps, channels, kernel, kernel).
        threshold: has to be exceeded.
        bins: the number of time steps.
    """
    _, height, width = times.shape
    maps, channels, kernel, _ = weights.shape
    fired: dict[Neuron, tuple[int, float]] = {}
    for f, y, x in np.ndindex(maps, height, width):
        arriving: list[list[float]] = [[] for _ in range(bins + 1)]
        for c, i, j in np.ndindex(channels, kernel, kernel):
            v, u = _seen(kernel, y, x, i, j)
            if 0 <= v < height and 0 <= u < width:
                arriving[int(times[c, v, u])].append(float(weights[f, c, i, j]))
        potential = 0.0
        for time in range(bins):
            potential += sum(arriving[time])
            if potential > threshold:
                fired[f, y, x] = time, potential
                break
    return fired


def pool(
    fired: dict[Neuron, tuple[int, float]],
    layer: FeatureLayer,
    shape: tuple[int, ...],
    bins: int,
) -> Array:
    """Return the first spike in each window; rows and columns that fill no window are dropped."""
    height, width = shape[1] // layer.pooling, shape[2] // layer.pooling
    times = np.full((layer.maps, height, width), bins)
    for (f, y, x), (time, _) in fired.items():
        v, u = y // layer.pooling, x // layer.pooling
        if v < height and u < width:
            times[f, v, u] = min(times[f, v, u], time)
    return times


def compete(
    fired: dict[Neuron, tuple[int, float]], layer: FeatureLayer, rules: Rules | None = None
) -> list[tuple[Neuron, int]]:
    """Return the winners, and when they fired."""
    rules = Rules() if rules is None else rules

    def precedence(neuron: Neuron) -> tuple[float, ...]:
        (time, potential), (f, y, x) = fired[neuron], neuron
        return time, -potential, y, x, f

    candidates = sorted(fired, key=precedence)
    if rules.pointwise:
        first: dict[tuple[int, int], Neuron] = {}
        for neuron in candidates:
            first.setdefault(neuron[1:], neuron)
        candidates = list(first.values())
    winners: list[tuple[Neuron, int]] = []
    while candidates and len(winners) < layer.winners:
        f, y, x = winner = candidates[0]
        winners.append((winner, fired[winner][0]))
        radius = layer.radius + rules.radius
        candidates = [
            (g, v, u)
            for g, v, u in candidates[1:]
            if not (rules.own_map and g == f) and max(abs(v - y), abs(u - x)) > radius
        ]
    return winners


def _seen(kernel: int | None, y: int, x: int, i: int, j: int) -> tuple[int, int]:
    """Return the place that entry (i, j) of a kernel at (y, x) sees; None sees everything."""
    return (i, j) if kernel is None else (y + i - kernel // 2, x + j - kernel // 2)
