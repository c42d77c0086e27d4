"""E-prop as its authors write it: traces that run forward in time, and no backward pass."""

import copy
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines import Spiking, SpikingNetwork
from baselines.eprop import EProp, EPropSettings
from baselines.spiking_network import encode, leaky
from baselines.surrogate import Surrogate, SurrogateSettings
from validation.methods.chains import assert_equal, gradients

BETA, STEPS, SLOPE = 0.75, 6, 3.0  # snntorch keeps beta in float32, which has 0.75 exactly
Loss = Literal["rate", "membrane"]


def network(seed: int, *widths: int, encoding: str = "constant") -> SpikingNetwork:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), leaky(BETA)]
        nn.init.normal_(layers[-2].weight)  # type: ignore[arg-type]  # so that all layers spike
    spiking = Spiking(BETA, STEPS, encoding)  # type: ignore[arg-type]
    return SpikingNetwork(nn.Sequential(*layers), spiking).double()


def batch(seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    inputs = 2 * torch.rand(9, 5, generator=random, dtype=torch.float64) - 1
    return inputs, torch.arange(9) % 3


def settings(loss: Loss, **options: Any) -> EPropSettings:
    return EPropSettings(0.1, slope=SLOPE, loss=loss, **options)


def fast_sigmoid(z: Tensor) -> Tensor:
    """Return the spikes, with the derivative that snntorch computes in float32."""
    smooth = z / (1 + SLOPE * z.abs())
    return (z > 0).to(z) + (smooth - smooth.detach())


def precise(model: SpikingNetwork) -> None:
    for layer in model.layers[1::2]:
        layer.spike_grad = fast_sigmoid  # type: ignore[assignment]


class Neurons:
    """Neurons with their layer, and the traces of its weights, at one step after the other."""

    def __init__(self, layer: nn.Linear, batch: int) -> None:
        self.w, self.b = layer.weight.detach(), layer.bias.detach()
        self.potential = self.spikes = torch.zeros(batch, len(self.b), dtype=self.w.dtype)
        # The last one is the bias's, which gets a spike at each step.
        self.inputs = torch.zeros(batch, self.w.shape[1] + 1, dtype=self.w.dtype)
        self.filtered = torch.zeros(batch, len(self.b), self.inputs.shape[1], dtype=self.w.dtype)

    def step(self, x: Tensor) -> Tensor:
        """Take the spikes (batch, inputs) of a step; return those of the neurons."""
        reset = (self.potential > 1).to(x)
        self.potential = BETA * self.potential + x @ self.w.T + self.b - reset
        self.spikes = (self.potential > 1).to(x)
        self.psi = 1 / (1 + SLOPE * (self.potential - 1).abs()) ** 2
        self.inputs = BETA * self.inputs + F.pad(x, (0, 1), value=1.0)
        self.trace = self.psi[:, :, None] * self.inputs[:, None]
        self.filtered = BETA * self.filtered + self.trace
        return self.spikes


def by_traces(
    model: SpikingNetwork, feedback: list[Tensor], flow: list[Tensor], targets: Tensor, loss: Loss
) -> list[Tensor]:
    """Return the sums over time of learning signal times filtered trace, averaged over the batch.

    Bellec et al., equation 28 of the main text's "Methods": a readout that leaks by beta makes of a
    trace its low-pass filter, and what the readout misses at a step is the learning signal then.
    """
    linear = [layer for layer in model.layers if isinstance(layer, nn.Linear)]
    layers = [Neurons(layer, len(targets)) for layer in linear]
    *hidden, readout = layers
    moves = [torch.zeros_like(neurons.filtered) for neurons in layers]
    wanted = F.one_hot(targets, 3)
    for inputs in flow:
        spikes = inputs
        for neurons in layers:
            spikes = neurons.step(spikes)
        seen = readout.potential if loss == "membrane" else readout.spikes
        missed = (seen.softmax(-1) - wanted) / len(flow)
        if loss == "rate":
            missed = missed * readout.psi
        for number, (neurons, b) in enumerate(zip(hidden, feedback, strict=True)):
            moves[number] += (missed @ b)[:, :, None] * neurons.filtered
        moves[-1] += missed[:, :, None] * readout.inputs[:, None]
    means = [sums.mean(dim=0) for sums in moves]
    return [part for mean in means for part in (mean[:, :-1], mean[:, -1])]


@pytest.mark.parametrize("loss", ["rate", "membrane"])
@pytest.mark.parametrize("encoding", ["constant", "rate"])
@pytest.mark.parametrize("widths", [(5, 12, 3), (5, 12, 8, 3)])
@pytest.mark.parametrize("seed", range(2))
def test_a_weight_moves_by_its_trace_times_the_learning_signal(
    seed: int, widths: tuple[int, ...], encoding: str, loss: Loss
) -> None:
    model, (x, targets) = network(seed, *widths, encoding=encoding), batch(seed)
    trainer = EProp(model, settings(loss))
    precise(model)
    torch.manual_seed(3)
    trainer.fill_gradients(x, targets)
    torch.manual_seed(3)
    flow = [x] * STEPS if encoding == "constant" else list(encode(x, model.spiking))
    assert_equal(gradients(model), by_traces(model, trainer.feedback, flow, targets, loss))
    other: Loss = "membrane" if loss == "rate" else "rate"
    wrong = by_traces(model, trainer.feedback, flow, targets, other)
    assert not torch.allclose(gradients(model)[0], wrong[0], rtol=1e-3)


@pytest.mark.parametrize("loss", ["rate", "membrane"])
def test_with_the_next_weights_one_hidden_layer_is_backpropagated_through_time(loss: Loss) -> None:
    model, (x, targets) = network(0, 5, 12, 3), batch(0)
    twin = copy.deepcopy(model)
    trainer = EProp(model, settings(loss))
    trainer.fill_gradients(x, targets)
    Surrogate(twin, SurrogateSettings(0.1, slope=SLOPE, loss=loss)).fill_gradients(x, targets)
    assert_equal(gradients(model)[2:], gradients(twin)[2:])
    assert not torch.allclose(gradients(model)[0], gradients(twin)[0], rtol=1e-3)
    model.zero_grad()
    trainer.feedback = [model.get_parameter("layers.2.weight").detach()]
    trainer.fill_gradients(x, targets)
    assert_equal(gradients(model), gradients(twin))


def test_a_frozen_layer_stays_and_the_others_learn_as_before() -> None:
    model, (x, targets) = network(0, 5, 12, 8, 3), batch(0)
    EProp(model, settings("rate")).fill_gradients(x, targets)
    expected = gradients(model)
    for frozen in (0, 2, 4):
        model.zero_grad()
        model.layers[frozen].requires_grad_(False)
        EProp(model, settings("rate")).fill_gradients(x, targets)
        model.layers[frozen].requires_grad_(True)
        assert all(p.grad is None for p in model.layers[frozen].parameters())
        others = [grad for i, grad in enumerate(expected) if i not in (frozen, frozen + 1)]
        assert_equal([p.grad for p in model.parameters() if p.grad is not None], others)


def test_a_network_without_hidden_neurons_is_refused() -> None:
    model = network(0, 5, 3)
    with pytest.raises(ValueError, match="no neurons in hidden layers"):
        EProp(model, settings("rate")).fill_gradients(*batch(0))
