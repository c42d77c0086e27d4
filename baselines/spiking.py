"""What a study says of the neurons of a spiking network, and of its time."""

from dataclasses import dataclass
from typing import Literal

Encoding = Literal["constant", "rate", "latency"]


@dataclass(frozen=True)
class Spiking:
    """The neurons and the time of a spiking network.

    Attributes:
        beta: decay of the membrane potential in a step, in [0, 1].
        steps: T.
        encoding: how a value x in [-1, 1] of the input becomes a sequence. "constant": the current
            x at each step. "rate": at each step a spike with probability (x + 1) / 2. "latency":
            one spike, the earlier the larger x is, and none for x close to -1.
    """

    beta: float = 0.9
    steps: int = 15
    encoding: Encoding = "constant"

    def __post_init__(self) -> None:
        """Raise ValueError for a field out of range, naming it."""
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta must lie in [0, 1], not {self.beta!r}")
        if self.steps < 1:
            raise ValueError(f"steps must be >= 1, not {self.steps!r}")
        if self.encoding not in ("constant", "rate", "latency"):
            raise ValueError(
                f"encoding must be 'constant', 'rate' or 'latency', not {self.encoding!r}"
            )
