"""Time of R-STDP per image: as a simulation step by step, and as :mod:`baselines.rstdp` does it.

``lfp-bench perf rstdp`` stores JSON: for each layer that learns, images per second and quartiles
over rounds of how many times as fast as the simulation. Both learn from the same images of MNIST in
turn in one process on one thread, with the canonical network, and start from the same weights: in
the middle of the layer's training, or at the start of the decision layer's. Whether they end with
the same bits is checked and stored.

The simulation is what the algorithm says, written in torch without any trick but the obvious:
neurons of a layer are one convolution, and time is the batch. It is given the encoder for nothing
where that is said.
"""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.rstdp import RSTDP, FeatureLayer, RSTDPNetwork, resolution
from baselines.trainer import Settings
from benchmarks.costs.timing import WARM_UP, interleaved, quartiles
from benchmarks.data import Split
from benchmarks.storage.provenance import describe

CHUNK = 20  # images in a round
#: How many images each layer and those below have learned from before it is timed.
STARTS = {"first layer": 3000, "second layer": 9000, "decision layer": 12000}


class TimeStepped:
    """A simulation of all layers over all time steps, for each image, that goes on with training.

    Candidates of the decision that are closer than rounding errors are compared by exact sums, as
    in the fast form: both would be at the mercy of the order of summation.
    """

    def __init__(self, trainer: RSTDP) -> None:
        model = trainer.model
        self.recipe, self.bins = model.recipe, model.recipe.encoding.bins
        self.images, self.rates = trainer.images, copy.copy(trainer.rates)
        self.synapses = [weights.detach().clone() for weights in model.synapses]
        channels, kernel = model.shapes[-1][0], model.recipe.kernel
        assert kernel is not None
        shape = (-1, channels, kernel, kernel)
        self.decisions = model.decisions.detach().T.reshape(shape).contiguous()

    def learn(self, times: Tensor, target: int) -> None:
        """Learn from an encoded image (channels, height, width)."""
        seen = self.images
        self.images += 1
        waves = torch.stack([times <= t for t in range(self.bins)]).float()
        for layer, weights in zip(self.recipe.layers, self.synapses, strict=True):
            potentials = F.conv2d(waves, weights, padding=layer.kernel // 2)
            if seen < layer.images:
                self._learn_features(layer, weights, waves, potentials, seen)
                return
            seen -= layer.images
            waves = F.max_pool2d((potentials > layer.threshold).float(), layer.pooling)
        self._learn_decision(waves, target)

    def _learn_features(
        self, layer: FeatureLayer, weights: Tensor, waves: Tensor, potentials: Tensor, seen: int
    ) -> None:
        rates = torch.tensor(self.recipe.stdp_rates(seen))
        edge = layer.kernel // 2
        inputs = F.pad(self.bins - waves.sum(dim=0), [edge] * 4, value=self.bins)
        for neuron, y, x, time in _winners(layer, potentials):
            before = inputs[:, y : y + layer.kernel, x : x + layer.kernel] <= time
            w, step = weights[neuron], resolution(weights[neuron].numel())
            moved = w + torch.where(before, rates[0], rates[1]) * w * (1 - w)
            weights[neuron] = ((moved / step).round() * step).clamp(0, 1)

    def _learn_decision(self, waves: Tensor, target: int) -> None:
        recipe, kernel = self.recipe, self.decisions.shape[-1]
        potentials = F.conv2d(waves, self.decisions, padding=kernel // 2)[-1]
        inputs = F.pad(waves[-1], [kernel // 2] * 4) > 0
        patches = inputs.unfold(1, kernel, 1).unfold(2, kernel, 1)
        least = potentials.max() * (1 - 2.0**-23 * waves[-1].count_nonzero())
        neuron, y, x = max(
            (potentials >= least).nonzero().tolist(),
            key=lambda place: float(
                self.decisions[place[0]][patches[:, place[1], place[2]]].double().sum()
            ),
        )
        right = neuron // recipe.neurons_per_class == target
        pair, factor = (
            (recipe.reward, self.rates.reward)
            if right
            else (recipe.punishment, self.rates.punishment)
        )
        a = torch.tensor(pair) * factor
        self.decisions[neuron] += torch.where(patches[:, y, x], a[0], a[1])
        self.decisions[neuron].clamp_(*recipe.bounds)
        self.rates.count(1, right, not right, recipe.window)

    def agrees(self, trainer: RSTDP) -> bool:
        """Return whether all weights are the same bits as those of a trainer."""
        pairs = [
            *zip(self.synapses, trainer.model.synapses, strict=True),
            (self.decisions.flatten(1).T, trainer.model.decisions),
        ]
        return self.images == trainer.images and all(a.equal(b) for a, b in pairs)


def _winners(layer: FeatureLayer, potentials: Tensor) -> Iterator[tuple[int, int, int, int]]:
    """Yield map, row, column and time of the winners, for potentials (T, maps, height, width)."""
    bins = len(potentials)
    times = bins - (potentials > layer.threshold).sum(dim=0)
    at_spike = potentials.gather(0, times.clamp(max=bins - 1)[None])[0]
    earliest = times.amin(dim=0)
    largest, maps = at_spike.masked_fill(times > earliest, -1).max(dim=0)  # pointwise inhibition
    for _ in range(layer.winners):
        time = int(earliest.min())
        if time == bins:
            return
        place = int(largest.masked_fill(earliest > time, -1).argmax())
        y, x = divmod(place, earliest.shape[1])
        neuron = int(maps[y, x])
        yield neuron, y, x, time
        earliest[maps == neuron] = bins
        top, left = max(y - layer.radius, 0), max(x - layer.radius, 0)
        earliest[top : y + layer.radius + 1, left : x + layer.radius + 1] = bins


def compare(trainer: RSTDP, images: Tensor, targets: Tensor, rounds: int) -> dict[str, object]:
    """Let both forms learn from the images, (WARM_UP + rounds) * CHUNK of them, and time them."""
    encoder = trainer.model.encoder
    fast, simulation, encoded = copy.deepcopy(trainer), TimeStepped(trainer), TimeStepped(trainer)
    known = copy.deepcopy(trainer)
    known.model.features(images)
    times = encoder(images)

    def chunks(step: Callable[[slice], object]) -> Callable[[], object]:
        """Return what takes the next chunk when it is called."""
        starts = iter(range(0, len(images), CHUNK))

        def next_chunk() -> object:
            start = next(starts)
            return step(slice(start, start + CHUNK))

        return next_chunk

    def simulate(step: TimeStepped, encoded: bool) -> Callable[[slice], None]:
        def learn(rows: slice) -> None:
            for i in range(rows.start, rows.stop):
                image = times[i] if encoded else encoder(images[i : i + 1])[0]
                step.learn(image, int(targets[i]))

        return learn

    steps = {
        "time-stepped": chunks(simulate(simulation, encoded=False)),
        "time-stepped, given the encoded images": chunks(simulate(encoded, encoded=True)),
        "fast": chunks(lambda rows: fast.step(images[rows], targets[rows])),
    }
    versus = {"fast": "time-stepped"}
    if trainer.images >= sum(layer.images for layer in trainer.model.recipe.layers):
        steps["fast, features known"] = chunks(lambda rows: known.step(images[rows], targets[rows]))
        versus["fast, features known"] = "time-stepped, given the encoded images"
    with torch.no_grad():
        seconds = interleaved(steps, rounds, torch.device("cpu"))
    return {
        "images per second": {
            name: round(CHUNK / float(np.median(values)), 1) for name, values in seconds.items()
        },
        "times as fast": {
            f"{name} : {slow}": quartiles(seconds[slow], seconds[name]).round(1).tolist()
            for name, slow in versus.items()
        },
        "images": len(images),
        "same weights": all(form.agrees(fast) for form in (simulation, encoded)),
    }


def measure(data: Split, rounds: int) -> dict[str, object]:
    """Return all figures; `data` are images (1, 28, 28), some more than the last of STARTS."""
    torch.set_num_threads(1)
    trainer = RSTDP(RSTDPNetwork((1, 28, 28), 10, seed=0), Settings(learning_rate=1.0))
    report: dict[str, object] = {
        "rounds": rounds,
        "chunk": CHUNK,
        "environment": describe(torch.device("cpu")),
    }
    for name, start in STARTS.items():
        before = slice(trainer.images, start)
        trainer.step(data.inputs[before], data.targets[before])
        rows = slice(start, start + (WARM_UP + rounds) * CHUNK)
        report[name] = compare(trainer, data.inputs[rows], data.targets[rows], rounds)
    return report
