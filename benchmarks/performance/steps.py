"""Time and memory of a training step, made in every way that torch offers.

``lfp-bench perf steps`` measures what its file does not have yet, a network with ReLU at a time. A
step is forward, loss or reward, backward, clipping, and SGD with momentum. It is made eagerly, by
``torch.compile``, as one CUDA graph, and as a CUDA graph of the compiled step; eagerly and compiled
also in bfloat16 by autocast. All ways take their steps in turn in one process, on the same random
batch. Ratios are quartiles over rounds: to SGD in the same way, and to SGD in eager float32. As no
gradient passes a Heaviside step, the SGD beside it has ReLU.

On a GPU a time is that of ten steps without waiting in between, divided by ten, as in training.
"""

import copy
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
from benchmarks.costs.memory import peak_bytes
from benchmarks.costs.timing import interleaved, quartiles
from benchmarks.models import ACTIVATIONS, CLASSES, SHAPES, build, replace_relus
from benchmarks.runs.graphs import recorded
from benchmarks.storage.provenance import describe
from benchmarks.storage.records import Records

MODELS = ("mlp", "lenet", "vgg-like")
#: Networks of torchvision, for images of this shape; their ReLUs are exchanged for the activation.
TORCHVISION = ("resnet18", "vgg16")
SMALL_IMAGES = (3, 32, 32)
BATCH = 128
CLIP = 3.0
INDUCTOR = "inductor"  # the default of torch.compile
#: Of torch.compile, as docs/performance.md has it: no step asks whether globals have changed.
UNGUARDED: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_guard_on_globals_unsafe}
GROUP = 10  # steps that a GPU is given at once
PATIENCE = 2.0  # seconds after which a variant sits the other rounds out, on a GPU


class Variant(NamedTuple):
    """One way of making a step."""

    method: str  # lfp, sgd or wsgd
    compiled: bool = False
    bf16: bool = False
    graph: bool = False

    @property
    def reference(self) -> "Variant":
        """SGD in the same way."""
        return self._replace(method="sgd")

    def __str__(self) -> str:
        """Return a name like "lfp compiled bf16"."""
        ways = {"compiled": self.compiled, "bf16": self.bf16, "graph": self.graph}
        return " ".join([self.method, *(way for way, chosen in ways.items() if chosen)])


VARIANTS = [
    Variant(method, compiled, bf16)
    for compiled in (False, True)
    for bf16 in (False, True)
    for method in ("lfp", "sgd")
]
#: What is measured on a GPU without a compiler, which takes long there.
EAGER_AND_GRAPH = [
    Variant(method, graph=graph) for graph in (False, True) for method in ("lfp", "sgd")
]
WITHOUT_COMPILER = [
    *EAGER_AND_GRAPH,
    Variant("wsgd"),
    *(Variant(method, bf16=True) for method in ("lfp", "sgd")),
]
COMPILED_GRAPHS = [Variant(method, compiled=True, graph=True) for method in ("lfp", "sgd")]
EAGER_SGD = Variant("sgd")


def tracing_of_backward() -> AbstractContextManager[None]:
    """Let the compiler trace backward passes, which is an option of torch's still."""
    context: AbstractContextManager[None] = torch._dynamo.config.patch(trace_autograd_ops=True)
    return context


def shape_of(name: str) -> tuple[int, ...]:
    """Return the shape of an input of the network."""
    return SMALL_IMAGES if name in TORCHVISION else SHAPES[name]


def network_of(name: str, activation: str) -> nn.Module:
    """Return the network, for ten classes, with the activation."""
    if name not in TORCHVISION:
        return build(name, activation=activation, input_shape=SHAPES[name], classes=CLASSES, seed=0)
    from torchvision import models  # noqa: PLC0415  (slow to import)

    torch.manual_seed(0)
    model: nn.Module = getattr(models, name)(num_classes=CLASSES)
    replace_relus(model, ACTIVATIONS[activation])
    return model


def step_of(
    variant: Variant, model: nn.Module, device: torch.device, backend: str
) -> Callable[[Tensor, Tensor], None]:
    """Return a training step on inputs (batch, ...) and targets (batch,).

    A compiled one takes its first step under :func:`tracing_of_backward`. To make a graph of it is
    left to :func:`captured`.
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
        if variant.method == "wsgd":
            scale_by_weights(model)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)

    if variant.compiled:
        fill_gradients = torch.compile(
            fill_gradients, backend=backend, fullgraph=True, options=UNGUARDED
        )

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        fill_gradients(inputs, targets)
        optimizer.step()

    return step


@torch.no_grad()
def scale_by_weights(model: nn.Module) -> None:
    """Multiply all gradients by the magnitudes of their weights."""
    learning = [(p.detach(), p.grad) for p in model.parameters() if p.grad is not None]
    weights, gradients = ([*each] for each in zip(*learning, strict=True))
    torch._foreach_mul_(gradients, torch._foreach_abs(weights))


def group_of(device: torch.device) -> int:
    """Return how many steps a device is given at once, before the time is taken."""
    return GROUP if device.type == "cuda" else 1


def repeated(step: Callable[[], object], times: int) -> None:
    """Make a step so many times."""
    for _ in range(times):
        step()


def captured(step: Callable[[], object]) -> Callable[[], None]:
    """Return what replays a step as one CUDA graph, with the tensors that the step is bound to."""
    repeat, _ = recorded(step)

    def replay(kept: Callable[[], object] = step) -> None:
        """Replay the graph, which writes to memory of what the step is bound to."""
        repeat()

    return replay


def measure(
    name: str,
    device: torch.device,
    rounds: int,
    backend: str = INDUCTOR,
    *,
    activation: str = "relu",
    variants: Sequence[Variant] = VARIANTS,
    batch: int = BATCH,
) -> dict[str, Any]:
    """Return seconds and ratios of every variant on a network, and the peak memory of eager ones.

    A variant that fails has its error in place of them, and the others go on.
    """
    torch.compiler.reset()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(batch, *shape_of(name), generator=generator).to(device)
    targets = torch.randint(CLASSES, (batch,), generator=generator).to(device)
    templates = {a: network_of(name, a) for a in {activation, _beside(activation)}}
    on_gpu = device.type == "cuda"
    group = group_of(device)

    def made(variant: Variant) -> Callable[[], None]:
        chosen = _beside(activation) if variant.method == "sgd" else activation
        model = copy.deepcopy(templates[chosen]).to(device)
        step = partial(step_of(variant, model, device, backend), inputs, targets)
        return captured(step) if variant.graph else step

    steps, errors = {}, {}
    with tracing_of_backward():
        for variant in variants:
            try:
                steps[variant] = partial(repeated, made(variant), group)
                steps[variant]()  # where it is compiled
            except Exception as error:  # what one way cannot do must not cost the others
                steps.pop(variant, None)
                errors[str(variant)] = f"{type(error).__name__}: {str(error)[:300]}"
        seconds = interleaved(steps, rounds, device, PATIENCE if on_gpu else float("inf"))
    del steps
    peaks = {
        variant: peak_bytes(partial(_twice, made, variant), device)
        for variant in seconds
        if not variant.compiled and not variant.graph
    }
    found = {
        str(variant): {
            "seconds": float(np.median(of_variant)) / group,
            **_ratios("to SGD, same variant", of_variant, seconds.get(variant.reference)),
            **_ratios("to eager SGD", of_variant, seconds.get(EAGER_SGD)),
            **({"peak_bytes": peaks[variant]} if variant in peaks else {}),
        }
        for variant, of_variant in seconds.items()
    }
    tf32 = {
        "convolutions": torch.backends.cudnn.allow_tf32,
        "products": torch.backends.cuda.matmul.allow_tf32,
    }
    return {
        "environment": describe(device),
        **({"tf32": tf32} if on_gpu else {}),
        "steps": found,
        **({"errors": errors} if errors else {}),
    }


def _beside(activation: str) -> str:
    """Return the activation of the SGD that a method with this activation is compared with."""
    return activation if ACTIVATIONS[activation].differentiable else "relu"


def _twice(made: Callable[[Variant], Callable[[], None]], variant: Variant) -> None:
    step = made(variant)
    step()
    step()  # with the optimiser's momentum in place


def _ratios(
    name: str, seconds: Sequence[float], reference: Sequence[float] | None
) -> dict[str, list[float]]:
    if reference is None:
        return {}
    rounds = min(len(seconds), len(reference))
    return {name: quartiles(seconds[:rounds], reference[:rounds]).round(3).tolist()}


def measure_missing(
    path: Path, names: Sequence[str], device: torch.device, rounds: int, variants: Sequence[Variant]
) -> None:
    """Measure the networks with ReLU that the file does not have."""
    records = Records(path)
    for name in names:
        description = {"model": name, "batch": BATCH, "rounds": rounds, "device": device.type}
        records.get(description, partial(measure, name, device, rounds, variants=variants))
