"""The networks of the study, as plain `nn.Sequential` models with torch's default initialisation.

Layer sizes are the paper's (arXiv 2308.12053, appendix A.7) and its authors' code. Hidden layers
share one activation; logits have none. A convolution is followed by its activation and then, where
there is one, by 2x2 max pooling. With an activation that spikes, such as `lif`, leaky
integrate-and-fire neurons, the outputs are neurons as well, and the model is a
:class:`~baselines.spiking_network.SpikingNetwork`.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

import lfp_core as lfp
from baselines import METHODS, Activation, BasicSettings
from baselines.activation import as_activation
from baselines.registry import Registry, blaming, guarded, pick, plug_ins, required
from baselines.spiking import Spiking
from baselines.spiking_network import SpikingNetwork, leaky
from benchmarks.models.transformer import Block, Patches, Positions, TokenMean

#: Makes the hidden units of a layer.
Hidden = Callable[[], nn.Module]

ACTIVATIONS: Registry[Activation] = Registry(
    "lfp_bench.activations",
    {
        "relu": Activation(nn.ReLU, label="ReLU"),
        "silu": Activation(nn.SiLU, label="SiLU"),
        "elu": Activation(nn.ELU, label="ELU"),
        "tanh": Activation(nn.Tanh),
        "sigmoid": Activation(nn.Sigmoid),
        "heaviside": Activation(lfp.Heaviside, differentiable=False, label="Heaviside"),
        "lif": Activation(leaky, spiking=True, label="LIF"),
    },
    as_activation,
    lambda name, units: replace(units, make=guarded(name, units.make, _module)),
)


def _module(made: Any, *_: Any, **__: Any) -> nn.Module:
    """Return a module that a plug-in has made, if it is one."""
    return required(made, "an nn.Module", given=isinstance(made, nn.Module))


def build(
    name: str,
    *,
    activation: str,
    input_shape: tuple[int, ...],
    classes: int,
    seed: int,
    spiking: Spiking | None = None,
) -> nn.Sequential | SpikingNetwork:
    """Return the model `name`, one of `MODELS`, mapping (N, *input_shape) to (N, classes).

    `activation` is one of `ACTIVATIONS`; `spiking` sets up those that spike. The weights depend on
    the arguments alone: they are drawn on the CPU from `seed`, whatever the default device, and the
    caller's random state stays as it was.

    Raises:
        ValueError: an unknown name, an input shape that the model or the encoding does not take, or
            fewer than two classes.
        PlugInError: a model or an activation of another package is not what it has to be.
        ImportError: `lif` without snntorch.
    """
    kind = pick("model", name, MODELS)
    units = pick("activation", activation, ACTIVATIONS)
    spiking = spiking or Spiking()
    if units.spiking and not kind.spiking:
        raise ValueError(f"model: {name} does not go with {activation!r}; its units must not spike")
    if units.spiking and spiking.encoding != "constant" and len(input_shape) != 3:
        raise ValueError(
            f"encoding: {spiking.encoding!r} is for images, not for {input_shape}; allowed: "
            "constant"
        )
    hidden = partial(units, spiking)
    if classes < 2:
        raise ValueError(f"classes: {classes} is too few; allowed: 2 and above")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        layers = nn.Sequential(*kind.layers(tuple(input_shape), classes, hidden))
        made = SpikingNetwork(layers.append(hidden()), spiking) if units.spiking else layers
        if used := plug_ins((MODELS, name), (ACTIVATIONS, activation)):
            probe(made, used, tuple(input_shape), classes)
    return made


def probe(model: nn.Module, used: str, input_shape: tuple[int, ...], classes: int) -> None:
    """Let a copy of a model that is made of plug-ins classify two inputs.

    Args:
        model: (N, *input_shape) -> (N, classes).
        used: the plug-ins, to be named.
        input_shape: of one input.
        classes: that there are.

    Raises:
        PlugInError: it cannot, or what it returns are no logits.
    """  # noqa: DOC501  (which that error is made of)
    with blaming(used), torch.no_grad():
        twin = deepcopy(model).eval()
        if not any(p.requires_grad for p in twin.parameters()):
            raise ValueError("there is nothing to train; allowed: a parameter with a gradient")
        found = twin(torch.zeros(2, *input_shape))
        wanted = f"a tensor {(2, classes)} of torch.float32 for 2 inputs"
        logits = required(found, wanted, given=isinstance(found, Tensor))
        if logits.shape != (2, classes) or logits.dtype != torch.float32:
            told = f"{tuple(logits.shape)} of {logits.dtype}"
            raise ValueError(f"the network returned {told}; allowed: {wanted}")


def _dense(*sizes: int, act: Hidden, dropout: float = 0.0) -> Iterator[nn.Module]:
    """Fully connected layers, with activation and dropout after each but the last."""
    *hidden, last = pairwise(sizes)
    for n_in, n_out in hidden:
        yield nn.Linear(n_in, n_out)
        yield act()
        if dropout:
            yield nn.Dropout(dropout)
    yield nn.Linear(*last)


def _convolutions(
    channels: int, plan: tuple[int | None, ...], kernel: int, padding: int, act: Hidden
) -> Iterator[nn.Module]:
    """Convolutions of stride 1 with as many outputs as `plan` says, where None is a pooling."""
    for width in plan:
        if width is None:
            yield nn.MaxPool2d(2)
        else:
            yield nn.Conv2d(channels, width, kernel, padding=padding)
            yield act()
            channels = width


def _channels(model: str, input_shape: tuple[int, ...], *sides: int) -> int:
    """Return the C of (C, side, side); raise `ValueError` for any other input shape."""
    if len(input_shape) != 3 or input_shape[1:] not in [(side, side) for side in sides]:
        shapes = " or ".join(f"(channels, {side}, {side})" for side in sides)
        raise ValueError(f"input_shape: {model} does not take {input_shape}; allowed: {shapes}")
    return input_shape[0]


def _toy_mlp(input_shape: tuple[int, ...], classes: int, act: Hidden) -> Iterator[nn.Module]:
    """2-32-16-n, for points in the plane."""
    if input_shape != (2,):
        raise ValueError(f"input_shape: toy-mlp does not take {input_shape}; allowed: (2,)")
    yield from _dense(2, 32, 16, classes, act=act)


def _mlp(input_shape: tuple[int, ...], classes: int, act: Hidden) -> Iterator[nn.Module]:
    """in-120-84-n over the flattened input, of any shape."""
    yield nn.Flatten()
    yield from _dense(prod(input_shape), 120, 84, classes, act=act)


def _lenet(input_shape: tuple[int, ...], classes: int, act: Hidden) -> Iterator[nn.Module]:
    """conv16-P-conv16-P with 5x5 kernels, then 120-84-n with dropout; for 28x28 or 32x32 images."""
    channels = _channels("lenet", input_shape, 28, 32)
    yield from _convolutions(channels, (16, None, 16, None), kernel=5, padding=0, act=act)
    yield nn.Flatten()
    left = ((input_shape[1] - 4) // 2 - 4) // 2  # pixels on a side
    yield from _dense(16 * left**2, 120, 84, classes, act=act, dropout=0.5)


def _vgg_like(input_shape: tuple[int, ...], classes: int, act: Hidden) -> Iterator[nn.Module]:
    """conv 32-64-P-128-128-P-256-256-P, then 1024-512-n with dropout; for 32x32 images.

    The widths are those of the authors' code; 3x3 kernels with padding 1 are the VGG convention.

    Yields:
        The layers.
    """
    channels = _channels("vgg-like", input_shape, 32)
    plan = (32, 64, None, 128, 128, None, 256, 256, None)
    yield from _convolutions(channels, plan, kernel=3, padding=1, act=act)
    yield nn.Flatten()
    yield from _dense(256 * 4 * 4, 1024, 512, classes, act=act, dropout=0.5)


def _mlp_1000(input_shape: tuple[int, ...], classes: int, act: Hidden) -> Iterator[nn.Module]:
    """in-1000-n over the flattened input: the smaller of the paper's spiking networks."""
    yield nn.Flatten()
    yield from _dense(prod(input_shape), 1000, classes, act=act)


def _mlp_1000_1000(input_shape: tuple[int, ...], classes: int, act: Hidden) -> Iterator[nn.Module]:
    """in-1000-1000-n over the flattened input: the paper's spiking MLP."""
    yield nn.Flatten()
    yield from _dense(prod(input_shape), 1000, 1000, classes, act=act)


def _conv_12_64(input_shape: tuple[int, ...], classes: int, act: Hidden) -> Iterator[nn.Module]:
    """conv12-P-conv64-P-n with 5x5 kernels, for 28x28 images: the paper's spiking ConvNet.

    Pooling comes before the activation, so that it compares currents and not spikes.

    Yields:
        The layers.
    """
    channels = _channels("conv-12-64", input_shape, 28)
    for width in (12, 64):
        yield nn.Conv2d(channels, width, 5)
        yield nn.MaxPool2d(2)
        yield act()
        channels = width
    yield nn.Flatten()
    yield nn.Linear(64 * 4 * 4, classes)


def _vit_tiny(input_shape: tuple[int, ...], classes: int, act: Hidden) -> Iterator[nn.Module]:
    """Two blocks of four heads and 64 features over 4x4 patches, whose mean is classified."""
    side = input_shape[-1]
    channels = _channels("vit-tiny", input_shape, side)
    if side % 4:
        raise ValueError(
            f"input_shape: vit-tiny does not take {input_shape}; allowed: sides divisible by 4"
        )
    yield Patches(channels, 64, side // 4)
    yield Positions(16, 64)
    for _ in range(2):
        yield Block(64, heads=4, activation=act)
    yield nn.LayerNorm(64)
    yield TokenMean()
    yield nn.Linear(64, classes)


#: A function of an input shape, a number of classes and an activation, which yields the layers.
Builder = Callable[[tuple[int, ...], int, Hidden], Iterator[nn.Module]]


@dataclass(frozen=True)
class Model:
    """A network of the study.

    Attributes:
        layers: yields them.
        input_shape: of one input, where no data set says it.
        small: whether the work of an operation is less than the cost of sharing it among threads:
            on two busy cores a step of the digits MLP took 1 ms with one and 36 ms with two.
        spiking: whether the hidden units may be neurons.
    """

    layers: Builder
    input_shape: tuple[int, ...] = (1, 28, 28)
    small: bool = False
    spiking: bool = True


def _as_model(item: Any) -> Model:
    """Return a model; a function of (input_shape, classes, act) has no properties but these."""
    wanted = "a Model, or a function of (input_shape, classes, act)"
    return item if isinstance(item, Model) else Model(required(item, wanted, given=callable(item)))


MODELS: Registry[Model] = Registry(
    "lfp_bench.models",
    {
        "toy-mlp": Model(_toy_mlp, input_shape=(2,), small=True),
        "mlp": Model(_mlp, small=True),
        "lenet": Model(_lenet),
        "vgg-like": Model(_vgg_like, input_shape=(3, 32, 32)),
        "mlp-1000": Model(_mlp_1000),
        "mlp-1000-1000": Model(_mlp_1000_1000),
        "conv-12-64": Model(_conv_12_64),
        "vit-tiny": Model(_vit_tiny, spiking=False),
    },
    _as_model,
    lambda name, model: replace(model, layers=guarded(name, model.layers, _layers)),
)


def _layers(made: Any, *_: Any, **__: Any) -> Iterator[nn.Module]:
    """Return the layers that a plug-in yields, all of which are made now, if there are any."""
    found = [_module(layer) for layer in made]
    return iter(required(found, "a layer at the least", given=bool(found)))


#: The shape of one random input for each model of ours, and how many classes it tells apart.
SHAPES: dict[str, tuple[int, ...]] = {name: MODELS[name].input_shape for name in MODELS.own}
CLASSES = 10


def replace_relus(module: nn.Module, activation: Activation) -> None:
    """Put a new activation in the place of every ReLU inside the module."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, activation())
        else:
            replace_relus(child, activation)


def network(
    method: str,
    model: str,
    *,
    activation: str,
    input_shape: tuple[int, ...],
    classes: int,
    seed: int,
    spiking: Spiking | None,
    settings: BasicSettings,
) -> nn.Module:
    """Return the model, or the network that the method has of its own, with these options.

    Raises `ValueError` as :func:`build` does.
    """
    own = METHODS[method].network
    if own is not None:
        used = METHODS.plug_in(method)
        with blaming(used, passing=(ValueError,)):
            made = _module(own(input_shape, classes, seed, settings=settings))
        if used:
            probe(made, used, input_shape, classes)
        return made
    return build(
        model,
        activation=activation,
        input_shape=input_shape,
        classes=classes,
        seed=seed,
        spiking=spiking,
    )
