"""Which rule of LFP each torch operation follows.

A rule is a function ``rule(epsilon, operation, args, kwargs)`` that runs the operation so that
autograd will carry rewards through it; :data:`RULES` finds the rule of an operation. There are six:

========== =============================================== =====================================
rule       operations                                      reward
========== =============================================== =====================================
activation ReLU, SiLU, ..., Heaviside                      passes unchanged from f(z) to z
linear     Linear, convolution, normalisation, Embedding   epsilon rule, also to the parameters
total      addition, mean, average pooling                 epsilon rule
product    ``*``, ``/``, ``@`` with weights or constants   epsilon rule; unchanged if one to one
rescale    dropout, negation                               passes unchanged from c z to z
route      reshape, indexing, concatenation, max-pooling   goes where the value came from
========== =============================================== =====================================

Products of two activations and softmax have theirs in :mod:`lfp_core.attention`.

The output z of an epsilon rule *owes* the factor ``z / (z + eps s(z))``: an activation folds it
into its slope, a route passes the debt on, anything else pays it through
:class:`~lfp_core.slopes.EpsilonShare`. What a tensor owes is kept on the tensor as the attribute
:data:`OWED`: eps, or 0 if nothing is owed, or :data:`~lfp_core.slopes.UNDIVIDED` for a spike, which
owes the factor z, or WEIGHT for what is made of parameters and carries no reward. Leaves have no
mark; anything else without one was made where no rule could see it, and is refused. The mark is an
attribute, not a table in the context manager, because ``torch.compile`` traces attributes and hands
them back to eager code with the compiled region's outputs.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import handle_torch_function, has_torch_function_unary

from lfp_core.pooling import max_pool2d
from lfp_core.slopes import EpsilonShare, ReluSlope, SecantSlope, WeightScale

Operation = Callable[..., Any]
Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Rule = Callable[[float, Operation, Args, Kwargs], Any]

OWED = "_lfp_epsilon"
WEIGHT = None
#: Marks what is made of weights and constants: a masked weight, or a layer's output for data.
UNSURE = "_lfp_unsure"


class UnsupportedOperation(RuntimeError):  # noqa: N818  (the public name)
    """LFP has no rule for an operation of the model."""


def heaviside(z: Tensor) -> Tensor:
    """Return 1 where z > 0, else 0, like z; NaN stays NaN.

    Outside of `feedback` no gradient passes through it.
    """
    # torch.compile takes the first question for a constant, and the second for what it is.
    if has_torch_function_unary(z) or torch._C._is_torch_function_mode_enabled():
        return handle_torch_function(heaviside, (z,), z)
    return z.detach().relu().sign_()  # a fifth of the time of (z > 0).to(z.dtype) on a CPU


class Heaviside(torch.nn.Module):
    """Step activation: 1 for z > 0, else 0, on a tensor of any shape."""

    def forward(self, z: Tensor) -> Tensor:
        """Apply :func:`heaviside`."""
        return heaviside(z)


# --- what a tensor is, and what it owes -----------------------------------------------------------


def tensors(arguments: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among the arguments of an operation, also those in a list (``cat``)."""
    found = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            found.append(argument)
        elif isinstance(argument, (list, tuple)) and argument and type(argument[0]) is not int:
            found += tensors(argument)
    return found


def substitute(change: Callable[[Tensor], Tensor], argument: Any) -> Any:
    """Return the argument with every tensor in it replaced by ``change(tensor)``."""
    if isinstance(argument, Tensor):
        return change(argument)
    if isinstance(argument, (list, tuple)) and argument and type(argument[0]) is not int:
        return type(argument)([substitute(change, item) for item in argument])
    return argument


def carries_reward(tensor: Tensor) -> bool:
    """Whether a reward arrives at the tensor: an activation, or an input that wants its own."""
    if not tensor.requires_grad:
        return False
    if hasattr(tensor, OWED):
        return getattr(tensor, OWED) is not WEIGHT
    return tensor.is_leaf and not isinstance(tensor, Parameter)


def is_stranger(tensor: Tensor) -> bool:
    """Whether the tensor was made where no rule could see it, as in a custom Function."""
    return tensor.requires_grad and not tensor.is_leaf and not hasattr(tensor, OWED)


def pay(tensor: Tensor, in_place: bool = False) -> Tensor:
    """Return the tensor as an operation other than an activation uses it: scaled, or debt paid."""
    if isinstance(tensor, Parameter):
        return owe(WeightScale.apply(tensor), WEIGHT) if tensor.requires_grad else tensor
    owed = getattr(tensor, OWED, WEIGHT)
    return owe(EpsilonShare.apply(tensor, owed, in_place), 0.0) if owed else tensor


def owe(output: Any, epsilon: float | None) -> Any:
    """Mark every output through which a reward can arrive, and return the output."""
    if not isinstance(output, Tensor) and torch.compiler.is_compiling():
        # torch.compile lets no part of an output be marked, but a view of one.
        output = substitute(lambda t: t.view_as(t) if t.requires_grad else t, output)
    for tensor in [output] if isinstance(output, Tensor) else tensors((output,)):
        if tensor.requires_grad:
            setattr(tensor, OWED, epsilon)
    return output


def doubt(output: Any) -> Any:
    """Mark every output as what may be a weight as well as an activation, and return the output."""
    for tensor in tensors((output,)):
        setattr(tensor, UNSURE, True)
    return output


def overwritten(output: Tensor, view: Tensor) -> Tensor:
    """Note that a view was written to in place, so that its base no longer owes what it did."""
    base = view._base
    if base is not None and hasattr(base, OWED):
        if base.numel() == view.numel():
            setattr(base, OWED, getattr(output, OWED))
        else:
            delattr(base, OWED)  # one part owes this, another that: nothing can use it any more
    return output


def settle(operation: Operation, args: Args, kwargs: Kwargs, epsilon: float, in_place: bool) -> Any:
    """Run an operation on paid arguments, and let its output owe epsilon."""
    operands = tensors((*args, *kwargs.values()))
    of_weights = all(o.requires_grad and not carries_reward(o) for o in operands)
    first = pay(args[0], in_place) if isinstance(args[0], Tensor) else substitute(pay, args[0])
    paid = (first, *(substitute(pay, argument) for argument in args[1:]))
    output = operation(*paid, **{name: substitute(pay, value) for name, value in kwargs.items()})
    owe(output, WEIGHT if of_weights else epsilon)  # what weights make is a weight
    return overwritten(output, args[0]) if in_place else output


# --- the rules ------------------------------------------------------------------------------------


def activation(epsilon: float, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Give the activation its secant slope, which pays what the input owes."""
    z, *options = args
    if not carries_reward(z):  # of data, or of a weight: an ordinary function
        return owe(operation(pay(z), *options, **kwargs), WEIGHT)

    def function(z: Tensor) -> Tensor:
        return operation(z, *options, **kwargs)

    owed = getattr(z, OWED, 0.0)
    # `inplace` is the only boolean among the options of an activation.
    in_place = operation in IN_PLACE or any(o is True for o in (*options, *kwargs.values()))
    if operation in RELU:
        a = owe(ReluSlope.apply(z, function, owed, in_place), 0.0)
    else:
        limit = SLOPE_AT_ZERO[operation](*options, **kwargs)
        a = owe(SecantSlope.apply(z, function, limit, owed, in_place), 0.0)
    return overwritten(a, z) if in_place else a


def linear(epsilon: float, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Scale the parameters of a layer, which are all its tensors but the input."""

    def weight(tensor: Tensor) -> Tensor:
        # Any leaf: `torch.func.functional_call` puts plain tensors where the parameters were.
        leaf = tensor.requires_grad and tensor.is_leaf
        return owe(WeightScale.apply(tensor), WEIGHT) if leaf else tensor

    parameters = [weight(a) if isinstance(a, Tensor) else a for a in args[1:]]
    options = {name: substitute(weight, value) for name, value in kwargs.items()}
    return owe(operation(pay(args[0]), *parameters, **options), epsilon)


def total(epsilon: float, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Add up: each term is a contribution."""
    return settle(operation, args, kwargs, epsilon, in_place=operation in IN_PLACE)


def product(epsilon: float, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Multiply one activation by weights or constants."""
    operands = tensors((*args, *kwargs.values()))
    carriers = [operand for operand in operands if carries_reward(operand)]
    if len(carriers) > 1:
        raise UnsupportedOperation(f"no LFP rule for {name_of(operation)} of two activations")
    if operation in DIVISION and carriers and carriers[0] is not args[0]:
        raise UnsupportedOperation(f"no LFP rule for {name_of(operation)} by an activation")
    weighted = any(o.requires_grad and not carries_reward(o) for o in operands)
    elementwise = operation in ELEMENTWISE
    owed = 0.0 if elementwise and not weighted else epsilon
    output = settle(operation, args, kwargs, owed, in_place=operation in IN_PLACE)
    return doubt(output) if elementwise and weighted and not carriers else output


def rescale(epsilon: float, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Multiply each value by a constant, which takes nothing from its reward."""
    in_place = operation in IN_PLACE or kwargs.get("inplace", False)
    return settle(operation, args, kwargs, 0.0, in_place)


def route(epsilon: float, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Move values, and the rewards back along the same way."""
    sources = [t for t in tensors((*args, *kwargs.values())) if t.requires_grad]
    debts = [getattr(source, OWED, WEIGHT) for source in sources]
    if debts and debts[0] is not WEIGHT and debts.count(debts[0]) == len(debts):
        output = owe(operation(*args, **kwargs), debts[0])
    else:
        # Weights alone are contributions by themselves: ``weight[index]`` is an embedding.
        owed = 0.0 if any(map(carries_reward, sources)) else epsilon
        output = settle(operation, args, kwargs, owed, in_place=operation in IN_PLACE)
    unsure = all(hasattr(s, UNSURE) or not carries_reward(s) for s in sources)
    return doubt(output) if unsure and sources else output


def pool(epsilon: float, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Route through max-pooling of images, which need not keep its input for that."""
    indices = kwargs.get("return_indices", False) or len(args) > 6  # the seventh argument
    if indices or torch.compiler.is_compiling():  # a compiler decides by itself what to keep
        return route(epsilon, operation, args, kwargs)
    window = {name: value for name, value in kwargs.items() if name != "return_indices"}
    return route(epsilon, max_pool2d, args, window)


# --- which operation follows which ----------------------------------------------------------------


def named(*names: str) -> set[Operation]:
    """Return the operations of these names in torch, as functions, methods and in place."""
    spellings = [spelling for name in names for spelling in (name, name + "_")]
    homes = (torch, Tensor, torch._C.TensorBase, F)  # TensorBase: what torch.compile sees
    found = {getattr(home, s, None) for home in homes for s in spellings}
    return {operation for operation in found if operation is not None}


def getter(attribute: str) -> Operation:
    """Return the operation that reads a property of a tensor, such as ``x.T``."""
    return getattr(Tensor, attribute).__get__


def name_of(operation: Operation) -> str:
    """Return the operation's name as its user knows it."""
    return getattr(operation, "__name__", str(operation))


def constant(slope: float) -> Callable[..., float]:
    """Return a function of an activation's options that ignores them."""
    return lambda *args, **kwargs: slope


RELU = named("relu")
#: f'(0), the secant slope at z = 0 under LFP-0, as a function of the activation's own options; 0
#: where f has a kink with f(z) = 0 on one side, as torch has it, and where f(0) is not 0: a unit
#: without net input credits none.
SLOPE_AT_ZERO: dict[Operation, Callable[..., float]] = {
    **dict.fromkeys(named("relu", "relu6", "sigmoid", "softplus", "heaviside"), constant(0.0)),
    **dict.fromkeys(named("silu", "gelu"), constant(0.5)),
    **dict.fromkeys(named("tanh"), constant(1.0)),
    **dict.fromkeys(named("leaky_relu"), lambda negative_slope=0.01, inplace=False: negative_slope),
    **dict.fromkeys(named("elu"), lambda alpha=1.0, inplace=False: alpha),
    **dict.fromkeys(
        named("hardtanh"),
        lambda min_val=-1.0, max_val=1.0, inplace=False: float(min_val < 0 < max_val),
    ),
    heaviside: constant(0.0),
}
ELEMENTWISE = named("mul", "multiply", "div", "divide", "true_divide") | {Tensor.__rmul__}
DIVISION = named("div", "divide", "true_divide")
RULES: dict[Operation, Rule] = {
    **dict.fromkeys(SLOPE_AT_ZERO, activation),
    **dict.fromkeys(
        named(
            *("linear", "conv1d", "conv2d", "conv3d", "embedding"),
            *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
            *("batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm"),
        ),
        linear,
    ),
    **dict.fromkeys(
        named(
            *("add", "sub", "subtract", "rsub", "sum", "mean", "interpolate"),
            *("avg_pool1d", "avg_pool2d", "avg_pool3d"),
            *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
        )
        | {Tensor.__radd__, Tensor.__rsub__},
        total,
    ),
    **dict.fromkeys(ELEMENTWISE, product),
    **dict.fromkeys(
        named(
            *("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "neg"),
            "negative",
        ),
        rescale,
    ),
    **dict.fromkeys(
        named(
            *("reshape", "view", "view_as", "reshape_as", "flatten", "unflatten", "ravel"),
            *("hstack", "vstack", "swapdims", "moveaxis", "tensor_split", "diagonal"),
            *("masked_select", "amax", "max", "maximum"),
            *("squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to", "repeat", "tile"),
            "repeat_interleave",
            *("transpose", "swapaxes", "movedim", "permute", "t", "roll", "flip", "unfold"),
            *("cat", "concat", "stack", "chunk", "split", "unbind", "select", "narrow"),
            *("index_select", "gather", "where", "masked_fill", "pad", "pixel_shuffle"),
            *("clone", "contiguous", "to", "float", "double", "half", "bfloat16", "type_as"),
            *("cpu", "cuda"),
            *("max_pool1d", "max_pool3d"),
            *("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"),
            *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
            *("adaptive_max_pool1d_with_indices", "adaptive_max_pool2d_with_indices"),
            "adaptive_max_pool3d_with_indices",
        )
        | {Tensor.__getitem__, getter("T"), getter("mT")}
        | {torch.ops.aten.numpy_T, torch.ops.aten.mT},  # as torch.compile has them
        route,
    ),
    **dict.fromkeys(named("max_pool2d"), pool),
}
#: The rules of methods written in Python, by name: torch.compile passes them on as objects that no
#: table finds, and takes a table that was asked for one that it has to have changed.
METHODS = {
    name_of(operation): rule
    for operation, rule in RULES.items()
    if getattr(operation, "__module__", None) == "torch._tensor"
}
IN_PLACE = {operation for operation in RULES if name_of(operation).endswith("_")} - {
    o for o in RULES if name_of(o).endswith("__")
}
