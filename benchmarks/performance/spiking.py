"""Time of a training step of a spiking network: fused LFP, step by step, BPTT, the authors' code.

``lfp-bench perf spiking`` stores JSON: for each way of presenting the input the median seconds of a
step, and quartiles over rounds of its ratio to fused LFP. All methods do the same work in turn in
one process: 784-1000-10, T = 25, batch 128, float32, forward, backward, clipping, SGD. The authors'
package is left out where it is not installed. On a GPU ten steps are given to the device at once,
and fused LFP and BPTT are made as one CUDA graph as well.
"""

import logging
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from itertools import pairwise

import snntorch
import torch
from snntorch.functional import ce_rate_loss
from snntorch.surrogate import fast_sigmoid
from snntorch.utils import reset
from torch import Tensor, nn

import lfp_core as lfp
from benchmarks.costs.timing import compared, interleaved
from benchmarks.performance.steps import captured, group_of, repeated
from benchmarks.storage.provenance import describe
from lfp_core import spiking

log = logging.getLogger(__name__)
STEPS, BATCH, WIDTHS, BETA = 25, 128, (784, 1000, 10), 0.9
SLOPE = 25  # of the fast sigmoid, as the paper has it
EPSILON = 1e-6
CLIP = 3.0
REFERENCE, SURROGATE = "lfp fused", "surrogate"
GRAPHABLE, GRAPH = (REFERENCE, SURROGATE), ", graph"

TrainingStep = Callable[[Tensor, Tensor], object]


def network(device: torch.device) -> nn.Sequential:
    """Return the layers of the network in turn: Linear, Leaky, Linear, Leaky."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in pairwise(WIDTHS):
        spike = fast_sigmoid(slope=SLOPE)
        layers += [
            nn.Linear(before, after),
            snntorch.Leaky(beta=BETA, init_hidden=True, spike_grad=spike),
        ]
    return nn.Sequential(*layers).to(device)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD that leaves the weights as they are, however many steps are timed."""
    return torch.optim.SGD(model.parameters(), lr=1e-8, momentum=0.9)


def finish(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Do what every method does once it has its gradients."""
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad()


def lfp_step(model: nn.Sequential, fused: bool) -> TrainingStep:
    """Return a step of LFP on inputs (T, batch, ...) or, constant, (batch, ...)."""
    optimizer = optimizer_of(model)

    def step(inputs: Tensor, targets: Tensor) -> None:
        constant = inputs.dim() == 2
        reset(model)
        with lfp.feedback(EPSILON):
            if fused:
                spikes = spiking.unroll(model, inputs, steps=STEPS if constant else None)
            else:
                spikes = torch.stack([model(x) for x in in_time(inputs)])
        lfp.backward(spikes, lfp.rewards.spike_rate(spikes.detach(), targets))
        finish(model, optimizer)

    return step


def surrogate_step(model: nn.Sequential) -> TrainingStep:
    """Return a step of backpropagation through time, as snntorch's tutorials do it."""
    optimizer, loss_of = optimizer_of(model), ce_rate_loss()

    def step(inputs: Tensor, targets: Tensor) -> None:
        reset(model)
        spikes = torch.stack([model(x) for x in in_time(inputs)])
        loss_of(spikes, targets).backward()
        finish(model, optimizer)

    return step


def peer_step(model: nn.Sequential) -> TrainingStep:
    """Return a step of the authors' package; raises ImportError where it is not installed."""
    from lfprop.model.spiking_networks import SpikingLayer  # noqa: PLC0415
    from lfprop.propagation.propagator_snn import LFPSNNEpsilonComposite  # noqa: PLC0415
    from lfprop.rewards.reward_functions import (  # noqa: PLC0415
        SnnCorrectClassRewardSpikesRateCoded,
    )

    layers = list(model)
    theirs = nn.Sequential(*map(SpikingLayer, layers[0::2], layers[1::2]))
    composite, optimizer = LFPSNNEpsilonComposite(epsilon=EPSILON), optimizer_of(theirs)
    reward_of = SnnCorrectClassRewardSpikesRateCoded(str(next(model.parameters()).device))

    def step(inputs: Tensor, targets: Tensor) -> None:
        reset(model)
        with composite.context(theirs):
            leaf = inputs.detach().requires_grad_()
            spikes = torch.stack([theirs(x) for x in in_time(leaf)])
            torch.autograd.grad(spikes, leaf, reward_of(spikes.detach(), targets))
        for parameter in theirs.parameters():
            parameter.grad = -vars(parameter)["feedback"]
        finish(theirs, optimizer)

    return step


def in_time(inputs: Tensor) -> list[Tensor]:
    """Return the inputs (batch, ...) of each time step, also if they are the same in all."""
    return [inputs] * STEPS if inputs.dim() == 2 else list(inputs)


def methods(device: torch.device) -> dict[str, TrainingStep]:
    """Return a training step of every method that is there, each with a model of its own."""
    found = {
        REFERENCE: lfp_step(network(device), fused=True),
        "lfp step by step": lfp_step(network(device), fused=False),
        SURROGATE: surrogate_step(network(device)),
    }
    try:
        found["lfprop"] = peer_step(network(device))
    except ImportError as missing:
        log.warning("without lfprop: %s", missing)
    return found


def ways(inputs: Tensor, targets: Tensor) -> dict[str, Callable[[], object]]:
    """Return a call for every way of making a training step on a batch, with what is timed in it.

    Args:
        inputs: (T, batch, 784) or, constant, (batch, 784).
        targets: (batch,).
    """
    device, group = inputs.device, group_of(inputs.device)
    steps: dict[str, Callable[[], object]] = {
        method: partial(step, inputs, targets) for method, step in methods(device).items()
    }
    if device.type == "cuda":
        apart = methods(device)  # models of their own, as a graph keeps the memory of gradients
        for method in GRAPHABLE:
            steps[f"{method}{GRAPH}"] = captured(partial(apart[method], inputs, targets))
    return {way: partial(repeated, step, group) for way, step in steps.items()}


def measure(rounds: int, device: torch.device) -> dict[str, object]:
    """Return all figures."""
    group = group_of(device)
    images = torch.rand(BATCH, WIDTHS[0])
    targets = torch.arange(BATCH) % WIDTHS[-1]
    inputs = {
        "constant": images,  # the image at every step
        "rate code": torch.bernoulli(images.expand(STEPS, *images.shape)),
    }
    report: dict[str, object] = {
        "network": WIDTHS,
        "steps": STEPS,
        "batch": BATCH,
        "rounds": rounds,
        "environment": {**describe(device), "snntorch": version("snntorch")},
    }
    for name, values in inputs.items():
        steps = ways(values.to(device), targets.to(device))
        seconds = interleaved(steps, rounds, device)
        of_one = {way: [t / group for t in times] for way, times in seconds.items()}
        report[name] = compared(of_one, REFERENCE)
    return report
