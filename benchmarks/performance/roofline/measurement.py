"""What each part of a step computes, moves and takes."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.asv.common import PROFILE, clock_of
from benchmarks.costs.timing import interleaved
from benchmarks.performance.roofline.ledger import Ledger
from benchmarks.performance.roofline.machine import CPU
from benchmarks.performance.roofline.steps import Workload, parts_of
from benchmarks.storage.provenance import describe

ROUNDS = 40  # at most, as long as they take no more than SECONDS
SECONDS = 4 * PROFILE.seconds


def measure(workload: Workload) -> dict[str, Any]:
    """Return what each part of a step of each method computes, moves and takes."""
    steps = {method: parts_of(workload, method) for method in workload.methods}
    for parts in steps.values():  # warm up
        for part in parts.values():
            part()
    rows = {
        method: {name: _counted(part) for name, part in steps[method].items()} for method in steps
    }
    in_order = {(m, name): part for m, parts in steps.items() for name, part in parts.items()}
    timed = interleaved(in_order, ROUNDS, CPU, budget=SECONDS, clock=clock_of(CPU))
    for (method, name), seconds in timed.items():
        rows[method][name]["seconds"] = float(np.median(seconds))
    return {"methods": rows, "environment": describe(CPU)}


def _counted(part: Callable[[], object]) -> dict[str, Any]:
    """Return floating-point operations, bytes and number of the operations that have as many."""
    with Ledger() as ledger:
        part()
    alike = Counter(ledger.entries)
    return {"operations": [[flops, size, number] for (flops, size), number in alike.items()]}
