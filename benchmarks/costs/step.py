"""What a training step costs: its time and peak memory, next to a step of SGD."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from baselines import METHODS, BasicSettings, FeedbackSettings
from baselines.registry import blaming, guarded, plug_ins
from benchmarks.costs.memory import peak_bytes
from benchmarks.costs.peer import peer_step
from benchmarks.costs.pooling import poolings, with_engine_pooling
from benchmarks.costs.timing import PATIENCE, interleaved, quartiles
from benchmarks.costs.workloads import (
    PEER,
    POOLED,
    REFERENCE,
    SETTINGS,
    Measurement,
    Workload,
    comparable,
    network_of,
    random_batch,
    samples_of,
)
from benchmarks.models import ACTIVATIONS, MODELS
from benchmarks.storage.fields import STORED, Count, Magnitude
from benchmarks.storage.settings import unchanged

TrainingStep = Callable[[Tensor, Tensor], object]


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

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    method: str
    samples: Count  # in the batch of a step
    seconds: Magnitude  # of a step, median
    time_ratio: Magnitude
    time_ratio_low: Magnitude
    time_ratio_high: Magnitude
    peak_bytes: Count  # of model, optimiser, batch and everything in between
    peak_ratio: Magnitude
    macs: Magnitude | None  # for a sample; None for lfprop
    #: As `time_ratio`, to SGD's step with the engine's max-pooling; None where nothing is pooled.
    same_pooling_ratio: Magnitude | None = None


def measure(measurement: Measurement, device: torch.device) -> list[Cost]:
    """Return the cost of each of the methods on `device`.

    Raises `ImportError` where lfprop is asked for and missing, and `PlugInError` where a plug-in
    fails.
    """
    workload = measurement.workload
    methods = [(METHODS, method) for method in measurement.methods]
    used = plug_ins(*methods, (ACTIVATIONS, workload.activation), (MODELS, workload.model))
    what = used or f"the steps with {workload.activation}"
    with unchanged(what), blaming(used, passing=(OSError, MemoryError)):
        return _measured(measurement, device)


def _measured(measurement: Measurement, device: torch.device) -> list[Cost]:
    """Return the costs; see :func:`measure`."""
    reference = (REFERENCE, comparable(measurement.workload))
    tasks = [(method, measurement.workload) for method in measurement.methods]
    tasks = list(dict.fromkeys((reference, *tasks)))
    settings = {method: measurement.settings_of(method) for method, _ in tasks}
    steps = {
        task: partial(_step(*task, settings[task[0]], device), *random_batch(*task, device))
        for task in tasks
    }
    pooled = (POOLED, reference[1])
    if poolings(network_of(*reference, settings[REFERENCE])):
        step = _step(*pooled, settings[REFERENCE], device)
        steps[pooled] = partial(step, *random_batch(*reference, device))
    seconds = interleaved(steps, measurement.repeats, device, PATIENCE)
    # Some versions of torch cannot count within the backward pass that the peer begins in its own.
    macs = {task: None if task[0] == PEER else _macs(steps[task]) for task in tasks}
    del steps  # and with them swarms
    peaks = {task: _peak(*task, settings[task[0]], device) for task in tasks}
    costs = []
    for method in measurement.methods:
        task = (method, measurement.workload)
        share = samples_of(*reference) / samples_of(*task)
        low, middle, high = share * quartiles(seconds[task], seconds[reference])
        like = share * quartiles(seconds[task], seconds[pooled])[1] if pooled in seconds else None
        cost = Cost(
            method=method,
            samples=samples_of(*task),
            seconds=float(np.median(seconds[task])),
            time_ratio=float(middle),
            time_ratio_low=float(low),
            time_ratio_high=float(high),
            peak_bytes=peaks[task],
            peak_ratio=peaks[task] / peaks[reference],
            macs=None if (counted := macs[task]) is None else counted / samples_of(*task),
            same_pooling_ratio=None if like is None else float(like),
        )
        costs.append(cost)
    return costs


def _macs(step: Callable[[], object]) -> int:
    with _Operations() as operations:
        step()
    return operations.flops // 2


class _Operations(TorchDispatchMode):
    """Counts the floating-point operations of products, by torch's own table.

    torch's `FlopCounterMode` also follows the modules of a model, by hooks that do not go with
    `autograd.grad`, which some methods call in their steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation, and count it if it is in the table."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if (count := flop_registry.get(func.overloadpacket)) is not None:
            self.flops += count(*args, **kwargs, out_val=result)
        return result


def _step(
    name: str, workload: Workload, settings: BasicSettings, device: torch.device
) -> TrainingStep:
    model = network_of(name, workload, settings).to(device)
    if name == PEER:
        own = FeedbackSettings.of(settings)
        optimizer = torch.optim.SGD(model.parameters(), lr=own.learning_rate, momentum=own.momentum)
        return peer_step(model, optimizer, own.epsilon, clip=own.clip_norm)
    if name == POOLED:
        return METHODS[REFERENCE](with_engine_pooling(model), settings).step
    with blaming(plug_in := METHODS.plug_in(name)):
        step = METHODS[name](model, settings).step
    return guarded(plug_in, step) if plug_in else step


def _peak(name: str, workload: Workload, settings: BasicSettings, device: torch.device) -> int:
    def train() -> None:
        step = _step(name, workload, settings, device)
        batch = random_batch(name, workload, device)
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
