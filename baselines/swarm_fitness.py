"""The cost of many weight vectors of one network on one batch, without a loop over them.

A particle of a swarm is all trainable weights of a network as one vector. What makes a swarm of
them cheaper than as many forward passes:

* Activations are kept as (particles, ..., features, samples), so that a dense layer is one batched
  product ``W z`` of the weights as they lie in the vectors; nothing is transposed for it.
* What comes before the first weights is the same for all particles and done once. That includes
  the patches (im2col) of a first convolution, which turn it into a product as well.
* Max-pooling is moved in front of the bias of a convolution and of a monotone activation, with
  which it commutes exactly, so that these have a quarter of the work.
* Particles and samples go through in chunks whose activations stay in the processor's cache.

``torch.vmap`` over a functional call does none of this: on a CPU it is as fast as the loop for an
MLP, and takes 1.6 times as long for LeNet (``benchmarks/performance/swarms.py``; not measured on a
GPU).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.chain import is_as_written, is_hooked
from lfp_core import Heaviside

#: Bytes for the activations of a chunk by type of device: about a CPU core's share of the cache (4
#: to 16 MiB differ little on LeNet), and enough to keep a GPU busy (not measured).
BUDGET = {"cpu": 8 * 2**20, "cuda": 2**30}

#: Softplus is not monotone: torch's goes on as z beyond its threshold, which is a little less.
MONOTONE = (nn.ReLU, nn.ReLU6, nn.Tanh, nn.Sigmoid, Heaviside)
ELEMENTWISE = (*MONOTONE, nn.ELU, nn.Softplus, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.Hardtanh)
LAYERS = (nn.Linear, nn.Conv2d, nn.MaxPool2d, nn.Flatten, nn.Dropout, nn.Identity, *ELEMENTWISE)


@dataclass(frozen=True)
class Operation:
    """A part of a layer.

    Attributes:
        run: maps activations (particles or 1, ..., samples) and positions (particles, dimensions)
            to activations; the leading 1 means that they are the same for all particles.
        weighted: whether it looks at the positions.
        monotone: whether it is a non-decreasing function of each activation (of each channel), so
            that max-pooling commutes with it.
    """

    run: Callable[[Tensor, Tensor], Tensor]
    weighted: bool = False
    monotone: bool = False


def comparable(costs: Tensor) -> Tensor:
    """Return costs (particles,) with infinity for all that are not finite, which so are never best.

    A cross-entropy of minus infinity is no less of an accident than one that is not a number.
    """
    return costs.where(costs.isfinite(), float("inf"))


class SwarmFitness:
    """Mean cross-entropy of a model for many positions, which are vectors of trainable weights.

    A position holds the parameters with ``requires_grad`` in the order of ``model.parameters()``,
    as :func:`torch.nn.utils.parameters_to_vector` lays them out; other parameters are what they are
    in the model. The model is evaluated without dropout, whatever its mode.

    Args:
        model: nested ``nn.Sequential`` of Linear, Conv2d (zero padding, one group), elementwise
            activations, MaxPool2d (no padding or dilation), Flatten, Dropout and Identity. All have
            torch's forward pass and no hooks, and weights are parameters: not parametrised, as by
            a weight norm, nor pruned.
        budget: bytes of activations at once; by default :data:`BUDGET` of the model's device. A
            single sample of a single particle is taken even if it needs more.

    Raises:
        ValueError: the model has another kind of layer, or nothing to train.
    """

    def __init__(self, model: nn.Module, budget: int | None = None) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("model: it has no trainable parameters")
        self.dimensions = sum(p.numel() for p in self.parameters)
        self.device, self.dtype = self.parameters[0].device, self.parameters[0].dtype
        self.budget = BUDGET[self.device.type] if budget is None else budget
        ends = torch.tensor([p.numel() for p in self.parameters]).cumsum(0).tolist()
        self.ends: dict[Tensor, int] = dict(zip(self.parameters, ends, strict=True))
        operations: list[Operation] = []
        for module in _leaves(model):
            self._append(module, operations)
        first = next(i for i, operation in enumerate(operations) if operation.weighted)
        self.shared, self.own = operations[:first], operations[first:]

    @torch.no_grad()
    def __call__(self, positions: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cost of every position; infinity where it is not finite.

        Args:
            positions: (particles, dimensions), on any device, of any floating dtype.
            inputs: (samples, ...), on the model's device.
            targets: class indices (samples,).

        Returns:
            Mean cross-entropies (particles,) in the model's dtype on its device; of no samples,
            infinity.

        Raises:
            ValueError: the model makes no logits (samples, classes) of the inputs, or images are
                not (samples, channels, height, width).
        """
        per_sample = self.bytes_per_sample(inputs)
        samples = max(min(self.budget // per_sample, len(inputs)), 1)
        particles = max(min(self.budget // (per_sample * samples), len(positions)), 1)
        costs = torch.zeros(len(positions), dtype=self.dtype, device=self.device)
        for x, y in zip(inputs.split(samples), targets.split(samples), strict=True):
            # A copy, as the first layers may work in place.
            shared = x.to(self.dtype, copy=True).movedim(0, -1)[None]
            for operation in self.shared:
                shared = operation.run(shared, positions)
            for start in range(0, len(positions), particles):
                chunk = slice(start, start + particles)
                logits, weights = shared, positions[chunk].to(self.device, self.dtype)
                for operation in self.own:
                    logits = operation.run(logits, weights)
                losses = F.cross_entropy(logits, y.expand(len(weights), -1), reduction="none")
                costs[chunk] += losses.sum(dim=1)
        return comparable(costs / len(inputs))

    @property
    def bytes_needed(self) -> int:
        """How much memory a call takes at most, if the budget is enough for one sample.

        What all particles share, an operation's input and output, and a convolution's copy of its
        input, which is as much again at most.
        """
        return 3 * self.budget

    def bytes_per_sample(self, inputs: Tensor) -> int:
        """Return the largest activations in bytes of one sample (of inputs) and one particle.

        An operation holds its input and its output.

        Raises:
            ValueError: as of a call.
        """
        z = torch.empty(1, *inputs.shape[1:], 1, dtype=self.dtype, device="meta")
        position = torch.empty(1, self.dimensions, dtype=self.dtype, device="meta")
        largest = 0
        for operation in (*self.shared, *self.own):
            before, z = z, operation.run(z, position)
            largest = max(largest, before.numel() + z.numel())
        if z.dim() != 3:
            raise ValueError(
                f"model: it makes outputs of shape {list(z.shape[1:-1])} of a sample; allowed: "
                "[classes]"
            )
        return largest * self.dtype.itemsize

    @torch.no_grad()
    def write(self, position: Tensor) -> None:
        """Copy a position (dimensions,) into the model's parameters."""
        for parameter, end in self.ends.items():
            parameter.copy_(position[end - parameter.numel() : end].view_as(parameter))

    def _weights(self, parameter: Tensor, positions: Tensor) -> Tensor:
        """Return the parameter of each particle, (particles, *shape), without copying it."""
        if parameter not in self.ends:  # frozen
            return parameter.detach().to(positions.device).expand(len(positions), *parameter.shape)
        end = self.ends[parameter]
        return positions[:, end - parameter.numel() : end].unflatten(1, parameter.shape)

    def _append(self, module: nn.Module, operations: list[Operation]) -> None:
        """Append what a module does to the list of operations; raise ValueError if unknown."""
        _check_call(module)
        match module:
            case nn.Dropout() | nn.Identity():
                pass
            case nn.Linear() | nn.Conv2d():
                first = not any(operation.weighted for operation in operations)
                operations += self._affine(module, first)
            case nn.MaxPool2d(padding=0, dilation=1, ceil_mode=False, return_indices=False):
                place = len(operations)
                while place and operations[place - 1].monotone:
                    place -= 1
                operations.insert(place, _pooling(module))
            case nn.Flatten(start_dim=1, end_dim=-1):
                operations.append(Operation(lambda z, _: z.flatten(1, -2)))
            case _ if isinstance(module, ELEMENTWISE):
                operations.append(Operation(lambda z, _: module(z), monotone=_is_monotone(module)))
            case _:
                raise ValueError(f"model: a swarm cannot evaluate {module}")

    def _affine(self, layer: nn.Linear | nn.Conv2d, first: bool) -> Iterator[Operation]:
        """Yield the product of inputs and weights, and the bias if there is one.

        The first convolution sees the same patches for all particles and is one product; later ones
        are left to torch, which is 2 to 3 times as fast with channels last as a product of patches.

        Raises:
            ValueError: the layer has groups, another padding than zeros, or a weight that is made
                of others.
        """
        weight, bias = layer.weight, layer.bias
        for name, tensor in (("weight", weight), ("bias", bias)):
            if tensor is not layer._parameters.get(name):
                raise ValueError(
                    f"model: a swarm cannot evaluate {type(layer).__name__}, whose {name} is no "
                    "parameter, but made of others; "
                    "torch.nn.utils.parametrize.remove_parametrizations and "
                    "torch.nn.utils.prune.remove make it one"
                )
        dim = -2 if isinstance(layer, nn.Linear) else 1  # of the features

        def product(z: Tensor, positions: Tensor) -> Tensor:
            w = self._weights(weight, positions).flatten(2)
            z = z.movedim(dim, 1)
            columns = z.flatten(2)
            columns = columns[0] if len(z) == 1 else columns  # one product for all particles
            return torch.matmul(w, columns).unflatten(2, z.shape[2:]).movedim(1, dim)

        def shift(z: Tensor, positions: Tensor) -> Tensor:
            assert bias is not None
            b = self._weights(bias, positions)
            # In place, as z is not used elsewhere.
            z.movedim(dim, 1).add_(b.view(*b.shape, *[1] * (z.dim() - 2)))
            return z

        if isinstance(layer, nn.Linear):
            yield Operation(product, weighted=True)
        elif layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise ValueError(f"model: a swarm cannot evaluate {layer}")
        elif first:
            yield _patches(layer)
            yield Operation(product, weighted=True)
        else:
            yield self._convolution(layer)
        if bias is not None:
            # Pooling is within a channel of a convolution, but over features of a dense layer.
            yield Operation(shift, weighted=True, monotone=isinstance(layer, nn.Conv2d))

    def _convolution(self, layer: nn.Conv2d) -> Operation:
        """(n, channels, H, W, samples) -> (n, channels', H', W', samples), with n groups."""

        def convolution(z: Tensor, positions: Tensor) -> Tensor:
            _check_images(z)
            w = self._weights(layer.weight, positions).flatten(0, 1)
            images = z.permute(4, 0, 1, 2, 3).flatten(1, 2)
            images = images.contiguous(memory_format=torch.channels_last)
            maps = F.conv2d(
                images, w, None, layer.stride, layer.padding, layer.dilation, groups=len(z)
            )
            return maps.unflatten(1, (len(z), -1)).permute(1, 2, 3, 4, 0)

        return Operation(convolution, weighted=True)


def _leaves(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of nested ``nn.Sequential`` in order."""
    if isinstance(model, nn.Sequential):
        _check_call(model)
        for child in model:
            yield from _leaves(child)
    else:
        yield model


def _check_call(module: nn.Module) -> None:
    """Raise ValueError for a layer whose call does other things than torch's class does."""
    known = [kind for kind in (nn.Sequential, *LAYERS) if isinstance(module, kind)]
    reason = ""
    if known and not any(is_as_written(module, kind) for kind in known):
        reason = "it has a forward pass of its own"
    elif is_hooked(module):
        reason = "it has hooks, which a swarm does not call"
    if reason:
        raise ValueError(f"model: a swarm cannot evaluate {type(module).__name__}: {reason}")


def _check_images(z: Tensor) -> None:
    if z.dim() != 5:
        raise ValueError(
            f"inputs: a convolution or pooling gets shape {list(z.shape[1:-1])} of a sample; "
            "allowed: [channels, height, width]"
        )


def _is_monotone(module: nn.Module) -> bool:
    """Return whether an elementwise activation is a non-decreasing function."""
    if isinstance(module, nn.ELU):
        return module.alpha >= 0
    return isinstance(module, MONOTONE)


def _patches(layer: nn.Conv2d) -> Operation:
    """(n, channels, H, W, samples) -> (n, channels * kernel, H', W', samples), as im2col."""
    rows, columns = map(int, layer.padding)
    windows = list(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True))

    def patches(z: Tensor, _: Tensor) -> Tensor:
        _check_images(z)
        z = F.pad(z, (0, 0, columns, columns, rows, rows)) if rows or columns else z
        for dim, (kernel, stride, dilation) in enumerate(windows, start=2):
            z = z.unfold(dim, (kernel - 1) * dilation + 1, stride)[..., ::dilation]
        return z.permute(0, 1, 5, 6, 2, 3, 4).flatten(1, 3)

    return Operation(patches)


def _pooling(layer: nn.MaxPool2d) -> Operation:
    """(n, channels, H, W, samples) -> (n, channels, H', W', samples): the maximum of shifts."""
    kernel, stride = (
        size if isinstance(size, tuple) else (size, size)
        for size in (layer.kernel_size, layer.stride)
    )

    def pooling(z: Tensor, _: Tensor) -> Tensor:
        _check_images(z)
        for dim, (size, step) in enumerate(zip(kernel, stride, strict=True), start=2):
            shifts = z.unfold(dim, size, step).unbind(-1)
            z = shifts[0]
            for shift in shifts[1:]:
                z = torch.maximum(z, shift)
        return z

    return Operation(pooling)
