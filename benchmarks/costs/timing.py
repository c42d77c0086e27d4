"""Seconds of steps that are called in turn, so that what disturbs one disturbs all."""

import gc
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch

WARM_UP = 2  # rounds that are not counted
PATIENCE = 20.0  # seconds: what has taken that long sits the other rounds out
FEWEST = 3  # rounds that everything takes part in

Key = TypeVar("Key", bound=Hashable)


def interleaved(
    steps: Mapping[Key, Callable[[], object]],
    repeats: int,
    device: torch.device,
    patience: float = inf,
    *,
    budget: float = inf,
    clock: Callable[[], float] = perf_counter,
) -> dict[Key, list[float]]:
    """Return the seconds of each of `repeats` calls of every step, called in turn.

    A step that took longer than `patience` seconds in all sits out what is left, and when all
    together took longer than `budget`, no other round begins; though all are called `FEWEST` times.
    """
    seconds: dict[Key, list[float]] = {name: [] for name in steps}
    with _without_garbage_collection():
        for repeat in range(-WARM_UP, repeats):
            if repeat >= FEWEST and sum(map(sum, seconds.values())) > budget:
                break
            for name, step in steps.items():
                if sum(seconds[name]) > patience and len(seconds[name]) >= FEWEST:
                    continue
                _wait(device)
                started = clock()
                step()
                _wait(device)
                if repeat >= 0:
                    seconds[name].append(clock() - started)
    return seconds


def compared(seconds: Mapping[str, list[float]], reference: str) -> dict[str, Any]:
    """Return median seconds, and quartiles over rounds of the ratio of each way to one of them."""
    return {
        way: {
            "seconds": float(f"{np.median(of_way):.4g}"),
            "ratio": quartiles(of_way, seconds[reference]).round(2).tolist(),
        }
        for way, of_way in seconds.items()
    }


def quartiles(seconds: Sequence[float], reference: Sequence[float]) -> np.ndarray:
    """Return the quartiles (3,) of the ratio of two times, over the rounds that have both."""
    rounds = min(len(seconds), len(reference))
    return np.quantile(np.divide(seconds[:rounds], reference[:rounds]), (0.25, 0.5, 0.75))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Keep the collector, which strikes at any time, out of somebody's measurement."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
