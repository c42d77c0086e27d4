"""What is measured: the steps of methods on random inputs, and with which networks."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from baselines import METHODS, BasicSettings, Settings, Spiking
from baselines.stored_options import SettingsByMethod
from benchmarks.models import ACTIVATIONS, build, network

REFERENCE = "sgd"
PEER = "lfprop"
#: No method, but SGD's step with the engine's max-pooling.
POOLED = "sgd-same-pooling"
#: So small that the weights stay as they are, however many steps are timed.
SETTINGS = Settings(learning_rate=1e-8)


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
    """Everything that decides what :func:`benchmarks.costs.step.measure` measures, given the code.

    `methods` are names in `METHODS`, or "lfprop". SGD is measured with them in any case.
    """

    workload: Workload
    methods: tuple[str, ...]
    repeats: int
    settings: SettingsByMethod  # of those in `METHODS`
    processor: str
    threads: int

    def settings_of(self, method: str) -> BasicSettings:
        """Return the options of a method; one without any shares those of the first."""
        return self.settings.get(method) or next(iter(self.settings.values()), SETTINGS)


def comparable(workload: Workload) -> Workload:
    """Return the workload of the SGD step that others are compared with.

    No gradient passes a step function, so SGD's own step there has hardly a backward pass, and
    would make any method that trains all layers look slow. ReLU's step stands in, as it does for
    spiking neurons, which SGD cannot train.
    """
    if not ACTIVATIONS[workload.activation].differentiable:
        return replace(workload, activation="relu", spiking=None)
    return workload


def samples_of(name: str, workload: Workload) -> int:
    """Return how many samples the method takes at a time."""
    own = METHODS[name].batch_size if name in METHODS else None
    return own or workload.batch_size


def random_batch(name: str, workload: Workload, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return random inputs in [-1, 1] and targets on the device, as many as the method takes."""
    generator = torch.Generator().manual_seed(0)
    samples = samples_of(name, workload)
    inputs = torch.randn(samples, *workload.input_shape, generator=generator).clamp(-1, 1)
    targets = torch.randint(workload.classes, (samples,), generator=generator)
    return inputs.to(device), targets.to(device)


def network_of(name: str, workload: Workload, settings: BasicSettings) -> nn.Module:
    """Return the network that the method trains with these options, on the CPU."""
    method = REFERENCE if name == POOLED else name
    make = build if name == PEER else partial(network, method, settings=settings)
    return make(
        workload.model,
        activation=workload.activation,
        input_shape=workload.input_shape,
        classes=workload.classes,
        seed=0,
        spiking=workload.spiking,
    )
