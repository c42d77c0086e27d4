"""What the engine knows of a tensor: its kind, and what its consumer still has to do.

Every tensor of a forward pass is of one of four kinds:

============ ===================================================================================
constant     has nothing to do with parameters or the model's input: a buffer, a mask, a number
data         the model's input, and what is made of it without parameters; also what is detached
weight       a parameter, and what is computed from parameters and constants
activation   what depends on data and parameters, trainable or frozen: a layer's output
============ ===================================================================================

Arithmetic among weights and constants runs by plain autograd, after which a parameter's gradient is
multiplied by its magnitude; so do data and constants. Rewards are shared out among activations and
weights alone, as behind data and constants nothing learns.

Data are the tensors that a module is called with inside of the context. Where no module is called,
or one without tensors, or with numbers or an object of another library as well, a plain tensor may
be data as well as a constant. A layer takes it for data; what a parameter makes with it otherwise
is *undetermined*: its use decides, and where both readings would give different feedback, the
engine refuses. The functions :func:`weight` and :func:`activation` say what a tensor is.

A mark is an attribute of the tensor, and not an entry of a table in the context manager, because
``torch.compile`` traces attributes and hands them back with the outputs of a compiled region. The
same mark lies on the autograd node that made the tensor, where it is found when code that no mode
sees, such as a hook of a module, replaces the tensor by an identical one.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeGuard

import torch
from torch import Tensor
from torch.nn import Parameter

from lfp_core import _torch, kernels
from lfp_core.slopes import EpsilonShare, Share, scaled_weight

Kind = Literal["data", "weight", "activation", "undetermined"]
#: What a value is on its way to becoming, where that decides how its consumer shares a reward.
Role = Literal[
    "",
    "gate",
    "gates",
    "odd",
    "half odd",
    "exp",
    "logistic",
    "shifted",
    "floored",
    "capped",
    "contribution",
    "pair",
    "pairs",
    "weighed",
    "attended",
    "magnitude",
    "statistic",
    "norms",
    "extreme",
    "logsumexp",
    "bounded",
    "detached",
    "centred",
    "log softmax",
    "scores",
    "exponential",
    "partition",
    "powers",
    "mixed",
    "inverse",
]

#: What is homogeneous in activations, and the role of a sum of it, which may come to be divided by.
SUMS: dict[Role, Role] = {"magnitude": "statistic", "exponential": "partition"}
DIVISORS: tuple[Role, ...] = ("statistic", "norms", "partition")
POWERS: tuple[Role, ...] = (*SUMS, *DIVISORS)
GATES: tuple[Role, ...] = ("gate", "gates")
#: What values are reduced by before the exponentials of a softmax.
EXTREME: tuple[Role, ...] = ("extreme", "logsumexp")
LARGEST: tuple[Role, ...] = (*EXTREME, "bounded")
EXPONENTIALS: tuple[Role, ...] = ("exponential", "partition")
WEIGHED: tuple[Role, ...] = ("weighed", "attended")
PAIRS: tuple[Role, ...] = ("pair", "pairs", *WEIGHED)
CENTRED: tuple[Role, ...] = ("centred", "log softmax", "scores")
#: What a layer of them, or a mixture with other values, is no statistic of.
MIXABLE: tuple[Role, ...] = ("magnitude", "statistic")
MIXED: tuple[Role, ...] = ("mixed", "powers")
ATTRIBUTE = "_lfp_mark"
#: On a node that uses a weight, by its place there: a hook scales the gradient that it hands on.
SCALED = "_lfp_scaled"
SPARSE = {
    *(torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
}
COMPILED = -1  # the version of what is marked under torch.compile, which does not count them


class UnsupportedOperation(RuntimeError):  # noqa: N818  (the public name)
    """LFP has no rule for an operation of the model."""


class Pending:
    """What an operand gets of the reward of its sum or product with weights, once that is used.

    A normalisation follows the chain rule through the statistic that it divides by, and a gate gets
    nothing of what it multiplies. Weights that a statistic or a gate meets before get the same in
    any case, so that the share is the operand's own. Autograd asks for it in the backward pass.

    Args:
        degree: of what the operand becomes, which is its share's denominator until it is settled.
        earlier: of the operand itself, which are settled with it.
    """

    def __init__(self, degree: float, *earlier: "Pending") -> None:
        self.share = self.by_other_uses = 1 / degree
        self.earlier = earlier
        self.degree: float = degree * (earlier[0].degree if earlier else 1.0)

    def other_use(self, tensor: Tensor, in_place: bool) -> Tensor:
        """Return what the operand has become, for a use that does not say its share.

        A reward from there is refused if a use that does has settled on another share. What is
        overwritten has no later use, so that all of its rewards come from there.
        """
        if self is UNSETTLED:
            return tensor

        def check(_: Tensor) -> None:
            if self.is_another:
                raise UnsupportedOperation(TWO_USES)

        used_here = tensor if in_place else tensor.view_as(tensor)
        used_here.register_hook(check)
        return used_here

    @property
    def is_another(self) -> bool:
        """Whether the operand gets something else than it would get by other uses."""
        return self.share != self.by_other_uses or any(each.is_another for each in self.earlier)

    def settle(self, share: float) -> None:
        """Say what the operand gets."""
        if self is UNSETTLED:
            if share != 1.0:
                _refuse_open()
            return
        self.share = 1.0 if self.earlier else share  # of what has met weights before
        for each in self.earlier:
            each.settle(share)

    def __float__(self) -> float:
        """Return what the operand gets."""
        return self.share


#: Under ``torch.compile``, which asks for no number in a backward pass: a share of 1.
UNSETTLED = Pending(1.0)
TWO_USES = (
    "no LFP rule for a statistic or a gate that meets a weight and is used as that and as another "
    "value: multiply by the weight afterwards, once for each use"
)
OPEN = (
    "no LFP rule for a statistic or a gate that meets a weight before it is used, under "
    "torch.compile: multiply by the weight afterwards, or run without the compiler"
)


def _refuse_open() -> None:
    """Raise an error where a share would have to be another than the one that was compiled."""
    if _torch.is_compiling():
        _torch.stop_compiling(OPEN)
    raise UnsupportedOperation(OPEN)


class Mark(NamedTuple):
    """What is known of one tensor; a constant has no mark.

    Attributes:
        kind: see the module's docstring.
        epsilon: of the epsilon rule that made the tensor z, whose factor ``z / (z + eps s(z))`` its
            consumer applies; 0 if there is none, infinite for a spike (:data:`slopes.UNDIVIDED`).
        degree: k, where z is homogeneous of degree k in activations, so that by Euler's theorem the
            chain rule hands down k times the reward of z: its consumer divides by k.
        role: "gate" for what a sigmoid makes, "gates" for a product of two, "odd" for a tanh,
            which with 1 added is a gate, and "half odd" for half of one, with 0.5; "exp" with 1
            added is "logistic", the reciprocal of a gate; "shifted" for z plus a number, which is a
            gate if it is clipped from 0 to another one, and "floored" or "capped" once it is
            clipped on one side; "magnitude" for powers and absolute values, and "statistic" for
            sums and extremes of them, by which a normalisation divides, as by "norms", a product of
            two; "contribution" for an activation times a weight, the sum of which is a layer;
            "pair" for a product of two activations, and "pairs" for a sum of such, "weighed" and
            "attended" if one of the two is a part of a softmax; "extreme" for the largest of
            several values, "bounded" for that of one and a constant, "logsumexp" for the logarithm
            of the sum in a softmax, "detached" for what no reward passes through any more,
            "centred" for values less one of these, and "log softmax" if it is the third, "scores"
            for such differences times a weight, "exponential" for exp of any of these, and
            "partition" for their sum, which is divided by in a softmax; "mixed" for a layer of
            powers, whose weights are learned, or for powers or exponentials that were joined with
            or added to other values, "powers" for the terms of such a layer, and "inverse" for the
            reciprocal of one: to divide by these is refused.
        scaled: False for a leaf whose gradient is still to be multiplied by its magnitude, if it
            is a weight.
        hidden: made of parameters by a function that the engine cannot see into.
        assumed: treated as an activation where it might have been a weight.
        pending: what a statistic or a gate gets that has met weights, if its consumer decides that.
        viewed: under ``torch.compile``, whether other tensors share its memory.
        version: how often the tensor's memory had been written to when it was marked.
    """

    kind: Kind
    epsilon: float = 0.0
    degree: float = 1.0
    role: Role = ""
    scaled: bool = True
    hidden: bool = False
    assumed: bool = False
    pending: Pending | None = None
    viewed: bool = False
    version: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the mark behind where a tensor is stored or sent: only its context knows it."""
        return OrderedDict, ()  # what `torch.load` reads with `weights_only`

    def __deepcopy__(self, _: Any) -> "Mark":
        """Return the mark itself: the copy of a tensor, such as a kept state, is what that was."""
        return self

    @property
    def debts(self) -> tuple[float, float]:
        """Epsilon and degree: what the consumer of the tensor has to apply."""
        return self.epsilon, self.degree

    @property
    def owed_degree(self) -> float:
        """The degree that the consumer divides by, if it does not normalise."""
        if self.degree != 1.0 and self.pending is UNSETTLED:
            _refuse_open()
        return self.degree

    @property
    def settled(self) -> "Mark":
        """The mark after what the tensor owes was applied."""
        return self._replace(
            epsilon=0.0, degree=1.0, role=self.role if self.role in MIXED else "", pending=None
        )

    @property
    def inverse(self) -> bool:
        """Whether the tensor falls where the activations that it is made of grow."""
        return self.degree * (1.0 if self.pending is None else self.pending.degree) < 0

    @property
    def leaf(self) -> bool:
        """Whether this is a plain tensor that requires a gradient: an input, or a weight."""
        return self.kind == "undetermined" and not self.scaled


DATA, WEIGHT, ACTIVATION = Mark("data"), Mark("weight"), Mark("activation")
#: Data that was an activation, and what is made of it.
DETACHED = Mark("data", role="detached")
PARAMETER = Mark("weight", scaled=False)
#: A leaf that wants a gradient and is no parameter: an input that wants its reward, or a weight.
LEAF = Mark("undetermined", scaled=False)


def joined(marks: Iterable[Mark | None]) -> Pending | None:
    """Return what is pending of several tensors, from which one of the same role is made."""
    found = [mark.pending for mark in marks if mark is not None and mark.pending is not None]
    return Pending(1.0, *found) if len(found) > 1 else found[0] if found else None


def cut_off(mark: Mark | None) -> Mark | None:
    """Return the mark of a tensor without its gradients, given its own; None for a constant."""
    if mark is None or mark.kind == "weight":
        return None
    return DATA if mark.kind == "data" and mark.role != "detached" else DETACHED


def is_active(mark: Mark | None) -> TypeGuard[Mark]:
    """Return whether the tensor of this mark takes a part of a reward."""
    return mark is not None and mark.kind in ("activation", "undetermined")


def tensors(arguments: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among the arguments of an operation, also those in a list (``cat``)."""
    found = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            found.append(argument)
        elif _may_hold_tensors(argument):
            found += tensors(argument)
    return found


def _may_hold_tensors(argument: Any) -> bool:
    """Return whether an argument is a list that may have tensors in it, which no shape has."""
    return isinstance(argument, (list, tuple)) and any(type(each) is not int for each in argument)


def substitute(change: Callable[[Tensor], Any], argument: Any) -> Any:
    """Return the argument with every tensor in it replaced by ``change(tensor)``."""
    if isinstance(argument, Tensor):
        return change(argument)
    if _may_hold_tensors(argument):
        items = [substitute(change, item) for item in argument]
        kind = type(argument)
        rebuilt = kind in (list, tuple) or kind.__module__ == "torch.return_types"  # of max, sort
        return kind(items) if rebuilt else items
    return argument


def is_continuous(tensor: Tensor) -> bool:
    """Return whether a tensor has numbers that a derivative could exist of: no indices, no mask."""
    return tensor.is_floating_point() or tensor.is_complex()


def is_parameter(tensor: Tensor) -> bool:
    """Return whether a tensor is a parameter: of plain ones, without asking torch's metaclass."""
    return type(tensor) is Parameter or (
        type(tensor) is not Tensor and isinstance(tensor, Parameter)
    )


# --- reading marks --------------------------------------------------------------------------------


def mark_of(tensor: Tensor) -> Mark | None:
    """Return the mark of a tensor; None for a constant.

    Raises:
        UnsupportedOperation: ``torch.compile`` shows no rule what made the tensor.
    """
    mark: Mark | None = getattr(tensor, ATTRIBUTE, None) or None
    if mark is not None and _is_current(mark, tensor):
        return mark
    if is_parameter(tensor):
        return PARAMETER
    if tensor._base is not None and not _torch.is_custom(tensor):
        of_memory = _mark_of_memory(tensor, tensor._base)
        if of_memory is not None:
            return put(tensor, of_memory)
    if not tensor.requires_grad or is_cut_off(tensor):
        return None if mark is None else put(tensor, mark)
    if tensor.is_leaf:
        return LEAF
    if _torch.is_compiling():
        raise UnsupportedOperation(
            "no LFP rule for what made an operand, which torch.compile does not show: an "
            "assignment to slices, a custom Function, or a function such as hardswish or pad"
        )
    with _torch.DisableTorchFunction():
        mark, unscaled = _origin(tensor)
        for consumer, index, leaf in unscaled:
            consumer.register_hook(_scaling(index, leaf))
            _torch.metadata(consumer)[SCALED, index] = True
        return put(tensor, mark)


def mark_of_detached(tensor: Tensor) -> Mark | None:
    """Return the mark of a tensor that is cut off, at which no reward arrives.

    Of one that no mode saw the making of, nothing is noted: a compiled graph detaches its outputs
    before they are marked.
    """
    mark: Mark | None = getattr(tensor, ATTRIBUTE, None) or None
    seen = mark is not None and _is_current(mark, tensor)
    if seen or tensor.is_leaf or _torch.is_compiling():
        return mark_of(tensor)
    with _torch.DisableTorchFunction():
        return _origin(tensor)[0]


def _mark_of_memory(view: Tensor, memory: Tensor) -> Mark | None:
    """Return the mark that a view has by the memory that it shares with others."""
    if is_cut_off(view):
        return cut_off(mark_of_detached(memory))
    # Written to through another tensor that shares its memory; all that is owed was paid then.
    mark: Mark | None = getattr(memory, ATTRIBUTE, None) or None
    return mark if mark is not None and _is_current(mark, view) else None


def is_cut_off(tensor: Tensor) -> bool:
    """Return whether a tensor is a view that was made without gradients of one that has them.

    It says that it requires a gradient, as the memory does, and hands none on.
    """
    memory = None if _torch.is_compiling() else tensor._base
    return memory is not None and memory.requires_grad and tensor.grad_fn is None


def _is_current(mark: Mark, tensor: Tensor) -> bool:
    """Return whether nothing was written to the tensor since it was marked."""
    if _torch.is_compiling():
        return True
    version = _torch.version(tensor)
    if mark.kind == "data" and tensor.requires_grad and not tensor.is_leaf:
        # What a custom Function computes without gradients is given to it as its output.
        return (ATTRIBUTE, tensor.output_nr) in _torch.metadata(tensor.grad_fn)
    return mark.version in (version, COMPILED)


def put(tensor: Tensor, mark: Mark) -> Mark:
    """Mark a tensor, and the node that made it; return the mark."""
    if _torch.is_compiling():
        mark = Mark(*mark[:-1], COMPILED)  # torch 2.11 hands out what `_replace` made as empty
        setattr(tensor, ATTRIBUTE, mark)
        return mark
    version = _torch.version(tensor)
    if mark.version != version:
        mark = mark._replace(version=version)
    setattr(tensor, ATTRIBUTE, mark)
    if (node := tensor.grad_fn) is not None:
        _torch.metadata(node)[ATTRIBUTE, tensor.output_nr] = mark
    return mark


def marked(output: Any, mark: Mark, frozen: bool = False) -> Any:
    """Mark every tensor of an operation's output, and return the output.

    Args:
        output: a tensor, or tensors in tuples and lists.
        mark: of those that require a gradient.
        frozen: whether those that require none are activations all the same, because nothing that
            made them trains; else they are what no derivative exists of, such as an argmax.

    Returns:
        The output as it was; under ``torch.compile``, views of the tensors in it.
    """
    if not isinstance(output, Tensor):
        if _torch.is_compiling():
            # torch.compile lets no part of an output be marked, but a view of one.
            output = substitute(lambda t: t.view_as(t), output)
        for tensor in tensors((output,)):
            marked(tensor, mark, frozen)
    elif output.requires_grad:
        put(output, mark)
    elif not is_parameter(output):
        # Frozen, or whole numbers: no reward arrives, but the kind decides how others are shared.
        if is_continuous(output) and (frozen or mark.kind == "weight"):
            put(output, mark)
        elif mark.kind != "weight":
            put(output, DATA)
    return output


# --- tensors that no mode saw the making of -------------------------------------------------------


def ancestors(node: Any) -> Iterator[tuple[Any, int, Any, Mark | None]]:
    """Yield the edges into ``node`` from what is known: (consumer, index, source, mark)."""
    pending, seen = [node], {node}
    while pending:
        consumer = pending.pop()
        for index, (source, output) in enumerate(consumer.next_functions):
            if source is None:
                continue
            mark = _torch.metadata(source).get((ATTRIBUTE, output))
            leaf = getattr(source, "variable", None)
            if leaf is not None or (mark is not None and mark.scaled):
                yield consumer, index, leaf, mark
            elif source not in seen:
                seen.add(source)
                pending.append(source)


def _origin(tensor: Tensor) -> tuple[Mark, list[tuple[Any, int, Tensor]]]:
    """Return the mark of a tensor that was made where no mode could see it.

    Views and identities hand on the mark of their source. Other functions are taken for functions
    of weights if they lead to parameters alone, whose gradients are then scaled where they leave
    the functions; otherwise they hide how a reward is to be shared.

    Returns:
        The mark, and the weights whose gradients are to be scaled: the node that uses one, its
        place there, and the weight.

    Raises:
        UnsupportedOperation: a compiled graph that runs in Python made the tensor.
    """
    node, output = tensor.grad_fn, tensor.output_nr
    if _torch.is_of_graph(node):
        raise UnsupportedOperation(
            "no LFP rule for a compiled graph that runs in Python inside of the context: enter the "
            "context inside of what is compiled, or take another backend than 'eager'"
        )
    while True:
        assert node is not None  # as the tensor is no leaf
        mark: Mark | None = _torch.metadata(node).get((ATTRIBUTE, output))
        if mark is not None:
            return mark, []
        identity = node.name() in _torch.IDENTITIES
        if not (identity or node.name() in _torch.VIEWS):
            break
        edge = output if identity else 0
        source, output = node.next_functions[edge]
        if source is not None and hasattr(source, "variable"):
            leaf = leaf_mark(source.variable)
            if leaf.kind == "data":
                return leaf, []  # an input that wants a gradient, of a module with a hook
            break
        if source is None:
            break
        node = source
    edges = list(ancestors(tensor.grad_fn))
    known = [leaf_mark(leaf) if mark is None else mark for _, _, leaf, mark in edges]
    others = [mark for mark in known if mark.kind not in ("weight", "undetermined") or mark.leaf]
    if others:
        owing = next((mark for mark in others if mark.debts != ACTIVATION.debts), ACTIVATION)
        return Mark("activation", epsilon=owing.epsilon, degree=owing.degree, hidden=True), []
    unscaled = [
        (consumer, index, leaf)
        for consumer, index, leaf, mark in edges
        if (mark is None or not mark.scaled) and (SCALED, index) not in _torch.metadata(consumer)
    ]
    return Mark("undetermined", hidden=True), unscaled


def is_input(tensor: Tensor) -> bool:
    """Return whether a tensor that requires a gradient is a leaf, also if a hook watches it."""
    node: Any = tensor.grad_fn
    output = tensor.output_nr
    while node is not None and node.name() in _torch.IDENTITIES:
        node, output = node.next_functions[output]
    if node is None:
        return True
    leaf = getattr(node, "variable", None)
    return leaf is not None and not isinstance(leaf, Parameter)


def leaf_mark(leaf: Tensor) -> Mark:
    """Return the mark of a leaf that requires a gradient."""
    mark: Mark | None = getattr(leaf, ATTRIBUTE, None)
    return mark or (PARAMETER if isinstance(leaf, Parameter) else LEAF)


def _scaling(index: int, leaf: Tensor) -> Callable[[Any, Any], tuple[Any, ...]]:
    """Return a hook that multiplies the gradient which leaves a node for a weight by |w|."""

    def hook(to_inputs: Any, _: Any) -> tuple[Any, ...]:
        scaled = list(to_inputs)
        if scaled[index] is not None:
            scaled[index] = kernels.scaled(leaf.detach(), scaled[index])
        return tuple(scaled)

    return hook


# --- using a tensor -------------------------------------------------------------------------------


def used(
    tensor: Tensor, mark: Mark | None, share: float | Pending = 1.0, in_place: bool = False
) -> Tensor:
    """Return the tensor as an operation consumes it: a weight scaled, a debt paid.

    Args:
        tensor: of any shape.
        mark: its mark.
        share: what an activation gets of the operation's reward, by which its gradient is scaled.
        in_place: whether the operation is about to overwrite the tensor.
    """
    if mark is None or not tensor.requires_grad:
        return tensor
    if mark.kind == "weight":
        return tensor if mark.scaled else scaled_weight(tensor)
    if mark.pending is not None:
        tensor = mark.pending.other_use(tensor, in_place)
    factor = share if isinstance(share, Pending) else share / mark.owed_degree
    if mark.epsilon or factor != 1.0:
        check_dense(tensor)
    if mark.epsilon:
        return EpsilonShare.apply(tensor, mark.epsilon, factor, in_place)
    return Share.apply(tensor, factor, in_place) if factor != 1.0 else tensor


def check_dense(tensor: Tensor) -> None:
    """Raise `UnsupportedOperation` if a tensor is sparse, of which no share can be taken."""
    if tensor.layout in SPARSE:
        raise UnsupportedOperation(
            "no LFP rule for what a sparse tensor of activations is used by here: make it dense "
            "before, by to_dense(), or keep sparse what is no activation, such as an adjacency"
        )


def as_weight(tensor: Tensor, mark: Mark | None) -> Tensor:
    """Return the tensor as the weight of a layer, which is what its place there says."""
    if mark is None or not tensor.requires_grad or mark.scaled:
        return tensor
    return scaled_weight(tensor)


def weight(tensor: Tensor) -> Tensor:
    """Say that a tensor is a weight: made of parameters and constants, or a parameter itself.

    Call it inside of the context, where the engine refuses to guess; and on constants under
    ``torch.compile``, where it cannot tell them from data.

    Args:
        tensor: of any shape; a leaf that is no ``nn.Parameter`` is treated like one.

    Returns:
        The tensor to use, with the same values.

    Raises:
        ValueError: the tensor depends on activations.
    """
    with _torch.DisableTorchFunction():
        mark = mark_of(tensor)
        if mark is not None and (mark.kind == "activation" or mark.assumed):
            raise ValueError("the tensor depends on an activation, so it cannot be a weight")
        used_as = tensor if mark is None else as_weight(tensor, mark)
        output = used_as.view_as(used_as)
        put(output, WEIGHT)  # whole numbers as well, such as the positions of an embedding
        return output


def activation(tensor: Tensor) -> Tensor:
    """Say that a tensor depends on the model's input, or is the input.

    Call it inside of the context, where the engine refuses to guess, or cannot see that a tensor is
    data, as no module was called with it.

    Args:
        tensor: of any shape.

    Returns:
        The tensor to use, with the same values. What an epsilon rule left to its consumer has been
        applied, so it may go where the engine cannot see, such as into a custom Function.
    """
    with _torch.DisableTorchFunction():
        mark = mark_of(tensor)
        if mark is None or mark.leaf or mark.kind == "data":
            return marked(tensor.view_as(tensor), DATA)
        consumed = used(tensor, mark)
        return marked(consumed.view_as(consumed), ACTIVATION)
