"""Rules of operations that move or select values: each reward goes back to where its value was.

Such are reshaping, indexing, concatenation, max-pooling, and assignments to parts of a tensor.
"""

from typing import Any

import torch
from torch import Tensor

from lfp_core import _torch, roles
from lfp_core.calls import (
    IN_PLACE,
    Args,
    Call,
    Context,
    Kwargs,
    Operation,
    has_marks,
    known,
)
from lfp_core.marks import (
    ACTIVATION,
    EXTREME,
    PARAMETER,
    Mark,
    cut_off,
    is_active,
    is_continuous,
    is_parameter,
    joined,
    mark_of_detached,
    marked,
    put,
    tensors,
)
from lfp_core.pooling import max_pool2d

#: What takes a shape in the place of a tensor.
SHAPED_LIKE: dict[Operation, Operation] = {
    Tensor.view_as: Tensor.view,
    Tensor.reshape_as: Tensor.reshape,
    Tensor.expand_as: Tensor.expand,
}


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
            if operation in roles.SELECTIONS and mark.kind != "data":
                mark = mark._replace(role=roles.of_moved(operation, {mark.role}))
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
        role = roles.of_moved(operation, {mark.role for mark in marks})
        if len({mark.pending is None for mark in marks}) > 1:
            role = ""  # of which some parts have met weights
        passed = marks[0]._replace(assumed=kind.assumed, role=role, pending=joined(marks))
        return _passed_on(call, passed)
    if kind.kind == "activation" and kinds == {"weight", "data"} and _is_lookup(call):
        kind = kind._replace(epsilon=context.stabiliser())  # weight[tokens] is an embedding
    role = roles.of_moved(operation, {mark.role for mark in marks})
    if marks and role in ("mixed", *EXTREME):
        kind = kind._replace(role=role)
    return call.run(kind)


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
    options = dict(kwargs)
    x, other, *rest = args if len(args) > 1 else (*args, options.pop("other"))
    if x is other and is_parameter(x) and not _torch.is_compiling():
        # So FSDP finds the node that accumulates a gradient, which has to be the next one.
        output = operation(*args, **kwargs)
        put(output, PARAMETER)
        return output
    if operation in SHAPED_LIKE:
        return route(context, SHAPED_LIKE[operation], (x, other.shape), options)
    return route(context, Tensor.to, (x, other.device, other.dtype, *rest), options)


def convert(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Move values to another type or device, or to those of another tensor."""
    like_another = len(tensors((*args, *kwargs.values()))) > 1
    return (route_like if like_another else route)(context, operation, args, kwargs)


def _is_lookup(call: Call) -> bool:
    """Return whether weights alone are selected, by what depends on the model's input."""
    return not any(
        mark is not None and mark.kind == "data" and is_continuous(operand)
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


def _written(call: Call) -> Any:
    """Run an operation that writes values into a memory, which then owes what they did."""
    kind, written = call.kind(), _written_marks(call)
    owed = _owed_by(written)
    if kind.kind != "activation" or not written:
        return call.run(kind)
    role = roles.of_moved(call.operation, {mark.role for mark in written})
    if owed is None:
        return call.run(kind._replace(role=role if role == "mixed" else ""))
    for operand, _ in call.active:
        call.replace(operand, ACTIVATION)
    return call.run(owed._replace(assumed=kind.assumed, role=role), whole_memory=True)


def _written_marks(call: Call) -> list[Mark]:
    """Return the marks of the activations in a memory after a write; none if weights are in it.

    What is frozen gets no reward, so that it may owe what the others do.
    """
    if any(mark is not None and mark.kind == "weight" for mark in call.marks):
        return []
    parts = [(mark, operand.requires_grad) for operand, mark in call.active]
    base, whole = call.memory()
    if base is not None and is_active(whole):
        parts.append((whole, base.requires_grad))
    owing = next((mark for mark, learns in parts if learns), None)
    return [
        mark if learns or owing is None else owing._replace(role=mark.role, pending=mark.pending)
        for mark, learns in parts
    ]


def _owed_by(written: list[Mark]) -> Mark | None:
    """Return what a memory owes, if all activations in it owe the same; None if they do not.

    A buffer that is filled step by step then owes what a concatenation of the steps does.
    """
    if any(mark.kind != "activation" or mark.hidden for mark in written):
        return None
    owing = {(mark.debts, mark.pending is None) for mark in written}
    return written[0]._replace(pending=joined(written)) if len(owing) == 1 else None


def pool(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Route through max-pooling of images, which need not keep its input for that."""
    if _torch.is_compiling():  # which decides by itself what to keep
        return route(context, operation, args, kwargs)
    window = {name: value for name, value in kwargs.items() if name != "return_indices"}
    return route(context, max_pool2d, args, window)


def constant(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Cut a tensor off: no reward passes, but what depended on the model's input still does."""
    output = operation(*args, **kwargs)
    if not has_marks(args):
        context.find_data()
    mark = cut_off(mark_of_detached(args[0]))
    return output if mark is None else marked(output, mark, frozen=True)


def complex_parts(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Make complex values of real ones, or the reverse, after applying what each of them owes.

    A complex z owes ``|z| / (|z| + eps)``, which is not the product of what its parts would owe.

    Returns:
        The output of the operation.
    """
    call = Call(context, operation, args, kwargs)
    return call.run(call.kind())
