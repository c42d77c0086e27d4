"""The rules of LFP: how the reward of an operation's output is shared among its operands.

A rule is a function ``rule(context, operation, args, kwargs)`` that runs the operation once, so
that autograd will carry rewards through it. In terms of G, where a reward is ``R = a G``, the rules
are few (:mod:`lfp_core.slopes`):

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
moment       var, std, norm; distance: cdist, hypot           the same, of degree 2 or 1
rescale      dropout, negation, PReLU, Fourier transforms     passes unchanged from c z to z
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
from inspect import signature
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

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
    key,
    known,
    name_of,
    overwrites,
)
from lfp_core.marks import (
    ACTIVATION,
    DATA,
    DIVISORS,
    GATES,
    POWERS,
    SUMS,
    WEIGHT,
    Kind,
    Mark,
    Role,
    as_weight,
    joined,
    mark_of,
    marked,
    substitute,
    tensors,
    used,
)
from lfp_core.pooling import max_pool2d
from lfp_core.slopes import UNDIVIDED, SecantSlope, linear_layer, relu, scaled_weight

ELEMENTWISE = functions.named("mul", "multiply", "div", "divide", "true_divide") | {Tensor.__rmul__}
#: Products without a sum, and with one over everything.
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
REDUCTIONS = (
    functions.named(
        *("sum", "mean", "nansum", "nanmean", "interpolate", "cumsum", "trace", "fold", "col2im"),
        *("index_add", "scatter_add", "index_put", "put", "sum_to_size"),
        *("scatter_reduce", "index_reduce", "segment_reduce"),
        *("avg_pool1d", "avg_pool2d", "avg_pool3d"),
        *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    )
    | _torch.UPSAMPLE_BY_SUMS
)
DIFFERENCES = functions.named("sub", "subtract")
NEGATIONS = functions.named("neg", "negative")
FROM_NUMBER = functions.named("rsub") | {Tensor.__rsub__}
#: What a bias may be added by, element by element.
ADDITIONS = functions.named("add") | {Tensor.__radd__} | DIFFERENCES | FROM_NUMBER
#: What takes a shape in the place of a tensor.
SHAPED_LIKE: dict[Operation, Operation] = {
    Tensor.view_as: Tensor.view,
    Tensor.reshape_as: Tensor.reshape,
    Tensor.expand_as: Tensor.expand,
}
RECIPROCALS = functions.named("reciprocal", "div", "divide", "true_divide", "pow") | {
    Tensor.__pow__,
    Tensor.__rdiv__,
}
ROOTS = functions.named("sqrt", "rsqrt")
EXTREMES = functions.named(
    *("maximum", "minimum", "fmax", "fmin", "clamp", "clip", "clamp_min", "clamp_max")
)
#: What bounds a statistic before something is divided by it.
BOUNDS = EXTREMES | functions.named("relu", "threshold", "hardtanh", "nan_to_num")
#: Values that stand for many.
SELECTIONS = EXTREMES | functions.named(
    *("amax", "amin", "aminmax", "max", "min", "median", "nanmedian", "kthvalue", "topk"),
    *("cummax", "cummin", "quantile", "nanquantile"),
    *(f"{kind}max_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)),
    *(f"{kind}max_pool{d}d_with_indices" for kind in ("", "adaptive_") for d in (1, 2, 3)),
)
NORMALISATIONS = functions.named(
    "batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm"
)
#: What becomes of exp and of a difference: exp(log_softmax(x)), exp(x - logsumexp(x)).
LOGARITHMS: dict[Operation, Role] = {
    **dict.fromkeys(functions.named("log_softmax"), "centred"),
    **dict.fromkeys(functions.named("logsumexp"), "extreme"),
}
SOFTMAX = functions.named("softmax") | {torch.special.softmax, _torch.safe_softmax}
#: And of a softmax, the parts of which may be divided by their sum again.
EXPANDED: dict[Operation, Role] = LOGARITHMS | dict.fromkeys(SOFTMAX, "exponential")


def is_active(mark: Mark | None) -> TypeGuard[Mark]:
    """Return whether the tensor of this mark takes a part of a reward."""
    return mark is not None and mark.kind in ("activation", "undetermined")


# --- elementwise functions ------------------------------------------------------------------------


def activation(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run an elementwise function f of an activation z, which passes the reward on unchanged.

    Its ``G`` is multiplied by the secant slope ``f(z) / (z + eps s(z))`` of this context, which
    applies what z owes. The function stands in the table of :mod:`lfp_core.functions`.

    Returns:
        The output of the operation.
    """
    z, *options = args
    if (options or kwargs) and tensors((*options, *kwargs.values())):
        return of_several(context, operation, args, kwargs)
    mark = known(context, z)
    if mark is not None and mark.role in DIVISORS and operation in BOUNDS:
        return Call(context, operation, args, kwargs).keep()
    if mark is None or mark.kind == "weight" or mark.hidden or mark.leaf or not z.requires_grad:
        call = Call(context, operation, args, kwargs)
        role = _role(operation, mark.role, args[1:], kwargs) if is_active(mark) else ""
        return call.run(call.kind()._replace(role=role))  # an ordinary function
    if mark.role == "centred" and operation in functions.EXP:
        return _exponential(Call(context, operation, args, kwargs))

    def function(z: Tensor) -> Tensor:
        return operation(z, *options, **kwargs)

    unit = functions.UNITS[operation]
    if mark.role:
        unit = unit.with_role(_role(operation, mark.role, args[1:], kwargs))
    slope = 0.0 if unit.relu else unit.slope_at_zero(*options, **kwargs)
    in_place = overwrites(operation, args, kwargs)
    return _secant(context, operation, z, mark, function, unit, slope, in_place)


def _exponential(call: Call) -> Any:
    """Run exp of values less their largest, as a softmax does: a part of :func:`expansion`."""
    # As an activation it would have a slope of 1 / epsilon at the largest, which is 0 itself.
    call.replace(call.active[0][0], ACTIVATION)
    return call.run(call.kind()._replace(role="exponential"))


def of_several(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run a function of one activation and constants, in any order, as :func:`activation` does.

    With a weight, or with two activations, it has no rule.

    Returns:
        The output of the operation.
    """
    call = Call(context, operation, args, kwargs)
    if not call.active or any(mark.leaf for _, mark in call.active):
        return call.run(call.kind())
    others = {mark.kind for mark in call.marks if mark} - {"activation", "undetermined"}
    if operation in EXTREMES and (len(call.active) > 1 or others):
        return route(context, operation, args, kwargs)
    if len(call.active) > 1 or "weight" in others:
        return context.without_rule(call, " of an activation and another, or a weight")
    ((z, mark),) = call.active
    if not z.requires_grad:
        return call.run(call.kind())
    if mark.role in DIVISORS and operation in BOUNDS:
        return call.keep()
    shape = torch.broadcast_shapes(*(operand.shape for operand in call.operands))
    whole = z if shape == z.shape else route(context, Tensor.expand, (z, shape), {})

    def function(value: Tensor) -> Tensor:
        def replaced(t: Tensor) -> Tensor:
            return value if t is z else t

        options = {name: substitute(replaced, option) for name, option in kwargs.items()}
        return operation(*(substitute(replaced, a) for a in args), **options)

    slope: float | Tensor = float(operation in functions.QUANTISATION)
    if mark.epsilon == 0 and not (_torch.is_compiling() or operation in functions.KNOWN_AT_ZERO):
        slope = _derivative_at_zero(function, whole)
    in_place = call.target is z
    unit = functions.UNKNOWN.with_role(_role(operation, mark.role, (), {}))
    return _secant(context, operation, whole, mark, function, unit, slope, in_place)


def _derivative_at_zero(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Return f'(0) where f(0) = 0, else 0, in the shape of z."""
    with torch.enable_grad():
        zeros = torch.zeros_like(z, requires_grad=True)
        values = function(zeros.clone())  # which it may overwrite
        if not values.requires_grad:
            return torch.zeros_like(z)
        (slopes,) = torch.autograd.grad(values.sum(), zeros)
    return torch.where(values == 0, slopes, 0.0)


def _secant(
    context: Context,
    operation: Operation,
    z: Tensor,
    mark: Mark,
    function: Callable[[Tensor], Tensor],
    unit: functions.Unit,
    slope_at_zero: float | Tensor,
    in_place: bool,
) -> Tensor:
    """Return f(z) for an activation z, with the slope that `units` says."""
    call = None
    if in_place:
        call = Call(context, operation, (z,), {})
        call.target = z
        call.settle_memory()
        mark = call.marks[0] or mark
    owed = mark.epsilon
    if z.dtype == torch.float16 and not unit.bounded:
        _check_range(operation, owed)
    if mark.degree != 1.0:
        z = used(z, mark._replace(epsilon=0.0), in_place=in_place)
    becomes = unit.mark
    if mark.kind != "activation" or mark.assumed:
        kind: Kind = "data" if mark.kind == "data" else "activation"
        becomes = becomes._replace(kind=kind, assumed=kind == "activation")
    if becomes.role == "gate" and mark.role in GATES and operation not in functions.ROLES:
        becomes = becomes._replace(pending=mark.pending)
    if unit.relu:
        a = relu(z, owed, in_place)
    else:
        units = context.units if unit.offset and not unit.pole else "identity"
        limit = 0.0 if unit.offset and units != "shifted" else slope_at_zero
        a = SecantSlope.apply(z, function, limit, owed, in_place, units)
    return marked(a, becomes) if call is None else call.finish(a, becomes)


def _role(operation: Operation, role: Role, options: Args, kwargs: Kwargs) -> Role:
    """Return the role of f(z), given that of z: whether this is a gate, or on the way to one."""
    if role == "shifted" and operation in functions.CLIPS:
        low, high = functions.bounds(operation, *options, **kwargs)
        return "gate" if low == 0 and high is not None else ""  # relu6(z + 3) / 6, a hard sigmoid
    if role in GATES and operation in BOUNDS | RECIPROCALS | ROOTS:
        return "gate"
    if role == "logistic" and operation in RECIPROCALS:
        return "gate"  # 1 / (1 + exp(-z)) is a sigmoid
    return functions.ROLES.get(operation, "")


def _check_range(operation: Operation, epsilon: float) -> None:
    """Raise ValueError where slopes would overflow float16, whose largest number is 65504."""
    smallest = 6.104e-5  # 2 ** -14, the smallest normal number, rounded up
    if epsilon < smallest:
        raise ValueError(
            f"epsilon {epsilon:g} is too small for {name_of(operation)} in float16: its slope "
            f"f(z) / (z + eps s(z)) exceeds the range; use an epsilon of at least {smallest:.4g}, "
            "or bfloat16"
        )


def power(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Raise an activation to the power n: by Euler's theorem its reward is the chain rule's over n.

    The division by n is left to the consumer, because a normalisation does not want it: what it
    makes of powers is a statistic.

    Returns:
        The output of the operation.
    """
    exponent = _exponent(operation, args, kwargs)
    call = Call(context, operation, args, kwargs)
    mark = call.marks[0]
    if not is_active(mark) or mark.leaf or exponent is None or mark.hidden:
        return of_several(context, operation, args, kwargs)
    assert mark is not None
    degree = mark.degree * exponent
    if mark.role in DIVISORS:
        return call.keep(degree)
    if exponent < 1:  # whose slope is infinite at 0
        return _secant_of_power(call, exponent)
    even = exponent % 2 == 0 or operation in ABSOLUTE
    role: Role = "gate" if mark.role in GATES else "magnitude" if even else ""
    pending = mark.pending if role == "gate" else None
    becomes = call.kind()._replace(degree=degree, role=role, pending=pending)
    shares = {key(args[0]): mark.degree}  # the degree so far is kept, not applied
    return call.run(becomes, shares)


def _exponent(operation: Operation, args: Args, kwargs: Kwargs) -> float | None:
    """Return n of a power with a number as its exponent."""
    if operation in ABSOLUTE:
        return 1.0
    if operation in FIXED_POWERS:
        return FIXED_POWERS[operation]
    exponent = kwargs.get("exponent", args[1] if len(args) > 1 else None)
    if isinstance(exponent, Tensor) and exponent.dim() == 0 and not exponent.requires_grad:
        exponent = None if _torch.is_compiling() else exponent.item()
    return float(exponent) if isinstance(exponent, (int, float)) else None


def _secant_of_power(call: Call, exponent: float) -> Any:
    """Run a root or a reciprocal as an activation."""
    z, *options = call.args
    if exponent == 0 or not z.requires_grad:
        return call.run(call.kind())

    def function(z: Tensor) -> Tensor:
        return call.operation(z, *options, **call.kwargs)

    mark, unit = call.marks[0], functions.UNITS.get(call.operation, functions.UNKNOWN)
    assert mark is not None
    unit = unit.with_role(_role(call.operation, mark.role, (), {}))
    in_place = call.target is not None
    return _secant(call.context, call.operation, z, mark, function, unit, 0.0, in_place)


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
    """Run a layer: its first argument is the input, and all its other tensors are parameters.

    The output owes the factor of the epsilon rule, and the feedback of each parameter is multiplied
    by its magnitude.

    Returns:
        The output of the operation.
    """
    x, *parameters = args
    mark = known(context, x)
    if mark is not None and mark.hidden:
        return context.without_rule(Call(context, operation, args, kwargs), HIDDEN)
    ordinary = not context.knows_data() if mark is None else mark.kind != "weight"
    powers = mark is not None and mark.role in POWERS and operation not in NORMALISATIONS
    if powers or (ordinary and (mark is None or mark.kind == "data")):
        ordinary = any(mark_of(t) is not None for t in tensors((*parameters, *kwargs.values())))
    if not ordinary:
        call = Call(context, operation, args, kwargs)
        # A weighted mean of squares; or else what is made of constants and data or weights alone.
        return call.keep(role=_summed(mark)) if powers else call.run(call.kind())
    if operation is F.linear and not kwargs and (mark is None or mark.debts == ACTIVATION.debts):
        output = linear_layer(x, *parameters)
        if output is not None:
            return marked(output, context.owing())
    scaled = []
    for parameter in parameters:
        weight = parameter
        if type(parameter) is Parameter:
            weight = scaled_weight(parameter) if parameter.requires_grad else parameter
        elif isinstance(parameter, Tensor):
            made = mark_of(parameter)
            if made is not None and made.kind in ("activation", "data"):
                return _generated_layer(context, operation, args, kwargs)
            weight = as_weight(parameter, made)
        scaled.append(weight)
    if kwargs:
        of_options = [mark_of(tensor) for tensor in tensors(kwargs.values())]
        if any(made is not None and made.kind in ("activation", "data") for made in of_options):
            return _generated_layer(context, operation, args, kwargs)
        kwargs = {
            name: substitute(lambda t: as_weight(t, mark_of(t)), option)
            for name, option in kwargs.items()
        }
    return marked(operation(used(x, mark), *scaled, **kwargs), context.owing(), frozen=True)


def _generated_layer(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run a layer whose weights are activations: a product of two, plus a bias."""
    call = Call(context, operation, args, kwargs)
    bias = kwargs.get("bias", args[2] if len(args) > 2 else None)
    factors = [factor for factor, _ in call.active if factor is not bias]
    if any(mark and mark.assumed for mark in call.marks) or operation in NORMALISATIONS:
        return context.without_rule(call, " with weights that are activations")
    n = max(len(factors), 1)
    becomes = ACTIVATION._replace(epsilon=context.stabiliser() / n)
    return call.run(becomes, dict.fromkeys(map(key, factors), 1 / n))


def lookup(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Take rows of a table, which are the weights of a layer on one-hot vectors."""
    table, *rest = args
    mark = mark_of(table)
    indices, *others = tensors((*rest, *kwargs.values()))
    if any(other.is_floating_point() for other in others):  # the factors of weighted rows
        return product(context, operation, args, kwargs)
    if mark is not None and mark.kind != "weight" and not mark.leaf:
        return route(context, operation, args, kwargs)
    of_indices = known(context, indices)
    constant = context.knows_data() if of_indices is None else of_indices.kind == "weight"
    if constant or mark is None:  # the positions 0, 1, 2, ..., or a table that is constant
        call = Call(context, operation, args, kwargs)
        return call.run(call.kind())
    output = operation(as_weight(table, mark), *rest, **kwargs)
    return marked(output, context.owing(), frozen=True)


# --- sums -----------------------------------------------------------------------------------------


def total(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run a sum, whose terms get the reward by contribution: the output owes the epsilon rule.

    A bias that is added to the output of a layer belongs to that layer.

    Returns:
        The output of the operation.
    """
    call = Call(context, operation, args, kwargs)
    kind = call.kind()
    if kind.kind in ("weight", "data"):
        return call.run(kind)
    becomes = kind._replace(epsilon=context.stabiliser())
    if len(call.active) != 1:
        return _sum_of_terms(call, becomes)
    ((term, mark),) = call.active
    if call.alone(term) and (mark.role in POWERS or mark.degree != 1.0):
        return call.keep(role=_summed(mark) if operation in REDUCTIONS else mark.role)
    if operation in ADDITIONS and mark.role in (*DIVISORS, *GATES) and not call.alone(term):
        call.replace(term, mark._replace(epsilon=0.0))  # as what `_with_bias` adds
        return call.defer()
    if operation in ADDITIONS:
        return _with_bias(call, becomes)
    weighted = mark.role == "contribution" or (mark.role in GATES and mark.pending is not None)
    if operation in REDUCTIONS and weighted:
        call.replace(term, mark._replace(epsilon=0.0))  # (x * w).sum() is x @ w
    elif operation in REDUCTIONS and mark.role in GATES and call.alone(term):
        becomes = becomes._replace(role="gate")
    if operation in REDUCTIONS and mark.role in ("pair", "gates"):
        becomes = becomes._replace(epsilon=context.stabiliser() / 2)  # (a * b).sum() is a @ b
    return call.run(becomes)


def _sum_of_terms(call: Call, becomes: Mark) -> Any:
    """Add several activations."""
    marks = [mark for _, mark in call.active]
    powers = all(mark.role in POWERS and mark.degree == marks[0].degree for mark in marks)
    if powers and marks:  # x ** 2 + y ** 2, or the mean of squares less the square of the mean
        for operand, _ in call.active:
            call.replace(operand, ACTIVATION)
        role, pending = _summed(*marks), joined(marks)
        return call.run(ACTIVATION._replace(degree=marks[0].degree, role=role, pending=pending))
    if call.operation in DIFFERENCES and marks and marks[-1].role == "extreme":
        becomes = becomes._replace(role="centred")
    if _are_gates(call):
        becomes = becomes._replace(role="gate", pending=joined(marks))
    # A bias belongs to its layer, and a term does not, which differ if epsilon is not 0.
    guess = any(mark.kind == "undetermined" and not mark.leaf for mark in marks)
    if guess and becomes.kind == "activation" and becomes.epsilon > 0:
        return call.refuse_to_guess()
    return call.run(becomes)


def _summed(*marks: Mark | None) -> Role:
    """Return the role of a sum of powers, or of exponentials, given the marks of the terms."""
    roles = {SUMS.get(mark.role, mark.role) for mark in marks if mark is not None}
    return roles.pop() if len(roles) == 1 else "statistic"


def _with_bias(call: Call, becomes: Mark) -> Any:
    """Add weights or constants to an activation."""
    ((term, mark),) = call.active
    number = _added_number(call)
    if mark.role in GATES and call.alone(term):  # 1 - sigmoid(z), or g + (g.round() - g).detach()
        becomes = becomes._replace(role="gate", pending=mark.pending)
    elif _is_subtracted(call, term) and mark.role == "extreme":
        return call.run(becomes._replace(role="centred"))  # a weight or a number, less the largest
    elif number is not None:
        becomes = becomes._replace(role=_role_of_sum(call.operation, mark.role, number))
    elif call.operation in DIFFERENCES and "data" in [
        mark.kind for mark in call.marks[1:] if mark is not None
    ]:
        becomes = becomes._replace(role="centred")  # less the largest, which was detached
    biased = all(
        other is term or (m is not None and m.kind == "weight")
        for other, m in zip(call.operands, call.marks, strict=True)
    )
    if not (biased and 0 < mark.epsilon < UNDIVIDED):
        return call.run(becomes)
    call.replace(term, mark._replace(epsilon=0.0))
    return call.run(becomes._replace(epsilon=mark.epsilon), whole_memory=True)


def _is_subtracted(call: Call, term: Tensor) -> bool:
    """Return whether a term is what the other is reduced by."""
    first = call.args[0] is term
    return call.operation in FROM_NUMBER if first else call.operation in DIFFERENCES


def _added_number(call: Call) -> float | None:
    """Return the number that is added to an activation, or None if something else is."""
    if call.kwargs.get("alpha", 1) != 1:
        return None
    options = (value for name, value in call.kwargs.items() if name != "alpha")
    numbers: list[Any] = [t for t in (*call.args, *options) if t is not call.active[0][0]]
    if len(numbers) != 1:
        return None
    (number,) = numbers
    if isinstance(number, Tensor):
        readable = number.dim() == 0 and number.device.type == "cpu" and call.mark(number) is None
        number = number.item() if readable and not _torch.is_compiling() else None
    return float(number) if isinstance(number, (int, float)) else None


def _role_of_sum(operation: Operation, role: Role, number: float) -> Role:
    """Return the role of an activation and a number, given that of the activation."""
    if role == "odd":
        return "gate" if abs(number) in (0.5, 1.0) else ""  # 1 + tanh(z), with or without a half
    if operation in DIFFERENCES:
        number = -number
    if role == "exp":
        return "logistic" if number == 1 and operation not in FROM_NUMBER else ""
    return "shifted" if number >= 0.5 else ""  # not what keeps a number from being 0


def linear_in(first: int, otherwise: Operation | None = None) -> Rule:
    """Return the rule of a sum that is linear in its first arguments alone, such as ``lerp``.

    Args:
        first: how many arguments that are.
        otherwise: the same as other operations, for other arguments that are activations.
    """

    def rule(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
        call = Call(context, operation, args, kwargs)
        if not any(is_active(call.mark(t)) for t in tensors((*args[first:], *kwargs.values()))):
            return total(context, operation, args, kwargs)
        if otherwise is None or call.target is not None:
            return context.without_rule(call, " with weights that are activations")
        with context:
            return otherwise(*args, **kwargs)

    return rule


def product(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run a product of activations, weights and constants.

    Each of n activations gets the n-th part of the reward; with weights the product is a layer. A
    gate gets nothing if the option `gates` is "signal".

    Returns:
        The output of the operation.
    """
    call = Call(context, operation, args, kwargs)
    form = _form(operation, args)
    kind, elementwise = call.kind(), form in ("square", "elementwise")
    if len(call.active) < 2:
        return _weighted(call, kind, elementwise)
    if call.doubtful:
        return call.refuse_to_guess()
    if form in ("square", "dot") and _is_square(call):
        return _square(call, form)
    statistics = _statistics(call)
    if elementwise and len(statistics) == 1 and statistics[0][1].inverse:
        return normalised(call, *statistics[0])
    shares, n = _shares(call)
    gates = _are_gates(call) and joined(call.marks) is None
    if elementwise:
        of_two: Role = "gates" if gates else "pair"
        return call.run(kind._replace(role=of_two if n == 2 else "gate" if gates else ""), shares)
    becomes = kind._replace(epsilon=context.stabiliser() / n, role="gate" if gates else "")
    return call.run(becomes, shares)


def _is_square(call: Call) -> bool:
    """Return whether an activation is multiplied by itself, and by nothing else."""
    same = len(call.active) == 2 and call.active[0][0] is call.active[1][0]
    return same and len(call.operands) == 2 and call.target is None


def _square(call: Call, form: str) -> Any:
    """Multiply an activation by itself, as ``h.square()`` and ``h.square().sum(-1)`` do."""
    ((factor, mark), _) = call.active
    if form == "square":
        return power(call.context, torch.square, (factor,), {})
    becomes = call.kind()._replace(degree=2 * mark.degree, role="statistic")
    return call.run(becomes, {key(factor): mark.degree})


def _form(operation: Operation, args: Args) -> str:
    """Return what a product is, if its letters say so.

    Returns:
        "elementwise" without a sum, "square" if it is also a square wherever both factors are the
        same tensor, and "dot" where a tensor is then multiplied by itself and summed.
    """
    if operation in ELEMENTWISE:
        return "square"
    if operation in OUTER:
        return "elementwise"
    if operation in DOTS:
        return "dot"
    if operation is not torch.einsum:
        return ""
    inputs, arrow, output = _equation(args).partition("->")
    letters = inputs.replace(",", "").replace(".", "")
    summed = set(letters) - set(output) if arrow else {c for c in letters if letters.count(c) > 1}
    terms = inputs.split(",")
    same = len(terms) == 2 and terms[0] == terms[1]
    if not summed and not (arrow and "." in inputs and "." not in output):
        return "square" if same and output in (terms[0], "") else "elementwise"
    return "dot" if same else ""


def _equation(args: Args) -> str:
    """Return the equation of an einsum, which may be given as lists of numbers."""
    if isinstance(args[0], str):
        return args[0].replace(" ", "")
    lists = (args[1::2], args[2 * (len(args) // 2) :])
    inputs, output = (
        ["".join("..." if i is Ellipsis else chr(ord("a") + i) for i in each) for each in part]
        for part in lists
    )
    return "->".join([",".join(inputs), *output])


def _statistics(call: Call) -> list[tuple[Tensor, Mark]]:
    """Return the operands that a normalisation divides by, or their reciprocals."""
    return [(operand, mark) for operand, mark in call.active if mark.role in DIVISORS]


def _shares(call: Call) -> tuple[dict[Any, float], int]:
    """Return what each of several activations gets of the reward of their product, by `key`.

    And how many of them share it.
    """
    gates = [(factor, mark) for factor, mark in call.active if mark.role in GATES]
    others = [key(factor) for factor, mark in call.active if mark.role not in GATES]
    if call.context.gates == "signal" and gates and others:
        of_gates = {key(factor): _share_of_gate(call, factor, mark) for factor, mark in gates}
        return dict.fromkeys(others, 1 / len(others)) | of_gates, len(others)
    n = len(call.active)
    return dict.fromkeys([key(factor) for factor, _ in call.active], 1 / n), n


def _share_of_gate(call: Call, gate: Tensor, mark: Mark) -> float:
    """Return what a gate gets of the reward of its product: nothing, or what its weights do."""
    if mark.pending is None:
        return 0.0
    mark.pending.settle(0.0)
    call.replace(gate, mark._replace(pending=None))
    return mark.degree  # by the chain rule


def _are_powers(call: Call) -> bool:
    """Return whether a power, or a sum of them, meets constants and data alone."""
    active = call.active
    return len(active) == 1 and active[0][1].role in POWERS and call.alone(active[0][0])


def _are_gates(call: Call) -> bool:
    """Return whether all activations are gates: so are then their sums and products."""
    pending = {mark.pending is None for _, mark in call.active}
    return len(pending) == 1 and all(role in GATES for role in call.roles)


def _weighted(call: Call, kind: Mark, elementwise: bool) -> Any:
    """Multiply at most one activation by weights or constants."""
    if kind.kind in ("weight", "data"):
        return call.run(kind)
    if elementwise and all(m is None or m.kind in ("activation", "data") for m in call.marks):
        return call.scale(kind)
    if elementwise and _statistics(call):
        return _weighted_statistic(call, call.active[0][1].degree)
    if elementwise and call.active and call.roles[0] in GATES:
        return call.defer()
    if _are_powers(call):
        return call.keep(role=_summed(call.active[0][1]))  # a weighted mean of squares
    epsilon = call.context.stabiliser()
    return call.run(kind._replace(epsilon=epsilon, role="contribution" if elementwise else ""))


def _weighted_statistic(call: Call, degree: float) -> Any:
    """Multiply a weight by a statistic, or divide it by one: a part of a normalisation."""
    ((statistic, mark),) = call.active
    if degree < 0 and call.context.normalisation == "identity":
        call.replace(statistic, None)
        return call.run(WEIGHT)
    call.replace(statistic, mark._replace(degree=degree))
    return call.defer()


def quotient(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Divide: the reciprocal of an activation b is of degree -1, as ``1 / b`` is ``b ** -1``."""
    if kwargs.get("rounding_mode") is not None:  # a step function, and no product
        return of_several(context, operation, args, kwargs)
    call = Call(context, operation, args, kwargs)
    divisor = kwargs.get("other", args[1] if len(args) > 1 else None)
    mark = call.mark(divisor) if isinstance(divisor, Tensor) else None
    if not isinstance(divisor, Tensor) or not is_active(mark):
        return product(context, operation, args, kwargs)
    if len(call.active) == 1:
        return _reciprocal(call, divisor, mark)
    if call.doubtful:
        return call.refuse_to_guess()
    statistics = _statistics(call)
    if len(statistics) == 1 and statistics[0][0] is divisor and not mark.inverse:
        return normalised(call, divisor, mark)
    gate = mark.role in ("logistic", *GATES) and context.gates == "signal"  # by its reciprocal
    gate = gate and not _are_gates(call)
    shares = {key(args[0]): 0.5} | {key(divisor): -0.5}
    if gate or args[0] is divisor:
        shares = {key(divisor): _share_of_gate(call, divisor, mark) if gate else 0.0}
    return call.run(call.kind(), shares)


def _reciprocal(call: Call, divisor: Tensor, mark: Mark) -> Any:
    """Divide a weight or a constant by an activation."""
    if mark.kind == "undetermined" and not mark.leaf:  # a weight follows the chain rule
        return call.refuse_to_guess()
    if mark.role in DIVISORS:
        if call.alone(divisor):
            return call.keep(-mark.degree)
        return _weighted_statistic(call, -mark.degree)
    if call.alone(divisor) and mark.kind == "activation":
        return of_several(call.context, call.operation, call.args, call.kwargs)
    owing = call.kind()._replace(epsilon=call.context.stabiliser())
    return call.run(owing, {key(divisor): -1.0})


def normalised(call: Call, statistic: Tensor, mark: Mark) -> Any:
    """Multiply or divide an activation by a statistic, as a normalisation layer does.

    "gradient" is the chain rule for both, as the fused layers of torch have it; "identity" takes
    the statistic for a constant, as AttnLRP does (Achtibat et al., 2024, Proposition 3.4).

    Returns:
        The output of the operation.
    """
    _divide_by(call, statistic, mark)
    weighted = any(m is not None and m.kind == "weight" for m in call.marks)
    owed = call.context.stabiliser() if weighted else mark.epsilon
    others = [key(factor) for factor, _ in call.active if factor is not statistic]
    shares = dict.fromkeys(others, 1 / len(others))
    output = call.run(call.kind()._replace(epsilon=owed), shares)
    softmax = mark.role == "partition" and "exponential" in call.roles
    if softmax and call.context.attention == "constant":
        return marked(output.detach(), DATA)
    return output


def _divide_by(call: Call, statistic: Tensor, mark: Mark) -> None:
    """Let an operand be what a normalisation divides by."""
    constant = call.context.normalisation == "identity" and mark.role == "statistic"
    if mark.pending is not None:
        mark.pending.settle(0.0 if constant else 1.0)
        constant = False  # but for the weights in it
    call.replace(statistic, None if constant else ACTIVATION)


def added_product(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run ``addmm``, ``addcmul`` and the like: a first term, plus a product of two factors."""
    call = Call(context, operation, args, kwargs)
    kind = call.kind()
    if kind.kind in ("weight", "data"):
        return call.run(kind)
    if _are_powers(call):
        return call.keep(role=_summed(call.active[0][1]))  # a weighted mean of squares
    first = args[0]
    if any(factor is first for factor in tensors((*args[1:], *kwargs.values()))):
        # The same tensor as a term and as a factor, which gets a part of the term's reward.
        other = route(context, Tensor.clone, (first,), {})
        others = (other if argument is first else argument for argument in args[1:])
        options = {name: other if v is first else v for name, v in kwargs.items()}
        return added_product(context, operation, (first, *others), options)
    factors = {key(factor): mark for factor, mark in call.active if factor is not first}
    if len(factors) > 1 and call.doubtful:
        return call.refuse_to_guess()
    n = max(len(factors), 1)
    gates = [(f, m) for f, m in call.active if key(f) in factors and m.role in GATES]
    divisor = kwargs.get("tensor2", args[2] if len(args) > 2 else None)
    divides = operation in ADDED_QUOTIENTS
    statistics = [(f, m) for f, m in _statistics(call) if key(f) in factors]
    inverse = [(f, m) for f, m in statistics if m.inverse != (divides and f is divisor)]
    if n == 2 and len(statistics) == len(inverse) == 1 and operation in ADDED_ELEMENTWISE:
        # As `normalised` does.
        _divide_by(call, *inverse[0])
        n, shares = 1, {}
    elif context.gates == "signal" and n == 2 and len(gates) == 1:
        n, shares = 1, {key(f): _share_of_gate(call, f, m) for f, m in gates}
    else:
        shares = dict.fromkeys(factors, 1 / n)
    if divides and key(divisor) in shares:
        shares[key(divisor)] *= -1
    # A sum of terms owes epsilon, and a sum of products alone what `product` says.
    terms = is_active(call.mark(first)) or operation in ADDED_ELEMENTWISE
    return call.run(kind._replace(epsilon=context.stabiliser() / (1 if terms else n)), shares)


# --- values as they are ---------------------------------------------------------------------------


def rescale(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Multiply an activation by constants, or run a function that is homogeneous of degree 1.

    The reward passes on unchanged.

    Returns:
        The output of the operation.
    """
    call = Call(context, operation, args, kwargs)
    if operation in SELECTIONS and _are_powers(call):  # a quantile
        return call.keep(role=_role_of_moved(operation, set(call.roles)))
    if operation in NEGATIONS and call.roles == ["extreme"]:
        return call.run(call.kind()._replace(role="centred"))  # 0 less the largest
    return call.scale(call.kind())


def distance(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run the norm of several values, of which each may be an activation or a weight."""
    call = Call(context, operation, args, kwargs)
    kind = call.kind()
    return call.run(kind._replace(role="statistic") if kind.kind == "activation" else kind)


def complex_parts(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Make complex values of real ones, or the reverse, after applying what each of them owes.

    A complex z owes ``|z| / (|z| + eps)``, which is not the product of what its parts would owe.

    Returns:
        The output of the operation.
    """
    call = Call(context, operation, args, kwargs)
    return call.run(call.kind())


def route(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run an operation that moves or selects values; each reward goes back to where its value was.

    If all operands owe the same, the output owes that; otherwise it is applied.

    Returns:
        The output of the operation.
    """
    operands = tensors((*args, *kwargs.values()))
    if len(operands) == 1 and not (_torch.is_compiling() or operation in IN_PLACE):
        mark = known(context, operands[0])
        if mark is not None and mark.kind != "weight":
            if operation in SELECTIONS:
                mark = mark._replace(role=_role_of_moved(operation, {mark.role}))
            return marked(operation(*args, **kwargs), mark, not operands[0].requires_grad)
    call = Call(context, operation, args, kwargs)
    if call.target is not None:
        return _written(call)
    kind = call.kind()
    marks = [mark for _, mark in call.active]
    kinds = {mark.kind for mark in call.marks if mark is not None}
    same = marks and all(mark.debts == marks[0].debts for mark in marks)
    alone = len(marks) == 1 and call.alone(call.active[0][0])
    if same and (alone or kinds <= {"activation", "data"}):
        role = _role_of_moved(operation, {mark.role for mark in marks})
        if len({mark.pending is None for mark in marks}) > 1:
            role = ""  # of which some parts have met weights
        passed = marks[0]._replace(assumed=kind.assumed, role=role, pending=joined(marks))
        return _passed_on(call, passed)
    if kind.kind == "activation" and kinds == {"weight", "data"} and _is_lookup(call):
        kind = kind._replace(epsilon=context.stabiliser())  # weight[tokens] is an embedding
    return call.run(kind)


def _role_of_moved(operation: Operation, roles: set[Role]) -> Role:
    """Return the role of values that were moved or selected, given those of the operands."""
    if "magnitude" in roles and roles <= {"magnitude", "statistic"}:
        return "statistic" if operation in SELECTIONS else "magnitude"
    role = next(iter(roles)) if len(roles) == 1 else ""
    return "extreme" if role == "" and operation in SELECTIONS else role


def _passed_on(call: Call, mark: Mark) -> Any:
    """Run a route of tensors that owe the same, which its output goes on owing."""
    output = call.finish(call.operation(*call.args, **call.kwargs), mark)
    if _torch.is_compiling() and any(o._base is not None for o in tensors((output,))):
        for operand, of_operand in call.active:
            marked(operand, of_operand._replace(viewed=True))
    return output


def unflatten(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run a method that torch writes in Python as the function, which torch 2.11 can compile."""
    return route(context, torch.unflatten, args, kwargs)


def route_like(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Move values to the shape or type of another tensor, which takes no part."""
    x, other = (*args, *kwargs.values())
    if operation is Tensor.type_as:
        return route(context, Tensor.to, (x, other.device, other.dtype), {})
    return route(context, SHAPED_LIKE[operation], (x, other.shape), {})


def alpha_dropout(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Scale what is kept and add a constant; when it does not train, change nothing."""
    rate = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
    by_place = args[2] if len(args) > 2 else False
    trains = kwargs.get("training", kwargs.get("train", by_place))  # of F, and of torch
    return (total if trains and rate != 0 else route)(context, operation, args, kwargs)


def resize(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Interpolate: values that are next to a place are copied, and those of a mean are summed."""
    mode = kwargs.get("mode", args[3] if len(args) > 3 else "nearest")
    rule = route if mode in ("nearest", "nearest-exact") else total
    return rule(context, operation, args, kwargs)


def product_of_all(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Multiply the n values along a dimension, which share the reward evenly."""
    call = Call(context, operation, args, kwargs)
    if not is_active(call.marks[0]) or call.marks[0].leaf:
        return call.run(call.kind())
    dim = kwargs.get(
        "dim", args[1] if len(args) > 1 and not isinstance(args[1], torch.dtype) else None
    )
    n = args[0].numel() if dim is None or args[0].dim() == 0 else args[0].shape[dim]
    return call.run(call.kind(), {key(args[0]): 1 / max(n, 1)})


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
    # As ``y[:2] += 1`` does at its end.
    if len(args) > 1 and isinstance(value, Tensor) and value._base is memory:
        args = (*args[:-1], route(context, Tensor.clone, (value,), {}))
    return _written(Call(context, operation, args, kwargs))


def write_at(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Write values to indices of a tensor, or add them to those that are there."""
    accumulates = kwargs.get("accumulate", args[3] if len(args) > 3 else False)
    return (total if accumulates else write)(context, operation, args, kwargs)


def _written(call: Call) -> Any:
    """Run an operation that writes values into a memory, which then owes what they did."""
    kind, owed = call.kind(), _owed_after(call)
    if owed is None or kind.kind != "activation":
        return call.run(kind)
    for operand, _ in call.active:
        call.replace(operand, ACTIVATION)
    return call.run(owed._replace(assumed=kind.assumed), whole_memory=True)


def _owed_after(call: Call) -> Mark | None:
    """Return the mark of a memory after a write, if all that can get a reward in it owes the same.

    A buffer that is filled step by step then owes what a concatenation of the steps does. None if
    nothing is owed, or not the same.
    """
    owing = [mark for operand, mark in call.active if operand.requires_grad]
    whole = call.memory_mark()
    if whole is not None:
        owing.append(whole)
    if any(mark is not None and mark.kind == "weight" for mark in call.marks) or not owing:
        return None
    first = owing[0]
    same = all(mark.debts == first.debts and mark.kind == "activation" for mark in owing)
    plain = first.degree == 1.0 and not any(mark.role or mark.hidden for mark in owing)
    return first if same and plain and first.epsilon else None


def pool(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Route through max-pooling of images, which need not keep its input for that."""
    if _torch.is_compiling():  # which decides by itself what to keep
        return route(context, operation, args, kwargs)
    window = {name: value for name, value in kwargs.items() if name != "return_indices"}
    return route(context, max_pool2d, args, window)


def constant(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Cut a tensor off: no reward passes, but what depended on the model's input still does."""
    output = operation(*args, **kwargs)
    mark = mark_of(args[0])
    return marked(output, DATA) if mark is not None and mark.kind != "weight" else output


def expansion(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Hand the reward on by the chain rule: ``G`` is multiplied by the derivative at x.

    This is a Taylor expansion at x, whose constant term takes the rest of the reward: for the
    softmax, the Deep Taylor decomposition of AttnLRP (Proposition 3.1), which does not conserve
    reward. With attention="constant" the softmax is a constant.

    Returns:
        The output of the operation.
    """
    call = Call(context, operation, args, kwargs)
    if context.attention == "constant" and operation in SOFTMAX:
        weights = operation(*args, **kwargs).detach()
        return weights if call.kind().kind == "weight" else marked(weights, DATA)
    return call.run(call.kind()._replace(role=EXPANDED.get(operation, "")))


def normalisation(composed: Operation) -> Rule:
    """Return the rule of a fused normalisation, given what it consists of.

    With normalisation="gradient" it is a layer, whose backward pass torch has. With "identity" the
    operations run one by one, as their statistics are to be constants. A flag for cuDNN, which some
    have as their last argument, decides nothing then.
    """
    count = len(signature(composed).parameters)

    def rule(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
        if context.normalisation == "gradient":
            return linear(context, operation, args, kwargs)
        names = ("cudnn_enabled", "cudnn_enable")
        with context:
            return composed(*args[:count], **{k: v for k, v in kwargs.items() if k not in names})

    return rule
