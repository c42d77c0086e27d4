"""What all benchmarks share: profiles, devices, and the steps that are compared.

The environment variable LFP_ASV_PROFILE chooses a profile: fast (the default), regular or large.
"""

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lfp_core as lfp
from baselines import METHODS, Settings
from benchmarks.models import build


def named(name: str, *modules: str) -> Any:
    """Return what has this name, from the first of the project's modules that knows it.

    Commits that are measured may keep a name in another module than today's commit does.

    Raises:
        ImportError: none of the modules has the name, or a package of others is missing.
    """
    for module in modules:
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("benchmarks"):
                raise
            continue
        if hasattr(found, name):
            return getattr(found, name)
    raise ImportError(f"{name} is in none of {', '.join(modules)}")


CLASSES: int = named("CLASSES", "benchmarks.models", "benchmarks.speed")
peak_bytes: Callable[..., int] = named("peak_bytes", "benchmarks.costs.memory", "benchmarks.memory")
SHAPES: dict[str, tuple[int, ...]] = named("SHAPES", "benchmarks.models", "benchmarks.speed")


@dataclass(frozen=True)
class Profile:
    """How much is measured, and for how long.

    Attributes:
        models, activations, batches: of the networks; activations are compared on LeNet.
        depths, widths: of the dense networks for scaling.
        time_steps: T of spiking networks.
        particles: of swarms.
        seconds: what the measurement of a time or a ratio takes, if its steps are short.
    """

    models: tuple[str, ...]
    activations: tuple[str, ...]
    batches: tuple[int, ...]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    time_steps: tuple[int, ...]
    particles: tuple[int, ...]
    seconds: float


ALL_ACTIVATIONS = ("relu", "silu", "elu", "tanh", "sigmoid", "heaviside")
PROFILES = {
    "fast": Profile(
        models=("mlp", "lenet", "vgg-like", "resnet18"),
        activations=ALL_ACTIVATIONS,
        batches=(16,),
        depths=(2, 16),
        widths=(64, 512),
        time_steps=(5, 15),
        particles=(50, 200),
        seconds=1.0,
    ),
    "regular": Profile(
        models=("mlp", "lenet", "vgg-like", "resnet18", "vgg16"),
        activations=ALL_ACTIVATIONS,
        batches=(16, 128),
        depths=(2, 4, 8, 16, 32),
        widths=(64, 256, 1024),
        time_steps=(5, 15, 25),
        particles=(50, 200, 1000),
        seconds=5.0,
    ),
    "large": Profile(
        models=("mlp", "lenet", "vgg-like", "resnet18", "vgg16"),
        activations=ALL_ACTIVATIONS,
        batches=(16, 128, 1024),
        depths=(2, 4, 8, 16, 32, 64),
        widths=(64, 256, 1024, 4096),
        time_steps=(5, 15, 25, 50, 100),
        particles=(50, 200, 1000, 4000),
        seconds=20.0,
    ),
}
PROFILE = PROFILES[os.environ.get("LFP_ASV_PROFILE", "fast")]

DEVICES = ("cpu", "cuda")
#: Of the networks of torchvision, whose activation is ReLU.
SMALL_IMAGES = (3, 32, 32)
TORCHVISION = ("resnet18", "vgg16")
WARM_UP = 1  # rounds that are not counted; every step was taken once before
FEWEST, MOST = 9, 200  # rounds that are
#: So small that the weights stay as they are, however many steps are timed.
SETTINGS = Settings(learning_rate=1e-8)
RATIO = "times SGD"  # the unit of what `benchmarks.performance.gate` looks at

Step = Callable[[], object]


def device_of(name: str) -> torch.device:
    """Return the device; one thread is left to the CPU, so that machines can be compared.

    Raises `NotImplementedError`, which asv shows as n/a, where the device is missing.
    """
    torch.set_num_threads(1)
    if name == "cuda" and not torch.cuda.is_available():
        raise NotImplementedError("no CUDA device")
    return torch.device(name)


@contextmanager
def applicable() -> Iterator[None]:
    """Raise `NotImplementedError` for what the commit does not know yet: modules, names, rules."""
    try:
        yield
    except (ImportError, KeyError, ValueError, lfp.UnsupportedOperation) as error:
        raise NotImplementedError(f"not in this commit: {error}") from error


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def network(model: str, activation: str = "relu") -> nn.Module:
    """Return one of the project's networks or of torchvision's, for ten classes."""
    if model not in TORCHVISION:
        shape = SHAPES[model]
        return build(model, activation=activation, input_shape=shape, classes=CLASSES, seed=0)
    import torchvision  # noqa: PLC0415  (slow to import)

    torch.manual_seed(0)
    made: nn.Module = getattr(torchvision.models, model)(num_classes=CLASSES)
    return made


def dense(depth: int, width: int) -> nn.Module:
    """Return a network of `depth` linear layers of `width` inputs each, with ReLU between them."""
    torch.manual_seed(0)
    hidden = [m for _ in range(depth - 1) for m in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, CLASSES))


def batch(samples: int, shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return random inputs (samples, *shape) in [-1, 1] and targets (samples,)."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, *shape, generator=generator).clamp(-1, 1)
    return inputs.to(device), torch.randint(CLASSES, (samples,), generator=generator).to(device)


def shape_of(model: str) -> tuple[int, ...]:
    """Return the shape of an input of the network."""
    return SMALL_IMAGES if model in TORCHVISION else SHAPES[model]


def step_of(
    method: str, model: nn.Module, shape: tuple[int, ...], samples: int, device: torch.device
) -> Step:
    """Return a training step that has been taken once."""
    trainer = METHODS[method](model.to(device), SETTINGS)
    inputs, targets = batch(samples, shape, device)

    def step() -> object:
        return trainer.step(inputs, targets)

    step()
    return step


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return a clock of seconds; on the CPU, of those that this process was given by the machine.

    So other processes, which a machine that runs benchmarks should not have, disturb the less.
    """
    return perf_counter if device.type == "cuda" else process_time


def in_turn(steps: Sequence[Step], device: torch.device) -> list[list[float]]:
    """Return the seconds that each of the steps takes in each of as many rounds as there is time.

    This is not :func:`benchmarks.costs.timing.interleaved`, because that is the one of the commit:
    how time is measured must not have a history.
    """
    clock = clock_of(device)
    seconds: list[list[float]] = [[] for _ in steps]
    gc.collect()
    gc.disable()
    try:
        started = clock()
        for done in range(-WARM_UP, MOST):
            if done >= FEWEST and clock() > started + PROFILE.seconds:
                break
            for step, of_step in zip(steps, seconds, strict=True):
                wait(device)
                before = clock()
                step()
                wait(device)
                if done >= 0:
                    of_step.append(clock() - before)
    finally:
        gc.enable()
    return seconds


def ratio_of_times(step: Step, reference: Step, device: torch.device) -> float:
    """Return the median over rounds of the ratio of two times."""
    ours, theirs = in_turn((step, reference), device)
    return float(np.median(np.divide(ours, theirs)))


def seconds_of(step: Step, device: torch.device) -> float:
    """Return the median time of a step."""
    return float(np.median(in_turn((step,), device)))
