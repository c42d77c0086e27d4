"""Spiking LFP over time, next to backpropagation through time with a surrogate gradient."""

import torch

from benchmarks.models import build

from .common import (
    CLASSES,
    DEVICES,
    PROFILE,
    Step,
    applicable,
    clock_of,
    device_of,
    ratio_of_times,
    step_of,
    wait,
)

MODEL, SHAPE, SAMPLES = "mlp-1000", (1, 28, 28), 32


def spiking_step(method: str, steps: int, device: torch.device) -> Step:
    """Return a step on 784-1000-10 with a constant input; n/a where the commit has no spikes."""
    with applicable():
        from baselines import Spiking  # noqa: PLC0415  (not in the first commits)

        model = build(
            MODEL,
            activation="lif",
            input_shape=SHAPE,
            classes=CLASSES,
            seed=0,
            spiking=Spiking(steps=steps),
        )
        return step_of(method, model, SHAPE, SAMPLES, device)


class Spiking:
    """A network of leaky integrate-and-fire neurons over T steps."""

    param_names = ("device", "T")
    params = (DEVICES, PROFILE.time_steps)
    rounds = 1
    number = 1
    repeat = (3, 50, PROFILE.seconds)
    warmup_time = 0.01

    device: torch.device
    step: Step | None = None

    def setup(self, device: str, steps: int) -> None:
        """Make a step of LFP, once."""
        if self.step is None:
            self.device = device_of(device)
            self.timer = clock_of(self.device)
            self.step = spiking_step("lfp", steps, self.device)

    def time_step(self, device: str, steps: int) -> None:
        """Time a training step of LFP."""
        assert self.step is not None
        self.step()
        wait(self.device)

    def track_ratio(self, device: str, steps: int) -> float:
        """Return the ratio of its time to that of a step with surrogate gradients."""
        assert self.step is not None
        return ratio_of_times(self.step, spiking_step("surrogate", steps, self.device), self.device)

    track_ratio.unit = "times BPTT"  # type: ignore[attr-defined]
