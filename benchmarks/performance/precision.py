"""How far feedback is from that of float64, in the precisions that a GPU offers.

LFP divides by pre-activations, which may be close to 0, so it asks more of the arithmetic than a
gradient does. By default torch makes convolutions on a GPU in TF32, with ten bits of precision.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from benchmarks.models import CLASSES
from benchmarks.performance.steps import network_of, shape_of
from benchmarks.storage.provenance import describe

SAMPLES = 8
MODELS = ("mlp", "lenet", "vgg-like", "vit-tiny", "resnet18")
EPSILONS = (1e-6, 0.3)


@contextmanager
def tf32(convolutions: bool, products: bool) -> Iterator[None]:
    """Make convolutions, and matrix products, in TF32 or in full float32, on a GPU."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if products else "highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=convolutions):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def feedback(model: nn.Module, inputs: Tensor, targets: Tensor, epsilon: float) -> Tensor:
    """Return the feedback of all parameters as one vector of float64 on the CPU."""
    model.zero_grad()
    with lfp.feedback(epsilon):
        outputs = model(inputs)
    lfp.backward(outputs, lfp.rewards.softmax(outputs, targets))
    return gradients(model)


def gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of cross-entropy as one vector of float64 on the CPU."""
    model.zero_grad()
    F.cross_entropy(model(inputs), targets).backward()
    return gradients(model)


def gradients(model: nn.Module) -> Tensor:
    """Return what is in the gradients of all parameters, as float64 on the CPU."""
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(found).double().cpu()


Vector = Callable[[nn.Module, Tensor, Tensor], Tensor]
CONTEXTS: dict[str, Callable[[torch.device], AbstractContextManager[Any]]] = {
    "float64": lambda device: nullcontext(),
    "float32": lambda device: tf32(convolutions=False, products=False),
    "TF32 convolutions": lambda device: tf32(convolutions=True, products=False),
    "TF32": lambda device: tf32(convolutions=True, products=True),
    "bfloat16": lambda device: torch.autocast(device.type, torch.bfloat16),
}


def measure(name: str, activation: str, device: torch.device) -> dict[str, Any]:
    """Return relative errors by method and precision: of LFP with each epsilon, and of SGD.

    An error is None where the feedback overflows, as JSON has no infinite numbers.
    """
    model = network_of(name, activation).eval()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLES, *shape_of(name), generator=generator)
    targets = torch.arange(SAMPLES) % CLASSES
    ways: dict[str, Vector] = {"sgd": gradient}
    ways |= {f"lfp epsilon {epsilon:g}": partial(feedback, epsilon=epsilon) for epsilon in EPSILONS}
    errors: dict[str, dict[str, float | None]] = {}
    for way, vector in ways.items():
        exact = vector(copy.deepcopy(model).double(), inputs.double(), targets)

        def found(dtype: torch.dtype = torch.float32, vector: Vector = vector) -> Tensor:
            there = copy.deepcopy(model).to(device, dtype)
            return vector(there, inputs.to(device, dtype), targets.to(device))

        errors[way] = {}
        for precision, context in CONTEXTS.items():
            with context(device):
                there = found(torch.float64 if precision == "float64" else torch.float32)
            error = float((there - exact).norm() / exact.norm())
            errors[way][precision] = error if math.isfinite(error) else None
    return {"environment": describe(device), "errors": errors}
