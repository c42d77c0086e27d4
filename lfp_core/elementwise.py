"""Rules of functions of one activation, through which a reward passes unchanged.

An activation function multiplies ``G`` by its secant slope. A power of degree n follows the chain
rule and leaves the division by n to its consumer. Functions that are homogeneous of degree 1, and
those that are linearised, follow the chain rule.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lfp_core import _torch, functions, roles
from lfp_core.calls import (
    Args,
    Call,
    Context,
    Kwargs,
    Operation,
    key,
    known,
    name_of,
    overwrites,
)
from lfp_core.marks import (
    ACTIVATION,
    CENTRED,
    DATA,
    DIVISORS,
    EXTREME,
    GATES,
    MIXED,
    POWERS,
    SUMS,
    Kind,
    Mark,
    Role,
    as_weight,
    check_dense,
    is_active,
    mark_of,
    marked,
    substitute,
    tensors,
    used,
)
from lfp_core.routes import route
from lfp_core.slopes import SecantSlope, Share, relu

ABSOLUTE = functions.named("abs", "absolute") | {Tensor.__abs__}
FIXED_POWERS: dict[Operation, float] = {
    **dict.fromkeys(functions.named("square"), 2.0),
    **dict.fromkeys(functions.named("sqrt"), 0.5),
    **dict.fromkeys(functions.named("rsqrt"), -0.5),
    **dict.fromkeys(functions.named("reciprocal"), -1.0),
}
MIXED_ROOT = (
    " of what has powers by several weights in it, or by one that torch.compile hides, of which it "
    "is not known what it is a root of: let the exponent be one number, outside of the compiler, "
    "or use the chain rule with feedback(strict=False)"
)
VARIANCES = functions.named("var", "var_mean")
NEGATIONS = functions.named("neg", "negative")
#: The logarithm of a softmax, and that of the sum in it, which are parts of one as well.
LOGARITHMS: dict[Operation, Role] = {
    **dict.fromkeys(functions.named("log_softmax"), "log softmax"),
    **dict.fromkeys(functions.named("logsumexp"), "logsumexp"),
}
SOFTMAX = functions.named("softmax", "softmin") | {torch.special.softmax, _torch.safe_softmax}
#: And of a softmax, the parts of which may be divided by their sum again.
EXPANDED: dict[Operation, Role] = LOGARITHMS | dict.fromkeys(SOFTMAX, "exponential")


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
    if mark is not None and mark.role in DIVISORS and operation in roles.BOUNDS:
        return Call(context, operation, args, kwargs).keep()
    if is_active(mark) and mark.role in CENTRED and operation in functions.EXPONENTIALS:
        return _part_of_softmax(Call(context, operation, args, kwargs), "exponential")
    if is_active(mark) and mark.role == "partition" and operation in functions.LOG:
        return _part_of_softmax(Call(context, operation, args, kwargs), "logsumexp")
    if mark is None or mark.kind == "weight" or mark.hidden or mark.leaf or not z.requires_grad:
        call = Call(context, operation, args, kwargs)
        kind = call.kind()
        if is_active(mark):
            role = roles.of_function(operation, mark.role, args[1:], kwargs)
            kind = kind._replace(role=role, degree=mark.degree if role in SUMS else 1.0)
        return call.run(kind)  # an ordinary function

    def function(z: Tensor) -> Tensor:
        return operation(z, *options, **kwargs)

    unit = functions.UNITS[operation]
    if mark.role:
        unit = unit.with_role(roles.of_function(operation, mark.role, args[1:], kwargs))
    slope = 0.0 if unit.relu else unit.slope_at_zero(*options, **kwargs)
    in_place = overwrites(operation, args, kwargs)
    return _secant(context, operation, z, mark, function, unit, slope, in_place)


def _part_of_softmax(call: Call, role: Role) -> Any:
    """Run exp of values less their largest, or log of its sum, by the chain rule."""
    # Of a log_softmax, exp is a softmax.
    if call.context.attention == "constant" and call.roles == ["log softmax"]:
        return _constant_softmax(call)
    # As an activation exp would have a slope of 1 / epsilon at the largest, which is 0 itself.
    call.replace(call.active[0][0], ACTIVATION)
    return call.run(call.kind()._replace(role=role))


def of_several(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run a function of one activation and constants, in any order, as :func:`activation` does.

    With a weight, or with two activations, it has no rule.

    Returns:
        The output of the operation.
    """
    call = Call(context, operation, args, kwargs)
    kind = call.kind()
    if not call.active or any(mark.leaf for _, mark in call.active):
        return call.run(kind)
    others = {mark.kind for mark in call.marks if mark} - {"activation", "undetermined"}
    if operation in roles.EXTREMES and (len(call.active) > 1 or others):
        return route(context, operation, args, kwargs)
    if len(call.active) > 1 or "weight" in others:
        return _of_activations(call, kind)
    ((z, mark),) = call.active
    if mark.role in DIVISORS and operation in roles.BOUNDS:
        return call.keep()
    role = roles.of_function(operation, mark.role, (), {})
    if not z.requires_grad:
        return call.run(kind._replace(role=role))
    shape = torch.broadcast_shapes(*(operand.shape for operand in call.operands))
    whole = z if shape == z.shape else route(context, Tensor.expand, (z, shape), {})

    def function(value: Tensor, target: Tensor | None = call.target) -> Tensor:
        def replaced(t: Tensor) -> Tensor:
            return value if t is z else target if t is call.target and target is not None else t

        options = {name: substitute(replaced, option) for name, option in kwargs.items()}
        return operation(*(substitute(replaced, a) for a in args), **options)

    slope: float | Tensor = float(operation in functions.QUANTISATION)
    if mark.epsilon == 0 and not (_torch.is_compiling() or operation in functions.KNOWN_AT_ZERO):
        # What is overwritten stays as it is until the function runs.
        copied = None if call.target is None else call.target.clone()
        slope = _derivative_at_zero(lambda value: function(value, copied), whole)
    in_place = call.target is z
    unit = functions.UNKNOWN.with_role(role)
    return _secant(context, operation, whole, mark, function, unit, slope, in_place)


def _of_activations(call: Call, kind: Mark) -> Any:
    """Run a function of an activation and another, or a weight."""
    if call.operation in functions.LOGARITHMS_OF_SUMS:  # as the logsumexp of both
        return call.run(kind._replace(role="extreme"))
    return call.context.without_rule(call, " of an activation and another, or a weight")


def _derivative_at_zero(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Return f'(0) where f(0) = 0 and that is finite, else 0, in the shape of z."""
    with torch.enable_grad():
        zeros = torch.zeros_like(z, requires_grad=True)
        values = function(zeros.clone())  # which it may overwrite
        if not values.requires_grad:
            return torch.zeros_like(z)
        (slopes,) = torch.autograd.grad(values.sum(), zeros)
    return torch.where((values == 0) & slopes.isfinite(), slopes, 0.0)


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
    check_dense(z)
    owed = mark.epsilon
    if z.dtype == torch.float16 and not unit.bounded:
        _check_range(operation, owed)
    becomes = unit.mark
    if becomes.role in SUMS:  # what is bounded goes on owing a division, if it owes one
        becomes = becomes._replace(degree=mark.degree, role=mark.role)
    elif mark.degree != 1.0:
        z = used(z, mark._replace(epsilon=0.0), in_place=in_place)
    if operation in functions.PARTIAL and not in_place:
        z = torch.where(function(z.detach()).isnan(), z.detach(), z)
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
    if not is_active(mark) or mark.leaf or mark.hidden:
        return of_several(context, operation, args, kwargs)
    if exponent is None:
        return _power_of_tensor(call)
    degree = mark.degree * exponent
    if 0 < exponent < 1 and mark.role in (*DIVISORS, "magnitude") and call.target is None:
        call.operation = _with_slope_0_at_0(operation, exponent)
        return call.keep(degree)
    if mark.role in DIVISORS or (mark.role in GATES and mark.pending is not None):
        return call.keep(degree)
    if exponent < 1:  # whose slope is infinite at 0
        return _secant_of_power(call, exponent)
    absolute = operation in ABSOLUTE
    role: Role = "magnitude" if absolute or exponent % 2 == 0 or mark.role == "magnitude" else ""
    if mark.role in GATES:
        role = "gate"
    elif absolute and call.operands[0].is_complex():
        role = "statistic"  # the norm of two numbers
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
    if isinstance(exponent, Tensor) and exponent.numel() == 1 and not exponent.requires_grad:
        exponent = None if _torch.is_compiling() else exponent.item()
    return float(exponent) if isinstance(exponent, (int, float)) else None


def _with_slope_0_at_0(root: Operation, exponent: float) -> Operation:
    """Return a root whose derivative at 0 is 0, as that of ``norm`` is, and not infinite."""

    def function(z: Tensor, *options: Any, **kwargs: Any) -> Tensor:
        def of(z: Tensor) -> Tensor:
            return root(z, *options, **kwargs)

        # The chain rule is the secant slope times the exponent.
        return SecantSlope.apply(Share.apply(z, exponent, False), of, 0.0, 0.0, False)

    function.__name__ = name_of(root)
    return function


def _secant_of_power(call: Call, exponent: float) -> Any:
    """Run a root or a reciprocal as an activation."""
    z, *options = call.args
    mark, unit = call.marks[0], functions.UNITS.get(call.operation, functions.UNKNOWN)
    assert mark is not None
    unit = unit.with_role(roles.of_power(call.operation, mark.role, exponent))
    if exponent == 0 or not z.requires_grad:
        return call.run(call.kind()._replace(role=unit.mark.role))

    def function(z: Tensor) -> Tensor:
        return call.operation(z, *options, **call.kwargs)

    in_place = call.target is not None
    return _secant(call.context, call.operation, z, mark, function, unit, 0.0, in_place)


def _power_of_tensor(call: Call) -> Any:
    """Raise an activation to the power of a tensor: of a weight, as generalised means have it.

    The reward passes on to the activation, and the weight follows the chain rule. If the weight is
    one number, the power is as homogeneous as one of a number, and the consumer divides both by it
    in the same way. Of several, nothing says by what a root would have to multiply.

    Returns:
        The output of the operation.
    """
    base, *exponents = call.operands
    kinds = [mark and mark.kind for mark in call.marks[1:]]
    if kinds != ["weight"] or call.target is not None:  # or a number of another library
        return of_several(call.context, call.operation, call.args, call.kwargs)
    if call.roles[0] in MIXED:
        return call.context.without_rule(call, MIXED_ROOT)
    (exponent,) = exponents
    fixed = exponent.detach()
    homogeneous = fixed.numel() == 1 and not _torch.is_compiling()
    rule = power if homogeneous else of_several
    passed = rule(call.context, torch.pow, (base, fixed), {})
    by_weight = torch.pow(base.detach(), as_weight(exponent, call.marks[1]))
    becomes = mark_of(passed) or ACTIVATION
    if not homogeneous:
        becomes = becomes._replace(role="mixed")
    return marked(passed + (by_weight - by_weight.detach()), becomes)


def moment(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Sum powers up: a variance is homogeneous of degree 2, a norm or a deviation of degree 1."""
    call = Call(context, operation, args, kwargs)
    if not is_active(call.marks[0]):
        return call.run(call.kind())
    mark = call.active[0][1]  # whose degree is kept, not applied
    degree = mark.degree * (2.0 if operation in VARIANCES else 1.0)
    becomes = call.kind()._replace(degree=degree, role="statistic")
    output = call.run(becomes, {key(args[0]): mark.degree})
    if isinstance(output, tuple):  # var_mean, std_mean
        role = roles.of_total(mark) if mark.role in POWERS else ""
        of_mean = call.kind()._replace(degree=mark.degree, role=role)
        marked(output[1], of_mean._replace(epsilon=context.stabiliser()))
    return output


def distance(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run the norm of several values, of which each may be an activation or a weight."""
    call = Call(context, operation, args, kwargs)
    kind = call.kind()
    return call.run(kind._replace(role="statistic") if kind.kind == "activation" else kind)


def rescale(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Multiply an activation by constants, or run a function that is homogeneous of degree 1.

    The reward passes on unchanged.

    Returns:
        The output of the operation.
    """
    call = Call(context, operation, args, kwargs)
    if operation in roles.SELECTIONS and roles.are_powers(call):  # a quantile
        return call.keep(role=roles.of_moved(operation, set(call.roles)))
    if operation in NEGATIONS and not set(EXTREME).isdisjoint(call.roles):
        return call.run(call.kind()._replace(role="centred"))  # 0 less the largest
    return call.scale(call.kind())


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
        return _constant_softmax(call)
    return call.run(call.kind()._replace(role=EXPANDED.get(operation, "")))


def _constant_softmax(call: Call) -> Any:
    """Run what makes a softmax, through which attention="constant" lets no reward pass."""
    weights = call.operation(*call.args, **call.kwargs).detach()
    return weights if call.kind().kind == "weight" else marked(weights, DATA)
