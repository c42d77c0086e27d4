"""Rules of sums, whose terms get the reward by contribution, as the epsilon rule says.

Here are also the operations that are a sum or a route, depending on their options.
"""

from typing import Any

from torch import Tensor

from lfp_core import _torch, functions, roles
from lfp_core.calls import (
    Args,
    Call,
    Context,
    Kwargs,
    Operation,
    Rule,
)
from lfp_core.marks import (
    ACTIVATION,
    DIVISORS,
    EXTREME,
    GATES,
    LARGEST,
    MIXED,
    PAIRS,
    POWERS,
    WEIGHED,
    Mark,
    is_active,
    joined,
    mark_of,
    marked,
    tensors,
)
from lfp_core.routes import route, write
from lfp_core.slopes import UNDIVIDED

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
#: What a bias may be added by, element by element.
ADDITIONS = functions.named("add") | {Tensor.__radd__} | roles.DIFFERENCES | roles.FROM_NUMBER


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
        return call.keep(role=roles.of_total(mark) if operation in REDUCTIONS else mark.role)
    if operation in ADDITIONS and mark.role in (*DIVISORS, *GATES) and not call.alone(term):
        call.replace(term, mark._replace(epsilon=0.0))  # as what `_with_bias` adds
        return call.defer()
    if operation in ADDITIONS:
        return _with_bias(call, becomes)
    weighted = mark.role in ("contribution", "powers", "scores") or (
        mark.role in GATES and mark.pending is not None
    )
    if operation in REDUCTIONS and weighted:
        call.replace(term, mark._replace(epsilon=0.0))  # (x * w).sum() is x @ w
    elif operation in REDUCTIONS and mark.role in GATES and call.alone(term):
        becomes = becomes._replace(role="gate")
    if operation in REDUCTIONS and mark.role in MIXED:
        becomes = becomes._replace(role="mixed")
    if operation in REDUCTIONS and mark.role in ("pair", "weighed", "gates"):
        becomes = becomes._replace(epsilon=context.stabiliser() / 2)  # (a * b).sum() is a @ b
    if operation in REDUCTIONS and mark.role in PAIRS and call.alone(term):
        becomes = becomes._replace(role="attended" if mark.role in WEIGHED else "pairs")
    return call.run(becomes)


def _sum_of_terms(call: Call, becomes: Mark) -> Any:
    """Add several activations."""
    marks = [mark for _, mark in call.active]
    powers = all(mark.role in POWERS and mark.degree == marks[0].degree for mark in marks)
    if powers and marks:  # x ** 2 + y ** 2, or the mean of squares less the square of the mean
        for operand, _ in call.active:
            call.replace(operand, ACTIVATION)
        role, pending = roles.of_total(*marks), joined(marks)
        return call.run(ACTIVATION._replace(degree=marks[0].degree, role=role, pending=pending))
    less = marks[0 if call.operation in roles.FROM_NUMBER else -1].role if marks else ""
    less_largest = less in LARGEST and (_subtracts(call) or call.operation in roles.FROM_NUMBER)
    if call.operation in ADDITIONS and (less_largest or roles.are_centred(call)):
        normalised = less_largest and less == "logsumexp"
        becomes = becomes._replace(role="log softmax" if normalised else "centred")
    elif call.operation in ADDITIONS and set(call.roles) == set(EXTREME):
        becomes = becomes._replace(role="logsumexp")  # the largest, and the rest of it
    if roles.are_gates(call):
        becomes = becomes._replace(role="gate", pending=joined(marks))
    if roles.are_weighed(call):
        becomes = becomes._replace(role="attended")
    elif roles.are_mixed(call):
        becomes = becomes._replace(role="mixed")
    # A bias belongs to its layer, and a term does not, which differ if epsilon is not 0.
    guess = any(mark.kind == "undetermined" and not mark.leaf for mark in marks)
    if guess and becomes.kind == "activation" and becomes.epsilon > 0:
        return call.refuse_to_guess()
    return call.run(becomes)


def _with_bias(call: Call, becomes: Mark) -> Any:
    """Add weights or constants to an activation."""
    ((term, mark),) = call.active
    number = call.number() if call.kwargs.get("alpha", 1) == 1 else None
    if number == 0 and not _is_subtracted(call, term):
        return call.keep()  # nothing is added
    if mark.role in GATES and call.alone(term):  # 1 - sigmoid(z), or g + (g.round() - g).detach()
        becomes = becomes._replace(role="gate", pending=mark.pending)
    elif roles.are_centred(call):
        becomes = becomes._replace(role="centred")
    elif mark.role in WEIGHED and call.alone(term):
        becomes = becomes._replace(role=mark.role)
    elif _is_subtracted(call, term) and mark.role in LARGEST:
        return call.run(becomes._replace(role="centred"))  # a weight or a number, less the largest
    elif "detached" in [mark.role for mark in call.marks if mark is not None]:
        becomes = becomes._replace(role="centred")  # less the largest, which was detached
    elif mark.role in MIXED:
        becomes = becomes._replace(role="mixed")
    elif number is not None:
        becomes = becomes._replace(role=roles.of_sum(call.operation, mark.role, number))
    biased = all(
        other is term or (other.dim() == 0 if m is None else m.kind == "weight")
        for other, m in zip(call.operands, call.marks, strict=True)
    )
    if not (biased and 0 < mark.epsilon < UNDIVIDED):
        return call.run(becomes)
    call.replace(term, mark._replace(epsilon=0.0))
    return call.run(becomes._replace(epsilon=mark.epsilon), whole_memory=True)


def _is_subtracted(call: Call, term: Tensor) -> bool:
    """Return whether a term is what the other is reduced by."""
    first = call.args[0] is term
    return call.operation in roles.FROM_NUMBER if first else _subtracts(call)


def _subtracts(call: Call) -> bool:
    """Return whether a sum has its second term with the opposite sign."""
    alpha = call.kwargs.get("alpha", 1)
    negative = isinstance(alpha, (int, float)) and alpha < 0
    return (call.operation in roles.DIFFERENCES) != negative


def linear_in(first: int, otherwise: Operation | None = None) -> Rule:
    """Return the rule of a sum that is linear in its first arguments alone, such as ``lerp``.

    Args:
        first: how many arguments that are.
        otherwise: the same as other operations, for other arguments that are activations.
    """

    def rule(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
        call = Call(context, operation, args, kwargs)
        # By their names, the other end of `lerp` and what `trapezoid` sums.
        others = [value for name, value in kwargs.items() if name not in ("end", "y")]
        if not any(is_active(call.mark(t)) for t in tensors((*args[first:], *others))):
            return total(context, operation, args, kwargs)
        if otherwise is None or call.target is not None:
            return context.without_rule(call, " with weights that are activations")
        with context:
            return otherwise(*args, **kwargs)

    return rule


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


def reduced_into(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run ``scatter_reduce`` and the like: a sum, or the route of an extreme value."""
    words = [argument for argument in (*args, *kwargs.values()) if isinstance(argument, str)]
    reduction = words[0] if words else None
    if reduction in ("sum", "mean"):
        return total(context, operation, args, kwargs)
    if reduction in ("amax", "amin", "max", "min"):
        output = write(context, operation, args, kwargs)
        mark = mark_of(output)
        if mark is None or mark.kind != "activation":
            return output
        return marked(output, mark._replace(role="extreme"), True)
    return context.without_rule(Call(context, operation, args, kwargs))


def write_at(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Write values to indices of a tensor, or add them to those that are there."""
    accumulates = kwargs.get("accumulate", args[3] if len(args) > 3 else False)
    return (total if accumulates else write)(context, operation, args, kwargs)
