"""Every name of torch that is private, in one place; ``validation/test_torch_private.py`` tests each.

A version of torch that moves one of them fails that test by name, not a training run in silence.
"""

import operator
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: Nodes that hand a gradient on unchanged, one output for each input, and the views of a tensor.
#: The first two are custom Functions of torch's own: full backward hooks, and FSDP2.
IDENTITIES = {"BackwardHookFunctionBackward", "RegisterPostBackwardFunctionBackward"}
VIEWS = {
    f"{name}Backward{version}"
    for version in range(3)
    for name in (
        *("Alias", "AsStrided", "Clone", "Diagonal", "Expand", "Permute", "ReshapeAlias"),
        *("Select", "Slice", "Squeeze", "T", "Transpose", "Unfold", "UnsafeView", "Unsqueeze"),
        *("View", "ToCopy", "Unbind", "Split", "SplitWithSizes", "Narrow"),
    )
}

safe_softmax = torch.ops.aten._safe_softmax.default  # 0, not NaN, where all is masked
#: What torch.compile calls ``x.T`` and ``x.mT``.
TRANSPOSES = {torch.ops.aten.numpy_T, torch.ops.aten.mT}
TENSOR_BASE = torch._C.TensorBase  # whose methods torch.compile sees in the place of Tensor's
DisableTorchFunction = torch._C.DisableTorchFunction


def mode_is_active() -> bool:
    """Return whether any function mode is active: what torch.compile does not fold away."""
    return torch._C._is_torch_function_mode_enabled()


def active_modes() -> list[TorchFunctionMode]:
    """Return the function modes of this thread, the outermost first."""
    return torch.overrides._get_current_function_mode_stack()


def transform_is_active() -> bool:
    """Return whether ``torch.func.vmap``, ``grad`` or another transform runs the current code."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def wants_gradient(tensor: Tensor) -> bool:
    """Return whether a tensor requires a gradient, under the wrappers of ``torch.func`` as well."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        if tensor.requires_grad:
            return True
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.requires_grad


def keywords_of_module_call() -> dict[str, Any]:
    """Return the keyword arguments of the module whose global forward pre-hook calls this."""
    # Frame 0 is this function, 1 the hook, 2 ``Module._call_impl``, which gives hooks no keywords.
    found: dict[str, Any] = sys._getframe(2).f_locals.get("kwargs", {})
    return found


def is_slice(tensor: Tensor) -> bool:
    """Return whether the tensor is a part of another one's memory."""
    if torch.compiler.is_compiling() or tensor._base is None or tensor.grad_fn is None:
        return False
    return tensor.grad_fn.name() in {"SliceBackward0", "SelectBackward0", "AsStridedBackward0"}


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
    return isinstance(operation, FunctionType) and not isinstance(operation, BuiltinFunctionType)


def assignment_in_graph(context: Any) -> None:
    """Raise RuntimeError if the graph that is being compiled assigns activations to slices.

    torch.compile shows such an assignment to no function mode. It calls this with what
    ``torch._dynamo.comptime`` knows of the graph so far.
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
    graph.lfp_checked = next(reversed(graph.nodes), None)


def check_assignments() -> None:
    """Call :func:`assignment_in_graph` where code is compiled."""
    torch._dynamo.comptime.comptime(assignment_in_graph)


def _stop(context: Any) -> None:
    raise RuntimeError(context.get_local("message").as_python_constant())


def stop_compiling(message: str) -> None:
    """Raise RuntimeError where code is compiled, which torch.compile cannot turn into a break."""
    torch._dynamo.comptime.comptime(_stop)
