"""What a training step costs: its time and peak memory, next to a step of SGD."""

import gc
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from baselines import METHODS, Settings
from benchmarks.memory import peak_bytes
from benchmarks.models import build
from benchmarks.peer import peer_step

REFERENCE = "sgd"
PEER = "lfprop"
WARM_UP = 2  # rounds that are not counted
#: So small that the weights stay as they are, however many steps are timed.
SETTINGS = Settings(learning_rate=1e-8)

#: The shape of one random input for each model, and how many classes it tells apart.
SHAPES = {"toy-mlp": (2,), "mlp": (1, 28, 28), "lenet": (1, 28, 28), "vgg-like": (3, 32, 32)}
CLASSES = 10

TrainingStep = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True)
class Workload:
    """What the steps are steps of; inputs are random, of shape (batch_size, *input_shape)."""

    model: str
    activation: str
    input_shape: tuple[int, ...]
    classes: int
    batch_size: int


@dataclass(frozen=True)
class Measurement:
    """Everything that decides what :func:`measure` measures, given the code.

    `methods` are names in `METHODS`, or "lfprop". SGD is measured with them in any case.
    """

    workload: Workload
    methods: tuple[str, ...]
    repeats: int
    settings: Settings
    processor: str
    threads: int


@dataclass(frozen=True)
class Cost:
    """What one step of a method costs; ratios are to SGD, in the same process on the same batch.

    With Heaviside they are to SGD's step with ReLU, as its own hardly has a backward pass.

    `time_ratio` is the median over rounds of the ratio of the two steps of the round, and `low` and
    `high` are its quartiles: what slows the machine down for a while slows both steps of a round.
    """

    method: str
    seconds: float  # median
    time_ratio: float
    time_ratio_low: float
    time_ratio_high: float
    peak_bytes: int  # of model, optimiser, batch and everything in between
    peak_ratio: float


def measure(measurement: Measurement, device: torch.device) -> list[Cost]:
    """Return the cost of each of the methods on `device`.

    Raises `ImportError` where lfprop is asked for and missing.
    """
    settings, batch = measurement.settings, _batch(measurement.workload, device)
    reference = (REFERENCE, _comparable(measurement.workload))
    tasks = [(method, measurement.workload) for method in measurement.methods]
    tasks = list(dict.fromkeys((reference, *tasks)))
    steps = {task: partial(_step(*task, settings, device), *batch) for task in tasks}
    seconds = interleaved(steps, measurement.repeats, device)
    peaks = {task: _peak(*task, settings, device) for task in tasks}
    costs = []
    for method in measurement.methods:
        task = (method, measurement.workload)
        ratios = np.divide(seconds[task], seconds[reference])
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        cost = Cost(
            method=method,
            seconds=float(np.median(seconds[task])),
            time_ratio=float(middle),
            time_ratio_low=float(low),
            time_ratio_high=float(high),
            peak_bytes=peaks[task],
            peak_ratio=peaks[task] / peaks[reference],
        )
        costs.append(cost)
    return costs


def _comparable(workload: Workload) -> Workload:
    """Return the workload of the SGD step that others are compared with.

    No gradient passes a Heaviside step, so SGD's own step there has hardly a backward pass, and
    would make any method that trains all layers look slow. ReLU's step stands in.
    """
    return replace(workload, activation="relu") if workload.activation == "heaviside" else workload


Key = TypeVar("Key", bound=Hashable)


def interleaved(
    steps: Mapping[Key, Callable[[], object]], repeats: int, device: torch.device
) -> dict[Key, list[float]]:
    """Return the seconds of each of `repeats` calls of every step, called in turn."""
    seconds: dict[Key, list[float]] = {name: [] for name in steps}
    with _without_garbage_collection():
        for repeat in range(-WARM_UP, repeats):
            for name, step in steps.items():
                _wait(device)
                started = perf_counter()
                step()
                _wait(device)
                if repeat >= 0:
                    seconds[name].append(perf_counter() - started)
    return seconds


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


def _batch(workload: Workload, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(workload.batch_size, *workload.input_shape, generator=generator)
    targets = torch.randint(workload.classes, (workload.batch_size,), generator=generator)
    return inputs.to(device), targets.to(device)


def _step(name: str, workload: Workload, settings: Settings, device: torch.device) -> TrainingStep:
    model = build(
        workload.model,
        activation=workload.activation,
        input_shape=workload.input_shape,
        classes=workload.classes,
        seed=0,
    ).to(device)
    if name == PEER:
        optimizer = torch.optim.SGD(
            model.parameters(), lr=settings.learning_rate, momentum=settings.momentum
        )
        return peer_step(model, optimizer, settings.epsilon, clip=settings.clip_norm)
    return METHODS[name](model, settings).step


def _peak(name: str, workload: Workload, settings: Settings, device: torch.device) -> int:
    def train() -> None:
        step = _step(name, workload, settings, device)
        batch = _batch(workload, device)
        step(*batch)
        step(*batch)  # the first step with the optimiser's momentum in place

    return peak_bytes(train, device)


def peer_is_installed() -> bool:
    """Return whether a step of the authors' package can be made here."""
    try:
        _step(PEER, Workload("toy-mlp", "relu", (2,), 2, 1), SETTINGS, device=torch.device("cpu"))
    except ImportError:  # also where it is installed with dependencies that it does not go with
        return False
    return True
