"""LFP of spiking networks straight from the definition: per connection and per time step.

Float64, no autograd, no snntorch code: a model is read for its weights and constants alone. Arrays
are (batch, ...) at one time step, lists of them run over time. As in :mod:`validation.oracle`, a
layer is an explicit list of connections i -> j. For a neuron j with current ``c_t``::

    v_t = beta u_{t-1} + c_t;   q_t = r_t / N_t;   r_{t-1} += u_{t-1} beta q_t

and for each connection into it ``r_{i<-j} = x_i w_ij q_j`` and ``dw_ij += |w_ij| x_i q_j``. Other
layers, whose outputs no neuron integrates, follow the epsilon rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import snntorch
import torch
from torch import nn

from validation.oracle import CONNECTIONS, Array, Backward, Trace, _max_pool

ROUTES = (nn.MaxPool2d, nn.Flatten)


@dataclass(frozen=True)
class Rules:
    """What :func:`lfp_core.spiking.feedback` can be told."""

    epsilon: float = 1e-6
    normaliser: str = "current"
    max_norm: bool = False


def run(
    model: nn.Sequential, inputs: torch.Tensor, reward: torch.Tensor, rules: Rules
) -> tuple[Array, Trace]:
    """Return the spikes (T, batch, ...) and the feedback for a reward of that shape.

    Args:
        model: Linear, Conv2d, AvgPool2d, MaxPool2d, Flatten, Leaky, in float64; the last is Leaky.
        inputs: (T, batch, ...).
        reward: like the spikes.
        rules: the variant.
    """
    trace = Trace(rules.epsilon)
    layers = list(model)
    flow = [x.numpy() for x in inputs]
    backwards: list[Any] = []
    for place, layer in enumerate(layers):
        if isinstance(layer, snntorch.Leaky):
            flow, back_in_time = _neurons(layer, flow, trace, rules)
            backwards.append(back_in_time)
            continue
        above = next(child for child in layers[place + 1 :] if not isinstance(child, ROUTES))
        passes = [_layer(layer, x, isinstance(above, snntorch.Leaky), trace) for x in flow]
        flow = [z for z, _ in passes]
        backwards.append(_each_step([back for _, back in passes]))
    r = list(reward.numpy())
    for back in reversed(backwards):
        r = back(r)
    return np.stack(flow), trace


def _each_step(steps: list[Backward]) -> Any:
    return lambda rewards: [step(r) for step, r in zip(steps, rewards, strict=True)]


def _layer(layer: nn.Module, x: Array, integrated: bool, trace: Trace) -> tuple[Array, Backward]:
    if isinstance(layer, nn.Flatten):
        return x.reshape(len(x), -1), lambda r: r.reshape(x.shape)
    if isinstance(layer, nn.MaxPool2d):
        return _max_pool(layer, x)
    return _connected(layer, x, integrated, trace)


def _connected(
    layer: nn.Module, x: Array, integrated: bool, trace: Trace
) -> tuple[Array, Backward]:
    """Weighted sums z; its backward pass takes q where neurons integrate z, else the reward."""
    connections, w = CONNECTIONS[type(layer)](layer, x.shape[1:])
    bias = getattr(layer, "bias", None)
    b = np.zeros(0) if bias is None else bias.detach().numpy()
    flat = x.reshape(len(x), -1)
    outputs = int(np.prod(connections.out_shape))
    per_channel = outputs // connections.out_shape[0]
    z = np.zeros((len(x), outputs))
    if bias is not None:
        z += np.repeat(b, per_channel)
    wired = list(zip(connections.source, connections.target, connections.weight, strict=True))
    for n in range(len(x)):
        for i, j, k in wired:
            z[n, j] += flat[n, i] * w[k]

    def backward(r: Array) -> Array:
        q = r.reshape(z.shape)
        if not integrated:
            q = q / trace.stabilized(z)
        r_in, dw, db = np.zeros_like(flat), np.zeros_like(w), np.zeros_like(b)
        for n in range(len(x)):
            for i, j, k in wired:
                r_in[n, i] += flat[n, i] * w[k] * q[n, j]
                dw[k] += abs(w[k]) * flat[n, i] * q[n, j]
            if bias is not None:
                for j in range(outputs):
                    db[j // per_channel] += abs(b[j // per_channel]) * q[n, j]
        trace.credit(getattr(layer, "weight", None), dw)
        trace.credit(bias, db)
        return r_in.reshape(x.shape)

    return z.reshape(len(x), *connections.out_shape), backward


def _neurons(
    neuron: snntorch.Leaky, currents: list[Array], trace: Trace, rules: Rules
) -> tuple[list[Array], Any]:
    beta, theta = float(neuron.beta), float(neuron.threshold)
    u = np.zeros_like(currents[0])
    olds, befores, spikes = [], [], []
    for c in currents:
        v = beta * u + c
        s = np.where(v - np.where(u > theta, theta, 0.0) > theta, 1.0, 0.0)
        reset = np.where(u > theta, theta, 0.0) if neuron.reset_delay else theta * s
        olds.append(u)
        befores.append(v)
        spikes.append(s)
        u = v - reset
        trace.saw(v, abs(beta * olds[-1]) + abs(c))

    def backward(rewards: list[Array]) -> list[Array]:
        q: list[Array] = [np.zeros(0)] * len(currents)
        carried = np.zeros_like(currents[0])
        for t in reversed(range(len(currents))):
            r = rewards[t] + carried
            if rules.max_norm and abs(r).max() > 1e-10:
                r = r / abs(r).max()
            if rules.normaliser == "current":
                norm = abs(olds[t]) + abs(befores[t] - olds[t]) + rules.epsilon
            else:
                norm = abs(befores[t]) + rules.epsilon
            q[t] = np.where(norm > 0, r / np.where(norm > 0, norm, 1.0), 0.0)
            carried = olds[t] * beta * q[t]
        return q

    return spikes, backward
