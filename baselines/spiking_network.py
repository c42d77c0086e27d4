"""A classifier made of layers and spiking neurons: pictures in, spike counts of the classes out."""

from collections.abc import Iterator
from itertools import chain, pairwise
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from baselines.spiking import Spiking

if TYPE_CHECKING:
    from snntorch import Leaky

#: The k of the fast sigmoid s(x) = x / (1 + k |x|) whose derivative stands in for that of a spike
#: (Zenke and Ganguli 2018) in backpropagation; LFP needs none.
SURROGATE_SLOPE = 25


class SpikingNetwork(nn.Module):
    """Layers with ``snntorch.Leaky`` neurons, the last one too, run over T steps from rest.

    Its output (batch, classes) is the number of spikes of each class, so that argmax is the
    decision, as it is of logits.

    Args:
        layers: torch layers and neurons, from inputs (batch, ...) to (batch, classes).
        spiking: the neurons' decay, T, and how inputs become sequences.
    """

    def __init__(self, layers: nn.Sequential, spiking: Spiking) -> None:
        super().__init__()
        self.layers = layers
        self.spiking = spiking

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the spike counts (batch, classes) for inputs (batch, ...)."""
        return self.spikes(inputs).sum(dim=0)

    def spikes(self, inputs: Tensor) -> Tensor:
        """Return the spikes (T, batch, classes) for inputs (batch, ...) with values in [-1, 1]."""
        return self._unrolled(self.layers, inputs)

    def membrane_potentials(self, inputs: Tensor) -> Tensor:
        """Return the membrane potentials (T, batch, classes) of the last neurons, for such inputs.

        Raises:
            ValueError: no neurons but the last ones.
        """
        hidden = self._unrolled(self.layers[: self._hidden_ends()[-1]], inputs)
        return self.last_potentials(self.last_currents(hidden))

    def hidden_spikes(self, inputs: Tensor) -> list[Tensor]:
        """Return the spikes (T, batch, ...) of each hidden layer of neurons, for such inputs.

        No gradient passes from the spikes of a layer to those of the one below.

        Raises:
            ValueError: no neurons but the last ones.
        """
        return list(self._by_layer(*self._signal(inputs), self._hidden_ends()))

    def last_currents(self, hidden: Tensor) -> Tensor:
        """Return the input (T, batch, classes) of the last neurons for the spikes below them."""
        layers = self.layers[self._hidden_ends()[-1] : -1]
        currents: Tensor = layers(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
        return currents

    def last_spikes(self, currents: Tensor) -> Tensor:
        """Return the spikes (T, batch, classes) of the last neurons for their input."""
        from lfp_core.spiking import unroll  # noqa: PLC0415

        return unroll(self.layers[-1:], currents)

    def last_potentials(self, currents: Tensor) -> Tensor:
        """Return the membrane potentials (T, batch, classes) of the last neurons for their input.

        Each is the one that decides on the spike of its step.
        """
        last = cast("Leaky", self.layers[-1])
        potentials = [torch.zeros_like(currents[0])]
        for current in currents:
            reset = last.mem_reset(potentials[-1]) * last.threshold
            potentials.append(last.beta * potentials[-1] + current - reset)
        return torch.stack(potentials[1:])

    def _signal(self, inputs: Tensor) -> tuple[Tensor, int | None]:
        """Return the spikes (T, batch, ...) that code for inputs; or these and T, if constant."""
        if self.spiking.encoding == "constant":
            return inputs, self.spiking.steps
        return encode(inputs, self.spiking), None

    def _unrolled(self, layers: nn.Sequential, inputs: Tensor) -> Tensor:
        """Return the spikes (T, batch, ...) of the first layers, up to neurons."""
        from lfp_core.spiking import unroll  # noqa: PLC0415  (snntorch is slow to import)

        return unroll(layers, *self._signal(inputs))

    def _by_layer(self, signal: Tensor, steps: int | None, ends: list[int]) -> Iterator[Tensor]:
        """Yield the spikes (T, batch, ...) at each of the ends, from those below as constants."""
        from lfp_core.spiking import unroll  # noqa: PLC0415

        for start, end in pairwise([0, *ends]):
            signal, steps = unroll(self.layers[start:end], signal.detach(), steps), None
            yield signal

    def set_surrogate_slope(self, slope: float) -> None:
        """Give all neurons the derivative of the fast sigmoid with this slope; outputs stay."""
        import snntorch  # noqa: PLC0415
        from snntorch.surrogate import fast_sigmoid  # noqa: PLC0415

        for layer in self.layers:
            if isinstance(layer, snntorch.Leaky):
                layer.spike_grad = fast_sigmoid(slope)

    def _ends(self) -> list[int]:
        """Return behind which layers there are spikes, as places among the layers.

        Raises:
            ValueError: neurons stand at two places, where they would have one state.
        """
        import snntorch  # noqa: PLC0415

        neurons = {i: x for i, x in enumerate(self.layers) if isinstance(x, snntorch.Leaky)}
        if len(set(map(id, neurons.values()))) < len(neurons):
            raise ValueError("model: a Leaky stands at two places, where it has one state")
        return [i + 1 for i in neurons]

    def _hidden_ends(self) -> list[int]:
        """Return behind which hidden layers there are spikes; ValueError if there are none."""
        *hidden, _ = self._ends()
        if not hidden:
            raise ValueError(
                "model: it has no neurons in hidden layers, which this loss or method needs"
            )
        return hidden

    @torch.no_grad()
    def spike_count(self, inputs: Tensor) -> Tensor:
        """Return the number of spikes in the network (batch,), those of the input included."""
        signal, steps = self._signal(inputs)
        coded = [signal] if steps is None else []
        total = inputs.new_zeros(len(inputs))
        for spikes in chain(coded, self._by_layer(signal, steps, self._ends())):
            total += spikes.sum(dim=0).flatten(1).sum(dim=1)
        return total


def encode(inputs: Tensor, spiking: Spiking) -> Tensor:
    """Return the spikes (T, batch, ...) that code for inputs (batch, ...) in [-1, 1]."""
    from snntorch import spikegen  # noqa: PLC0415

    intensity = ((inputs + 1) / 2).clamp(0, 1)
    if spiking.encoding == "rate":
        spikes = spikegen.rate(intensity, num_steps=spiking.steps)
    else:
        spikes = spikegen.latency(
            intensity, num_steps=spiking.steps, normalize=True, linear=True, clip=True
        )
    return spikes.to(inputs.dtype)


def leaky(beta: float) -> nn.Module:
    """Return neurons with threshold 1 that are reset by subtraction."""
    import snntorch  # noqa: PLC0415
    from snntorch.surrogate import fast_sigmoid  # noqa: PLC0415

    return snntorch.Leaky(beta=beta, init_hidden=True, spike_grad=fast_sigmoid(SURROGATE_SLOPE))
