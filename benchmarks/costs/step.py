"""What a training step costs: its time and peak memory, next to a step of SGD."""

import gc
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from baselines import METHODS, Settings, Spiking
from benchmarks.memory import peak_bytes
from benchmarks.models import build, network
from benchmarks.peer import peer_step

REFERENCE = "sgd"
PEER = "lfprop"
WARM_UP = 2  # rounds that are not counted
PATIENCE = 20.0  # seconds: what has taken that long sits the other rounds out
FEWEST = 3  # rounds that everything takes part in
#: So small that the weights stay as they are, however many steps are timed.
SETTINGS = Settings(learning_rate=1e-8)


TrainingStep = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True)
class Workload:
    """What the steps are steps of; inputs are random, of shape (batch_size, *input_shape).

    A method that has a batch size of its own takes that.
    """

    model: str
    activation: str
    input_shape: tuple[int, ...]
    classes: int
    batch_size: int
    spiking: Spiking | None = None


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
    """What one step of a method costs; ratios are to SGD, in the same process.

    With Heaviside and spiking neurons they are to SGD's step with ReLU: no gradient passes a step.

    `time_ratio` is the median over rounds of the ratio of the two times a sample of the round, and
    `low` and `high` are its quartiles: what slows the machine down slows both steps of a round.

    `macs` are the multiply-accumulates of matrix products and convolutions, forward and backward,
    the work that energy is spent on in the first place; elementwise work is not counted, and a
    product with spikes, which need not multiply, is counted as any other.
    """

    method: str
    samples: int  # in the batch of a step
    seconds: float  # of a step, median
    time_ratio: float
    time_ratio_low: float
    time_ratio_high: float
    peak_bytes: int  # of model, optimiser, batch and everything in between
    peak_ratio: float
    macs: float | None  # for a sample; None for lfprop


def measure(measurement: Measurement, device: torch.device) -> list[Cost]:
    """Return the cost of each of the methods on `device`.

    Raises `ImportError` where lfprop is asked for and missing.
    """
    settings = measurement.settings
    reference = (REFERENCE, _comparable(measurement.workload))
    tasks = [(method, measurement.workload) for method in measurement.methods]
    tasks = list(dict.fromkeys((reference, *tasks)))
    steps = {
        task: partial(_step(*task, settings, device), *_batch(*task, device)) for task in tasks
    }
    seconds = interleaved(steps, measurement.repeats, device, PATIENCE)
    # Some versions of torch cannot count within the backward pass that the peer begins in its own.
    macs = {task: None if task[0] == PEER else _macs(step) for task, step in steps.items()}
    del steps  # and with them swarms
    peaks = {task: _peak(*task, settings, device) for task in tasks}
    costs = []
    for method in measurement.methods:
        task = (method, measurement.workload)
        rounds = min(len(seconds[task]), len(seconds[reference]))
        ratios = np.divide(seconds[task][:rounds], seconds[reference][:rounds])
        ratios *= _samples(*reference) / _samples(*task)
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        cost = Cost(
            method=method,
            samples=_samples(*task),
            seconds=float(np.median(seconds[task])),
            time_ratio=float(middle),
            time_ratio_low=float(low),
            time_ratio_high=float(high),
            peak_bytes=peaks[task],
            peak_ratio=peaks[task] / peaks[reference],
            macs=None if (counted := macs[task]) is None else counted / _samples(*task),
        )
        costs.append(cost)
    return costs


def _comparable(workload: Workload) -> Workload:
    """Return the workload of the SGD step that others are compared with.

    No gradient passes a Heaviside step, so SGD's own step there has hardly a backward pass, and
    would make any method that trains all layers look slow. ReLU's step stands in, as it does for
    spiking neurons, which SGD cannot train.
    """
    if workload.activation in ("heaviside", "lif"):
        return replace(workload, activation="relu", spiking=None)
    return workload


Key = TypeVar("Key", bound=Hashable)


def interleaved(
    steps: Mapping[Key, Callable[[], object]],
    repeats: int,
    device: torch.device,
    patience: float = inf,
) -> dict[Key, list[float]]:
    """Return the seconds of each of `repeats` calls of every step, called in turn.

    A step that took longer than `patience` seconds in all sits out what is left, though it is
    called `FEWEST` times.
    """
    seconds: dict[Key, list[float]] = {name: [] for name in steps}
    with _without_garbage_collection():
        for repeat in range(-WARM_UP, repeats):
            for name, step in steps.items():
                if sum(seconds[name]) > patience and len(seconds[name]) >= FEWEST:
                    continue
                _wait(device)
                started = perf_counter()
                step()
                _wait(device)
                if repeat >= 0:
                    seconds[name].append(perf_counter() - started)
    return seconds


def compared(seconds: Mapping[str, list[float]], reference: str) -> dict[str, Any]:
    """Return median seconds, and quartiles over rounds of the ratio of each way to one of them."""
    return {
        way: {
            "seconds": round(float(np.median(of_way)), 4),
            "ratio": quartiles(of_way, seconds[reference]).round(2).tolist(),
        }
        for way, of_way in seconds.items()
    }


def quartiles(seconds: Sequence[float], reference: Sequence[float]) -> np.ndarray:
    """Return the quartiles (3,) over rounds of the ratio of two times."""
    return np.quantile(np.divide(seconds, reference), (0.25, 0.5, 0.75))


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


def _samples(name: str, workload: Workload) -> int:
    own = METHODS[name].batch_size if name in METHODS else None
    return own or workload.batch_size


def _batch(name: str, workload: Workload, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    samples = _samples(name, workload)
    inputs = torch.randn(samples, *workload.input_shape, generator=generator).clamp(-1, 1)
    targets = torch.randint(workload.classes, (samples,), generator=generator)
    return inputs.to(device), targets.to(device)


def _macs(step: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() // 2


def _step(name: str, workload: Workload, settings: Settings, device: torch.device) -> TrainingStep:
    model = _network(name, workload).to(device)
    if name == PEER:
        optimizer = torch.optim.SGD(
            model.parameters(), lr=settings.learning_rate, momentum=settings.momentum
        )
        return peer_step(model, optimizer, settings.epsilon, clip=settings.clip_norm)
    return METHODS[name](model, settings).step


def _network(name: str, workload: Workload) -> nn.Module:
    make = build if name == PEER else partial(network, name)
    return make(
        workload.model,
        activation=workload.activation,
        input_shape=workload.input_shape,
        classes=workload.classes,
        seed=0,
        spiking=workload.spiking,
    )


def _peak(name: str, workload: Workload, settings: Settings, device: torch.device) -> int:
    def train() -> None:
        step = _step(name, workload, settings, device)
        batch = _batch(name, workload, device)
        step(*batch)
        step(*batch)  # the first step with the optimiser's momentum in place

    return peak_bytes(train, device, numpy=name in METHODS and METHODS[name].numpy)


def peer_is_installed() -> bool:
    """Return whether a step of the authors' package can be made here."""
    try:
        _step(PEER, Workload("toy-mlp", "relu", (2,), 2, 1), SETTINGS, device=torch.device("cpu"))
    except ImportError:  # also where it is installed with dependencies that it does not go with
        return False
    return True
