"""Inputs of a user's own model, as the command line describes them or a function makes them."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn

BATCH = 4
FORMS = "3,32,32 or 128=0..50256 (whole numbers) or 3,32,32=0.0..1.0, or package:callable"
WHOLE = re.compile(r"[-+]?\d+")
TOP = 2**62  # of whole numbers


@dataclass(frozen=True)
class Inputs:
    """What a model is called with."""

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)

    @property
    def only(self) -> Tensor | None:
        """The one tensor of numbers, not tokens, that a model is called with; None if others."""
        if len(self.positional) != 1 or self.named or not isinstance(self.positional[0], Tensor):
            return None
        return self.positional[0] if self.positional[0].is_floating_point() else None

    def to(self, device: torch.device, dtype: torch.dtype) -> "Inputs":
        """Return them on the device, and those that are no whole numbers in the dtype."""
        return Inputs(*(_moved(part, device, dtype) for part in (self.positional, self.named)))


class Logits(nn.Module):
    """A model as a function of its inputs as one argument, that returns logits (examples, classes).

    Args:
        model: returns a tensor (..., classes), or something with such a tensor: a tuple, whose
            first it is, or a dictionary or an object with `logits`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the logits (examples, classes); all dimensions but the last are examples.

        Raises:
            TypeError: the model returns something else.
        """
        found = self.model(*inputs.positional, **inputs.named)
        if isinstance(found, Mapping) and "logits" in found:
            found = found["logits"]
        elif hasattr(found, "logits"):
            found = found.logits
        elif isinstance(found, tuple | list) and found:
            found = found[0]
        if not isinstance(found, Tensor) or found.dim() < 2:
            what = f"{tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(f"model: it returns {what}; allowed: logits (batch, ..., classes)")
        return found.flatten(0, -2) if found.dim() > 2 else found


def make(texts: Sequence[str], load: Callable[[str], Callable[[], Any]]) -> Inputs:
    """Return the inputs that texts describe, one for each argument of the model, in float32.

    ::

        3,32,32              random normal numbers (batch, 3, 32, 32)
        128=0..50256         random whole numbers from 0 to 50256, like tokens (batch, 128)
        3,32,32=0.0..1.0     random numbers between 0 and 1
        package:callable     what that returns: a tensor, a tuple of the model's arguments, or a
                             dictionary of them by name; the only text then

    Args:
        texts: descriptions.
        load: returns the callable that a text names.

    Raises:
        ValueError: a text is none of these.
    """
    if len(texts) == 1 and ":" in texts[0]:
        return _from(load(texts[0]), texts[0])
    random = Generator().manual_seed(0)
    return Inputs(tuple(_drawn(text, random) for text in texts))


def _from(function: Callable[[], Any], name: str) -> Inputs:
    """Return what a function makes, as inputs."""
    try:
        made = function()
    except (Exception, SystemExit) as error:  # whatever a function of one's own does
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"input: {name!r} failed ({told})") from None
    match made:
        case Tensor():
            return Inputs((made,))
        case Mapping() if made and all(isinstance(key, str) for key in made):
            return Inputs((), dict(made))
        case tuple() | list() if made:
            return Inputs(tuple(made))
    raise ValueError(
        f"input: {name!r} returned {type(made).__name__}; allowed: a tensor, a tuple, or a "
        "dictionary of the model's arguments by name"
    )


def _drawn(text: str, random: Generator) -> Tensor:
    """Draw an input; raises `ValueError` where it has too many numbers or dimensions for torch."""
    try:
        return _random(text, random)
    except (RuntimeError, MemoryError) as error:
        told = " ".join(str(error).split())
        shown = text if len(text) <= 60 else f"{text[:60]}..."
        raise ValueError(f"input: {shown!r} cannot be drawn ({told})") from None


def _random(text: str, random: Generator) -> Tensor:
    """Draw an input of the shape, and between the bounds, that a text has."""
    sizes, given, bounds = text.partition("=")
    shape = [BATCH, *(_size(size) for size in sizes.split(","))]
    if not given:
        return torch.randn(shape, generator=random)
    low, _, high = (bound.strip() for bound in bounds.partition(".."))
    whole = WHOLE.fullmatch(low) and WHOLE.fullmatch(high)
    if whole and -TOP <= int(low) <= int(high) < TOP:
        return torch.randint(int(low), int(high) + 1, shape, generator=random)
    try:
        least, most = (math.nan, math.nan) if whole else (float(low), float(high))
    except ValueError:
        least = most = math.nan
    if not -math.inf < least < most < math.inf:
        allowed = "LOW..HIGH, like 0..9 or 0.0..1.0"
        raise ValueError(f"input: {bounds!r} are no bounds; allowed: {allowed}")
    return torch.rand(shape, generator=random) * (most - least) + least


def _size(text: str) -> int:
    """Return the size of a dimension."""
    if not re.fullmatch(r"\s*\d{1,9}\s*", text) or int(text) < 1:
        raise ValueError(
            f"input: {text!r}; allowed: whole numbers from 1 to 999999999, as in {FORMS}"
        )
    return int(text)


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a value with all of its tensors on the device."""
    match value:
        case Tensor():
            return value.to(device, dtype) if value.is_floating_point() else value.to(device)
        case Mapping():
            return {key: _moved(one, device, dtype) for key, one in value.items()}
        case tuple() | list():
            return type(value)(_moved(one, device, dtype) for one in value)
        case _:
            return value
