"""Hypothesis strategies for small networks in float64, each with inputs, targets and a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

import lfp_core as lfp
from validation.networks import (
    NAMED_POWERS,
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

CLASSES = 3

#: Every activation of the engine, with options that are not the defaults where it has any.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "silu": nn.SiLU,
    "elu": lambda: nn.ELU(0.7),
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": lambda: nn.Softplus(beta=2.0),
    "hardtanh": lambda: nn.Hardtanh(-0.8, 0.5),
    "relu6": nn.ReLU6,
    "heaviside": lfp.Heaviside,
}

#: What `gates` takes for a gate.
GATES: dict[str, Callable[[], nn.Module]] = {"sigmoid": nn.Sigmoid, "hardsigmoid": nn.Hardsigmoid}
#: Functions with f(0) != 0, which `units` is for.
OFFSETS: dict[str, Callable[[], nn.Module]] = {
    **GATES,
    "softplus": lambda: nn.Softplus(beta=2.0),
    "exp": Exp,
}
#: Differentiable losses of logits (batch, classes) and class indices (batch,).
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "cross_entropy_sum": lambda o, y: F.cross_entropy(o, y, reduction="sum"),
    "binary_cross_entropy": lambda o, y: F.binary_cross_entropy_with_logits(o, one_hot(o, y)),
    "mean_squared_error": lambda o, y: F.mse_loss(o, one_hot(o, y)),
    "huber": lambda o, y: F.smooth_l1_loss(o, one_hot(o, y)),
    "multi_margin": F.multi_margin_loss,
}


def one_hot(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the targets (batch,) as one-hot rows in the outputs' shape and dtype."""
    return F.one_hot(targets, outputs.shape[1]).to(outputs.dtype)


@dataclass(frozen=True)
class Case:
    """A network and one batch for it.

    Attributes:
        model: in float64, outputs (batch, CLASSES).
        inputs: (batch, ...).
        targets: class indices (batch,).
        loss: a name in LOSSES.
        reward: numbers in [-1, 1] like the outputs, for checks that need no loss.
    """

    model: nn.Sequential
    inputs: Tensor
    targets: Tensor
    loss: str
    reward: Tensor

    def __repr__(self) -> str:
        """Show what hypothesis should show of a failing case."""
        return f"Case({self.model}, inputs {list(self.inputs.shape)}, loss {self.loss})"


class Builder:
    """Draws modules one after the other and keeps track of what flows between them."""

    def __init__(
        self, draw: st.DrawFn, inputs: Tensor, activations: list[str], train: bool
    ) -> None:
        self.draw = draw
        self.flow = inputs
        self.activation = ACTIVATIONS[draw(st.sampled_from(activations))]
        self.train = train
        self.modules: list[nn.Module] = []

    def add(self, module: nn.Module) -> None:
        """Append a module and run it, so that the next one knows the shape."""
        module = randomized(module.double()).train(self.train)
        with torch.no_grad():
            self.flow = module(self.flow)
        self.modules.append(module)

    def flip(self) -> bool:
        """Toss a coin."""
        return self.draw(st.booleans())

    def number(self, low: int, high: int) -> int:
        """Draw an integer in [low, high]."""
        return self.draw(st.integers(low, high))

    def dropout(self) -> None:
        """Add dropout with p = 0.5 and a fixed mask."""
        self.add(FixedDropout(torch.bernoulli(torch.full(self.flow.shape[1:], 0.5)).double() * 2))

    def normalisation(self) -> nn.Module:
        """Draw a normalisation of the flow; groups of at least 4, as fewer leave only noise."""
        shape = self.flow.shape
        batch_norm = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d][
            len(shape) - 2
        ]
        choices: list[Callable[[], nn.Module]] = [lambda: batch_norm(shape[1])]
        if shape[1:].numel() >= 4:
            choices.append(lambda: nn.LayerNorm(shape[1:]))
            choices.append(lambda: nn.RMSNorm(shape[1:], eps=1e-5))
            choices.append(lambda: nn.GroupNorm(1, shape[1]))
        return self.draw(st.sampled_from(choices))()

    def dense_block(self) -> None:
        """Add Linear, maybe normalisation, activation, maybe dropout, maybe wrapped differently."""
        width, features = self.number(1, 6), self.flow.shape[1]
        kind = self.draw(st.sampled_from(["plain", "plain", "residual", "concatenation"]))
        if kind == "residual":
            body = nn.Sequential(nn.Linear(features, features), self.activation())
            if self.flip():
                body.append(nn.Linear(features, features))
            self.add(Residual(body))
        elif kind == "concatenation":
            branch = nn.Sequential(nn.Linear(features, width), self.activation())
            self.add(Concatenation(nn.Linear(features, width), branch))
        else:
            normalised = self.flip()
            # Before a normalisation by batch statistics, a bias gets rounding errors alone.
            self.add(
                nn.Linear(features, width, bias=self.flip() and not (normalised and self.train))
            )
            if normalised:
                self.add(self.normalisation())
        if self.flip():
            self.dropout()
        self.add(self.activation())
        if self.flip():
            self.dropout()

    def convolution_block(self) -> None:
        """Add a convolution of any kind, then as :meth:`dense_block`, then maybe pooling."""
        d, (channels, *space) = self.flow.dim() - 2, self.flow.shape[1:]
        convolution = [nn.Conv1d, nn.Conv2d, nn.Conv3d][d - 1]
        transposed = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d][d - 1]
        kinds = ["plain", "plain", "residual"] + ["transposed"] * (max(space) < 4)
        kind, out = self.draw(st.sampled_from(kinds)), 2 * self.number(1, 2)
        normalised = self.flip()
        bias = self.flip() and not (normalised and self.train)
        if kind == "plain":
            dilation = self.number(1, 2) if min(space) >= 3 else 1
            groups = 2 if channels % 2 == 0 and self.flip() else 1
            padding = dilation if min(space) < 5 else self.number(0, 1)
            stride = self.number(1, 2)
            self.add(convolution(channels, out, 3, stride, padding, dilation, groups, bias))
        elif kind == "transposed":
            self.add(transposed(channels, out, 2, stride=self.number(1, 2), bias=bias))
        else:
            body = nn.Sequential(convolution(channels, channels, 3, padding=1, bias=bias))
            self.add(Residual(body))
        if normalised:
            self.add(self.normalisation())
        self.add(self.activation())
        if min(self.flow.shape[2:]) >= 2 and self.flip():
            self.add(self.pooling())
            if self.flip():  # pooling between a linear map and an activation
                self.add(convolution(self.flow.shape[1], 2, 1))
                if min(self.flow.shape[2:]) >= 2:
                    self.add(self.pooling())
                self.add(self.activation())

    def pooling(self) -> nn.Module:
        """Draw max or average pooling over windows of 2."""
        d = self.flow.dim() - 2
        if self.flip():
            return [nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d][d - 1](2)
        return [nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d][d - 1](2)

    def to_vector(self) -> None:
        """Turn (batch, channels, ...) into (batch, features)."""
        if self.flip():
            d = self.flow.dim() - 2
            self.add([nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d][d - 1](1))
        self.add(nn.Flatten())


def randomized(module: nn.Module) -> nn.Module:
    """Give normalisations the scales, shifts and statistics of a trained network."""
    for child in module.modules():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.normal_(child.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(child.running_var, 0.5, 2.0)  # type: ignore[arg-type]
        if hasattr(child, "eps") and child.weight is not None:
            for parameter in child.parameters():
                nn.init.normal_(parameter)
    return module


@st.composite
def cases(
    draw: st.DrawFn,
    activations: list[str] | None = None,
    families: tuple[str, ...] = ("dense", "convolution", "embedding"),
    train: bool = False,
) -> Case:
    """Draw a network with one batch.

    Args:
        draw: given by hypothesis.
        activations: names the network's activation is drawn from; all by default.
        families: of networks.
        train: put the network in training mode, so that BatchNorm uses the statistics of the batch.

    Returns:
        The case.
    """
    family = draw(st.sampled_from(families))
    batch = draw(st.integers(4, 6) if train else st.integers(1, 3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 2**32 - 1)))
        if family == "convolution":
            d = draw(st.sampled_from([1, 2, 2, 2, 3]))
            size = {1: 8, 2: 5, 3: 3}[d] + draw(st.integers(0, 1))
            inputs = torch.randn(batch, draw(st.integers(1, 2)), *[size] * d, dtype=torch.float64)
        elif family == "embedding":
            inputs = torch.randint(0, 5, (batch, 3))
        else:
            inputs = torch.randn(batch, draw(st.integers(1, 6)), dtype=torch.float64)
        builder = Builder(draw, inputs, activations or list(ACTIVATIONS), train)
        if family == "convolution":
            for _ in range(draw(st.integers(1, 2))):
                builder.convolution_block()
            builder.to_vector()
        elif family == "embedding":
            builder.add(nn.Embedding(5, 2))
            builder.add(nn.Flatten())
        for _ in range(draw(st.integers(0 if family == "convolution" else 1, 3))):
            builder.dense_block()
        builder.add(nn.Linear(builder.flow.shape[1], CLASSES, bias=builder.flip()))
        return Case(
            model=nn.Sequential(*builder.modules).train(train),
            inputs=inputs,
            targets=torch.randint(0, CLASSES, (batch,)),
            loss=draw(st.sampled_from(sorted(LOSSES))),
            reward=2 * torch.rand(batch, CLASSES, dtype=torch.float64) - 1,
        )


@st.composite
def transformers(draw: st.DrawFn, activations: list[str] | None = None) -> Case:
    """Draw a small transformer, every part of which may be missing, with one batch.

    Args:
        draw: given by hypothesis.
        activations: names the network's activation is drawn from; all by default.

    Returns:
        The case.
    """
    features, tokens = 4, draw(st.integers(2, 4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 2**32 - 1)))
        batch = draw(st.integers(1, 2))
        inputs = torch.randn(batch, tokens, features, dtype=torch.float64)
        builder = Builder(draw, inputs, activations or list(ACTIVATIONS), train=False)
        if builder.flip():
            builder.add(Positions(tokens, features))
        for _ in range(draw(st.integers(1, 2))):
            attention = Attention(
                features,
                heads=draw(st.sampled_from([1, 2])),
                way=draw(st.sampled_from(Attention.WAYS)),
                mask=draw(st.sampled_from([no_mask, causal_mask, sparse_mask, added_mask]))(tokens),
                bias=builder.flip(),
            )
            builder.add(_block(builder, attention))
            hidden = draw(st.integers(1, 4))
            unit: nn.Module = nn.Sequential(nn.Linear(features, hidden), builder.activation())
            if builder.flip():
                unit = Gated(unit, nn.Linear(features, hidden))
            builder.add(_block(builder, unit, nn.Linear(hidden, features)))
        builder.add(nn.Flatten())
        builder.add(nn.Linear(builder.flow.shape[1], CLASSES, bias=builder.flip()))
        return Case(
            model=nn.Sequential(*builder.modules).eval(),
            inputs=inputs,
            targets=torch.randint(0, CLASSES, (batch,)),
            loss=draw(st.sampled_from(sorted(LOSSES))),
            reward=2 * torch.rand(batch, CLASSES, dtype=torch.float64) - 1,
        )


@st.composite
def products(
    draw: st.DrawFn,
    kinds: tuple[str, ...] = ("unit", "gated", "quotient", "power", "root", "biased"),
    offsets: tuple[str, ...] = tuple(OFFSETS),
) -> Case:
    """Draw a dense network of gates, quotients, powers, and biases behind layers, with one batch.

    Args:
        draw: given by hypothesis.
        kinds: of blocks.
        offsets: names in OFFSETS that units and gates are drawn from.

    Returns:
        The case.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 2**32 - 1)))
        batch = draw(st.integers(1, 3))
        inputs = torch.randn(batch, draw(st.integers(1, 5)), dtype=torch.float64)
        builder = Builder(draw, inputs, list(ACTIVATIONS), train=False)
        for _ in range(draw(st.integers(1, 3))):
            _product_block(builder, draw(st.sampled_from(kinds)), offsets)
        builder.add(nn.Linear(builder.flow.shape[1], CLASSES, bias=builder.flip()))
        return Case(
            model=nn.Sequential(*builder.modules).eval(),
            inputs=inputs,
            targets=torch.randint(0, CLASSES, (batch,)),
            loss=draw(st.sampled_from(sorted(LOSSES))),
            reward=2 * torch.rand(batch, CLASSES, dtype=torch.float64) - 1,
        )


def _product_block(builder: Builder, kind: str, offsets: tuple[str, ...]) -> None:
    """Add a block of one of the kinds of :func:`products`."""
    draw, features = builder.draw, builder.flow.shape[1]
    width = builder.number(1, 4)

    def layer() -> nn.Module:
        return nn.Linear(features, width, bias=builder.flip())

    def offset() -> nn.Module:
        return OFFSETS[draw(st.sampled_from(offsets))]()

    if kind == "unit":
        builder.add(layer())
        builder.add(offset())
    elif kind == "gated":
        gate: nn.Module = nn.Sequential(layer(), offset())
        value: nn.Module = layer()
        if builder.flip():
            value = nn.Sequential(value, builder.activation())
        builder.add(Gated(gate, value) if builder.flip() else Gated(value, gate))
    elif kind == "quotient":
        divisor = nn.Sequential(layer(), nn.Softplus()) if builder.flip() else layer()
        builder.add(Quotient(layer(), divisor))
    elif kind == "power":
        exponent = float(draw(st.sampled_from([2, 3, -1])))
        builder.add(layer())
        builder.add(Power(exponent, draw(st.sampled_from(ways(exponent)))))
    elif kind == "root":  # of positive numbers alone
        exponent = draw(st.sampled_from([0.5, -0.5, 1.5, -1.0]))
        builder.add(layer())
        builder.add(nn.Softplus() if builder.flip() else Power(2.0))
        builder.add(Power(exponent, draw(st.sampled_from(ways(exponent)))))
    else:
        builder.add(layer())
        for _ in range(builder.number(1, 2)):
            learned, subtracted = builder.flip(), builder.flip()
            if not learned and builder.flip():
                builder.add(Shifted(draw(st.sampled_from([-1.0, 0.5]))))
            else:
                builder.add(Positions(width, learned=learned, subtracted=subtracted))
        if builder.flip():
            builder.add(builder.activation())
    if builder.flip():
        builder.dropout()


def ways(exponent: float) -> list[str]:
    """Return the ways to write a power with the exponent down."""
    named = ["square, sqrt or reciprocal"] if exponent in NAMED_POWERS else []
    return ["operator", "pow", *named, *(["product with itself"] if exponent == 2 else [])]


def _block(builder: Builder, *modules: nn.Module) -> nn.Module:
    """Put the modules behind a normalisation, maybe, and a residual connection around, maybe."""
    norms: list[list[nn.Module]] = [[], [nn.LayerNorm(builder.flow.shape[-1])]]
    norms.append([nn.RMSNorm(builder.flow.shape[-1], eps=1e-5)])
    body = nn.Sequential(*builder.draw(st.sampled_from(norms)), *modules)
    return Residual(body) if builder.flip() else body


def no_mask(tokens: int) -> Tensor | None:
    """Let all tokens look at all."""
    return None


def causal_mask(tokens: int) -> Tensor:
    """Let tokens look at themselves and those before them."""
    return torch.ones(tokens, tokens, dtype=torch.bool).tril()


def sparse_mask(tokens: int) -> Tensor:
    """Let tokens look at themselves and some others."""
    return (torch.rand(tokens, tokens) < 0.5) | torch.eye(tokens, dtype=torch.bool)


def added_mask(tokens: int) -> Tensor:
    """Draw numbers for the scores, some of them -inf."""
    numbers = torch.randn(tokens, tokens, dtype=torch.float64)
    return numbers.masked_fill(~sparse_mask(tokens), -torch.inf)


def epsilons() -> st.SearchStrategy[float]:
    """Stabilisers in [1e-9, 1e-1], evenly over the decades."""
    return st.floats(-9, -1).map(lambda exponent: 10.0**exponent)
