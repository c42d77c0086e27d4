"""LFP-epsilon straight from the definition: per connection, in float64, without autograd.

Slow and obviously right: the engine is tested against this. A model is walked module by module;
each module's inputs a_i and outputs z_j are tied by an explicit list of connections i -> j, and

* the reward that connection hands down is ``r_{i<-j} = z_ij / (z_j + eps s(z_j)) r_j`` with
  ``z_ij = a_i w_ij`` and ``s(0) = +1``;
* the reward of a unit is ``r_i = sum_j r_{i<-j}``;
* the feedback of a weight is ``dw_ij = |w_ij| a_i / (z_j + eps s(z_j)) r_j``, summed over all
  connections that share it and over the batch; a bias is the weight of an input that is always 1.

Arrays carry the batch first; index n is the sample, i an input, j an output, c a connection.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import lfp_core as lfp
from validation.networks import (
    Attention,
    Concatenation,
    Exp,
    FixedDropout,
    Gated,
    Positions,
    Power,
    Quotient,
    Residual,
    Shifted,
)

Array = NDArray[np.float64]
#: A backward pass: reward on the outputs -> reward on the inputs.
Backward = Callable[[Array], Array]


@dataclass
class Trace:
    """What the oracle finds for one batch.

    Attributes:
        epsilon, attention, gates, units, normalisation: as in :func:`run`.
        behind_sum: whether the module that is walked next takes in the sums of an epsilon rule.
        outputs: of the model.
        feedback: dw of every parameter, in the parameter's shape.
        input_reward: r of the inputs.
        condition: the largest ``sum_i |z_ij| / |z_j|`` met. Rounding errors in z_j are up to that
            times float64's precision, and the epsilon rule divides by z_j, so no two ways to add
            up agree any better.
        smallest: the smallest |z_j| > 0 met at an epsilon rule.
    """

    epsilon: float
    attention: str = "uniform"
    gates: str = "signal"
    units: str = "identity"
    normalisation: str = "gradient"
    behind_sum: bool = False
    outputs: Array = field(default_factory=lambda: np.zeros(0))
    feedback: dict[torch.Tensor, Array] = field(default_factory=dict)
    input_reward: Array = field(default_factory=lambda: np.zeros(0))
    condition: float = 1.0
    smallest: float = math.inf

    def stabilized(self, z: Array) -> Array:
        """``z + eps s(z)``; infinite where it is 0, so that 0/0 is 0 under LFP-0."""
        denominator = z + self.epsilon * np.where(z >= 0, 1.0, -1.0)
        return np.where(denominator == 0, np.inf, denominator)

    def saw(self, z: Array, magnitude: Array) -> None:
        """Note how well the sums z of contributions with that total magnitude are conditioned."""
        live = z != 0
        if live.any():
            self.condition = max(self.condition, float((magnitude[live] / abs(z[live])).max()))
            self.smallest = min(self.smallest, float(abs(z[live]).min()))

    def credit(self, parameter: torch.Tensor | None, amount: Array) -> None:
        """Add to the feedback of a parameter."""
        if parameter is not None:
            shaped = amount.reshape(tuple(parameter.shape))
            self.feedback[parameter] = self.feedback.get(parameter, np.zeros_like(shaped)) + shaped


def run(
    model: nn.Module,
    inputs: torch.Tensor,
    reward_of: Callable[[torch.Tensor], torch.Tensor],
    epsilon: float,
    attention: str = "uniform",
    gates: str = "signal",
    units: str = "identity",
    normalisation: str = "gradient",
    output_epsilon: float | None = None,
) -> Trace:
    """Propagate the reward of the outputs through the model; return the feedback.

    Args:
        model: built of the modules that :func:`walk` knows, in float64.
        inputs: (batch, ...) in float64, or integers for an embedding.
        reward_of: the reward as a function of the outputs.
        epsilon: stabiliser >= 0.
        attention: "uniform", or "constant" attention weights, which get no reward.
        gates: "signal", where a gate that scales a signal gets no reward, or "uniform".
        units: "identity", "reverse" or "shifted" where f(0) != 0 (:func:`_activation`).
        normalisation: "gradient", or "identity" for a constant scale (:func:`_centred`).
        output_epsilon: stabiliser of the last layer, if it has one of its own.

    Returns:
        The trace, with the feedback and the outputs.

    Raises:
        TypeError: a module has no definition here, or an epsilon of its own is asked for what does
            not end with a layer.
    """
    trace = Trace(epsilon, attention, gates, units, normalisation)
    if output_epsilon is None:
        trace.outputs, backward = walk(model, inputs.detach().numpy(), trace)
    else:
        trace.outputs, backward = _with_last_layer(model, inputs, trace, output_epsilon)
    reward = reward_of(torch.from_numpy(trace.outputs)).numpy()
    trace.input_reward = backward(reward)
    return trace


def _with_last_layer(
    model: nn.Module, inputs: torch.Tensor, trace: Trace, epsilon: float
) -> tuple[Array, Backward]:
    """Walk all but the last layer with the trace's epsilon, and that one with its own."""
    if not isinstance(model, nn.Sequential) or type(model[-1]) not in CONNECTIONS:
        raise TypeError(f"an epsilon of its own is for a last layer, not for {model}")
    last = replace(trace, epsilon=epsilon)  # the same feedback, as the dict is the same
    hidden, to_inputs = walk(model[:-1], inputs.detach().numpy(), trace)
    outputs, to_hidden = walk(model[-1], hidden, last)
    trace.condition = max(trace.condition, last.condition)
    trace.smallest = min(trace.smallest, last.smallest)
    return outputs, lambda r: to_inputs(to_hidden(r))


def walk(module: nn.Module, a: Array, trace: Trace) -> tuple[Array, Backward]:  # noqa: PLR0911, PLR0912
    """Return the module's outputs and its backward pass, which credits the trace."""
    if isinstance(module, nn.Sequential):
        return _chain(module, a, trace)
    if isinstance(module, Residual):
        return _residual(module, a, trace)
    if isinstance(module, Concatenation):
        return _concatenation(module, a, trace)
    if isinstance(module, Gated):
        return _gated(module, a, trace)
    if isinstance(module, Quotient):
        return _quotient(module, a, trace)
    if isinstance(module, Attention):
        return _attention(module, a, trace)
    if isinstance(module, Positions):
        return _positions(module, a, trace)
    if isinstance(module, Shifted):
        return _added(a, np.full_like(a, module.number), trace, is_bias=True)
    if a.ndim == 3 and _is_per_token(module):
        outputs, rows = walk(module, a.reshape(-1, a.shape[2]), trace)
        shape = (*a.shape[:2], -1)
        return outputs.reshape(shape), lambda r: rows(r.reshape(outputs.shape)).reshape(a.shape)
    if isinstance(module, nn.Flatten):
        return a.reshape(len(a), -1), lambda r: r.reshape(a.shape)
    if isinstance(module, FixedDropout):
        kept = module.mask.numpy() != 0
        return a * module.mask.numpy(), lambda r: np.where(kept, r, 0.0)
    if isinstance(module, nn.Embedding):
        return _embedding(module, a, trace)
    if isinstance(module, (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)):
        return _max_pool(module, a)
    if isinstance(module, NORMALISATIONS):
        return _normalisation(module, a, trace)
    if type(module) in CONNECTIONS:
        return _connected(module, a, trace)
    for kind, function in ACTIVATIONS.items():
        if isinstance(module, kind):
            offset = OFFSETS[kind](module) if kind in OFFSETS else None
            return _activation(function(module, a), a, offset, trace)
    raise TypeError(f"the oracle has no definition of {type(module).__name__}")


# --- weighted sums: linear, convolution, average pooling ------------------------------------------


@dataclass
class Connections:
    """The connections of a layer for one sample: parallel lists, one entry a connection.

    ``source`` and ``target`` index the flat inputs and outputs, ``weight`` the flat weights.
    """

    out_shape: tuple[int, ...]
    source: list[int] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    weight: list[int] = field(default_factory=list)

    def add(self, source: int, target: int, weight: int) -> None:
        """Add one connection."""
        self.source.append(source)
        self.target.append(target)
        self.weight.append(weight)


def _connected(module: nn.Module, a: Array, trace: Trace) -> tuple[Array, Backward]:
    connections, w = CONNECTIONS[type(module)](module, a.shape[1:])
    weight: torch.Tensor | None = getattr(module, "weight", None)
    bias: torch.Tensor | None = getattr(module, "bias", None)
    source, target = np.array(connections.source), np.array(connections.target)
    which = np.array(connections.weight)
    flat = a.reshape(len(a), -1)
    outputs = math.prod(connections.out_shape)
    # The bias of an output: one per channel, which is the first dimension of the output.
    b = np.zeros(outputs)
    channel = np.arange(outputs) // max(outputs // connections.out_shape[0], 1)
    if bias is not None:
        b = bias.detach().numpy()[channel]

    z_ij = flat[:, source] * w[which]
    z, magnitude = np.tile(b, (len(a), 1)), np.tile(abs(b), (len(a), 1))
    for n in range(len(a)):
        np.add.at(z[n], target, z_ij[n])
        np.add.at(magnitude[n], target, abs(z_ij[n]))
    trace.saw(z, magnitude)

    def backward(r: Array) -> Array:
        share = r.reshape(len(a), -1) / trace.stabilized(z)  # r_j / (z_j + eps s(z_j))
        r_in, dw, db = np.zeros_like(flat), np.zeros_like(w), np.zeros(connections.out_shape[0])
        for n in range(len(a)):
            np.add.at(r_in[n], source, z_ij[n] * share[n, target])
            np.add.at(dw, which, abs(w[which]) * flat[n, source] * share[n, target])
            np.add.at(db, channel, abs(b) * 1.0 * share[n])
        trace.credit(weight, dw)
        if bias is not None:
            trace.credit(bias, db)
        return r_in.reshape(a.shape)

    return z.reshape(len(a), *connections.out_shape), backward


def _linear(module: nn.Linear, in_shape: tuple[int, ...]) -> tuple[Connections, Array]:
    found = Connections((module.out_features,))
    for j, i in itertools.product(range(module.out_features), range(module.in_features)):
        found.add(source=i, target=j, weight=j * module.in_features + i)
    return found, module.weight.detach().numpy().ravel()


def _convolution(module: nn.Conv2d, in_shape: tuple[int, ...]) -> tuple[Connections, Array]:
    """Any of Conv1d, Conv2d, Conv3d: weight (out, in / groups, *kernel), zero padding."""
    _, *space = in_shape
    w = module.weight.detach().numpy()
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    padding = [int(p) for p in module.padding]
    out_space = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip(space, padding, dilation, kernel, stride, strict=True)
    ]
    found = Connections((module.out_channels, *out_space))
    per_group = module.in_channels // module.groups
    for j, i in itertools.product(range(module.out_channels), range(per_group)):
        channel = j // (module.out_channels // module.groups) * per_group + i
        for at, k in itertools.product(_grid(out_space), _grid(kernel)):
            here = [
                x * s - p + y * d
                for x, s, p, y, d in zip(at, stride, padding, k, dilation, strict=True)
            ]
            if all(0 <= x < size for x, size in zip(here, space, strict=True)):
                found.add(
                    source=_flat((channel, *here), in_shape),
                    target=_flat((j, *at), found.out_shape),
                    weight=_flat((j, i, *k), w.shape),
                )
    return found, w.ravel()


def _transposed(module: nn.ConvTranspose2d, in_shape: tuple[int, ...]) -> tuple[Connections, Array]:
    """Any of ConvTranspose1d, 2d, 3d without groups: weight (in, out, *kernel)."""
    _, *space = in_shape
    w = module.weight.detach().numpy()
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    padding = [int(p) for p in module.padding]
    out_space = [
        (size - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for size, s, p, d, k, extra in zip(
            space, stride, padding, dilation, kernel, module.output_padding, strict=True
        )
    ]
    found = Connections((module.out_channels, *out_space))
    for i, j in itertools.product(range(module.in_channels), range(module.out_channels)):
        for at, k in itertools.product(_grid(space), _grid(kernel)):
            there = [
                x * s - p + y * d
                for x, s, p, y, d in zip(at, stride, padding, k, dilation, strict=True)
            ]
            if all(0 <= x < size for x, size in zip(there, out_space, strict=True)):
                found.add(
                    source=_flat((i, *at), in_shape),
                    target=_flat((j, *there), found.out_shape),
                    weight=_flat((i, j, *k), w.shape),
                )
    return found, w.ravel()


def _average_pool(module: nn.AvgPool2d, in_shape: tuple[int, ...]) -> tuple[Connections, Array]:
    """Windows without padding; every connection has the same weight, 1 / window size."""
    channels, *space = in_shape
    kernel, stride = _window(module, len(space))
    out_space = [(x - k) // s + 1 for x, k, s in zip(space, kernel, stride, strict=True)]
    found = Connections((channels, *out_space))
    for c, at, k in itertools.product(range(channels), _grid(out_space), _grid(kernel)):
        here = [x * s + y for x, s, y in zip(at, stride, k, strict=True)]
        found.add(_flat((c, *here), in_shape), _flat((c, *at), found.out_shape), weight=0)
    return found, np.array([1 / math.prod(kernel)])


def _global_average_pool(
    module: nn.AdaptiveAvgPool2d, in_shape: tuple[int, ...]
) -> tuple[Connections, Array]:
    """Adaptive average pooling to one value per channel."""
    channels, *space = in_shape
    found = Connections((channels, *[1] * len(space)))
    for c, at in itertools.product(range(channels), _grid(space)):
        found.add(_flat((c, *at), in_shape), c, weight=0)
    return found, np.array([1 / math.prod(space)])


CONNECTIONS: dict[type[nn.Module], Callable[..., tuple[Connections, Array]]] = {
    nn.Linear: _linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _average_pool),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _global_average_pool
    ),
}


def _grid(sizes: Sequence[int]) -> itertools.product[tuple[int, ...]]:
    return itertools.product(*map(range, sizes))


def _flat(index: Sequence[int], shape: Sequence[int]) -> int:
    return int(np.ravel_multi_index(tuple(index), tuple(shape)))


def _window(module: Any, dimensions: int) -> tuple[list[int], list[int]]:
    """Return kernel size and stride of a pooling module, one number a dimension."""

    def each(size: int | Sequence[int]) -> list[int]:
        return [size] * dimensions if isinstance(size, int) else list(size)

    return each(module.kernel_size), each(module.stride)


# --- everything else ------------------------------------------------------------------------------


def _chain(module: nn.Sequential, a: Array, trace: Trace) -> tuple[Array, Backward]:
    steps: list[Backward] = []
    for position, child in enumerate(module):
        trace.behind_sum = _is_sum(module[:position])
        a, backward = walk(child, a, trace)
        steps.append(backward)

    def backward_all(r: Array) -> Array:
        for step in reversed(steps):
            r = step(r)
        return r

    return a, backward_all


def _residual(module: Residual, a: Array, trace: Trace) -> tuple[Array, Backward]:
    """z = a + f(a): two contributions to each output, shared by the epsilon rule."""
    f, inner = walk(module.body, a, trace)
    z = a + f
    trace.saw(z, abs(a) + abs(f))

    def backward(r: Array) -> Array:
        share = r / trace.stabilized(z)
        return a * share + inner(f * share)

    return z, backward


def _concatenation(module: Concatenation, a: Array, trace: Trace) -> tuple[Array, Backward]:
    parts, backwards = zip(*(walk(branch, a, trace) for branch in module.branches), strict=True)
    cuts = np.cumsum([part.shape[1] for part in parts])[:-1]

    def backward(r: Array) -> Array:
        pieces = np.split(r, cuts, axis=1)
        return np.sum([step(piece) for step, piece in zip(backwards, pieces, strict=True)], axis=0)

    return np.concatenate(parts, axis=1), backward


def _gated(module: Gated, a: Array, trace: Trace) -> tuple[Array, Backward]:
    """o = g v: a single contribution, whose reward both factors share.

    With gates="signal" it is all v's, if g is a gate and v is none.

    Returns:
        The outputs, and the backward pass.
    """
    g, to_gate = walk(module.gate, a, trace)
    v, to_value = walk(module.value, a, trace)
    part = 1 / 2
    if trace.gates == "signal" and _is_gate(module.gate) != _is_gate(module.value):
        part = 0.0 if _is_gate(module.gate) else 1.0
    return g * v, lambda r: to_gate(part * r) + to_value((1 - part) * r)


def _is_gate(module: nn.Module) -> bool:
    """Whether the module's outputs are those of a sigmoid, some of them dropped, maybe."""
    if isinstance(module, nn.Sequential):
        last = next(m for m in reversed(module) if not isinstance(m, (FixedDropout, nn.Flatten)))
        return _is_gate(last)
    return isinstance(module, (nn.Sigmoid, nn.Hardsigmoid))


def _quotient(module: Quotient, a: Array, trace: Trace) -> tuple[Array, Backward]:
    """o = u / v: the product of u and 1 / v, whose reward both share; 1 / v hands its part to v."""
    u, to_numerator = walk(module.numerator, a, trace)
    v, to_divisor = walk(module.divisor, a, trace)
    return u / v, lambda r: to_numerator(r / 2) + to_divisor(r / 2)


def _is_per_token(module: nn.Module) -> bool:
    """Whether the module treats the tokens of (batch, tokens, features) as if each was a sample."""
    norm = isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1
    return norm or isinstance(module, nn.Linear)


def _positions(module: Positions, a: Array, trace: Trace) -> tuple[Array, Backward]:
    """z = a + w: a contribution of the token, and one of its position, which may be a parameter."""
    w = module.embedding.detach().numpy()
    learned = isinstance(module.embedding, nn.Parameter)
    z, to_source = _added(a, -w if module.subtracted else w, trace, is_bias=learned)
    sign = -1.0 if module.subtracted else 1.0

    def backward(r: Array) -> Array:
        if learned:
            share = r / trace.stabilized(z)
            trace.credit(module.embedding, (abs(w) * sign * share).sum(0))
        return to_source(r)

    return z, backward


def _added(a: Array, b: Array, trace: Trace, is_bias: bool) -> tuple[Array, Backward]:
    """z = a + b, where b is no activation: a weight or a number, which are biases, or a constant.

    Where a_j is the sum of z_ij, a bias is another contribution to the same sum. Connections into
    it hand down ``z_ij / (z_j + eps s(z_j)) r_j``; without the bias, ``z_ij / (a_j + eps s(a_j))``
    of it, which is what the module that made a_j does with what arrives there.
    Elsewhere a_j itself is a contribution.

    Returns:
        The outputs, and the backward pass.
    """
    z = a + b
    trace.saw(z, abs(a) + abs(b))
    same_sum = is_bias and trace.behind_sum

    def backward(r: Array) -> Array:
        return (trace.stabilized(a) if same_sum else a) * (r / trace.stabilized(z))

    return z, backward


def _is_sum(modules: nn.Module) -> bool:
    """Whether the outputs are sums under the epsilon rule, as they are or at other places."""
    if isinstance(modules, nn.Sequential):
        kept = (nn.Flatten, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
        last = next((m for m in reversed(modules) if not isinstance(m, kept)), None)
        return last is not None and _is_sum(last)
    if isinstance(modules, Concatenation):
        return all(_is_sum(branch) for branch in modules.branches)
    sums = (*CONNECTIONS, *NORMALISATIONS, nn.Embedding, Residual, Positions, Shifted, Attention)
    return isinstance(modules, sums)


def _attention(module: Attention, a: Array, trace: Trace) -> tuple[Array, Backward]:
    """o = p v with p = softmax(x), x = q k / sqrt(d) + mask: a token i looks at the tokens j.

    A product of two activations has the contributions q_id k_jd to s_ij, and p_ij v_jd to o_id. The
    reward of each, ``z_c / (2 z + eps s(z)) r``, goes to both of its factors. The softmax hands
    down ``r_x = x (r_p - p sum r_p)``. What is masked has no part in it. Numbers that are added to
    the scaled scores are another contribution; where the queries are scaled in the place of the
    scores, it is one to the same sum s_ij.

    Returns:
        The outputs, and the backward pass.
    """

    def heads(x: Array) -> Array:
        return np.moveaxis(x.reshape(*x.shape[:2], module.heads, -1), 2, 1)  # n h i d

    def merged(x: Array) -> Array:
        return np.moveaxis(x, 1, 2).reshape(a.shape)

    layers = [module.query, module.key, module.value]
    (q, k, v), to_layers = zip(*(walk(layer, a, trace) for layer in layers), strict=True)
    q, k, v = heads(q), heads(k), heads(v)
    scale = 1 / math.sqrt(q.shape[-1])
    if module.way == "weights":
        q, scale = scale * q, 1.0
    z_s = q[:, :, :, None, :] * k[:, :, None, :, :]  # n h i j d
    s = z_s.sum(-1)
    trace.saw(s, abs(z_s).sum(-1))
    mask = np.zeros(s.shape[2:]) if module.mask is None else module.mask.numpy()
    # torch's multi-head attention adds booleans, too: 0 or -inf.
    added = module.mask is not None and (mask.dtype != bool or module.way in MULTIHEAD)
    seen = np.broadcast_to(mask if mask.dtype == bool else mask > -np.inf, s.shape)
    x = np.where(seen, scale * s + (0.0 if mask.dtype == bool else mask), 0.0)
    if added:
        trace.saw(x, abs(scale * s) + np.where(seen, abs(x - scale * s), 0.0))
    weight = np.where(seen, np.exp(x), 0.0)
    p = weight / weight.sum(-1, keepdims=True)
    z_o = p[..., None] * v[:, :, None, :, :]  # n h i j d
    o = z_o.sum(3)
    trace.saw(o, abs(z_o).sum(3))
    outputs, to_heads = walk(module.out, merged(o), trace)

    def backward(r: Array) -> Array:
        to_query, to_key, to_value = to_layers
        r_o = heads(to_heads(r))
        if trace.attention == "constant":
            share = z_o * (r_o / trace.stabilized(o))[:, :, :, None, :]
            return to_value(merged(share.sum(2)))
        share = z_o * (r_o / trace.stabilized(2 * o))[:, :, :, None, :]
        r_p, r_v = share.sum(4), share.sum(2)
        r_x = x * (r_p - p * r_p.sum(-1, keepdims=True))
        same_sum = added and module.way == "weights"
        r_s = scale * s * r_x / trace.stabilized(x) if added and not same_sum else r_x
        sums = x if same_sum else s
        part = z_s * (np.where(seen, r_s, 0.0) / trace.stabilized(2 * sums))[..., None]
        r_q, r_k = part.sum(3), part.sum(2)
        return to_query(merged(r_q)) + to_key(merged(r_k)) + to_value(merged(r_v))

    return outputs, backward


MULTIHEAD = ("multihead", "weights")


def _embedding(module: nn.Embedding, a: Array, trace: Trace) -> tuple[Array, Backward]:
    """One-hot inputs: the weight of the chosen row is the only contribution to each output."""
    rows = a.astype(int)
    w = module.weight.detach().numpy()
    z = w[rows]
    trace.saw(z, abs(z))

    def backward(r: Array) -> Array:
        dw = np.zeros_like(w)
        np.add.at(dw, rows, abs(z) * 1.0 * r / trace.stabilized(z))
        trace.credit(module.weight, dw)
        return np.zeros(a.shape)

    return z, backward


def _max_pool(module: nn.Module, a: Array) -> tuple[Array, Backward]:
    """The reward goes to the first of the largest inputs of each window."""
    kernel, stride = _window(module, a.ndim - 2)
    out_space = [(x - k) // s + 1 for x, k, s in zip(a.shape[2:], kernel, stride, strict=True)]
    z = np.zeros((*a.shape[:2], *out_space))
    winner: dict[tuple[int, ...], tuple[int, ...]] = {}
    for unit in np.ndindex(z.shape):
        n, c, *at = unit
        window = [
            (n, c, *(x * s + y for x, s, y in zip(at, stride, k, strict=True)))
            for k in _grid(kernel)
        ]
        winner[unit] = max(window, key=lambda i: a[i])  # max() keeps the first of equals
        z[unit] = a[winner[unit]]

    def backward(r: Array) -> Array:
        r_in = np.zeros_like(a)
        for unit, source in winner.items():
            r_in[source] += r[unit]
        return r_in

    return z, backward


def _normalisation(module: Any, a: Array, trace: Trace) -> tuple[Array, Backward]:
    """z = gamma (a - mean) / sigma + beta, differentiated as a whole; of RMSNorm, the mean is 0.

    With fixed statistics each output has one input, with weight gamma / sigma, and a constant. With
    statistics of the data every input of a group reaches every output of it: as in the authors'
    code, w_ij is then the derivative of z_j by a_i. With normalisation="identity" see
    :func:`_centred`.

    Returns:
        The outputs, and the backward pass.
    """
    identity = trace.normalisation == "identity"
    channels = a.shape[1]
    per_element = isinstance(module, (nn.LayerNorm, nn.RMSNorm))
    centred = 0.0 if isinstance(module, nn.RMSNorm) else 1.0
    shape = a.shape[1:] if per_element else (channels, *[1] * (a.ndim - 2))
    gamma, beta = np.ones(shape), np.zeros(shape)
    if module.weight is not None:
        gamma = module.weight.detach().numpy().reshape(shape)
    if getattr(module, "bias", None) is not None:
        beta = module.bias.detach().numpy().reshape(shape)
    fixed = isinstance(module, BATCH_NORMS) and not module.training
    if fixed:
        mean = module.running_mean.numpy().reshape(shape)
        variance = module.running_var.numpy().reshape(shape)
    else:
        groups = _groups(module, a.shape)
        mean, variance = np.zeros_like(a), np.zeros_like(a)
        for members in groups:
            mean.flat[members] = centred * a.flat[members].mean()
            variance.flat[members] = ((a - mean).flat[members] ** 2).mean()
    sigma = np.sqrt(variance + module.eps)
    a_hat = (a - mean) / sigma
    z = gamma * a_hat + beta
    to_inputs: Backward | None = None
    if identity:
        to_inputs = _centred(a, mean, None if fixed else groups, centred, trace)
    trace.saw(z, abs(gamma / sigma) * (abs(a) + abs(mean)) + abs(beta))

    def backward(r: Array) -> Array:
        share = r / trace.stabilized(z)
        over = tuple(axis for axis in range(a.ndim) if axis == 0 or (axis > 1 and not per_element))
        if module.weight is not None:
            trace.credit(module.weight, (abs(gamma) * a_hat * share).sum(over))
            trace.credit(getattr(module, "bias", None), (abs(beta) * share).sum(over))
        if to_inputs is not None:
            return to_inputs(r if module.weight is None else gamma * a_hat * share)
        if fixed:
            return a * gamma / sigma * share
        r_in = np.zeros_like(a)
        push = np.broadcast_to(gamma, a.shape) * share
        for members in groups:
            for i in members:
                for j in members:
                    same = 1.0 if i == j else 0.0
                    slope = same - (centred + a_hat.flat[i] * a_hat.flat[j]) / len(members)
                    r_in.flat[i] += a.flat[i] * push.flat[j] * slope / sigma.flat[i]
        return r_in

    return z, backward


def _centred(
    a: Array,
    mean: Array,
    groups: list[NDArray[np.intp]] | None,
    centred: float,
    trace: Trace,
) -> Backward:
    """Return how ``c = a - mean``, which a constant then scales, hands a reward down.

    The mean of the data is a sum of a_i / N, and c_i one of a_i and minus that: each under the
    epsilon rule. A mean that is fixed is a constant contribution.
    """
    if not centred:
        return lambda r: r
    if groups is None:
        return _added(a, -mean, trace, is_bias=False)[1]
    c = a - mean
    trace.saw(c, abs(a) + abs(mean))
    for members in groups:
        trace.saw(mean.flat[members[:1]], abs(a.flat[members]).mean(keepdims=True))

    def backward(r: Array) -> Array:
        share = r / trace.stabilized(c)
        r_in = a * share
        for members in groups:
            r_mean = (-mean * share).flat[members].sum()
            push = r_mean / trace.stabilized(mean.flat[members[:1]])
            r_in.flat[members] += a.flat[members] / len(members) * push
        return r_in

    return backward


def _groups(module: Any, shape: tuple[int, ...]) -> list[NDArray[np.intp]]:
    """Return the flat indices that share a mean and a variance."""
    index = np.arange(math.prod(shape)).reshape(shape)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return [sample.ravel() for sample in index]
    if isinstance(module, nn.GroupNorm):
        return [
            part.ravel() for sample in index for part in np.split(sample, module.num_groups, axis=0)
        ]
    return [index[:, channel].ravel() for channel in range(shape[1])]


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMALISATIONS = (*BATCH_NORMS, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


def _gelu(module: nn.GELU, z: Array) -> Array:
    if module.approximate == "tanh":
        return z * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    cdf = [0.5 * (1 + math.erf(x / math.sqrt(2))) for x in z.flat]
    return z * np.array(cdf).reshape(z.shape)


def _power(module: Power, z: Array) -> Array:
    return z**module.exponent


def _activation(a: Array, z: Array, offset: float | None, trace: Trace) -> tuple[Array, Backward]:
    """The reward of a = f(z) is handed to z as it is, unless f(0) != 0 and `units` says otherwise.

    "reverse" changes its sign where f(z) and z differ in theirs. "shifted" has ``a = h(z) + f(0)``,
    in which f(0) is a constant that shares the reward of a in proportion.

    Returns:
        The value that is taken for a, and the backward pass.
    """
    if offset is None or trace.units == "identity":
        return a, lambda r: r
    if trace.units == "reverse":
        same = (a >= 0) == (z >= 0)
        return a, lambda r: np.where(same, r, -r)
    h = a - offset
    trace.saw(h, abs(a) + offset)
    # Of a = 0 there is no reward to share, but of h = -f(0) and f(0) there is: the limit a -> 0.
    a = np.where(a == 0, 1e-100, a)
    return a, lambda r: h / a * r


#: f(z) of every activation.
ACTIVATIONS: dict[type[nn.Module], Callable[..., Array]] = {
    nn.ReLU6: lambda m, z: np.clip(z, 0, 6),  # a Hardtanh in torch, so it comes first
    nn.Hardtanh: lambda m, z: np.clip(z, m.min_val, m.max_val),
    nn.ReLU: lambda m, z: np.where(z > 0, z, 0.0),
    nn.LeakyReLU: lambda m, z: np.where(z > 0, z, m.negative_slope * z),
    nn.SiLU: lambda m, z: z / (1 + np.exp(-z)),
    nn.ELU: lambda m, z: np.where(z > 0, z, m.alpha * np.expm1(np.minimum(z, 0))),
    nn.GELU: _gelu,
    nn.Tanh: lambda m, z: np.tanh(z),
    nn.Sigmoid: lambda m, z: 1 / (1 + np.exp(-z)),
    nn.Hardsigmoid: lambda m, z: np.clip(z / 6 + 1 / 2, 0, 1),
    nn.Softplus: lambda m, z: np.logaddexp(0, m.beta * z) / m.beta,
    lfp.Heaviside: lambda m, z: np.where(z > 0, 1.0, 0.0),
    Exp: lambda m, z: np.exp(z),
    Power: _power,
}
#: f(0) of those of them where it is not 0, and a number.
OFFSETS: dict[type[nn.Module], Callable[[Any], float]] = {
    nn.Sigmoid: lambda m: 1 / 2,
    nn.Hardsigmoid: lambda m: 1 / 2,
    nn.Softplus: lambda m: math.log(2) / m.beta,
    Exp: lambda m: 1.0,
}
