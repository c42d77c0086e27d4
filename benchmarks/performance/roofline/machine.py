"""What the machine can do at best: a product of matrices, and copies of many sizes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from benchmarks.asv.common import clock_of

CPU = torch.device("cpu")
SIDE = 1536  # of the matrices whose product gives P
COPIED = tuple(2**power for power in range(12, 29, 2))  # bytes read and written by a copy


@dataclass(frozen=True)
class Ceilings:
    """What the machine does in a second.

    Attributes:
        flops: P, of a float32 matrix product.
        bandwidths: W in bytes, of a copy that reads and writes each of COPIED bytes in all.
    """

    flops: float
    bandwidths: tuple[float, ...]

    def seconds(self, flops: float, size: float) -> float:
        """Return the least time of an operation of so many operations on so many bytes."""
        bandwidth = np.interp(np.log(max(size, 1)), np.log(COPIED), self.bandwidths)
        return max(flops / self.flops, size / float(bandwidth))


def ceilings() -> Ceilings:
    """Measure this machine, at its best."""
    a, b = torch.randn(2, SIDE, SIDE)
    out = torch.empty(SIDE, SIDE)
    flops = 2 * SIDE**3 / _fastest(lambda: torch.mm(a, b, out=out), 1)
    bandwidths = []
    for size in COPIED:
        source, target = torch.ones(2, size // 8)  # 4 bytes each, read and written
        calls = max(1, 2**22 // size)
        bandwidths.append(size / _fastest(partial(target.copy_, source), calls))
    return Ceilings(flops, tuple(bandwidths))


def _fastest(work: Callable[[], object], calls: int) -> float:
    """Return the least seconds of a call, out of 20 times so many."""
    clock, least = clock_of(CPU), np.inf
    for _ in range(20):
        started = clock()
        for _ in range(calls):
            work()
        least = min(least, (clock() - started) / calls)
    return float(least)
