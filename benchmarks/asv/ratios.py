"""What a step of LFP costs in steps of SGD: the numbers that must not grow.

Both take their steps in turn in one process, so what slows the machine down slows both.
"""

import torch

from .common import (
    DEVICES,
    PROFILE,
    RATIO,
    Step,
    applicable,
    device_of,
    named,
    network,
    peak_bytes,
    ratio_of_times,
    shape_of,
    step_of,
)


def peak_ratio(model: str, activation: str, samples: int, device: torch.device) -> float:
    """Return the peak memory of LFP over that of SGD."""
    kinds = {"lfp": activation, "sgd": yardstick(activation)}
    shape = shape_of(model)

    def peak(method: str) -> int:
        def train() -> None:
            step_of(method, network(model, kinds[method]), shape, samples, device)()

        return peak_bytes(train, device)

    return peak("lfp") / peak("sgd")


def yardstick(activation: str) -> str:
    """Return the activation of SGD's network: no gradient passes Heaviside, so ReLU stands in."""
    return "relu" if activation == "heaviside" else activation


def pair(model: str, activation: str, samples: int, device: torch.device) -> tuple[Step, Step]:
    """Return a step of LFP and one of SGD, as n/a where the commit has no such network."""
    shape = shape_of(model)
    with applicable():
        ours = step_of("lfp", network(model, activation), shape, samples, device)
        return ours, step_of("sgd", network(model, yardstick(activation)), shape, samples, device)


class Models:
    """Networks with ReLU."""

    param_names = ("device", "model", "batch")
    params = (DEVICES, PROFILE.models, PROFILE.batches)

    def setup(self, device: str, model: str, samples: int) -> None:
        """Make a step of each."""
        self.device = device_of(device)
        self.steps = pair(model, "relu", samples, self.device)

    def track_time(self, device: str, model: str, samples: int) -> float:
        """Return the ratio of the times of a step."""
        return ratio_of_times(*self.steps, self.device)

    def track_memory(self, device: str, model: str, samples: int) -> float:
        """Return the ratio of the peaks."""
        return peak_ratio(model, "relu", samples, self.device)

    track_time.unit = track_memory.unit = RATIO  # type: ignore[attr-defined]


class SamePooling:
    """Networks that pool by maxima, where SGD pools as the engine does: on a CPU it is faster."""

    param_names = ("device", "model", "batch")
    params = (DEVICES, ("lenet", "vgg-like"), PROFILE.batches)

    def setup(self, device: str, model: str, samples: int) -> None:
        """Make a step of each."""
        self.device, shape = device_of(device), shape_of(model)
        with applicable():
            pooled = named("with_engine_pooling", "benchmarks.costs.pooling")(network(model))
            ours = step_of("lfp", network(model), shape, samples, self.device)
            self.steps = ours, step_of("sgd", pooled, shape, samples, self.device)

    def track_time(self, device: str, model: str, samples: int) -> float:
        """Return the ratio of the times of a step."""
        return ratio_of_times(*self.steps, self.device)

    track_time.unit = RATIO  # type: ignore[attr-defined]


class Activations:
    """LeNet with each activation."""

    param_names = ("device", "activation", "batch")
    params = (DEVICES, PROFILE.activations, PROFILE.batches)

    def setup(self, device: str, activation: str, samples: int) -> None:
        """Make a step of each."""
        self.device = device_of(device)
        self.steps = pair("lenet", activation, samples, self.device)

    def track_time(self, device: str, activation: str, samples: int) -> float:
        """Return the ratio of the times of a step."""
        return ratio_of_times(*self.steps, self.device)

    def track_memory(self, device: str, activation: str, samples: int) -> float:
        """Return the ratio of the peaks."""
        return peak_ratio("lenet", activation, samples, self.device)

    track_time.unit = track_memory.unit = RATIO  # type: ignore[attr-defined]
