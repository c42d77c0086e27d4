"""Layer-wise Feedback Propagation (LFP) as a context manager around an unmodified model.

LFP (Weber et al., TMLR 2025, arXiv 2308.12053) shares the reward ``r_j`` of a unit among its inputs
in proportion to their contributions (the epsilon rule), and moves each weight along its share::

    r_i  = sum_j  a_i w_ij / (z_j + eps s(z_j)) r_j
    dw_ij =     |w_ij| a_i / (z_j + eps s(z_j)) r_j

Nothing of this is computed here. With ``R = a G`` both formulas are reverse-mode autodiff of G with
the changes of :mod:`lfp_core.slopes`, so a ``TorchFunctionMode``, which sees every torch operation
that the model calls, is enough to swap in those backward formulas (:mod:`lfp_core.sharing`).

Why this way, as measured on two CPU cores: hooks and rules per module, as in zennit and the
authors' ``lfprop``, cost 1.5 to 2.1 times an SGD step and miss functional operations. The mode
leaves every heavy kernel to torch's own autograd, stores nothing per connection, costs a few
microseconds an operation, and leaves nothing behind on the model because it never touches it.
Multiplying by |w| inside the graph costs a few percent more than doing it once a step with
``torch._foreach_mul_``, but only so do accumulation over micro-batches, clipping and
DistributedDataParallel see the final values in ``p.grad``.
"""

import dataclasses
import importlib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import Module
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointError

from lfp_core import _torch
from lfp_core.calls import IN_PLACE, Call, Operation, has_marks, name_of, overwrites
from lfp_core.marks import (
    ACTIVATION,
    ATTRIBUTE,
    DATA,
    DETACHED,
    PARAMETER,
    Mark,
    UnsupportedOperation,
    ancestors,
    is_continuous,
    is_cut_off,
    is_input,
    is_parameter,
    mark_of,
    put,
    tensors,
)
from lfp_core.operations import METHODS, UNFOLDED, _rules
from lfp_core.slopes import UNDIVIDED, before_overwriting, share

Attention = Literal["uniform", "constant"]
Gates = Literal["signal", "uniform"]
Units = Literal["identity", "reverse", "shifted"]
Normalisation = Literal["gradient", "identity"]
ALLOWED = {
    "attention": get_args(Attention),
    "gates": get_args(Gates),
    "units": get_args(Units),
    "normalisation": get_args(Normalisation),
}

DEFAULTS = tuple(allowed[0] for allowed in ALLOWED.values())

#: Libraries whose operations go past a ``TorchFunctionMode``, and the modules that mend that.
SUPPORT = {"snntorch": "lfp_core.spiking"}


class feedback(TorchFunctionMode):  # noqa: N801  (reads as a function: ``with feedback():``)
    """Context in which the forward pass of any model prepares for :func:`backward`.

    Args:
        epsilon: stabiliser of the epsilon rule; 0 is LFP-0, with 0/0 taken as the limit f'(0) where
            f(0) = 0, as 0 for ReLU-like units and where f(0) is not 0.
        strict: refuse rewards that arrive at operations without a rule; if False they propagate as
            the chain rule does.
        attention: "uniform" shares the reward of attention evenly between its weights, on to
            queries and keys, and the values; "constant" leaves all of it to the values, so that
            queries and keys do not learn (AttnLRP and CP-LRP, :mod:`lfp_core.sharing`).
        gates: what the product of an activation and a gate, made by a sigmoid, does. "signal"
            takes the gate for a constant, so that all of the reward goes to the gated value (Arras
            et al., 2017); "uniform" shares evenly, as any product of two activations does.
        units: what becomes of functions with f(0) != 0, such as the sigmoid, whose slope f(z) / z
            grows without bound near 0. "identity" is the paper's rule; "reverse" takes |f(z) / z|,
            as the authors' ``reverse_neg`` does; "shifted" takes f(0) for a bias, so that the slope
            is (f(z) - f(0)) / z.
        normalisation: "gradient" is the chain rule through the statistics of a normalisation;
            "identity" takes the statistic that it divides by for a constant, as AttnLRP does.
        parameters: plain tensors that are weights, where the model does not make them Parameters.

    Raises:
        ValueError: an argument out of its range; entering a context inside of another one with
            other options; leaving contexts in another order than the reverse of entering.
        UnsupportedOperation: in :func:`backward`, where a reward arrives at an operation without a
            rule (under ``torch.compile`` already in the forward pass).

    Example:
        >>> import torch, lfp_core as lfp
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> with lfp.feedback(epsilon=0):
        ...     output = model(torch.tensor([[1.0, 2.0]]))
        >>> lfp.backward(output, reward=output.detach())  # "grow": dw = |w| a
        >>> bool(torch.allclose(-model.weight.grad, model.weight.abs() * torch.tensor([1.0, 2.0])))
        True
    """

    epsilon: float
    strict: bool
    attention: str
    gates: str
    units: str
    normalisation: str
    parameters: list[Tensor]
    _text: str
    _guests: int

    def __init__(
        self,
        epsilon: float = 1e-6,
        *,
        strict: bool = True,
        attention: Attention = "uniform",
        gates: Gates = "signal",
        units: Units = "identity",
        normalisation: Normalisation = "gradient",
        parameters: Iterable[Tensor] = (),
    ) -> None:
        super().__init__()
        self.epsilon = _checked(epsilon)
        if (chosen := (attention, gates, units, normalisation)) != DEFAULTS:
            _check_choices(chosen)
        self._text = repr(self.epsilon)
        if not isinstance(strict, bool):
            raise ValueError(f"strict must be True or False, not {strict!r}")
        self.strict = strict
        self.attention, self.gates = attention, gates
        self.units, self.normalisation = units, normalisation
        self.parameters = _listed(parameters)
        self._hosts: list[feedback | None] = []  # for each `with`, the context that was joined
        self._guests = 0  # contexts that joined this one and were not left yet
        self._named: list[Tensor] = []  # weights, its own and of those that joined it
        self._data: list[Tensor] = []  # marked, as those are, for as long as the context is active
        self._models: list[Module] = []  # so are their buffers
        self._inside: list[str] = []  # functions of torch that run as the operations in them
        # Only then can the model have spiking neurons with no LFP derivatives.
        for library, support in SUPPORT.items():
            if library in sys.modules and not _torch.is_compiling():
                importlib.import_module(support).install()

    def stabiliser(self) -> float:
        """Return epsilon, which torch.compile takes for a constant if it is read from a text."""
        return float(self._text) if _torch.is_compiling() else self.epsilon

    def owing(self) -> Mark:
        """Return the mark of a layer's output, which owes epsilon."""
        if _torch.is_compiling():
            return Mark("activation", epsilon=self.stabiliser())
        return _owing(self.epsilon)

    # --- entering and leaving ---------------------------------------------------------------------

    def options(self) -> tuple[Any, ...]:
        """Return all that decides how rewards are shared."""
        names = ("epsilon", "strict", "attention", "gates", "units", "normalisation")
        return type(self), *(getattr(self, name) for name in names)

    def __enter__(self) -> "feedback":
        """Enter the context; inside of an equal one, join that."""
        if _torch.is_compiling():
            super().__enter__()
            return self
        active = [mode for mode in _torch.active_modes() if isinstance(mode, feedback)]
        if not active:
            if not self._hosts:  # else an operation runs as others, in the same context
                self._name_weights(self.parameters)
            self._hosts.append(None)
            super().__enter__()
        elif active[-1].options() == self.options():
            active[-1]._guests += 1
            self._hosts.append(active[-1])
            active[-1]._name_weights(self.parameters)
        else:
            raise ValueError(
                "feedback contexts with other options cannot be nested: "
                f"{self.options()[1:]} inside of {active[-1].options()[1:]}"
            )
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        """Leave the context.

        Raises:
            RuntimeError: another context was entered later and is not left yet.
        """
        if _torch.is_compiling():
            _torch.check_assignments()
            super().__exit__(kind, value, traceback)
            return
        host = self._hosts.pop()
        if host is not None:
            in_order = host in _torch.active_modes()
            host._guests -= 1
        else:
            modes = _torch.active_modes()
            in_order = bool(modes) and modes[-1] is self and not (self._guests and not self._hosts)
            if modes and modes[-1] is self:
                super().__exit__(kind, value, traceback)
            if not self._hosts:
                self._end()
        if not in_order and kind in (None, GeneratorExit):
            raise RuntimeError(
                "feedback contexts were left in another order than the reverse of entering: was "
                "one of them entered in a generator or a task that is suspended?"
            )

    def _name_weights(self, parameters: Iterable[Tensor]) -> None:
        for tensor in parameters:
            put(tensor, PARAMETER)
            self._named.append(tensor)

    def _end(self) -> None:
        for tensor in (*self._named, *self._data, *_buffers(self._models)):
            if hasattr(tensor, ATTRIBUTE):
                delattr(tensor, ATTRIBUTE)
        self._named.clear()
        self._data.clear()
        self._models.clear()

    # --- the model's input ------------------------------------------------------------------------

    def find_data(self) -> None:
        """Mark what the outermost module was called with as data."""
        call = None if _torch.is_compiling() else _torch.outermost_call()
        if call is None:
            return
        model, *arguments = call
        if not any(model is each for each in self._models):
            self._models.append(model)
        with _torch.DisableTorchFunction():
            for each in leaves(arguments):
                if each.is_nested:
                    raise UnsupportedOperation(NESTED)
                known = getattr(each, ATTRIBUTE, None) or is_parameter(each)
                if not known and (not each.requires_grad or is_input(each)):
                    put(each, DATA)
                    self._data.append(each)

    def knows_data(self) -> bool:
        """Return whether a module runs on data, so that all other plain tensors are constants.

        A number, or an object of another library, may be data as well, which nothing finds.
        """
        call = None if _torch.is_compiling() else _torch.outermost_call()
        return call is not None and bool(leaves(call[1:])) and not _hides_data(call[1:])

    # --- operations -------------------------------------------------------------------------------

    def __torch_function__(
        self,
        func: Operation,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one torch operation of the model under its rule."""
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            return self._without_gradients(func, args, kwargs)
        rule = None
        if _torch.is_compiling():
            _torch.check_assignments()
            func, rule = METHODS.get(name_of(func), (func, None))
        elif _torch.transform_is_active():
            self.find_data()
            _refuse_in_transform(func, (*args, *kwargs.values()))
        elif kwargs.get("out") is not None and tensors((kwargs["out"],)):
            return self._into(func, args, kwargs)
        rule = rule or _rules.get(func)
        if not args and "input" in kwargs and func is not torch.where:
            args = (kwargs["input"],)
            kwargs = {name: value for name, value in kwargs.items() if name != "input"}
        if rule is not None:
            return rule(self, func, args, kwargs)
        if func in UNFOLDED:
            return self._unfold(func, args, kwargs)
        function = _torch.function_of(func)
        if function is not func:
            return self.__torch_function__(function, types, args, kwargs)
        return self._unknown(func, args, kwargs)

    def _unfold(self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of torch that is written in Python as the operations in it."""
        if _torch.is_compiling():
            with self:
                return UNFOLDED[func](*args, **kwargs)
        self._inside.append(name_of(func))
        try:
            with self:
                return UNFOLDED[func](*args, **kwargs)
        finally:
            self._inside.pop()

    def _unknown(self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation that no rule is for."""
        name = name_of(func)
        operands = tensors((*args, *kwargs.values()))
        if func in GRADIENTS:
            _refuse_gradients(func, operands)
        attribute = getattr(func, "__name__", "") in ("__get__", "__set__", "__delete__")
        if attribute or func in GRADIENTS:
            return func(*args, **kwargs)  # ``p.data = ...`` is to change p, and no view of it
        if name in BOOKKEEPING or not operands or _makes_constants(func, args, kwargs):
            return func(*args, **kwargs)
        if not any(operand.requires_grad for operand in operands):
            return self._without_gradients(func, args, kwargs)
        call = Call(self, func, args, kwargs)
        if call.target is not None and call.target.is_leaf and call.target.requires_grad:
            return func(*args, **kwargs)  # a parameter is initialised
        kind = call.kind()
        if kind.kind == "activation":
            return self.without_rule(call)
        return call.run(kind._replace(hidden=kind.kind == "undetermined"))

    def _without_gradients(
        self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run an operation that no reward passes through; what depends on data still does."""
        if func in IN_PLACE and args and isinstance(args[0], Tensor):
            before_overwriting(args[0])
        if func in GRADIENTS:
            _refuse_gradients(func, args)
        output = func(*args, **kwargs)
        if _torch.is_compiling():
            return output
        operands = (*args, *kwargs.values())
        if _makes_constants(func, args, kwargs):
            return output
        if not has_marks(operands):
            self.find_data()
        if has_marks(operands):
            becomes = _made_of(operands, cut_off=name_of(func) in FILLING)
            for tensor in (*tensors((output,)), *_written(func, args, kwargs)):
                cut = not tensor.requires_grad or is_cut_off(tensor)
                if cut and not getattr(tensor, ATTRIBUTE, None):
                    put(tensor, becomes if is_continuous(tensor) else DATA)
        return output

    def _into(self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation with `out=`, which torch has for what wants no gradient."""
        targets = tensors((kwargs["out"],))
        options = {name: value for name, value in kwargs.items() if name != "out"}
        if any(each.requires_grad for each in tensors((*args, *options.values(), *targets))):
            return func(*args, **kwargs)  # which torch refuses
        made = self.__torch_function__(func, (), args, options)
        for target, value in zip(targets, tensors((made,)), strict=True):
            if target.shape != value.shape:
                target.resize_(value.shape)
            self.__torch_function__(Tensor.copy_, (), (target, value))
        return kwargs["out"] if isinstance(made, Tensor) else type(made)(targets)

    def without_rule(self, call: Call, reason: str = "") -> Any:
        """Run a call by the chain rule, and refuse the reward of its output if strict."""
        if not self.strict:
            return call.run(call.kind())
        output = call.operation(*call.args, **call.kwargs)
        self.refuse(call.operation, reason, output if call.target is None else call.target)
        return call.finish(output, ACTIVATION)

    def refuse(self, operation: Operation, reason: str, output: Any) -> Any:
        """Raise `UnsupportedOperation` if a reward arrives at the output; return the output."""
        differentiable = [tensor for tensor in tensors((output,)) if tensor.requires_grad]
        if not differentiable:
            return output
        advice = reason if ":" in reason else reason + ADVICE
        if _torch.is_compiling():
            _torch.stop_compiling(f"no LFP rule for {name_of(operation)}{advice}")
        inside = f" (in {self._inside[0]})" if self._inside else ""
        message = f"no LFP rule for {name_of(operation)}{inside}{advice}{_location()}"

        def refusal(_: Tensor) -> None:
            raise UnsupportedOperation(message)

        with _torch.DisableTorchFunction():
            for tensor in differentiable:
                tensor.register_hook(refusal)
        return output

    def meet(self, tensor: Tensor, mark: Mark) -> Mark:
        """Refuse a reward that arrives where a function hides how to share it; return a mark.

        If not strict, the function's own derivative carries it on, unless an operand of the
        function owes a factor, which nothing could apply.

        Returns:
            The mark of an activation.
        """
        if self.strict or mark.debts != ACTIVATION.debts:
            node: Any = tensor.grad_fn
            made = _named(node.name())
            self.refuse(made, HIDDEN_ACTIVATION, tensor)
        with _torch.DisableTorchFunction():
            return put(tensor, ACTIVATION)


_torch.never_compiled(feedback.__torch_function__)


@lru_cache(maxsize=16)  # as every layer of every pass has the same
def _owing(epsilon: float) -> Mark:
    return Mark("activation", epsilon=epsilon)


def _listed(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return the tensors that the option `parameters` names; raise ValueError if it cannot."""
    if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        kind = type(parameters).__name__
        raise ValueError(f"parameters must be a list of tensors, not a {kind}")
    listed = list(parameters)
    for each in listed:
        if not isinstance(each, Tensor):
            raise ValueError(f"parameters must be tensors, not {type(each).__name__}")
    return listed


def _buffers(models: list[Module]) -> Iterator[Tensor]:
    """Yield the buffers of models and of the modules in them."""
    pending = list(models)
    while pending:
        module = pending.pop()
        yield from (buffer for buffer in module._buffers.values() if buffer is not None)
        pending.extend(each for each in module._modules.values() if each is not None)


def _check_choices(chosen: tuple[str, ...]) -> None:
    """Raise ValueError if an option is none of those that it may be."""
    for (name, allowed), value in zip(ALLOWED.items(), chosen, strict=True):
        if value not in allowed:
            options = " or ".join(map(repr, allowed))
            raise ValueError(f"{name} must be {options}, not {value!r}")


def _checked(epsilon: float) -> float:
    """Return a stabiliser; raise ValueError if it cannot be one."""
    if type(epsilon) is float and 0 <= epsilon < math.inf:
        return epsilon  # in a tenth of the time: an abstract class is slow to ask
    if isinstance(epsilon, bool) or not isinstance(epsilon, Real):
        raise ValueError(f"epsilon must be a number >= 0, not {epsilon!r}")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon must be finite and >= 0, not {epsilon!r}")
    return float(epsilon)


#: What can be done about an operation without a rule.
ADVICE = (
    ": feedback(strict=False) propagates through it as the chain rule does; "
    "lfp.register_rule gives it a rule; a loss belongs outside the context"
)
#: Of tensors that a function made from activations, where the engine cannot see into it.
HIDDEN_ACTIVATION = (
    ", which made an operand outside of the context, or where it cannot see into: in a custom "
    "Function, a script, another thread, or by reentrant checkpointing; lfp.activation applies "
    "beforehand what the function's input owes"
)
NESTED = (
    "no LFP rule for nested tensors: call the model with padded tensors and a mask, or with the "
    "values() of the nested tensor if the model treats all of them alike"
)
#: Arguments of a model that hold no data. A number may: the time of a diffusion, or an age.
PLAIN = (
    *(bool, str, type, type(None)),
    *(torch.dtype, torch.device, torch.memory_format, torch.layout, torch.Generator),
)
#: Methods that look at a tensor or set something on it, and make nothing of its values.
BOOKKEEPING = {
    *("register_hook", "register_post_accumulate_grad_hook", "requires_grad_", "retain_grad"),
    *("size", "stride", "dim", "numel", "nelement", "data_ptr", "storage_offset"),
    *("ndimension", "element_size", "get_device", "is_contiguous", "is_floating_point", "item"),
    *("is_complex", "tolist", "__len__", "__bool__", "__repr__", "__format__", "__hash__"),
    *("is_pinned", "is_shared", "is_set_to", "is_same_size", "is_nonzero", "untyped_storage"),
}
#: Functions of shapes, and those that fill a shape with a value.
CREATION = {
    *("zeros", "ones", "empty", "rand", "randn", "randint", "randperm", "eye", "arange"),
    *("ones_like", "zeros_like", "empty_like", "rand_like", "randn_like", "randint_like"),
    *("new_ones", "new_zeros", "new_empty"),
}
FILLING = {"full", "full_like", "new_full", "new_tensor"}


def _makes_constants(func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether the values of a function's output depend on no values of a tensor."""
    name = name_of(func)
    return name in CREATION or (name in FILLING and not has_marks((*args[1:], *kwargs.values())))


def _written(func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return what a function has written to, and all of its memory."""
    written = tensors((kwargs.get("out"), *(args[:1] if overwrites(func, args, kwargs) else ())))
    return [*written, *(each._base for each in written if each._base is not None)]


def _made_of(operands: Iterable[Any], cut_off: bool) -> Mark:
    """Return the mark of what is made without gradients.

    Of a frozen activation it is another one, unless that is cut off, as `torch.no_grad` does.
    """
    found = [getattr(tensor, ATTRIBUTE, None) for tensor in tensors(operands)]
    marks = [mark for mark in found if mark]
    if any(mark.kind == "activation" for mark in marks):
        return ACTIVATION if torch.is_grad_enabled() and not cut_off else DETACHED
    return DETACHED if any(mark.role == "detached" for mark in marks) else DATA


def _refuse_in_transform(func: Operation, arguments: tuple[Any, ...]) -> None:
    """Refuse in ``torch.func.vmap`` and the like what a reward may pass through, and data.

    Of data, the transform would make what looks like a constant.

    Raises:
        UnsupportedOperation: one of the arguments is such.
    """
    wrapped = [each for tensor in tensors(arguments) for each in _torch.layers(tensor)]
    if any(each.requires_grad or _is_data(each) for each in wrapped):
        raise UnsupportedOperation(
            f"no LFP rule for {name_of(func)} inside of a transform of torch.func, such as "
            "vmap or grad: run the models one by one"
        )


def _is_data(tensor: Tensor) -> bool:
    """Return whether a tensor has numbers that depend on the model's input."""
    return is_continuous(tensor) and has_marks((tensor,))


#: What follows the graph of autograd.
GRADIENTS: set[Operation] = {torch.autograd.grad, torch.autograd.backward, Tensor.backward}


def _refuse_gradients(func: Operation, operands: Iterable[Any]) -> None:
    """Refuse to differentiate what this context has recorded.

    A model would get feedback in the place of a gradient, and compute its output from that.

    Raises:
        UnsupportedOperation: one of the operands was recorded.
    """
    if not any(map(_is_recorded, tensors(operands))):
        return
    message = (
        f"no LFP rule for {name_of(func)} of what a feedback context has recorded, through which "
        "feedback travels and no gradient: a model that needs a gradient in its forward pass has "
        f"to take it from what was computed outside of the context{_location()}"
    )
    if _torch.is_compiling():
        _torch.stop_compiling(message)
    raise UnsupportedOperation(message)


def _is_recorded(tensor: Tensor) -> bool:
    """Return whether a rule has made the tensor, or something that it was made of."""
    node = tensor.grad_fn
    if node is None:
        return False
    own = getattr(tensor, ATTRIBUTE, None) or (ATTRIBUTE, tensor.output_nr) in _torch.metadata(node)
    return bool(own) or any(mark is not None for *_, mark in ancestors(node))


def _named(name: str) -> Operation:
    """Return a stand-in for an operation that is known by name alone."""

    def stand_in() -> None:
        """Do nothing."""

    stand_in.__name__ = name
    return stand_in


def _location() -> str:
    """Return where the model calls torch: the module, and the line."""
    ours = __file__.rpartition("/")[0]
    theirs = torch.__file__.rpartition("/")[0]
    frame, module, root, line = sys._getframe(1), None, None, ""
    while frame is not None:
        name = frame.f_code.co_filename
        if isinstance(frame.f_locals.get("self"), Module):
            root = frame.f_locals["self"]
            module = module or root
        if not line and not name.startswith((ours, theirs)):
            line = f"{name}, line {frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    if module is None:
        return f" [{line}]" if line else ""
    path = next((path for path, m in root.named_modules() if m is module), "") if root else ""
    return f" [{type(module).__name__}{f' {path!r}' if path else ''}, {line}]"


# --- backward -------------------------------------------------------------------------------------


def leaves(structure: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists, dicts and dataclasses, in their order."""
    found, pending = [], [structure]
    while pending:
        part = pending.pop()
        if isinstance(part, Tensor):
            found.append(part)
        elif isinstance(part, (tuple, list)):
            pending.extend(reversed(part))
        else:
            pending.extend(reversed((_items(part) or {}).values()))
    return found


def _hides_data(structure: Any) -> bool:
    """Return whether something in nested structures may be data and is no tensor."""
    parts = _items(structure)
    if parts is not None:
        return any(map(_hides_data, parts.values()))
    return not isinstance(structure, (Tensor, *PLAIN))


def backward(
    outputs: Any, reward: Any, *, epsilon: float | None = None, retain_graph: bool = False
) -> None:
    """Propagate the reward and add the negated feedback to ``p.grad`` of every trainable parameter.

    So any ``torch.optim`` optimiser, which minimises, moves each parameter along its feedback.

    Args:
        outputs: what the model returned inside :class:`feedback`: a tensor of any shape, or a
            tuple, list, dict or dataclass of tensors.
        reward: of the same shape; or of the same structure, with None where an output gets no
            reward, or for a dict the keys that get one. Positive rewards ask for outputs of larger
            magnitude. An output that is exactly 0 takes none, unless it is the result of an epsilon
            rule with eps > 0, or the spike or membrane of a neuron, which take it as it is.
        epsilon: stabiliser >= 0 of the outputs alone, which share out ``R / (o + eps s(o))``; None
            for that of the rule which made them. With the context's own, an output takes the part
            ``|o| / (|o| + eps)`` of its reward, which is little of it as long as outputs are small.
        retain_graph: keep what a second call for outputs of the same forward pass needs.

    Raises:
        ValueError: outputs do not come from :class:`feedback`, or structures or shapes differ;
            epsilon is out of its range, or given for spikes, which share out all of their reward.
        UnsupportedOperation: a reward arrives at an operation without a rule.
        CheckpointError: ``torch.utils.checkpoint`` ran a part of the model again outside of the
            context.
    """
    own = None if epsilon is None else _checked(epsilon)
    pairs = list(_pairs(outputs, reward, "outputs"))
    if not pairs:
        raise ValueError(f"reward must be a tensor for at least one output, not {reward!r}")
    seeds = [_seed(output, r, name, own) for output, r, name in pairs]
    try:
        _torch.run_backward([output for output, _, _ in pairs], seeds, retain_graph)
    except CheckpointError as error:
        raise CheckpointError(
            "torch.utils.checkpoint computed a part of the model again outside of the context: "
            "call it with context_fn=lambda: (contextlib.nullcontext(), lfp.feedback(...)), with "
            f"the options of the first pass, and use_reentrant=False ({error})"
        ) from error


def _pairs(outputs: Any, reward: Any, name: str) -> Iterator[tuple[Tensor, Tensor, str]]:
    """Yield every output that gets a reward, with that, and where it stands."""
    if reward is None:
        return
    if isinstance(outputs, Tensor):
        if not isinstance(reward, Tensor):
            raise ValueError(f"the reward of {name} must be a tensor, not {type(reward).__name__}")
        yield outputs, reward, name
        return
    items = _items(outputs)
    rewards = _items(reward)
    if items is None or rewards is None:
        kind = type(outputs).__name__
        found = next(iter(items or {"logits": None}))
        example = f"{name}[{found!r}]" if isinstance(found, int | str) else name
        raise ValueError(
            f"{name} carry no feedback as a {kind}, which takes rewards in the same structure, not "
            f"a {type(reward).__name__}: pass a tensor of it, such as {example}"
        )
    unknown = [key for key in rewards if key not in items]
    if unknown or (len(items) != len(rewards) and not isinstance(reward, Mapping)):
        raise ValueError(
            f"{name} has {list(items)}, and the rewards are for {list(rewards)}: "
            "each reward needs its output"
        )
    for key, value in rewards.items():
        yield from _pairs(items[key], value, f"{name}[{key!r}]")


def _items(structure: Any) -> dict[Any, Any] | None:
    """Return the parts of a structure by key, or None if it is none."""
    if isinstance(structure, (tuple, list)):
        return dict(enumerate(structure))
    if isinstance(structure, (dict, Mapping)):  # of which the first is asked for in no time
        return dict(structure)
    if dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        return {f.name: getattr(structure, f.name) for f in dataclasses.fields(structure)}
    return None


def _seed(outputs: Tensor, reward: Tensor, name: str, epsilon: float | None) -> Tensor:
    """Return the gradient that starts the backward pass: ``-R / o``, with what stabilises it."""
    mark = mark_of(outputs) if outputs.requires_grad else None
    if mark is not None and mark.kind == "weight":
        raise ValueError(
            f"{name} carry no feedback, as they are made of parameters and constants alone: call "
            "lfp.activation inside of the context on what is the model's input"
        )
    if mark is None or mark.hidden or mark.leaf:
        raise ValueError(
            f"{name} carry no feedback: compute them inside `with lfp.feedback():`, in the same "
            "thread and not under torch.no_grad(), from at least one parameter that requires a "
            "gradient, and pass them on unchanged or as a view" + _made_by(outputs)
        )
    if outputs.is_complex():
        raise ValueError(f"{name} are complex, and a reward is for real numbers: use view_as_real")
    if reward.is_complex():
        raise ValueError(f"the reward of {name} must be real, not {reward.dtype}")
    if reward.layout is not torch.strided:
        raise ValueError(f"the reward of {name} must be dense, not of {reward.layout}")
    if reward.shape != outputs.shape:
        raise ValueError(f"reward has shape {list(reward.shape)}, {name} {list(outputs.shape)}")
    if epsilon is None:
        epsilon = mark.epsilon
    elif mark.epsilon == UNDIVIDED:
        raise ValueError(f"epsilon: {epsilon!r}; allowed for {name}, which are spikes: None")
    with _torch.DisableTorchFunction():  # as the rewards, which may be made in the context too
        reward, outputs = reward.detach(), outputs.detach()
        seed = share(reward, outputs, epsilon, limit=0.0, factor=-1 / mark.owed_degree)
        return seed if seed.dtype == outputs.dtype else seed.to(outputs.dtype)


def _made_by(outputs: Tensor) -> str:
    node: Any = outputs.grad_fn
    return "" if node is None else f"; {node.name()} made them"
