"""One call of a torch operation under a rule: its operands, what they are, and how it is run."""

import operator
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from inspect import signature
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from lfp_core import _torch
from lfp_core.marks import (
    ACTIVATION,
    ATTRIBUTE,
    COMPILED,
    DATA,
    DETACHED,
    POWERS,
    UNSETTLED,
    WEIGHT,
    Mark,
    Pending,
    Role,
    UnsupportedOperation,
    is_active,
    mark_of,
    marked,
    put,
    substitute,
    tensors,
    used,
)
from lfp_core.slopes import before_overwriting

Operation = Callable[..., Any]
Args = tuple[Any, ...]
Kwargs = dict[str, Any]
#: By :func:`key` of an operand, what it gets of a reward.
Shares = Mapping[Any, float | Pending]


class Context(AbstractContextManager["Context"], Protocol):
    """What a rule knows of the context that it runs in, which is a :class:`lfp_core.feedback`.

    Attributes:
        epsilon: stabiliser >= 0 of the epsilon rule.
        strict: whether a reward is refused that arrives at an operation without a rule.
        attention: "uniform" or "constant".
        gates: "signal" or "uniform".
        units: "identity", "reverse" or "shifted".
        normalisation: "gradient" or "identity".
    """

    epsilon: float
    strict: bool
    attention: str
    gates: str
    units: str
    normalisation: str

    def stabiliser(self) -> float:
        """Return epsilon, which `torch.compile` takes for a constant."""

    def owing(self) -> Mark:
        """Return the mark of a layer's output, which owes epsilon."""

    def find_data(self) -> None:
        """Mark the tensors that the outermost module was called with as data, once it is known."""

    def knows_data(self) -> bool:
        """Return whether the model's input is known, so that other plain tensors are constants."""

    def refuse(self, operation: Operation, reason: str, output: Any) -> Any:
        """Let `UnsupportedOperation` be raised if a reward arrives at an output.

        Args:
            operation: that made the output.
            reason: what follows the operation's name in the message.
            output: a tensor, or a structure of tensors.

        Returns:
            The output.
        """

    def meet(self, tensor: Tensor, mark: Mark) -> Mark:
        """Refuse a reward that arrives at a tensor which a function made that cannot be seen into.

        Args:
            tensor: of any shape.
            mark: its mark, which says so.

        Returns:
            The mark by which the tensor is to be treated.
        """

    def without_rule(self, call: "Call", reason: str = "") -> Any:
        """Run a call by the chain rule; if strict, refuse a reward that arrives at its output.

        Args:
            call: the call.
            reason: what follows the operation's name in the message.

        Returns:
            The output of the operation.
        """


Rule = Callable[[Context, Operation, Args, Kwargs], Any]


def name_of(operation: Operation) -> str:
    """Return the operation's name as its user knows it."""
    name = getattr(operation, "__name__", str(operation))
    if name == "__get__":  # a property, such as x.real
        return str(operation.__self__.__name__)  # type: ignore[attr-defined]
    return name


ASSIGNMENTS: set[Operation] = {
    Tensor.__setitem__,
    _torch.TENSOR_BASE.__setitem__,
    operator.setitem,
}
#: Operations that overwrite their first argument.
IN_PLACE: set[Operation] = ASSIGNMENTS | {
    getattr(home, name)
    for home in (torch, Tensor, _torch.TENSOR_BASE, _torch.NN, torch.nn.functional, torch.nn.init)
    for name in dir(home)
    if name.endswith("_") and not name.startswith(("_", "resize_as_"))
}
#: Whether they do, of all operations that have a rule. What torch.compile has traced asks at each
#: call whether it still finds this one; and of a set, whether all members are still there.
OVERWRITES: dict[Operation, bool] = {}

#: Where `inplace` stands among the arguments of F's functions, which torch writes in Python.
INPLACE_AT: dict[Operation, int] = {
    operation: list(signature(operation).parameters).index("inplace")
    for operation in vars(F).values()
    if _torch.is_python(operation) and "inplace" in signature(operation).parameters
}


def overwrites(operation: Operation, args: Args, kwargs: Kwargs) -> bool:
    """Return whether a call overwrites its first argument."""
    position = INPLACE_AT.get(operation, len(args))
    by_place = len(args) > position and args[position] is True
    always = OVERWRITES.get(operation)
    if always is None:
        always = operation in IN_PLACE
    return always or by_place or kwargs.get("inplace") is True


def known(context: Context, tensor: Tensor) -> Mark | None:
    """Return the mark of an operand, which from now on hides nothing."""
    if type(tensor) is not Parameter and not getattr(tensor, ATTRIBUTE, None):
        context.find_data()
    mark = mark_of(tensor)
    if mark is None:
        return None
    if mark.hidden and mark.kind == "activation":
        return context.meet(tensor, mark)
    return mark


def key(operand: Any) -> Any:
    """Return what an operand is found by in a table, such as the shares of :meth:`Call.run`."""
    # torch 2.11 compiles no `id` of a tensor.
    return operand if _torch.is_compiling() else id(operand)


class Call:
    """A call of an operation, as a rule gets it.

    Args:
        context: the active context.
        operation: of torch, or one that was registered.
        args: the arguments of the call.
        kwargs: its keyword arguments.

    Attributes:
        context: the active context.
        operation: of torch.
        args: its arguments.
        kwargs: its keyword arguments.
        operands: the tensors among the arguments.
        marks: of the operands, in their order; None for a constant.
        target: the operand that the operation overwrites, if it does.
    """

    def __init__(self, context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> None:
        self.context = context
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.operands = tensors((*args, *kwargs.values()))
        self.marks = [known(context, operand) for operand in self.operands]
        self.target = self.operands[0] if overwrites(operation, args, kwargs) else None

    @property
    def active(self) -> list[tuple[Tensor, Mark]]:
        """The operands that a reward is shared among, trainable or frozen, with their marks."""
        return [
            (operand, mark)
            for operand, mark in zip(self.operands, self.marks, strict=True)
            if is_active(mark)
        ]

    @property
    def roles(self) -> list[Role]:
        """The roles of the active operands, in their order."""
        return [mark.role for _, mark in self.active]

    @property
    def doubtful(self) -> bool:
        """Whether one of the activations may be a weight."""
        return any(mark.assumed or mark.kind == "undetermined" for _, mark in self.active)

    def alone(self, operand: Tensor) -> bool:
        """Return whether all operands but this one are constants or data, which get no reward."""
        return all(
            mark is None or mark.kind == "data" or other is operand
            for other, mark in zip(self.operands, self.marks, strict=True)
        )

    def mark(self, operand: Tensor) -> Mark | None:
        """Return the mark of one of the operands; None for a constant."""
        return next(m for o, m in zip(self.operands, self.marks, strict=True) if o is operand)

    def kind(self) -> Mark:
        """Return a mark for the output by the kinds of the operands.

        Returns:
            An activation, if an operand is one or data meets weights; data, if all operands are
            data or constants; or else a weight. "undetermined", if an operand may be either. The
            mark owes nothing.
        """
        known = [mark for mark in self.marks if mark is not None]
        kinds = {mark.kind for mark in known}
        if "activation" in kinds:
            assumed = all(m.assumed for m in known if m.kind == "activation")
            return ACTIVATION._replace(assumed=True) if assumed else ACTIVATION
        if "data" in kinds and len(kinds) > 1:
            return ACTIVATION
        if "data" in kinds:
            return DETACHED if any(mark.role == "detached" for mark in known) else DATA
        hidden = any(mark.hidden for mark in known)
        if "undetermined" in kinds or self._meets_plain_tensors():
            return Mark("undetermined", hidden=hidden)
        return WEIGHT

    def _meets_plain_tensors(self) -> bool:
        """Return whether an operand may be data as well as a constant."""
        return not self.context.knows_data() and any(
            mark is None and operand.dim() > 0 and _may_be_data(operand)
            for operand, mark in zip(self.operands, self.marks, strict=True)
        )

    def replace(self, operand: Tensor, mark: Mark | None) -> None:
        """Give one of the operands another mark, or None to treat it as a constant."""
        self.marks = [
            mark if o is operand else m for o, m in zip(self.operands, self.marks, strict=True)
        ]

    def run(self, mark: Mark, shares: Shares | None = None, whole_memory: bool = False) -> Any:
        """Apply what the operands owe, run the operation on them, and mark its output.

        In the backward pass each operand gets its ``G`` by the chain rule of the operation.

        Args:
            mark: of the output.
            shares: by :func:`key` of an operand, the factor of its ``G``; 1 where there is none.
            whole_memory: a part of a memory that is written to owes the same before and after, so
                that all of it does.

        Returns:
            The output of the operation.
        """
        self.settle_memory(whole_memory)
        shares = shares or {}
        consumed: dict[Any, Tensor] = {}
        for operand, of_operand in zip(self.operands, self.marks, strict=True):
            consumed[key(operand)] = self._consumed(
                operand, of_operand, shares.get(key(operand), 1.0), mark
            )

        def consume(operand: Tensor) -> Tensor:
            return consumed[key(operand)]

        arguments = [substitute(consume, argument) for argument in self.args]
        options = {name: substitute(consume, value) for name, value in self.kwargs.items()}
        output = self.operation(*arguments, **options)
        if self.target is None:
            for operand in self.operands:
                if output is consumed[key(operand)]:
                    return operand  # unchanged, as by dropout in evaluation: it owes what it did
        return self.finish(output, mark, whole_memory)

    def _consumed(
        self, operand: Tensor, mark: Mark | None, share: float | Pending, becomes: Mark
    ) -> Tensor:
        """Return an operand as the operation consumes it."""
        if mark is None and operand.requires_grad:
            return operand.detach()  # a rule takes it for a constant
        if mark is not None and mark.leaf:
            return self._refused(operand, LEAVES)
        if mark is not None and mark.hidden and becomes.kind == "activation":
            return self._refused(operand, HIDDEN) if self.context.strict else operand
        if mark is not None and becomes.pending is not None:
            mark = mark._replace(pending=None)  # which is handed on
        return used(operand, mark, share, in_place=operand is self.target)

    def _refused(self, operand: Tensor, reason: str) -> Tensor:
        """Return an operand, at which the arrival of a reward is refused."""
        refused: Tensor = self.context.refuse(self.operation, reason, operand.view_as(operand))
        return refused

    def refuse_to_guess(self) -> Any:
        """Run a product whose factors may be weights or activations, and refuse its reward.

        Returns:
            The output of the operation.
        """
        leaf = any(mark is not None and mark.leaf for mark in self.marks)
        output = self.operation(*self.args, **self.kwargs)
        self.context.refuse(self.operation, LEAVES if leaf else AMBIGUOUS, output)
        frozen = not any(tensor.requires_grad for tensor in tensors((output,)))
        # Of plain tensors alone, it is as little known as they are.
        return self.finish(output, Mark("undetermined") if frozen else ACTIVATION)

    def keep(
        self, degree: float | None = None, role: Role | None = None, epsilon: float = 0.0
    ) -> Any:
        """Run a function of one activation without applying what that owes, which the output owes.

        Args:
            degree: of the output, if not that of the activation.
            role: of the output, if not that of the activation.
            epsilon: that the output owes, if not that of the activation.

        Returns:
            The output of the operation.
        """
        self.settle_memory()
        ((active, mark),) = self.active
        self.replace(active, ACTIVATION)
        becomes = mark._replace(
            degree=mark.degree if degree is None else degree,
            role=mark.role if role is None else role,
            epsilon=epsilon or mark.epsilon,
        )
        return self.run(becomes)

    def defer(self) -> Any:
        """Run a sum or product of weights and a statistic or a gate, whose consumer says its share.

        Returns:
            The output of the operation.
        """
        ((active, mark),) = self.active
        becomes = mark._replace(epsilon=self.context.stabiliser())
        if mark.role in POWERS:
            self.replace(active, mark._replace(epsilon=0.0))
        if _torch.is_compiling():  # where no share can be left open
            if mark.role in POWERS:
                self.replace(active, ACTIVATION)
                return self.run(becomes._replace(pending=UNSETTLED))
            return self.run(becomes._replace(degree=1.0, pending=UNSETTLED))
        pending = Pending(mark.degree, *(() if mark.pending is None else (mark.pending,)))
        return self.run(becomes._replace(degree=1.0, pending=pending), {key(active): pending})

    def number(self) -> float | None:
        """Return the one number that an activation is combined with; None if it is something else.

        A tensor of one number is one, if it is a constant that can be read without waiting.
        """
        options = (value for name, value in self.kwargs.items() if name != "alpha")
        numbers = [t for t in (*self.args, *options) if t is not self.active[0][0]]
        if len(numbers) != 1:
            return None
        (number,) = numbers
        if isinstance(number, Tensor):
            readable = number.dim() == 0 and number.device.type == "cpu"
            constant = readable and self.mark(number) is None and not _torch.is_compiling()
            number = number.item() if constant else None
        return float(number) if isinstance(number, (int, float)) else None

    def scale(self, kind: Mark, role: Role | None = None) -> Any:
        """Run a product of one operand and constants or data, which leaves its reward unchanged.

        Args:
            kind: the mark of the output, from :meth:`kind`.
            role: of the output, if not that of the operand.

        Returns:
            The output of the operation.
        """
        self.settle_memory()
        active = self.active
        if len(active) != 1 or active[0][1].leaf or not self.alone(active[0][0]):
            return self.run(kind)
        mark = active[0][1]
        if mark.degree != 1.0 or mark.role in POWERS:
            return self.keep()
        role = mark.role if role is None else role
        return self.run(kind._replace(role=role, pending=mark.pending))

    def finish(self, output: Any, mark: Mark, whole_memory: bool = False) -> Any:
        """Mark the output of an operation that was run, and the memory that it wrote to.

        Args:
            output: what the operation has returned.
            mark: of the output.
            whole_memory: as for :meth:`run`.

        Returns:
            The output.
        """
        if all(mark is None for mark in self.marks):
            return output  # what is made of constants is one
        target = self.target
        if target is None:
            frozen = not any(operand.requires_grad for operand in self.operands)
            return marked(output, mark, frozen)
        if target._base is not None and not _torch.is_compiling():
            # All of the memory owes the same, so that any other view of it finds what it owes.
            if not whole_memory:
                used(target, mark, in_place=True)
                mark = mark.settled
            marked(target._base, mark, frozen=True)
        marked(target, mark, frozen=True)
        if _torch.is_compiling() and isinstance(output, Tensor):
            marked(output, mark)  # which the compiler takes for another tensor
        return output

    def memory(self) -> tuple[Tensor | None, Mark | None]:
        """Return all of the memory that is written to through a view, and its mark.

        None if there is no such view, and under ``torch.compile``.
        """
        base = None if self.target is None else self.target._base
        if self.target is None or base is None or _torch.is_compiling():
            return None, None
        if not getattr(base, ATTRIBUTE, None) and base.numel() == self.target.numel():
            own = mark_of(self.target)  # a layer's output may be a view of what no rule saw
            if own is not None:
                put(base, own)
        return base, mark_of(base)

    def settle_memory(self, whole_memory: bool = False) -> None:
        """Before a view is written to, apply what all of its memory owes.

        Args:
            whole_memory: leave it, because the memory owes the same after the write.
        """
        target = self.target
        if target is not None and self._is_compiled(target):
            self._refuse_shared_memory(target)
        if target is not None:
            before_overwriting(target)
        base, whole = (None, None) if whole_memory else self.memory()
        if base is not None and whole is not None and base.requires_grad:
            used(base, whole, in_place=True)
            put(base, whole.settled)
            self.marks = [mark_of(operand) for operand in self.operands]

    @staticmethod
    def _is_compiled(target: Tensor) -> bool:
        """Return whether compiled code made the tensor, or its memory, also where it broke off."""
        if _torch.is_compiling():
            return True
        memory = (target, target if target._base is None else target._base)
        found = [getattr(tensor, ATTRIBUTE, None) for tensor in memory]
        return any(mark and mark.version == COMPILED for mark in found)

    def _refuse_shared_memory(self, target: Tensor) -> None:
        """Under ``torch.compile``, refuse to write where views would not notice it."""
        mark = self.mark(target)
        if mark is not None and (mark.viewed or target._base is not None):
            message = (
                f"no LFP rule for {name_of(self.operation)} of a view, or of what has views, under "
                "torch.compile: write it out of place, or run without the compiler"
            )
            if _torch.is_compiling():
                _torch.stop_compiling(message)
            raise UnsupportedOperation(message)


def _may_be_data(operand: Tensor) -> bool:
    """Return whether a plain tensor may be data: no mask, and no indices that are compiled.

    Tables of relative positions are indexed by buffers, which torch.compile tells from no input.
    """
    return operand.is_floating_point() or not (operand.dtype is torch.bool or _torch.is_compiling())


HIDDEN = ", which hides how it shares a reward: call lfp.weight on its output if that is a weight"
LEAVES = (
    " with a plain tensor that requires a gradient, which may be a weight or an input: make it a "
    "Parameter or name it in feedback(parameters=[...]), or call lfp.activation on an input"
)
AMBIGUOUS = (
    " of two activations, one of which may be a weight: call lfp.weight on what is made of weights "
    "and constants, or lfp.activation on the model's input"
)


def has_marks(arguments: Any) -> bool:
    """Return whether any tensor among the arguments depends on the model's input."""
    return any(
        (mark := getattr(tensor, ATTRIBUTE, None)) and mark.kind != "weight"
        for tensor in tensors(arguments)
    )
