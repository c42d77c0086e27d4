"""The rules of LFP: how the reward of an operation's output is shared among its operands.

A rule is a function ``rule(context, operation, args, kwargs)`` that runs the operation once, so
that autograd will carry rewards through it. With ``R = a G`` (:mod:`lfp_core.slopes`) there are few:

============ ================================================ ====================================
rule         operations                                       reward
============ ================================================ ====================================
activation   ReLU, SiLU, ..., Heaviside, exp, clamp           passes unchanged from f(z) to z
linear       Linear, convolution, normalisation               epsilon rule, also to the parameters
lookup       Embedding                                        epsilon rule, to the rows
total        addition, mean, average pooling, index_add       epsilon rule
product      ``*``, ``@``, einsum, Bilinear                   epsilon rule; even among activations
quotient     ``/``                                            as a product with the reciprocal
power        ``x ** n``, square, abs                          passes unchanged; chain rule over n
moment       var, std, norm                                   the same, of degree 2 or 1
rescale      dropout, negation, PReLU, cdist                  passes unchanged from c z to z
route        reshape, indexing, concatenation, max-pooling    goes where the value came from
write        assignment to slices, ``copy_``, ``scatter_``    goes where the value came from
expansion    softmax, log_softmax, logsumexp                  chain rule: linearised at x
============ ================================================ ====================================

Which operation follows which stands in :mod:`lfp_core.operations`. The output z of an epsilon rule
owes the factor ``z / (z + eps s(z))`` (:class:`lfp_core.marks.Mark`): an activation folds it into
its slope, a route passes it on, anything else applies it. A bias that is added to an output belongs
to the layer, so that ``x @ W + b`` owes one factor, as ``F.linear`` does.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lfp_core import _torch, functions
from lfp_core.calls import (
    HIDDEN,
    IN_PLACE,
    Args,
    Call,
    Context,
    Kwargs,
    Operation,
    Rule,
    known,
    name_of,
)
from lfp_core.marks import (
    ACTIVATION,
    DATA,
    Mark,
    Role,
    as_weight,
    mark_of,
    marked,
    substitute,
    tensors,
    used,
)
from lfp_core.pooling import max_pool2d
from lfp_core.slopes import UNDIVIDED, ReluSlope, SecantSlope

ELEMENTWISE = functions.named("mul", "multiply", "div", "divide", "true_divide") | {Tensor.__rmul__}
OUTER = functions.named("outer", "ger", "kron")
DOTS = functions.named("dot", "vdot", "vecdot") | {torch.linalg.vecdot}
ADDED_QUOTIENTS = functions.named("addcdiv")
ADDED_ELEMENTWISE = ADDED_QUOTIENTS | functions.named("addcmul", "addr")
ABSOLUTE = functions.named("abs", "absolute") | {Tensor.__abs__}
FIXED_POWERS: dict[Operation, float] = {
    **dict.fromkeys(functions.named("square"), 2.0),
    **dict.fromkeys(functions.named("sqrt"), 0.5),
    **dict.fromkeys(functions.named("rsqrt"), -0.5),
    **dict.fromkeys(functions.named("reciprocal"), -1.0),
}
VARIANCES = functions.named("var", "var_mean")
REDUCTIONS = functions.named(
    *("sum", "mean", "nansum", "nanmean", "interpolate", "cumsum", "trace"),
    *("avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
)
#: What a bias may be added by, element by element.
ADDITIONS = functions.named("add", "sub", "subtract", "rsub") | {Tensor.__radd__, Tensor.__rsub__}
RECIPROCALS = functions.named("reciprocal", "div", "divide", "true_divide", "pow") | {
    Tensor.__pow__,
    Tensor.__rdiv__,
}
EXTREMES = functions.named("maximum", "minimum", "fmax", "fmin", "clamp", "clip")
SOFTMAX = functions.named("softmax") | {torch.special.softmax, _torch.safe_softmax}
#: Where `inplace` stands among the arguments; torch.dropout and torch.rrelu have none there.
INPLACE_AT = dict.fromkeys(functions.named("dropout", "dropout1d", "dropout2d", "dropout3d"), 3)
INPLACE_AT |= dict.fromkeys(functions.named("rrelu"), 4)


def is_active(mark: Mark | None) -> bool:
    """Return whether the tensor of this mark takes a part of a reward."""
    return mark is not None and mark.kind in ("activation", "undetermined")


# --- elementwise functions ------------------------------------------------------------------------


def activation(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Give the function its secant slope, which applies what its input owes."""
    z, *options = args
    if tensors((*options, *kwargs.values())):
        return of_several(context, operation, args, kwargs)
    mark = known(context, z)
    if mark is None or mark.kind == "weight" or mark.hidden or mark.leaf or not z.requires_grad:
        call = Call(context, operation, args, kwargs)
        return call.run(call.kind())  # an ordinary function
    if mark.role == "statistic":  # clamped from below, before something is divided by it
        return Call(context, operation, args, kwargs).keep()
    # `inplace` is the only boolean among the options of an activation.
    in_place = any(o is True for o in (*options, *kwargs.values())) or operation in IN_PLACE

    def function(z: Tensor) -> Tensor:
        return operation(z, *options, **kwargs)  # type: ignore[no-any-return]

    slopes = functions.SLOPE_AT_ZERO if operation in functions.SLOPE_AT_ZERO else functions.OFFSET
    return _secant(context, operation, z, function, slopes[operation](*options, **kwargs), in_place)


def of_several(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run a function of one activation and constants, in any order, as an activation."""
    call = Call(context, operation, args, kwargs)
    active = call.activations
    if not active or any(call.mark(a).leaf for a in active):
        return call.run(call.kind())
    z = active[0]
    others = {mark.kind for mark in call.marks if mark} - {"activation", "undetermined"}
    if operation in EXTREMES and (len(active) > 1 or others):
        return route(context, operation, args, kwargs)
    if len(active) > 1 or "weight" in others:
        return context.without_rule(call, " of an activation and another, or a weight")
    if not z.requires_grad:
        return call.run(call.kind())
    if call.mark(z).role == "statistic":  # type: ignore[union-attr]
        return call.keep()
    shape = torch.broadcast_shapes(*(operand.shape for operand in call.operands))
    whole = z if shape == z.shape else route(context, Tensor.expand, (z, shape), {})

    def function(value: Tensor) -> Tensor:
        def replaced(t: Tensor) -> Tensor:
            return value if t is z else t

        options = {name: substitute(replaced, option) for name, option in kwargs.items()}
        return operation(*(substitute(replaced, a) for a in args), **options)  # type: ignore[no-any-return]

    return _secant(context, operation, whole, function, 0.0, call.target is z)


def _secant(
    context: Context,
    operation: Operation,
    z: Tensor,
    function: Callable[[Tensor], Tensor],
    slope_at_zero: float,
    in_place: bool,
) -> Tensor:
    """Return f(z) for an activation z, with the slope that `units` says."""
    call = Call(context, operation, (z,), {})
    if in_place:
        call.target = z
        call.settle_memory()
    mark = call.marks[0]
    assert mark is not None
    owed = mark.epsilon
    _check_range(operation, z, owed)
    if mark.degree != 1.0:
        z = used(z, mark._replace(epsilon=0.0), in_place=in_place)
    role = _role(operation, mark.role)
    kind = mark.kind if mark.kind == "data" else "activation"
    becomes = Mark(kind, role=role, assumed=mark.assumed or mark.kind == "undetermined")  # type: ignore[arg-type]
    if operation in functions.RELU:
        return call.finish(ReluSlope.apply(z, function, owed, in_place), becomes)  # type: ignore[no-any-return]
    offset = operation in functions.OFFSET
    units = context.units if offset else "identity"
    if units == "shifted" and operation in functions.POLES:
        units = "identity"
    limit = 0.0 if offset and units != "shifted" else slope_at_zero
    a = SecantSlope.apply(z, function, limit, owed, in_place, units)
    return call.finish(a, becomes)  # type: ignore[no-any-return]


def _role(operation: Operation, role: Role) -> Role:
    """Return the role of f(z), given that of z: whether this is a gate, or on the way to one."""
    if operation in functions.GATES or (operation in functions.CLIPS and role == "shifted"):
        return "gate"  # relu6(z + 3) / 6 is a hard sigmoid
    if role == "logistic" and operation in RECIPROCALS:
        return "gate"  # 1 / (1 + exp(-z)) is a sigmoid
    return "odd" if operation in functions.ODD else "exp" if operation in functions.EXP else ""


def _check_range(operation: Operation, z: Tensor, epsilon: float) -> None:
    """Raise ValueError where slopes would overflow float16, whose largest number is 65504."""
    smallest = 6.104e-5  # 2 ** -14, the smallest normal number, rounded up
    if z.dtype == torch.float16 and epsilon < smallest and operation in functions.UNBOUNDED:
        raise ValueError(
            f"epsilon {epsilon:g} is too small for {name_of(operation)} in float16: its slope "
            f"f(z) / (z + eps s(z)) exceeds the range; use an epsilon of at least {smallest:.4g}, "
            "or bfloat16"
        )


def power(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Raise an activation to the power n: by Euler's theorem its reward is the chain rule's over n.

    The division by n is left to the consumer, because a normalisation does not want it: what it
    makes of powers is a statistic.
    """
    exponent = _exponent(operation, args, kwargs)
    call = Call(context, operation, args, kwargs)
    mark = call.marks[0]
    if not is_active(mark) or mark.leaf or exponent is None or mark.hidden:  # type: ignore[union-attr]
        return of_several(context, operation, args, kwargs)
    assert mark is not None
    degree = mark.degree * exponent
    if mark.role == "statistic":
        return call.keep(degree)
    if exponent < 1:  # whose slope is infinite at 0
        return _secant_of_power(call, exponent)
    even = exponent % 2 == 0 or operation in ABSOLUTE
    becomes = call.kind()._replace(degree=degree, role="magnitude" if even else "")
    shares = {id(args[0]): mark.degree}  # the degree so far is kept, not applied
    return call.run(becomes, shares)


def _exponent(operation: Operation, args: Args, kwargs: Kwargs) -> float | None:
    """Return n of a power with a number as its exponent."""
    if operation in ABSOLUTE:
        return 1.0
    if operation in FIXED_POWERS:
        return FIXED_POWERS[operation]
    exponent = kwargs.get("exponent", args[1] if len(args) > 1 else None)
    if isinstance(exponent, Tensor) and exponent.dim() == 0 and not exponent.requires_grad:
        exponent = None if torch.compiler.is_compiling() else exponent.item()
    return float(exponent) if isinstance(exponent, (int, float)) else None


def _secant_of_power(call: Call, exponent: float) -> Any:
    """Run a root or a reciprocal as an activation."""
    if exponent == 0:
        return call.run(call.kind())
    z, *options = call.args

    def function(z: Tensor) -> Tensor:
        return call.operation(z, *options, **call.kwargs)  # type: ignore[no-any-return]

    return _secant(call.context, call.operation, z, function, 0.0, call.target is not None)


def moment(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Sum powers up: a variance is homogeneous of degree 2, a norm or a deviation of degree 1."""
    call = Call(context, operation, args, kwargs)
    if not is_active(call.marks[0]):
        return call.run(call.kind())
    degree = 2.0 if operation in VARIANCES else 1.0
    output = call.run(call.kind()._replace(degree=degree, role="statistic"))
    if isinstance(output, tuple):  # var_mean, std_mean
        marked(output[1], call.kind()._replace(epsilon=context.stabiliser()))
    return output


# --- layers ---------------------------------------------------------------------------------------


def linear(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Scale the parameters of a layer, which are all its tensors but the input."""
    x, *parameters = args
    mark = known(context, x)
    for tensor in tensors((*parameters, *kwargs.values())):
        if type(tensor) is not torch.nn.Parameter:
            made = mark_of(tensor)  # also if what generates the weights is frozen
            if made is not None and (
                made.kind == "activation" or (made.kind == "data" and tensor.requires_grad)
            ):
                return _generated_layer(context, operation, args, kwargs)

    def weight(tensor: Tensor) -> Tensor:
        return as_weight(tensor, mark_of(tensor)) if tensor.requires_grad else tensor

    if mark is not None and mark.kind == "weight":
        call = Call(context, operation, args, kwargs)  # weights standardised, or multiplied
        return call.run(call.kind())
    if mark is not None and mark.hidden:
        return context.without_rule(Call(context, operation, args, kwargs), HIDDEN)
    scaled = [substitute(weight, parameter) for parameter in parameters]
    options = {name: substitute(weight, value) for name, value in kwargs.items()}
    becomes = ACTIVATION._replace(epsilon=context.stabiliser())
    return marked(operation(used(x, mark), *scaled, **options), becomes, frozen=True)


def _generated_layer(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run a layer whose weights are activations: a product of two, plus a bias."""
    call = Call(context, operation, args, kwargs)
    bias = kwargs.get("bias", args[2] if len(args) > 2 else None)
    factors = [t for t in call.activations if t is not bias]
    if any(mark and mark.assumed for mark in call.marks) or operation in functions.named(
        "batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm"
    ):
        return context.without_rule(call, " with weights that are activations")
    n = max(len(factors), 1)
    becomes = ACTIVATION._replace(epsilon=context.stabiliser() / n)
    return call.run(becomes, dict.fromkeys(map(id, factors), 1 / n))


def lookup(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Take rows of a table, which are the weights of a layer on one-hot vectors."""
    table, *rest = args
    mark = mark_of(table)
    if mark is not None and not mark.leaf and mark.kind != "weight":
        return route(context, operation, args, kwargs)
    output = operation(as_weight(table, mark), *rest, **kwargs)
    return marked(output, ACTIVATION._replace(epsilon=context.stabiliser()), frozen=True)


# --- sums -----------------------------------------------------------------------------------------


def total(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Add up: each term is a contribution, and a bias belongs to what it is added to."""
    call = Call(context, operation, args, kwargs)
    kind = call.kind()
    if kind.kind in ("weight", "data"):
        return call.run(kind)
    becomes = kind._replace(epsilon=context.stabiliser())
    active = call.activations
    if len(active) != 1 or any(mark and mark.kind == "data" for mark in call.marks):
        return call.run(becomes)
    mark = call.mark(active[0])
    assert mark is not None
    constants = all(m is None or m is mark for m in call.marks)
    if constants and (mark.role in ("statistic", "magnitude") or mark.degree != 1.0):
        reduced = operation in REDUCTIONS and mark.role == "magnitude"
        return call.keep(role="statistic" if reduced else mark.role)
    if operation in REDUCTIONS and mark.role == "contribution":
        call.replace(active[0], mark._replace(epsilon=0.0))  # (x * w).sum() is x @ w
        return call.run(becomes)
    if operation in REDUCTIONS and mark.role == "pair":
        return call.run(becomes._replace(epsilon=context.stabiliser() / 2))
    if operation not in ADDITIONS:
        return call.run(becomes)
    if constants and mark.role in ("gate", "odd"):  # 1 - sigmoid(z), 1 + tanh(z)
        becomes = becomes._replace(role="gate")
    elif constants and len(call.operands) == 1:
        becomes = becomes._replace(role="logistic" if mark.role == "exp" else "shifted")
    if not 0 < mark.epsilon < UNDIVIDED:
        return call.run(becomes)
    call.replace(active[0], mark._replace(epsilon=0.0))
    return call.run(becomes._replace(epsilon=mark.epsilon), whole_memory=True)


def linear_in(first: int) -> Rule:
    """Return the rule of a sum that is linear in its first arguments alone, such as ``lerp``."""

    def rule(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
        call = Call(context, operation, args, kwargs)
        if any(is_active(known(context, t)) for t in tensors((*args[first:], *kwargs.values()))):
            return context.without_rule(call, " with weights that are activations")
        return total(context, operation, args, kwargs)

    return rule


def product(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Multiply activations, weights and constants; the reward is even among activations."""
    call = Call(context, operation, args, kwargs)
    active, kind = call.activations, call.kind()
    subscripts = _subscripts(operation, args)
    elementwise = operation in ELEMENTWISE or operation in OUTER or subscripts == "product"
    if len(active) < 2:
        if kind.kind in ("weight", "data"):
            return call.run(kind)
        weighted = any(mark and mark.kind in ("weight", "undetermined") for mark in call.marks)
        if elementwise and not weighted:
            return call.scale(kind)
        owing = kind._replace(epsilon=context.stabiliser())
        if elementwise and active and call.mark(active[0]).role == "statistic":  # type: ignore[union-attr]
            return call.keep(epsilon=owing.epsilon)
        return call.run(owing._replace(role="contribution") if elementwise else owing)
    marks = [call.mark(factor) for factor in active]
    if any(mark and (mark.assumed or mark.kind == "undetermined") for mark in marks):
        return call.refuse_to_guess()
    if active[0] is active[1] and len(call.operands) == 2:
        assert marks[0] is not None
        if operation in DOTS or subscripts == "squares":  # as h.square().sum(-1)
            degree = marks[0].degree
            becomes = kind._replace(degree=2 * degree, role="statistic")
            return call.run(becomes, {id(active[0]): degree})
    gates = [f for f, mark in zip(active, marks, strict=True) if mark and mark.role == "gate"]
    signal = context.gates == "signal" and len(gates) == 1
    if elementwise:
        if operation in ELEMENTWISE and active[0] is active[1] and call.target is None:
            return power(context, torch.square, (active[0],), {})
        if sum(mark.role == "statistic" for mark in marks if mark) == 1:
            return normalised(call)
    n = len(active)
    if signal:  # all of the reward goes to the others
        shares = dict.fromkeys(map(id, active), 1 / (n - 1)) | {id(gates[0]): 0.0}
        owing = kind if elementwise else kind._replace(epsilon=context.stabiliser() / (n - 1))
        return call.run(owing, shares)
    shares = dict.fromkeys(map(id, active), 1 / n)
    if elementwise:  # (a * b).sum() is a @ b, which owes epsilon / 2
        return call.run(kind._replace(role="pair" if n == 2 else ""), shares)
    return call.run(kind._replace(epsilon=context.stabiliser() / n), shares)


def _subscripts(operation: Operation, args: Args) -> str:
    """Return what an einsum does: "product" without a sum, "squares" summed up, or neither."""
    if operation is not torch.einsum or not isinstance(args[0], str):
        return ""
    inputs, arrow, output = args[0].replace(" ", "").partition("->")
    letters = inputs.replace(",", "").replace(".", "")
    summed = set(letters) - set(output) if arrow else {c for c in letters if letters.count(c) > 1}
    if not summed and not (arrow and "." in inputs and "." not in output):
        return "product"
    terms = inputs.split(",")
    return "squares" if len(terms) == 2 and terms[0] == terms[1] else ""


def quotient(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Divide: the reciprocal of an activation b is of degree -1, as ``1 / b`` is ``b ** -1``."""
    call = Call(context, operation, args, kwargs)
    divisor = kwargs.get("other", args[1] if len(args) > 1 else None)
    mark = call.mark(divisor) if isinstance(divisor, Tensor) else None
    if not is_active(mark):
        return product(context, operation, args, kwargs)
    assert mark is not None
    active, kind = call.activations, call.kind()
    if len(active) == 1:
        constants = all(m is None or m is mark for m in call.marks)
        if constants and mark.role == "statistic":
            return call.keep(-mark.degree)
        if constants and mark.kind == "activation":
            return of_several(context, operation, args, kwargs)
        return call.run(kind._replace(epsilon=context.stabiliser()), {id(divisor): -1.0})
    marks = [call.mark(factor) for factor in active]
    if any(m and (m.assumed or m.kind == "undetermined") for m in marks):
        return call.refuse_to_guess()
    if mark.role == "statistic" and sum(m.role == "statistic" for m in marks if m) == 1:
        return normalised(call)
    if mark.role == "logistic" and context.gates == "signal":
        return call.run(kind, {id(divisor): 0.0})  # a gate divides as its reciprocal multiplies
    if active[0] is active[1]:
        return call.run(kind, {id(divisor): 0.0})  # 1, whatever it is divided by itself
    return call.run(kind, {id(active[0]): 0.5, id(active[1]): 0.5} | {id(divisor): -0.5})


def normalised(call: Call) -> Any:
    """Multiply or divide an activation by a statistic, as a normalisation layer does.

    "gradient" is the chain rule for both, as the fused layers of torch have it; "identity" takes
    the statistic for a constant, as AttnLRP does (Achtibat et al., 2024, Proposition 3.4).
    """
    (statistic,) = (a for a in call.activations if call.mark(a).role == "statistic")  # type: ignore[union-attr]
    mark = call.mark(statistic)
    constant = call.context.normalisation == "identity"
    weighted = any(m and m.kind == "weight" for m in call.marks)
    call.replace(statistic, None if constant else ACTIVATION)
    owed = call.context.stabiliser() if weighted else mark.epsilon if mark else 0.0
    return call.run(call.kind()._replace(epsilon=owed))


def added_product(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run ``addmm``, ``addcmul`` and the like: a first term, plus a product of two factors."""
    call = Call(context, operation, args, kwargs)
    kind = call.kind()
    if kind.kind in ("weight", "data"):
        return call.run(kind)
    if any(factor is args[0] for factor in tensors(args[1:])):
        # The same tensor as a term and as a factor, which gets a part of the term's reward.
        other = route(context, Tensor.clone, (args[0],), {})
        factors = (other if argument is args[0] else argument for argument in args[1:])
        return added_product(context, operation, (args[0], *factors), kwargs)
    factors = [a for a in call.activations if a is not args[0]]
    if len(factors) > 1 and any(
        mark and (mark.assumed or mark.kind == "undetermined") for mark in map(call.mark, factors)
    ):
        return call.refuse_to_guess()
    n = max(len(factors), 1)
    first = mark_of(args[0]) if isinstance(args[0], Tensor) else None
    shares = dict.fromkeys(map(id, factors), 1 / n)
    if operation in ADDED_QUOTIENTS and any(f is args[2] for f in factors):
        shares[id(args[2])] *= -1
    gates = [f for f in factors if (mark := call.mark(f)) and mark.role == "gate"]
    statistics = [f for f in factors if (mark := call.mark(f)) and mark.role == "statistic"]
    if n == 2 and len(statistics) == 1 and operation in ADDED_ELEMENTWISE:  # as `normalised`
        call.replace(statistics[0], None if context.normalisation == "identity" else ACTIVATION)
        n, shares = 1, {}
    elif context.gates == "signal" and n == 2 and len(gates) == 1:
        n, shares = 1, {id(gates[0]): 0.0}
    # A sum of terms owes epsilon, and a sum of products alone what `product` says.
    terms = is_active(first) or operation in ADDED_ELEMENTWISE
    epsilon = context.stabiliser() if terms else context.stabiliser() / n
    return call.run(kind._replace(epsilon=epsilon), shares)


# --- values as they are ---------------------------------------------------------------------------


def rescale(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Multiply by a constant, or apply what is homogeneous of degree 1: the reward passes on."""
    call = Call(context, operation, args, kwargs)
    position = INPLACE_AT.get(operation, len(args))
    if kwargs.get("inplace", False) or (len(args) > position and args[position] is True):
        call.target = args[0]
    return call.scale(call.kind())


def route(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Move values, and the rewards back along the same way."""
    call = Call(context, operation, args, kwargs)
    active = [mark for mark in call.marks if is_active(mark)]
    kinds = {mark.kind for mark in call.marks if mark is not None}
    same = active and all(m and m.debts == active[0].debts for m in active)  # type: ignore[union-attr]
    if same and kinds <= {"activation", "data"} and call.target is None:
        (first, *rest) = active
        assert first is not None
        assumed = all(m.assumed for m in active if m)
        role = first.role if all(m and m.role == first.role for m in rest) else ""
        output = call.finish(operation(*args, **kwargs), first._replace(assumed=assumed, role=role))
        if torch.compiler.is_compiling() and any(o._base is not None for o in tensors((output,))):
            marked(args[0], first._replace(viewed=True))
        return output
    if len(call.marks) - call.marks.count(None) == 1 and len(active) == 1 and call.target is None:
        assert active[0] is not None
        return call.finish(operation(*args, **kwargs), active[0])  # undetermined
    kind = call.kind()
    if kind.kind == "activation" and kinds == {"weight", "data"} and _is_lookup(call):
        return call.run(
            kind._replace(epsilon=context.stabiliser())
        )  # weight[tokens] is an embedding
    return call.run(kind)


def route_like(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Move values to the shape or type of another tensor, which takes no part."""
    other = [
        argument.detach() if isinstance(argument, Tensor) else argument for argument in args[1:]
    ]
    return route(context, operation, (args[0], *other), kwargs)


def alpha_dropout(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Scale what is kept and add a constant; when it does not train, change nothing."""
    trains = kwargs.get("train", args[2] if len(args) > 2 else False)
    return (total if trains else route)(context, operation, args, kwargs)


def product_of_all(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Multiply the n values along a dimension, which share the reward evenly."""
    call = Call(context, operation, args, kwargs)
    if not is_active(call.marks[0]) or call.marks[0].leaf:  # type: ignore[union-attr]
        return call.run(call.kind())
    dim = kwargs.get(
        "dim", args[1] if len(args) > 1 and not isinstance(args[1], torch.dtype) else None
    )
    n = args[0].numel() if dim is None else args[0].shape[dim]
    return call.run(call.kind(), {id(args[0]): 1 / max(n, 1)})


def reduced_into(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run ``scatter_reduce`` and the like: a sum, or the route of an extreme value."""
    words = [argument for argument in (*args, *kwargs.values()) if isinstance(argument, str)]
    reduction = words[0] if words else None
    if reduction in ("sum", "mean"):
        return total(context, operation, args, kwargs)
    if reduction in ("amax", "amin", "max", "min"):
        return write(context, operation, args, kwargs)
    return context.without_rule(Call(context, operation, args, kwargs))


def _is_lookup(call: Call) -> bool:
    """Return whether weights alone are selected, by what depends on the model's input."""
    return not any(
        mark is not None and mark.kind == "data" and operand.is_floating_point()
        for operand, mark in zip(call.operands, call.marks, strict=True)
    )


def write(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Write values into a tensor, whose own values there are lost, and rewards back to them."""
    memory = args[0] if args[0]._base is None else args[0]._base
    value = args[-1]
    if isinstance(value, Tensor) and value._base is memory:  # as ``y[:2] += 1`` does at its end
        args = (*args[:-1], route(context, Tensor.clone, (value,), {}))
    call = Call(context, operation, args, kwargs)
    return call.run(call.kind())


def pool(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Route through max-pooling of images, which need not keep its input for that."""
    indices = kwargs.get("return_indices", False) or len(args) > 6  # the seventh argument
    if indices or torch.compiler.is_compiling():  # a compiler decides by itself what to keep
        return route(context, operation, args, kwargs)
    window = {name: value for name, value in kwargs.items() if name != "return_indices"}
    return route(context, max_pool2d, args, window)


def constant(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Cut a tensor off: no reward passes, but what depended on the model's input still does."""
    output = operation(*args, **kwargs)
    mark = mark_of(args[0])
    return marked(output, DATA) if mark is not None and mark.kind != "weight" else output


def expansion(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Hand the reward on by the chain rule: a Taylor expansion at x, whose bias takes the rest.

    This is Deep Taylor decomposition of the softmax (AttnLRP, Proposition 3.1), which conserves no
    reward. With attention="constant" the softmax is a constant.
    """
    call = Call(context, operation, args, kwargs)
    if context.attention == "constant" and operation in SOFTMAX:
        return constant(context, torch.Tensor.detach, (operation(*args, **kwargs),), {})
    return call.run(call.kind())


def normalisation(composed: Operation) -> Rule:
    """Return the rule of a fused normalisation, given what it consists of.

    With normalisation="gradient" it is a layer, whose backward pass torch has. With "identity" the
    operations run one by one, as their statistics are to be constants.
    """

    def rule(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
        if context.normalisation == "gradient":
            return linear(context, operation, args, kwargs)
        names = ("cudnn_enabled", "cudnn_enable")
        with context:
            return composed(*args[:8], **{k: v for k, v in kwargs.items() if k not in names})

    return rule
