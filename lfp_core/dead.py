"""Parameters that LFP cannot train: those that are 0, and those that no feedback reaches.

LFP moves a weight by ``|w|`` times something, so one that is exactly 0 stays 0. And it shares a
reward out by contributions, of which a layer of zeros makes none, so what lies behind it gets no
reward. Models that start there on purpose (the head of torchvision's ViT, the last normalisation of
a residual block, LoRA's second matrix, LayerScale, biases) are found by :func:`dead_parameters` and
set going by :func:`start_parameters`.

    >>> import torch, lfp_core as lfp
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2, bias=False))
    >>> torch.nn.init.zeros_(model[1].weight).any()
    tensor(False)
    >>> print(lfp.dead_parameters(model))
    1 of 3 trainable tensors is zero, which LFP never changes (1.weight)
    >>> lfp.start_parameters(model)
    ['1.weight']
    >>> print(lfp.dead_parameters(model))
    none of 3 trainable tensors is zero
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real

import torch
from torch import Generator, Tensor, nn
from torch.nn.parameter import is_lazy

SHOWN = 4  # names in a sentence


@dataclass(frozen=True)
class DeadParameters:
    """Names of the trainable parameters of a model that LFP cannot move.

    Attributes:
        trainable: how many trainable parameters (tensors) the model has.
        zero: those of which every element is 0; LFP never changes them.
        unreached: others to which the last backward pass brought no feedback at all; None if there
            was none, as then nobody knows.
        partly_zero: of those that are not `zero`, how many of their elements are.
    """

    trainable: int
    zero: tuple[str, ...]
    unreached: tuple[str, ...] | None
    partly_zero: dict[str, int]

    @property
    def names(self) -> tuple[str, ...]:
        """All that cannot move, as far as that is known."""
        return self.zero + (self.unreached or ())

    def __str__(self) -> str:
        """Say how many there are, and name the first of them."""
        whole = f"of {self.trainable} trainable tensors"
        told = []
        if self.zero:
            verb = "is" if len(self.zero) == 1 else "are"
            told.append(
                f"{len(self.zero)} {whole} {verb} zero, which LFP never changes "
                f"({_listed(self.zero)})"
            )
        if self.unreached:
            verb = "gets" if len(self.unreached) == 1 else "get"
            told.append(
                f"{len(self.unreached)} {whole} {verb} no feedback ({_listed(self.unreached)})"
            )
        if not told:
            fine = "is zero" if self.unreached is None else "is zero or gets no feedback"
            told.append(f"none {whole} {fine}")
        return "; ".join(told)


def dead_parameters(model: nn.Module) -> DeadParameters:
    """Return which trainable parameters of a model are 0, and which have got no feedback.

    The latter is read from ``p.grad``, so call this after :func:`lfp_core.backward` and before
    gradients are cleared. A parameter without a ``p.grad``, or with one that is 0 everywhere, got
    none from that batch: it lies behind a layer of zeros, or behind units that were all silent, or
    its feedback is too small for the dtype, as where activations are far below epsilon.

    Frozen parameters are not counted, and tied ones once.

    Args:
        model: any module; nothing in it changes.

    Raises:
        ValueError: a lazy parameter has no shape yet.
    """
    zero: list[str] = []
    unreached: list[str] = []
    partly_zero: dict[str, int] = {}
    trainable, known = 0, False
    for name, parameter in _trainable(model):
        trainable += 1
        known |= parameter.grad is not None
        zeros = parameter.numel() - _nonzero(parameter)
        if zeros == parameter.numel():
            zero.append(name)
            continue
        if zeros:
            partly_zero[name] = zeros
        if parameter.grad is None or not _nonzero(parameter.grad):
            unreached.append(name)
    return DeadParameters(trainable, tuple(zero), tuple(unreached) if known else None, partly_zero)


@torch.no_grad()
def start_parameters(
    model: nn.Module,
    scale: float = 0.1,
    *,
    elements: bool = False,
    generator: Generator | None = None,
) -> list[str]:
    """Give trainable parameters that are 0 small random values, so that LFP can train them.

    Each element gets a random sign, and a magnitude drawn uniformly between half of a bound and
    the bound, ``scale / sqrt(fan_in)``, where ``fan_in`` is torch's: the number of elements of
    ``p[0]``, and 1 for biases and the weights of normalisations. With ``scale=1`` a matrix has
    torch's default initialisation, but for its smaller half, as LFP moves small weights slowly.
    A smaller scale changes the outputs less, and takes more steps to grow; docs/dead_parameters.md
    has measurements.

    What is not 0 stays as it is, and so do frozen parameters and buffers. Call this before a model
    is sharded or wrapped for several processes; an optimiser may be there already.

    Args:
        model: any module, also a part of a model, if only that is to be started.
        scale: of the values, against those of torch's default initialisation.
        elements: also start single elements that are 0 in parameters that are not. They stay 0 by
            default, as they may be meant to: pruned weights, or the padding of an embedding.
        generator: of the values; torch's own on the CPU by default. The values do not depend on
            dtype and device of the parameters.

    Returns:
        The names of the parameters that were changed.

    Raises:
        ValueError: scale is not a finite number > 0, a lazy parameter has no shape yet, or one that
            is 0 is sharded already.
    """
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise ValueError(f"scale must be a number > 0, not {scale!r}")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be finite and > 0, not {scale!r}")
    started = []
    for name, parameter in _trainable(model):
        zeros = parameter.numel() - _nonzero(parameter)
        if zeros == parameter.numel() or (elements and zeros):
            if hasattr(parameter, "full_tensor"):
                raise ValueError(f"{name} is sharded: start parameters before that")
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            values = _drawn(parameter, float(scale) / math.sqrt(fan_in), generator)
            parameter.copy_(torch.where(parameter == 0, values, parameter))
            started.append(name)
    return started


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the trainable parameters that have elements, tied ones once."""
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"{name} has no shape yet: run the model once on an input")
        if parameter.requires_grad and parameter.numel():
            yield name, parameter


def _nonzero(tensor: Tensor) -> int:
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    count = (tensor.detach() != 0).sum()
    # Of a sharded tensor each process has counted its own part.
    return int(count.full_tensor() if hasattr(count, "full_tensor") else count)


def _drawn(parameter: Tensor, bound: float, generator: Generator | None) -> Tensor:
    """Return values like the parameter, none of which is 0 in any dtype."""
    device = torch.device("cpu") if generator is None else generator.device
    draw = partial(torch.rand, parameter.shape, generator=generator, device=device)
    magnitudes = bound * (0.5 + 0.5 * draw(dtype=torch.float32))
    negative = draw(dtype=torch.float32) < 0.5
    return torch.where(negative, -magnitudes, magnitudes).to(parameter)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
