"""Every private name of torch, in one place: ``test_torch_private.py`` tests each.

A version of torch that moves one of them fails that test by name, not a training run in silence.
Attributes that are read where a tensor or a node of the graph is at hand (``Tensor._base``; the
nodes' ``metadata``, ``next_functions`` and ``variable``) stand there, and are tested with the rest.
"""

import operator
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._dynamo import eval_frame as _frames
from torch.overrides import TorchFunctionMode

OLDEST = (2, 8)  # `tox -e oldest` runs the engine's tests with it
OLDEST_COMPILED = (2, 11)  # `tox -e torch211`, with those of compiled code


def release(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version, such as those of 2.8.0a0+git1234."""
    major, minor = version.split(".")[:2]
    return int(major), int(re.split(r"\D", minor)[0])


RELEASE = release(torch.__version__)


def require(version: str) -> None:
    """Raise ImportError if a version of torch is older than the oldest that the engine runs on."""
    if release(version) < OLDEST:
        needed, compiled = (".".join(map(str, v)) for v in (OLDEST, OLDEST_COMPILED))
        raise ImportError(
            f"lfp_core needs torch {needed} or newer ({compiled} for torch.compile), and this is "
            f"torch {version}"
        )


require(torch.__version__)

#: Nodes that hand a gradient on unchanged, one output for each input, and the views of a tensor.
#: The former are custom Functions of torch's own: full backward hooks, FSDP2, and what
#: DistributedDataParallel hands outputs on by, to find unused parameters.
IDENTITIES = {
    *("BackwardHookFunctionBackward", "RegisterPostBackwardFunctionBackward", "_DDPSinkBackward")
}
VIEWS = {
    f"{name}Backward{version}"
    for version in range(3)
    for name in (
        *("Alias", "AsStrided", "Clone", "Diagonal", "Expand", "Permute", "ReshapeAlias"),
        *("Select", "Slice", "Squeeze", "T", "Transpose", "Unfold", "UnsafeView", "Unsqueeze"),
        *("View", "ToCopy", "Unbind", "Split", "SplitWithSizes"),
    )
}

safe_softmax = torch.ops.aten._safe_softmax.default  # 0, not NaN, where all is masked
threshold_backward = torch.ops.aten.threshold_backward.default  # of ReLU, from its output
softmax_backward = torch.ops.aten._softmax_backward_data.default
#: What torch.compile calls ``x.T`` and ``x.mT``.
TRANSPOSES = {torch.ops.aten.numpy_T, torch.ops.aten.mT}
#: The properties of a tensor that an exported program has as operations, by their names there.
PROPERTIES = {"numpy_T": "T", "mT": "mT", "matrix_H": "H", "mH": "mH"}
TENSOR_BASE = torch._C.TensorBase  # whose methods torch.compile sees in the place of Tensor's
NN = torch._C._nn  # functions that torch.nn.functional calls
#: Parts of a graph of ``torch.ops.aten`` that move values, and that Python has no function for, or
#: one with other arguments.
ATEN_ROUTES = {
    torch.ops.aten.slice.Tensor,
    torch.ops.aten.index.Tensor,
    torch.ops.aten.alias.default,
    torch.ops.aten._to_copy.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.block_diag.default,
    torch.ops.aten.broadcast_tensors.default,
    torch.ops.aten.cartesian_prod.default,
}
#: Others with other arguments than the functions of Python.
ATEN_PRODUCTS = {torch.ops.aten.tensordot.default, torch.ops.aten.chain_matmul.default}
ATEN_FOURIER = {torch.ops.aten.stft.default, torch.ops.aten.stft.center}
_UPSAMPLE = {n: getattr(NN, n) for n in dir(NN) if n.startswith(("upsample_", "_upsample_"))}
#: Resizing of images by copies of values, and by sums.
UPSAMPLE_BY_COPIES = {f for n, f in _UPSAMPLE.items() if "nearest" in n}
UPSAMPLE_BY_SUMS = {f for n, f in _UPSAMPLE.items() if "nearest" not in n}
DisableTorchFunction = torch._C.DisableTorchFunction
#: Of the names for this, the one that is a single call, as every operation asks several times.
is_compiling = torch.compiler.is_dynamo_compiling
#: What pads and packs sequences in :mod:`torch.nn.utils.rnn`.
SEQUENCES = {torch._C._nn.pad_sequence, torch._pack_padded_sequence, torch._pad_packed_sequence}
#: A linear map for each of several experts, on consecutive rows.
GROUPED = {f for f in (getattr(torch, "_grouped_mm", None), getattr(F, "grouped_mm", None)) if f}
assert_async = torch._assert_async  # fails when a compiled graph runs, which cannot ask
#: What ``F.cross_entropy`` and its backward pass consist of, and their names of reductions.
nll_loss_forward = torch.ops.aten.nll_loss_forward.default
nll_loss_backward = torch.ops.aten.nll_loss_backward.default
log_softmax_backward = torch._log_softmax_backward_data
MEAN, SUM = 1, 2
max_pool2d_backward = torch.ops.aten.max_pool2d_with_indices_backward
Dropout = torch.nn.modules.dropout._DropoutNd  # the classes that all of their kind are of
BatchNorm = torch.nn.modules.batchnorm._BatchNorm


def mode_is_active() -> bool:
    """Return whether any function mode is active: what torch.compile does not fold away."""
    return torch._C._is_torch_function_mode_enabled()


#: Returns the function modes of this thread, the outermost first.
active_modes: Callable[[], list[TorchFunctionMode]] = (
    torch.overrides._get_current_function_mode_stack
)
#: Tells whether ``torch.func.vmap``, ``grad`` or another transform runs the current code.
transform_is_active: Callable[[], bool] = torch._C._are_functorch_transforms_active


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Return a context in which operations on a GPU keep the dtype of their operands.

    Autocast makes `safe_softmax` return float32 for bfloat16 there, and then its backward pass
    refuses the gradient.
    """
    return torch.autocast(device, enabled=False) if device == "cuda" else nullcontext()


def as_autocast(tensor: Tensor) -> Tensor:
    """Return a factor of a product in the dtype that autocast, if it is on, gives to it."""
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return tensor
    return tensor if tensor.dtype == torch.double else tensor.to(torch.get_autocast_dtype(device))


def layers(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a tensor, and what the wrappers of ``torch.func`` have in them."""
    yield tensor
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
        yield tensor


def is_custom(tensor: Tensor) -> bool:
    """Return whether a custom Function made the tensor, whose backward pass may be anything."""
    if is_compiling():
        return False
    return isinstance(tensor.grad_fn, torch.autograd.function.BackwardCFunction)


def is_of_graph(node: Any) -> bool:
    """Return whether a compiled graph that runs in Python made what this node stands for."""
    return bool(node.name() == "ApplyTemplateBackward")


def metadata(node: Any) -> dict[Any, Any]:
    """Return what is noted on a node of autograd."""
    notes: dict[Any, Any] = node.metadata
    return notes


def elementwise_kernel(code: str, **numbers: float) -> Callable[..., Tensor]:
    """Return a function of CUDA tensors, and of numbers by name, that is one kernel.

    `code` is a C++ template of one value of each tensor, and the numbers, with their defaults.
    """
    made: Callable[..., Tensor] = torch.cuda.jiterator._create_jit_fn(code, **numbers)
    return made


def run_backward(outputs: list[Tensor], gradients: list[Tensor], retain_graph: bool) -> None:
    """Run a backward pass from outputs, given gradients of their shapes and dtypes.

    The same as ``torch.autograd.backward``, whose checks take 3% of a small network's step.
    """
    if is_compiling():  # which traces this form for one output alone
        for output, gradient in zip(outputs, gradients, strict=True):
            output.backward(gradient, retain_graph=retain_graph)
        return
    torch.autograd.graph._engine_run_backward(
        tuple(outputs),
        tuple(gradients),
        retain_graph,
        False,  # create_graph
        (),  # inputs: all leaves
        allow_unreachable=True,
        accumulate_grad=True,
    )


_CALL = torch.nn.Module._call_impl.__code__


def outermost_call() -> tuple[torch.nn.Module, Any, Any] | None:
    """Return the outermost module that runs in this thread, if any does, and its arguments.

    Returns:
        The module, its positional and its keyword arguments.
    """
    frame, found = sys._getframe(1), None
    while frame is not None:
        if frame.f_code is _CALL:
            found = frame
        frame = frame.f_back  # type: ignore[assignment]
    if found is None:
        return None
    call = found.f_locals
    return call["self"], call["args"], call["kwargs"]


def version(tensor: Tensor) -> int:
    """Return how often the tensor's memory was written to; 0 where torch does not count."""
    try:
        return tensor._version
    except RuntimeError:  # a tensor of inference mode
        return 0


def unfolded(function: Any) -> Callable[..., Any]:
    """Return a copy of a function that torch writes in Python, which shows its operations.

    The function itself offers itself to the active mode as a whole.
    """
    names = {
        **function.__globals__,
        **dict.fromkeys(("has_torch_function", "has_torch_function_variadic"), lambda *_: False),
        "has_torch_function_unary": lambda _: False,
    }
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def is_python(operation: Any) -> bool:
    """Return whether torch writes the operation in Python, so that it can be unfolded."""
    return isinstance(operation, FunctionType)


def function_of(operation: Any) -> Any:
    """Return the function or method of Python for an operation of ``torch.ops.aten``.

    Exported programs call these. What is none, or has no such function, is returned as it is.
    """
    if not isinstance(operation, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return operation
    space, name, *_ = str(operation).split(".")
    if space != "aten":
        return operation
    if name in PROPERTIES:
        return getattr(Tensor, PROPERTIES[name]).__get__
    homes: list[Any] = [torch, NN, Tensor]
    for prefix in ("linalg", "special", "fft"):
        if name.startswith(prefix + "_"):
            homes = [getattr(torch._C, "_" + prefix)]
    found = (getattr(home, name, None) for home in homes)
    return next((function for function in found if callable(function)), operation)


def names_of_library(operation: Any) -> list[Any]:
    """Return all objects by which a model may call an operation of ``torch.library``.

    They are the function that ``torch.library.custom_op`` returned, what ``torch.ops`` has by its
    name, and the overloads of that. Anything else has itself alone.
    """
    overload = getattr(operation, "_opoverload", operation)
    packet = getattr(overload, "overloadpacket", overload)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return [operation]
    return [packet, *(getattr(packet, name) for name in packet.overloads())]


def is_method_in_python(operation: Any) -> bool:
    """Return whether the operation is a method of ``torch.Tensor`` that torch writes in Python."""
    return getattr(operation, "__module__", None) == "torch._tensor"


def assignment_in_graph(context: Any) -> None:
    """Raise RuntimeError if the graph that is being compiled assigns activations to slices.

    torch.compile shows such an assignment to no function mode. It calls this with what
    ``torch._dynamo.comptime`` knows of the graph so far.

    Raises:
        RuntimeError: the graph assigns activations to slices.
    """
    graph = context.graph()
    for node in reversed(graph.nodes):
        if node is getattr(graph, "lfp_checked", None):
            break
        if node.op == "call_function" and node.target is operator.setitem:
            values = [a.meta["example_value"] for a in node.args if isinstance(a, torch.fx.Node)]
            if any(isinstance(v, Tensor) and v.requires_grad for v in values):
                raise RuntimeError(
                    "no LFP rule for an assignment to slices under torch.compile, which shows it "
                    "to no rule: use torch.cat or torch.where, or run without the compiler"
                )
    graph.lfp_checked = next(iter(reversed(graph.nodes)), None)


def refused_graph(context: Any) -> None:
    """Raise RuntimeError, as this version of torch cannot compile what the context does."""
    needed = ".".join(map(str, OLDEST_COMPILED))
    raise RuntimeError(
        f"lfp.feedback under torch.compile needs torch {needed} or newer, and this is torch "
        f"{torch.__version__}: run without the compiler"
    )


check_of_graph = assignment_in_graph if RELEASE >= OLDEST_COMPILED else refused_graph


def check_assignments() -> None:
    """Check the graph where code is compiled; what this raises, the compiler does not go around."""
    torch._dynamo.comptime.comptime(check_of_graph)


def never_compiled(function: Any) -> None:
    """Let torch.compile look into a function where a graph calls it, and never make it a graph.

    Where a graph breaks off, what follows runs as it is, and what it calls may be compiled.
    """
    if hasattr(_frames, "set_code_exec_strategy"):  # torch 2.7 and newer
        skip = _frames._FrameAction.SKIP
        strategy = _frames._FrameExecStrategy(skip, skip)
        _frames.set_code_exec_strategy(function.__code__, strategy)


def _stop(context: Any) -> None:
    raise RuntimeError(context.get_local("message").as_python_constant())


def stop_compiling(message: str) -> None:
    """Raise RuntimeError where code is compiled, which torch.compile cannot turn into a break."""
    torch._dynamo.comptime.comptime(_stop)
