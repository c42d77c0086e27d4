"""Time and memory of a training step, and of its halves, in seconds and bytes."""

import torch
import torch.nn.functional as F
from torch import Tensor

import lfp_core as lfp

from .common import (
    DEVICES,
    PROFILE,
    SETTINGS,
    Step,
    applicable,
    batch,
    clock_of,
    device_of,
    network,
    peak_bytes,
    shape_of,
    step_of,
    wait,
)


class Steps:
    """LFP and SGD on networks with ReLU."""

    param_names = ("device", "model", "batch", "method")
    params = (DEVICES, PROFILE.models, PROFILE.batches, ("lfp", "sgd"))
    number = 1  # a backward pass is there once
    rounds = 1
    repeat = (3, 50, PROFILE.seconds)
    warmup_time = 0.01

    device: torch.device
    step: Step | None = None
    logits: Tensor

    def setup(self, device: str, model: str, samples: int, method: str) -> None:
        """Make a forward pass, on a network that is there once for all samples of a time."""
        if self.step is None:
            self.device = device_of(device)
            self.timer = clock_of(self.device)
            with applicable():
                self.model = network(model)
                self.step = step_of(method, self.model, shape_of(model), samples, self.device)
            self.inputs, self.targets = batch(samples, shape_of(model), self.device)
        self.logits = self.forward(method)
        wait(self.device)

    def forward(self, method: str) -> Tensor:
        """Return the logits (batch, classes) with all that a backward pass needs."""
        if method == "sgd":
            logits: Tensor = self.model(self.inputs)
            return logits
        with lfp.feedback(SETTINGS.epsilon):
            return self.model(self.inputs)

    def time_forward(self, device: str, model: str, samples: int, method: str) -> None:
        """Time the logits."""
        self.forward(method)
        wait(self.device)

    def time_backward(self, device: str, model: str, samples: int, method: str) -> None:
        """Time loss or reward, and the gradients or feedbacks."""
        if method == "sgd":
            F.cross_entropy(self.logits, self.targets).backward()
        else:
            lfp.backward(self.logits, lfp.rewards.softmax(self.logits, self.targets))
        wait(self.device)

    def time_step(self, device: str, model: str, samples: int, method: str) -> None:
        """Time all: both passes, clipping and the optimiser's step."""
        assert self.step is not None
        self.step()
        wait(self.device)

    def track_peak_memory(self, device: str, model: str, samples: int, method: str) -> int:
        """Return the bytes of model, optimiser, batch and everything in between."""

        def train() -> None:
            step_of(method, network(model), shape_of(model), samples, self.device)()

        return peak_bytes(train, self.device)

    track_peak_memory.unit = "bytes"  # type: ignore[attr-defined]
