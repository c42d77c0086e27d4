"""The training steps that are looked at, in their parts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from baselines import Spiking, SpikingNetwork
from baselines.surrogate import loss_over_time
from benchmarks.asv.common import batch
from benchmarks.models import CLASSES, SHAPES, build
from benchmarks.performance.roofline.machine import CPU

PARTS = ("forward", "backward", "update")


@dataclass(frozen=True)
class Workload:
    """A network, and the methods that train it; with `steps`, a spiking one over T steps."""

    model: str
    samples: int
    methods: tuple[str, str] = ("lfp", "sgd")
    steps: int | None = None

    @property
    def name(self) -> str:
        """What to call it."""
        return self.model if self.steps is None else f"{self.model}, T = {self.steps}"


WORKLOADS = (
    Workload("lenet", 128),
    Workload("vgg-like", 32),
    *(Workload("mlp-1000", 128, ("lfp", "surrogate"), steps) for steps in (5, 15, 25)),
)

Parts = dict[str, Callable[[], object]]


def parts_of(workload: Workload, method: str) -> Parts:
    """Return the parts of a step, which are to be called in turn."""
    spiking = None if workload.steps is None else Spiking(steps=workload.steps)
    shape = SHAPES[workload.model]
    model = build(
        workload.model,
        activation="relu" if spiking is None else "lif",
        input_shape=shape,
        classes=CLASSES,
        seed=0,
        spiking=spiking,
    )
    inputs, targets = batch(workload.samples, shape, CPU)
    # So small that the weights stay as they are, however many steps are timed.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-8, momentum=0.9)
    outputs: list[Tensor] = []

    def forward() -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs[:] = [forward_of(model, method, inputs)]

    def backward() -> None:
        backward_of(model, method, outputs.pop(), targets)

    def update() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()

    return dict(zip(PARTS, (forward, backward, update), strict=True))


def forward_of(model: nn.Module, method: str, inputs: Tensor) -> Tensor:
    """Return logits (batch, classes) or spikes (T, batch, classes)."""
    run = model.spikes if isinstance(model, SpikingNetwork) else model
    if method != "lfp":
        return run(inputs)
    if isinstance(model, SpikingNetwork):
        from lfp_core import spiking  # noqa: PLC0415  (snntorch is slow to import)

        with spiking.feedback():
            return model.spikes(inputs)
    with lfp.feedback():
        return run(inputs)


def backward_of(model: nn.Module, method: str, outputs: Tensor, targets: Tensor) -> None:
    """Fill the gradients from loss or reward."""
    is_spiking = isinstance(model, SpikingNetwork)
    if method == "lfp":
        reward_of = lfp.rewards.spike_rate if is_spiking else lfp.rewards.softmax
        lfp.backward(outputs, reward_of(outputs.detach(), targets))
    else:
        loss_of = loss_over_time if is_spiking else F.cross_entropy
        loss_of(outputs, targets).backward()
