"""How many operations a training step gives to a GPU, counted without one.

Where networks are small, a GPU waits for operations to be given to it, and their number is the
time of a step. They are counted on meta tensors, which have shapes and no values, with what torch
would do on CUDA: fused attention, optimisers and clipping over lists of parameters, and one kernel
for each formula of the engine. What makes no kernel, such as a view, does not count.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from baselines import METHODS

from .common import RATIO, SETTINGS, applicable, network, shape_of
from .ratios import yardstick

SAMPLES = 128
MODELS = ("mlp", "lenet", "vgg-like", "resnet18", "vit-tiny")
#: Operations that give no kernel although their outputs are new tensors.
MEMORY = {
    f"aten::{name}"
    for name in (
        *("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty"),
        *("new_empty_strided", "_unsafe_view", "_reshape_alias", "resize_", "set_", "detach_"),
    )
}
READS = ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal")


class Launches(TorchDispatchMode):
    """Counts the operations that make kernels, and those that the host waits for.

    Attributes:
        counts: by the operation's name.
        reads: values that the host has asked the device for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.reads = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation; what the host reads is one."""
        name = func._schema.name
        if name in READS:
            self.reads += 1
            whole = name == READS[0] and args[0].dtype not in (torch.bool, torch.float32)
            return 1 if whole else True
        if not _is_free(func._schema):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def _is_free(schema: Any) -> bool:
    """Return whether an operation makes no kernel."""
    if schema.name in MEMORY or not schema.name.startswith("aten::"):
        return True
    written = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
    views = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
    tensors = any("Tensor" in str(r.type) for r in schema.returns)
    return views or not (written or tensors)


def _one_kernel(formula: Any, a: Tensor, b: Tensor, *numbers: float) -> Tensor:
    return torch.add(a, b)


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """Run the kernel that torch takes on CUDA, where meta tensors take several."""
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention.default
    output: Tensor = kernel(query, key, value, attn_mask, True, dropout_p, is_causal)[0]
    return output


#: What stands for a kernel on CUDA: of torch, of the model's calls unless rules are to find them,
#: and of the engine, where old commits give several kernels in its place.
CLIPPING = ("torch.nn.utils.clip_grad._has_foreach_support", lambda *_: True)
ATTENTION = ("torch.nn.functional.scaled_dot_product_attention", _fused_attention)
ENGINE = {
    "lfp_core.kernels.Formula.__call__": _one_kernel,
    "lfp_core.attention.FUSED": _fused_attention,
}


@contextmanager
def as_on_cuda(method: str) -> Iterator[None]:
    """Let meta tensors go the ways that tensors on a GPU go."""
    with ExitStack() as stack:
        stack.enter_context(patch(*CLIPPING))
        for place, kernel in ENGINE.items() if method == "lfp" else [ATTENTION]:
            try:
                stack.enter_context(patch(place, kernel))
            except (AttributeError, ImportError):
                continue
        yield


def launches(method: str, model: str, activation: str = "relu") -> Launches:
    """Return what a training step of the method consists of, but for its first step."""
    trainer: Any = METHODS[method](network(model, activation).to("meta"), SETTINGS)
    for group in trainer.optimizer.param_groups:
        group["foreach"] = True
    inputs = torch.empty(SAMPLES, *shape_of(model), device="meta")
    targets = torch.zeros(SAMPLES, dtype=torch.int64, device="meta")
    with as_on_cuda(method):
        with Launches():
            trainer.step(inputs, targets)  # which makes the optimiser's memory
        with Launches() as found:
            trainer.step(inputs, targets)
    return found


class Launched:
    """Networks with ReLU and, as no kernel is in the way of the count, none of the other sizes."""

    param_names = ("model",)
    params = (MODELS,)

    def setup(self, model: str) -> None:
        """Count the step of SGD."""
        with applicable():
            self.theirs = launches("sgd", model, yardstick("relu"))

    def track_launches(self, model: str) -> float:
        """Return the ratio of the number of kernels in a step of LFP to that in one of SGD."""
        with applicable():
            ours = launches("lfp", model)
        return ours.counts.total() / self.theirs.counts.total()

    track_launches.unit = RATIO  # type: ignore[attr-defined]
