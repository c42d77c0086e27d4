"""How the ratio to SGD, and the time of a step, change with the size of a dense network."""

import torch

from .common import (
    DEVICES,
    PROFILE,
    RATIO,
    Step,
    clock_of,
    dense,
    device_of,
    ratio_of_times,
    step_of,
    wait,
)

DEPTH, WIDTH, SAMPLES = 4, 256, 64  # what does not vary


class _Size:
    """A network of one size, and a batch."""

    rounds = 1
    number = 1
    repeat = (3, 50, PROFILE.seconds)
    warmup_time = 0.01

    device: torch.device
    steps: tuple[Step, Step] | None = None

    def make(self, device: str, depth: int, width: int, samples: int) -> None:
        """Make a step of LFP and one of SGD, once."""
        if self.steps is None:
            self.device = device_of(device)
            self.timer = clock_of(self.device)
            ours, theirs = (
                step_of(method, dense(depth, width), (width,), samples, self.device)
                for method in ("lfp", "sgd")
            )
            self.steps = ours, theirs

    def time_step(self, device: str, size: int) -> None:
        """Time a step of LFP."""
        assert self.steps is not None
        self.steps[0]()
        wait(self.device)

    def track_ratio(self, device: str, size: int) -> float:
        """Return the ratio of the times of a step."""
        assert self.steps is not None
        return ratio_of_times(*self.steps, self.device)

    track_ratio.unit = RATIO  # type: ignore[attr-defined]


class Depth(_Size):
    """Linear layers."""

    param_names = ("device", "depth")
    params = (DEVICES, PROFILE.depths)

    def setup(self, device: str, depth: int) -> None:
        """See `_Size`."""
        self.make(device, depth, WIDTH, SAMPLES)


class Width(_Size):
    """Units of a layer."""

    param_names = ("device", "width")
    params = (DEVICES, PROFILE.widths)

    def setup(self, device: str, width: int) -> None:
        """See `_Size`."""
        self.make(device, DEPTH, width, SAMPLES)


class Batch(_Size):
    """Samples of a batch."""

    param_names = ("device", "batch")
    params = (DEVICES, tuple(4 * samples for samples in PROFILE.batches))

    def setup(self, device: str, samples: int) -> None:
        """See `_Size`."""
        self.make(device, DEPTH, WIDTH, samples)
