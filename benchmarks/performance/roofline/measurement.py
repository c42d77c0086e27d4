"""What each part of a step computes, moves and takes."""

import gc
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.asv.common import PROFILE, clock_of
from benchmarks.performance.roofline.ledger import Ledger
from benchmarks.performance.roofline.machine import CPU
from benchmarks.performance.roofline.steps import Parts, Workload, parts_of
from benchmarks.storage.provenance import describe

ROUNDS = 5, 40  # at least and at most


def measure(workload: Workload) -> dict[str, Any]:
    """Return what each part of a step of each method computes, moves and takes."""
    steps = {method: parts_of(workload, method) for method in workload.methods}
    for parts in steps.values():  # warm up
        for part in parts.values():
            part()
    rows = {
        method: {name: _counted(part) for name, part in steps[method].items()} for method in steps
    }
    for method, of_method in _timed(steps).items():
        for name, seconds in of_method.items():
            rows[method][name]["seconds"] = float(np.median(seconds))
    return {"methods": rows, "environment": describe(CPU)}


def _counted(part: Callable[[], object]) -> dict[str, Any]:
    """Return floating-point operations, bytes and number of the operations that have as many."""
    with Ledger() as ledger:
        part()
    alike = Counter(ledger.entries)
    return {"operations": [[flops, size, number] for (flops, size), number in alike.items()]}


def _timed(steps: Mapping[str, Parts]) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of each part in rounds in which every method makes a step."""
    clock = clock_of(CPU)
    found: dict[str, dict[str, list[float]]] = {
        method: {name: [] for name in parts} for method, parts in steps.items()
    }
    gc.collect()
    gc.disable()
    try:
        started = clock()
        for done in range(ROUNDS[1]):
            if done >= ROUNDS[0] and clock() > started + 4 * PROFILE.seconds:
                break
            for method, parts in steps.items():
                for name, part in parts.items():
                    before = clock()
                    part()
                    found[method][name].append(clock() - before)
    finally:
        gc.enable()
    return found
