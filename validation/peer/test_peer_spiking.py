"""LFP of spiking networks against the authors' package `lfprop`, tensor by tensor in float64.

Run it as ``validation/peer/test_peer.py``; without `lfprop` or `snntorch` the module is skipped.
Read in lfprop 1.0.0 (``propagation/propagator_snn.py``): one rule for a weighted layer with its
neurons, the normaliser called "current" here, feedback summed over batch and time. With
reset_delay=False it adds back ``snntorch``'s reset of the *previous* membrane, though another was
subtracted, so the two agree for reset_delay=True only.
"""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

import lfp_core as lfp

pytest.importorskip("lfprop", reason="the authors' package is optional: run `tox -e peer`")
pytest.importorskip("snntorch", reason="spiking networks are optional")

import snntorch
from lfprop.model.spiking_networks import SpikingLayer
from lfprop.propagation.propagator_snn import LFPSNNEpsilonComposite
from lfprop.rewards.reward_functions import SnnCorrectClassRewardSpikesRateCoded

from lfp_core import spiking

pytestmark = pytest.mark.filterwarnings("ignore:This functionality is not yet fully tested")  # lxt

TOLERANCE = 1e-10
STEPS, BATCH, CLASSES = 7, 4, 3


def step_function(x: Tensor) -> Tensor:
    """Spike in the dtype of the membrane; snntorch's own surrogates give float32."""
    return (x > 0).to(x.dtype)


def neuron(beta: float, reset_delay: bool = True, output: bool = False) -> nn.Module:
    """Return a LIF neuron that keeps its own state."""
    return snntorch.Leaky(
        beta=beta,
        init_hidden=True,
        output=output,
        spike_grad=step_function,
        reset_delay=reset_delay,
    )


def dense(beta: float, **options: bool) -> tuple[list[nn.Module], tuple[int, ...]]:
    """Return layers 6-8-8-3 and the shape of an input."""
    return [
        SpikingLayer(nn.Linear(6, 8), neuron(beta, **options)),
        SpikingLayer(nn.Linear(8, 8, bias=False), neuron(beta, **options)),
        SpikingLayer(nn.Linear(8, CLASSES), neuron(beta, **options)),
    ], (6,)


def convolution(beta: float, **options: bool) -> tuple[list[nn.Module], tuple[int, ...]]:
    """Return conv-LIF-pool, conv-pool-LIF, linear-LIF, and the shape of an input."""
    return [
        SpikingLayer(nn.Conv2d(2, 4, 3), neuron(beta, **options)),
        nn.MaxPool2d(2),
        SpikingLayer(nn.Sequential(nn.Conv2d(4, 4, 3), nn.MaxPool2d(2)), neuron(beta, **options)),
        nn.Flatten(),
        SpikingLayer(nn.Linear(16, CLASSES), neuron(beta, **options)),
    ], (2, 14, 14)


NETWORKS: dict[str, Callable[..., tuple[list[nn.Module], tuple[int, ...]]]] = {
    "dense": dense,
    "convolution": convolution,
}


def pair(
    network: str, beta: float, **options: bool
) -> tuple[nn.Sequential, nn.Sequential, Tensor, Tensor]:
    """Return the authors' model, our copy of it, inputs (T, batch, ...) and targets (batch,)."""
    torch.manual_seed(0)
    layers, shape = NETWORKS[network](beta, **options)
    theirs = nn.Sequential(*layers).double()
    for parameter in theirs.parameters():
        parameter.data *= 3  # so that neurons fire
    flat: list[nn.Module] = []
    for layer in deepcopy(theirs):
        flat += layer.children() if isinstance(layer, SpikingLayer) else [layer]
    inputs = torch.rand(STEPS, BATCH, *shape, dtype=torch.float64)
    return theirs, nn.Sequential(*flat), inputs, torch.arange(BATCH) % CLASSES


def their_feedback(
    model: nn.Sequential, inputs: Tensor, reward_of: Callable[[Tensor], Tensor], epsilon: float
) -> tuple[Tensor, list[Tensor]]:
    """Return the authors' spikes (T, batch, classes) and feedback, in the order of parameters."""
    with LFPSNNEpsilonComposite(epsilon=epsilon).context(model):
        leaf = inputs.detach().requires_grad_()
        spikes = torch.stack([model(x) for x in leaf])
        torch.autograd.grad(spikes, leaf, reward_of(spikes.detach()))
    return spikes.detach(), [vars(p).pop("feedback") for p in model.parameters()]


def our_feedback(
    model: nn.Sequential,
    inputs: Tensor,
    reward_of: Callable[[Tensor], Tensor],
    epsilon: float,
    normaliser: spiking.Normaliser = "current",
) -> tuple[Tensor, list[Tensor]]:
    """Return ours, of the fused path."""
    model.zero_grad()
    with spiking.feedback(epsilon, normaliser=normaliser):
        spikes = spiking.unroll(model, inputs)
    lfp.backward(spikes, reward_of(spikes.detach()))
    gradients = [p.grad for p in model.parameters()]
    return spikes.detach(), [-g for g in gradients if g is not None]


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the largest relative error of a tensor of ours, in the Euclidean norm."""
    assert all(t.any() for t in theirs), "a feedback of 0 everywhere compares nothing"
    errors = [(o - t).norm() / t.norm() for o, t in zip(ours, theirs, strict=True)]
    return torch.stack(errors).max().item()


def rate_reward(targets: Tensor) -> Callable[[Tensor], Tensor]:
    """Return our reward of a rate code for these targets."""
    return lambda spikes: lfp.rewards.spike_rate(spikes, targets, reduction="sum")


@pytest.mark.parametrize("epsilon", [1e-6, 1e-2])
@pytest.mark.parametrize("beta", [0.3, 0.9])
@pytest.mark.parametrize("network", NETWORKS)
def test_feedback_is_the_authors(network: str, beta: float, epsilon: float) -> None:
    theirs, ours, inputs, targets = pair(network, beta)
    reward = rate_reward(targets)
    spikes, expected = their_feedback(theirs, inputs, reward, epsilon)
    assert 0 < spikes.mean() < 1
    our_spikes, found = our_feedback(ours, inputs, reward, epsilon)
    assert torch.equal(our_spikes, spikes)
    assert difference(found, expected) <= TOLERANCE


def test_rate_reward_is_the_authors() -> None:
    torch.manual_seed(0)
    for steps in (1, 4, 7):
        spikes = torch.bernoulli(torch.full((steps, 5, CLASSES), 0.4))
        targets = torch.arange(5) % CLASSES
        expected = SnnCorrectClassRewardSpikesRateCoded("cpu")(spikes, targets)
        found = lfp.rewards.spike_rate(spikes, targets, reduction="sum")
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("network", NETWORKS)
def test_comparison_detects_the_earlier_normaliser_and_another_epsilon(network: str) -> None:
    theirs, ours, inputs, targets = pair(network, 0.9)
    reward = rate_reward(targets)
    _, expected = their_feedback(theirs, inputs, reward, 1e-4)
    earlier = our_feedback(ours, inputs, reward, 1e-4, normaliser="earlier")[1]
    assert difference(earlier, expected) > 1e-3
    assert difference(our_feedback(ours, inputs, reward, 1.1e-4)[1], expected) > 1e-6


def test_without_delay_the_authors_undo_another_reset() -> None:
    theirs, ours, inputs, targets = pair("dense", 0.9, reset_delay=False)
    reward = rate_reward(targets)
    spikes, expected = their_feedback(theirs, inputs, reward, 1e-6)
    our_spikes, found = our_feedback(ours, inputs, reward, 1e-6)
    assert torch.equal(our_spikes, spikes)
    assert difference(found, expected) > 1e-3
