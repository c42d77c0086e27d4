"""Which neurons of a feature layer learn from an image."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from baselines.rstdp.network import Bits, Indices, Winner, receptive_fields
from baselines.rstdp.recipe import FeatureLayer
from baselines.spike_encoding import box


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
