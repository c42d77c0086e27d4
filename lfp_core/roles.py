"""What values are on their way to becoming, which decides how a reward is shared among them.

What a sigmoid makes is a gate, the sum of squares is the statistic of a normalisation, and
``exp(x - x.max())`` is a part of a softmax, however a model spells them. The mark of a tensor has
its role (:class:`lfp_core.marks.Mark`). Here stands which role the result of an operation has,
given those of its operands.
"""

from typing import Any

from torch import Tensor

from lfp_core import functions
from lfp_core.calls import (
    Args,
    Call,
    Kwargs,
    Operation,
)
from lfp_core.marks import (
    CENTRED,
    DIVISORS,
    EXPONENTIALS,
    EXTREME,
    GATES,
    MIXABLE,
    MIXED,
    POWERS,
    SUMS,
    WEIGHED,
    Mark,
    Role,
    joined,
)

#: The larger or the smaller of two tensors.
LARGER = functions.named("maximum", "minimum", "fmax", "fmin")
EXTREMES = LARGER | functions.named("clamp", "clip", "clamp_min", "clamp_max")
#: What changes no number.
CLEANING = functions.named("nan_to_num", "positive")
#: What bounds a statistic before something is divided by it.
BOUNDS = EXTREMES | CLEANING | functions.named("relu", "threshold", "hardtanh")
QUOTIENTS = functions.named("div", "divide", "true_divide") | {Tensor.__rdiv__}
RECIPROCALS = QUOTIENTS | functions.named("reciprocal", "pow") | {Tensor.__pow__}
ROOTS = functions.named("sqrt", "rsqrt")
#: Values that stand for many.
SELECTIONS = EXTREMES | functions.named(
    *("amax", "amin", "aminmax", "max", "min", "median", "nanmedian", "kthvalue", "topk"),
    *("cummax", "cummin", "quantile", "nanquantile", "sort", "msort"),
    *(f"{kind}max_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)),
    *(f"{kind}max_pool{d}d_with_indices" for kind in ("", "adaptive_") for d in (1, 2, 3)),
)
#: What leaves a role as it is.
KEEPING: dict[Role, set[Operation]] = {
    **dict.fromkeys((*EXTREME, *CENTRED, *SUMS), BOUNDS),
    **dict.fromkeys(("inverse", *MIXED), EXTREMES),
}
#: What is odd in z, and its largest value, which makes a gate of it when that is added.
ODD: dict[Role, float] = {"odd": 1.0, "half odd": 0.5}
DIFFERENCES = functions.named("sub", "subtract")
FROM_NUMBER = functions.named("rsub") | {Tensor.__rsub__}


def of_function(operation: Operation, role: Role, options: Args, kwargs: Kwargs) -> Role:
    """Return the role of f(z), given that of z: whether this is a gate, or on the way to one."""
    if role in (*ODD, "shifted", "floored", "capped") and operation in functions.CLIPS:
        return _of_clipped(role, *functions.bounds(operation, *options, **kwargs))
    if operation in CLEANING or operation in KEEPING.get(role, ()):
        return role
    if role in MIXED and operation in QUOTIENTS:
        return "inverse"
    if role in GATES and operation in BOUNDS | RECIPROCALS | ROOTS:
        return "gate"
    if role == "logistic" and operation in RECIPROCALS:
        return "gate"  # 1 / (1 + exp(-z)) is a sigmoid
    return "bounded" if operation in LARGER else functions.ROLES.get(operation, "")


def _of_clipped(role: Role, low: Any, high: Any) -> Role:
    """Return the role of z + 3 once it was clipped: ``relu6(z + 3) / 6`` is a hard sigmoid.

    And that of a tanh, which is odd as long as it is clipped on both sides alike.
    """
    if role in ODD:
        return role if None not in (low, high) and low == -high else ""
    floored = low == 0 or (low is None and role == "floored")
    capped = high is not None or role == "capped"
    if floored:
        return "gate" if capped else "floored"
    return "capped" if capped and low is None else ""


def of_power(operation: Operation, role: Role, exponent: float) -> Role:
    """Return the role of a root or a reciprocal of z, given that of z."""
    if role in (*MIXED, "inverse"):
        return "mixed" if (role == "inverse") == (exponent < 0) else "inverse"
    return of_function(operation, role, (), {})


def of_layer(role: Role, elementwise: bool, constant: bool) -> Role:
    """Return the role of the output of a layer, or of its terms, given that of its input.

    Args:
        role: of the input.
        elementwise: whether nothing is summed.
        constant: whether no weight is learned: then it is a mean, such as a blur.
    """
    if role == "gate" and constant:
        return role
    if role in MIXABLE:
        return "powers" if elementwise else "mixed"
    if role == "inverse":
        return role
    if elementwise and role in CENTRED:
        return "scores"  # of which the weight is a temperature
    return "contribution" if elementwise else ""


def of_total(*marks: Mark | None) -> Role:
    """Return the role of a sum of powers, or of exponentials, given the marks of the terms."""
    roles = {SUMS.get(mark.role, mark.role) for mark in marks if mark is not None}
    return roles.pop() if len(roles) == 1 else "statistic"


def of_sum(operation: Operation, role: Role, number: float) -> Role:
    """Return the role of an activation and a number, given that of the activation."""
    if role in ODD:
        return "gate" if abs(number) == ODD[role] else ""  # 1 + tanh(z), with or without a half
    if operation in DIFFERENCES:
        number = -number
    if role == "exp":
        return "logistic" if number == 1 and operation not in FROM_NUMBER else ""
    if number >= 0.5:  # and not what keeps a number from being 0
        return "shifted"
    return role if role in EXTREME else ""


def of_multiple(role: Role, factor: float | None) -> Role:
    """Return the role of an activation times a constant, given that of the activation.

    Args:
        role: of the activation.
        factor: the constant; None if it is not one number.
    """
    if role in ODD:
        size = ODD[role] * abs(factor or 0.0)
        return next((name for name, each in ODD.items() if each == size), "")
    if role in EXTREME and factor is not None and factor < 0:
        return "centred"  # 0 less the largest, as of a negation
    return role


def of_moved(operation: Operation, roles: set[Role]) -> Role:
    """Return the role of values that were moved or selected, given those of the operands."""
    if "magnitude" in roles and roles <= {"magnitude", "statistic"}:
        return "statistic" if operation in SELECTIONS else "magnitude"
    if len(roles) > 1 and roles.intersection((*MIXABLE, *MIXED)):
        return "mixed"
    role = next(iter(roles)) if len(roles) == 1 else ""
    if operation in SELECTIONS and role not in (*GATES, *POWERS, *CENTRED):
        return "extreme"
    return role


def statistics(call: Call) -> list[tuple[Tensor, Mark]]:
    """Return the operands that a normalisation divides by, or their reciprocals."""
    return [(operand, mark) for operand, mark in call.active if mark.role in DIVISORS]


def are_powers(call: Call) -> bool:
    """Return whether a power, or a sum of them, meets constants and data alone."""
    active = call.active
    return len(active) == 1 and active[0][1].role in POWERS and call.alone(active[0][0])


def are_gates(call: Call) -> bool:
    """Return whether all activations are gates: so are then their sums and products."""
    pending = {mark.pending is None for _, mark in call.active}
    return len(pending) == 1 and all(role in GATES for role in call.roles)


def are_centred(call: Call) -> bool:
    """Return whether an activation has no part of the largest value of a softmax any more."""
    return not set(CENTRED).isdisjoint(call.roles)


def of_product(call: Call, summed: bool) -> Role:
    """Return the role of a product of two activations, or of a sum of such products."""
    if call.roles.count("exponential") == 1:
        return "attended" if summed else "weighed"
    return "pairs" if summed else "pair"


def are_weighed(call: Call) -> bool:
    """Return whether all activations are parts of a softmax, or values that such have weighed."""
    roles = set(call.roles)
    return bool(roles) and roles <= {*EXPONENTIALS, *WEIGHED}


def are_mixed(call: Call) -> bool:
    """Return whether an activation is a power, or all of them are mixed with powers."""
    roles = set(call.roles)
    return not roles.isdisjoint(POWERS) or (bool(roles) and roles <= set(MIXED))


def of_factors(call: Call) -> Role:
    """Return the role of a product or quotient: a gate, if all activations are gates alone."""
    return "gate" if are_gates(call) and joined(call.marks) is None else ""
