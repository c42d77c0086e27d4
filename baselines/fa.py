"""Feedback alignment: backpropagation without weight transport.

Lillicrap et al., Random synaptic feedback weights support error backpropagation for deep learning,
Nature Communications 7, 2016. The error of a layer's output reaches its input through fixed random
weights B, not through the transpose of the layer's own W. The weights learn to make B useful: they
align with it.

An output ``W x`` needs W for the gradient of x alone; the gradient of W needs only x. So feedback
alignment is backpropagation in which autograd keeps B where it would keep W. What it keeps is not
always the parameter: it is a copy in another dtype under autocast, and made of other parameters
where a weight is normalised, pruned or parametrised. So a ``TorchFunctionMode`` looks at each
product of the model, takes care that what autograd keeps of the weight is known, and swaps it.
Where a weight reaches the error in a way that the mode does not see, it raises: a network that
learned partly by plain backpropagation would look like a success of feedback alignment.
"""

import math
import sys
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import FunctionType
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from baselines.options import LogUniform, Search, options
from baselines.sgd import SGD
from baselines.trainer import BasicSettings, Settings, generator

LAYERS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
#: What they call: functions of (input, weight, ...).
PRODUCTS = {
    *(F.linear, F.conv1d, F.conv2d, F.conv3d),
    *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
}
#: What multiplies inside of one kernel or by more than one weight, or where no mode can look.
REFUSED = (nn.RNNBase, nn.RNNCellBase, nn.Bilinear, torch.jit.ScriptModule, nn.DataParallel)


#: The name of what a mode does not see.
UNKNOWN = "a script or custom Function"


@options
class FeedbackAlignmentSettings(Settings):
    """The options of feedback alignment."""

    feedback_scale: Annotated[
        float,
        Field(gt=0, allow_inf_nan=False, description="Scale of B, in torch's default weights."),
    ] = 1.0

    search: ClassVar[Mapping[str, Search]] = {
        **Settings.search,
        "feedback_scale": LogUniform(0.1, 10),
    }


class FeedbackAlignment(SGD):
    """Backpropagation through fixed random weights B, in place of each layer's own W.

    It concerns Linear, Conv and ConvTranspose layers and the projections of MultiheadAttention,
    also those whose weights do not train; other layers backpropagate. It is the same under
    autocast, for parametrised, pruned, tied and cast weights, with checkpointing, and for compiled
    models, which run eagerly here. B is distributed like torch's default W of a Linear layer, times
    a scale, and depends on torch's seed alone.

    Attributes:
        feedback: B by the name of its weight, as of ``model.get_parameter``; of the weight's shape.
            Layers that share a weight share its B.

    Raises:
        ValueError: the model has no such layer, or one that is not initialised yet, or recurrent or
            bilinear layers, scripted modules or DataParallel, which cannot have a B. In a step: a
            weight is used otherwise than in a product of such a layer.
    """

    name: ClassVar[str] = "fa"
    label: ClassVar[str] = "feedback alignment"
    Options: ClassVar[type[Settings]] = FeedbackAlignmentSettings
    settings: FeedbackAlignmentSettings

    def __init__(self, model: nn.Module, settings: BasicSettings) -> None:
        """Draw the feedback weights."""
        self.weights = list(_weights(model, self.name))
        super().__init__(model, settings)
        # With the seed that the model was drawn with, B could equal W.
        random = generator(0xFA)
        found = [(weight.name, weight.tensor()) for weight in self.weights]
        drawn: dict[Tensor, Tensor] = {
            w: nn.init.kaiming_uniform_(
                torch.empty_like(w, device="cpu", requires_grad=False),
                math.sqrt(5),
                generator=random,
            )
            .mul_(self.settings.feedback_scale)
            .to(w.device)
            for _, w in found
        }
        self.feedback: dict[str, Tensor] = {name: drawn[w] for name, w in found}

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Backpropagate the cross-entropy through the feedback weights."""
        mode = _Alignment(self.name, self.weights, self.feedback)
        # The backward pass is in there as well, as checkpoints compute their part anew in it.
        unseen = torch.autograd.graph.saved_tensors_hooks(mode.refuse_unseen, lambda saved: saved)
        with _eagerly(), mode.watching(), mode, unseen:
            return super().fill_gradients(inputs, targets)


@dataclass(frozen=True)
class _Weight:
    """A weight that has feedback: an attribute of a layer, which may be computed at every look."""

    name: str
    layer: nn.Module
    attribute: str

    def tensor(self) -> Tensor:
        return getattr(self.layer, self.attribute)

    def parameter(self) -> Tensor | None:
        """Return the weight if the layer holds it as it is."""
        return self.layer._parameters.get(self.attribute)


@dataclass
class _Call:
    """A layer whose forward pass is under way."""

    name: str
    multiplied: bool = False


class _Alignment(TorchFunctionMode):
    """A mode of torch functions in which autograd keeps B for W.

    Args:
        method: its name, for errors.
        weights: what has feedback.
        feedback: B by the name of its weight.
    """

    def __init__(self, method: str, weights: list[_Weight], feedback: dict[str, Tensor]) -> None:
        super().__init__()
        self.method, self.weights, self.feedback = method, weights, feedback
        #: Where parameters lie in memory, which views and detached ones share.
        self.places: list[tuple[int, int, str, Tensor]] = sorted(
            (start := _address(p), start + p.numel() * p.itemsize, weight.name, p)
            for weight in weights
            if (p := weight.parameter()) is not None and p.numel()
        )
        self.starts = [start for start, *_ in self.places]
        self.calls: list[_Call] = []
        self.running = UNKNOWN

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one torch function of the model, a product with B for W."""
        kwargs = kwargs or {}
        if func in ENTERED:
            with self:
                return ENTERED[func](*args, **kwargs)
        if func in PRODUCTS:
            return self._product(func, *args, **kwargs)
        self.running = getattr(func, "__name__", str(func))
        output = func(*args, **kwargs)
        if torch.is_grad_enabled() and not self.calls:
            self._refuse_leaks((args, kwargs), output)
        self.running = UNKNOWN
        return output

    def _product(
        self, func: Callable[..., Tensor], input: Tensor, weight: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        if self.calls:
            self.calls[-1].multiplied = True
        if not (torch.is_grad_enabled() and input.requires_grad and weight.numel()):
            return func(input, weight, *args, **kwargs)  # no error goes through
        found = self._feedback_of(weight)
        if found is None:
            return func(input, weight, *args, **kwargs)
        name, b = found
        w, b = _laid_out_alike(_as_computed(weight), b)
        kept = 0

        def swap(saved: Tensor) -> Tensor:
            """Return B for W or for a view of it (Linear keeps the transpose)."""
            nonlocal kept
            if saved.data_ptr() != w.data_ptr():
                return saved
            kept += 1
            return b.as_strided(saved.shape, saved.stride())

        with torch.autograd.graph.saved_tensors_hooks(swap, lambda saved: saved):
            output = func(input, w, *args, **kwargs)
        if kept != 1:
            raise ValueError(
                f"{self.method}: {name}: autograd keeps it {kept} times for the backward pass of "
                f"{func.__name__}, not once, so that B cannot take its place"
            )
        return output

    def _feedback_of(self, weight: Tensor) -> tuple[str, Tensor] | None:
        """Return the weight's name and B, of its shape; None if it is a constant."""
        owned = self._owner(weight)
        if owned is not None:
            name, owner = owned
            b = self.feedback[name]
            if weight.shape == owner.shape and weight.stride() == owner.stride():
                return name, b
            _, b = _laid_out_alike(owner, b)
            start = weight.storage_offset() - owner.storage_offset()
            return name, b.as_strided(weight.shape, weight.stride(), b.storage_offset() + start)
        if self.calls:
            name = self.calls[-1].name
            b = self.feedback[name]
            if b.shape != weight.shape:
                raise ValueError(
                    f"{self.method}: {name}: its layer multiplies by a weight of shape "
                    f"{list(weight.shape)}, for which there is no feedback; there is for "
                    f"{list(b.shape)}"
                )
            return name, b
        if weight.requires_grad or isinstance(weight, nn.Parameter):
            raise ValueError(
                f"{self.method}: the model multiplies by a weight of shape {list(weight.shape)} "
                "that no Linear or Conv layer holds: call the layer, or make one of the weight"
            )
        return None

    def _refuse_leaks(self, operands: Any, output: Any) -> None:
        """Raise ValueError if something is made of a weight that the error could come back to."""
        made = [tensor for tensor in _tensors(output) if tensor.requires_grad]
        if not made:
            return
        for operand in _tensors(operands):
            owned = self._owner(operand)
            if owned is not None and any(self._owner(tensor) != owned for tensor in made):
                raise self._leak(owned[0])

    def refuse_unseen(self, saved: Tensor) -> Tensor:
        """Raise ValueError if what is no torch function, as a script is not, keeps a weight."""
        if not self.calls and (owned := self._owner(saved)) is not None:
            raise self._leak(owned[0])
        return saved

    def _leak(self, name: str) -> ValueError:
        return ValueError(
            f"{self.method}: {name}: {self.running} takes it outside of its layer, where it has no "
            "feedback: call the layer, or use torch.nn.functional.linear"
        )

    def _owner(self, tensor: Tensor) -> tuple[str, Tensor] | None:
        """Return the name and the parameter that a tensor is a view of, if there is one."""
        address = _address(tensor)
        place = bisect(self.starts, address) - 1
        if place < 0 or address >= self.places[place][1]:
            return None
        return self.places[place][2:]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note which layer is under way, for weights that are made in its forward pass.

        Instead of hooks, which cost more and do not see who calls ``forward`` itself.
        """
        watched = [(w.layer.__dict__, w) for w in self.weights if isinstance(w.layer, LAYERS)]
        before = [attributes.get("forward") for attributes, _ in watched]
        for attributes, weight in watched:
            attributes["forward"] = self._watched(weight.name, weight.layer.forward)
        try:
            yield
        finally:
            for (attributes, _), own in zip(watched, before, strict=True):
                del attributes["forward"]
                if own is not None:
                    attributes["forward"] = own

    def _watched(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            call = _Call(name)
            self.calls.append(call)
            try:
                output = forward(*args, **kwargs)
            finally:
                self.calls.pop()
            if not call.multiplied and _require_grad(output) and _require_grad((args, kwargs)):
                raise ValueError(
                    f"{self.method}: {name}: its layer multiplies otherwise than by a function of "
                    "torch.nn.functional, so that it cannot have feedback"
                )
            return output

        return watched


def _weights(model: nn.Module, method: str) -> Iterator[_Weight]:
    """Yield what has feedback, in the order of the modules; for errors see the class."""
    empty = True
    for prefix, layer in model.named_modules():
        if isinstance(layer, REFUSED):
            raise ValueError(
                f"{method}: {prefix or 'the model'}: {type(layer).__name__} cannot have feedback; "
                "Linear, Conv and ConvTranspose layers and MultiheadAttention can"
            )
        attributes: list[str] = ["weight"] if isinstance(layer, LAYERS) else []
        if isinstance(layer, nn.MultiheadAttention):
            attributes += ["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"]
        for attribute in attributes:
            weight = _Weight(f"{prefix}.{attribute}".lstrip("."), layer, attribute)
            tensor = weight.tensor()
            if tensor is None:  # of two ways to project, attention has one
                continue
            if is_lazy(tensor):
                raise ValueError(
                    f"{method}: {weight.name}: {type(layer).__name__} has no shape yet: let the "
                    "model see a batch first"
                )
            empty = False
            yield weight
    if empty:
        raise ValueError(
            f"{method}: the model has no Linear or Conv layer, so nothing to feed back by"
        )


def _tensors(operand: Any) -> list[Tensor]:
    """Return a tensor, or those in lists and dictionaries."""
    if isinstance(operand, Tensor):
        return [operand]
    if isinstance(operand, dict):
        operand = tuple(operand.values())
    if not isinstance(operand, (tuple, list)):
        return []
    return [tensor for part in operand for tensor in _tensors(part)]


def _address(tensor: Tensor) -> int:
    """Return where a tensor lies; 0 if it has no memory of its own, as a sparse one."""
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def _require_grad(operand: Any) -> bool:
    return any(tensor.requires_grad for tensor in _tensors(operand))


def _as_computed(weight: Tensor) -> Tensor:
    """Return the weight as the product has it: autocast would make the same copy out of sight."""
    kind = weight.device.type
    casts = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    if not casts or weight.dtype == torch.float64:  # which autocast leaves alone
        return weight
    return weight.to(torch.get_autocast_dtype(kind))


def _laid_out_alike(w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return W without gaps or overlaps, and B with its dtype, device and strides."""
    if b.stride() == w.stride() and b.dtype == w.dtype and b.device == w.device:
        return w, b
    alike = torch.empty_like(w, requires_grad=False)
    if alike.stride() != w.stride():
        w = w.contiguous()
        alike = torch.empty_like(w, requires_grad=False)
    return w, alike.copy_(b)


def _eagerly() -> AbstractContextManager[Any]:
    """Let compiled models run as they are written, as a mode cannot look into their graphs."""
    if "torch._dynamo" in sys.modules:  # or nothing has been compiled
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


def _entered(function: Any) -> Callable[..., Any]:
    """Return a function of torch's that a mode sees the inside of, and not the function itself."""
    never = dict.fromkeys(
        ("has_torch_function", "has_torch_function_unary"), lambda *operands: False
    )
    copy = FunctionType(function.__code__, {**function.__globals__, **never})
    copy.__defaults__, copy.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return copy


#: Torch's functions that contain products of the model; a checkpoint's are in the backward pass.
ENTERED: dict[Any, Callable[..., Any]] = {
    function: _entered(function)
    for function in (F.multi_head_attention_forward, Tensor.backward, torch.autograd.backward)
}
