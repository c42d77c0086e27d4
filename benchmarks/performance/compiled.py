"""Time of a step of LFP and SGD: eager, by ``torch.compile``, and in bfloat16 by autocast.

``python -m benchmarks.performance.compiled FILE [cpu|cuda] [rounds] [network]...`` measures what
FILE (JSON) does not have yet, a network at a time. All variants of a network take their steps in
turn in one process, on the same random batch: forward, loss or reward, backward, clipping, SGD with
momentum. All but the last are one graph where the step is compiled; at the optimiser torch itself
ends the graph. Ratios are quartiles over rounds: to SGD in the same variant, and to SGD in eager
float32.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from benchmarks.costs.timing import interleaved, quartiles
from benchmarks.models import CLASSES, SHAPES, build
from benchmarks.storage.provenance import describe
from benchmarks.storage.records import Records

MODELS = ("mlp", "lenet", "vgg-like")
BATCH, ROUNDS = 128, 50
CLIP = 3.0
INDUCTOR = "inductor"  # the default of torch.compile


class Variant(NamedTuple):
    """One way of making a step."""

    method: str  # lfp or sgd
    compiled: bool
    bf16: bool

    @property
    def reference(self) -> "Variant":
        """SGD in the same way."""
        return self._replace(method="sgd")

    def __str__(self) -> str:
        """Return a name like "lfp compiled bf16"."""
        parts = [self.method, *(["compiled"] * self.compiled), *(["bf16"] * self.bf16)]
        return " ".join(parts)


VARIANTS = [
    Variant(method, compiled, bf16)
    for compiled in (False, True)
    for bf16 in (False, True)
    for method in ("lfp", "sgd")
]
EAGER_SGD = Variant("sgd", compiled=False, bf16=False)


def tracing_of_backward() -> AbstractContextManager[None]:
    """Let the compiler trace backward passes, which is an option of torch's still."""
    context: AbstractContextManager[None] = torch._dynamo.config.patch(trace_autograd_ops=True)
    return context


def step_of(
    variant: Variant, model: nn.Module, device: torch.device, backend: str
) -> Callable[[Tensor, Tensor], None]:
    """Return a training step on inputs (batch, ...) and targets (batch,).

    A compiled one takes its first step under :func:`tracing_of_backward`.
    """
    is_lfp = variant.method == "lfp"
    # So small that the weights stay as they are, however many steps are timed.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-8, momentum=0.9)

    def fill_gradients(inputs: Tensor, targets: Tensor) -> None:
        precision = torch.autocast(device.type, torch.bfloat16, enabled=variant.bf16)
        with precision, lfp.feedback() if is_lfp else nullcontext():
            logits = model(inputs)
        if is_lfp:
            lfp.backward(logits, lfp.rewards.softmax(logits, targets))
        else:
            F.cross_entropy(logits, targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)

    if variant.compiled:
        fill_gradients = torch.compile(fill_gradients, backend=backend, fullgraph=True)

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        fill_gradients(inputs, targets)
        optimizer.step()

    return step


def measure(
    name: str, device: torch.device, rounds: int, backend: str = INDUCTOR
) -> dict[str, Any]:
    """Return seconds and ratios of every variant on a network with ReLU."""
    torch.compiler.reset()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCH, *SHAPES[name], generator=generator).to(device)
    targets = torch.randint(CLASSES, (BATCH,), generator=generator).to(device)
    steps = {}
    for variant in VARIANTS:
        model = build(name, activation="relu", input_shape=SHAPES[name], classes=CLASSES, seed=0)
        step = step_of(variant, model.to(device), device, backend)
        steps[variant] = partial(step, inputs, targets)
    with tracing_of_backward():
        seconds = interleaved(steps, rounds, device)
    return {
        "environment": describe(device),
        "steps": {
            str(variant): {
                "seconds": float(np.median(of_variant)),
                "to SGD, same variant": _rounded(of_variant, seconds[variant.reference]),
                "to eager SGD": _rounded(of_variant, seconds[EAGER_SGD]),
            }
            for variant, of_variant in seconds.items()
        },
    }


def _rounded(seconds: Sequence[float], reference: Sequence[float]) -> list[float]:
    found: list[float] = quartiles(seconds, reference).round(3).tolist()
    return found


def main(file: str, device: str = "cpu", rounds: int | str = ROUNDS, *names: str) -> None:
    """Measure what the file does not have."""
    records = Records(Path(file))
    for name in names or MODELS:
        description = {"model": name, "batch": BATCH, "rounds": int(rounds), "device": device}
        records.get(description, partial(measure, name, torch.device(device), int(rounds)))


if __name__ == "__main__":
    main(*sys.argv[1:])
