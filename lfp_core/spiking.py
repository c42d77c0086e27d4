"""LFP for spiking networks of ordinary torch layers and ``snntorch.Leaky``, without surrogates.

A leaky integrate-and-fire neuron with current ``c_t = W x_t + b`` and reset by subtraction::

    v_t = beta u_{t-1} + c_t    S_t = H(v_t - H(u_{t-1} - theta) theta - theta)
    u_t = v_t - reset_t         reset_t = H(u_{t-1} - theta) theta, or S_t theta without reset_delay

LFP takes the update of the membrane, not the spike, as the layer (Weber et al., 2025; the authors'
``propagator_snn``). Its inputs are x_t and u_{t-1}. The reward r_t on S_t and u_t, with what t + 1
carried back, is shared out among them as ``q_t = r_t / N_t``::

    N_t = |u_{t-1}| + |v_t - u_{t-1}| + eps    normaliser "current", the authors' code of today
    N_t = |v_t| + eps                          normaliser "earlier", their code of February 2025

    to x_t: x_t (W^T q_t)    to u_{t-1}: u_{t-1} beta q_t    dW = |W| q_t x_t^T, summed over t

No derivative of the spike occurs: ``spike_grad`` is never called. q_t is what the layer below wants
as its G, so linear layers need nothing new; N_t replaces the epsilon rule of the layer that made
c_t. The G of a spike, R / S, would lose the rewards of silent neurons. So autograd brings R itself
to spikes and membranes, which are marked UNDIVIDED (:mod:`lfp_core.slopes`); a layer that takes
spikes in pays ``R = S G`` by the rules of the engine.

``Leaky.forward`` is Python, no operation that a ``TorchFunctionMode`` could see. :func:`install`,
which :class:`lfp_core.feedback` calls where snntorch is loaded, therefore wraps it: it offers
itself to active modes first, as every torch function does, and without one is snntorch's own code.
So no model is touched, an exception leaves nothing behind, and other threads notice nothing, since
modes belong to a thread. :func:`uninstall` puts snntorch's own methods back.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import cache, wraps
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary
from torch.utils.weak import WeakTensorKeyDictionary

from lfp_core import _torch, native, propagation
from lfp_core.calls import Args, Context, Kwargs, Operation
from lfp_core.marks import ACTIVATION, WEIGHT, Mark, mark_of, marked, used
from lfp_core.operations import register_rule
from lfp_core.slopes import UNDIVIDED, share

try:
    import snntorch
except ModuleNotFoundError as error:
    way_out = "pip install 'lfp-core[spiking]'"
    message = f"{__name__} needs {error.name}; {way_out}"
    raise ModuleNotFoundError(message, name=error.name) from None

Normaliser = Literal["current", "earlier"]

TINY = 1e-10  # `max_norm` leaves smaller rewards alone, as the authors' code does
#: snntorch's own methods: the forward pass, and what calls the surrogate for all its neurons.
_forward = snntorch.Leaky.forward
_fire, _mem_reset = snntorch.SpikingNeuron.fire, snntorch.SpikingNeuron.mem_reset
#: What a forward pass calls, which a subclass may exchange.
DYNAMICS = ("fire", "mem_reset", "_base_state_function", "_base_sub")
#: Of factors on a GPU: the version that was asked for, and the answer.
_asked = WeakTensorKeyDictionary()
#: The mark of a spike or membrane, to which autograd brings its reward itself.
SPIKE = Mark("activation", epsilon=UNDIVIDED)


class feedback(propagation.feedback):  # noqa: N801  (reads as a function)
    """:class:`lfp_core.feedback` with the options of spiking networks.

    Args:
        epsilon: stabiliser of N_t, and of layers that no neuron follows.
        strict: as in :class:`lfp_core.feedback`.
        normaliser: "current" or "earlier", N_t as above.
        max_norm: divide the reward r_t of each layer and time step by its largest magnitude in the
            batch, if that exceeds 1e-10, before it is shared out.

    Raises:
        ValueError: wrong epsilon or normaliser.
    """

    def __init__(
        self,
        epsilon: float = 1e-6,
        *,
        strict: bool = True,
        normaliser: Normaliser = "current",
        max_norm: bool = False,
    ) -> None:
        super().__init__(epsilon, strict=strict)
        if normaliser not in ("current", "earlier"):
            raise ValueError(f"normaliser must be 'current' or 'earlier', not {normaliser!r}")
        self.spiking = {"normaliser": normaliser, "max_norm": max_norm}

    def options(self) -> tuple[Any, ...]:
        """Return all that decides how rewards are shared."""
        return *super().options(), *self.spiking.values()

    def __torch_function__(
        self, func: Operation, types: Any, args: Args = (), kwargs: Kwargs | None = None
    ) -> Any:
        """Run one operation; those of neurons get the options."""
        if func in (step, scan):
            kwargs = {**(kwargs or {}), **self.spiking}
        return super().__torch_function__(func, types, args, kwargs)


class LeakyScan(torch.autograd.Function):
    """T steps of a layer of neurons, from currents (T, ...) and u_0 (...) to spikes and membranes.

    Both have the shape of the currents, which of a single step is (...). The backward pass takes
    rewards, and not gradients, of both, and brings q_t to the currents; see the page on spiking
    networks.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        currents: Tensor,
        membrane: Tensor,
        beta: Tensor,
        threshold: Tensor,
        reset_delay: bool,
        epsilon: float,
        owed: float,
        normaliser: Normaliser = "current",
        max_norm: bool = False,
    ) -> tuple[Tensor, Tensor]:
        # N_t is computed again in the backward pass, as it would take as much memory as the spikes.
        single = currents.dim() == membrane.dim()
        kept = currents
        if single:  # a loop may write its next step to the same memory
            kept, membrane = currents[None].clone(), membrane.clone()
        spikes = torch.empty_like(currents, memory_format=torch.contiguous_format)
        membranes = torch.empty_like(spikes)
        outputs = (spikes[None], membranes[None]) if single else (spikes, membranes)
        _forward_in_time(kept, membrane, beta, threshold, reset_delay, *outputs)
        ctx.save_for_backward(membrane, None if single else membranes, kept, beta)
        ctx.options = normaliser == "current", epsilon, max_norm
        ctx.owed = owed
        ctx.set_materialize_grads(False)
        return spikes, membranes

    @staticmethod
    def backward(ctx: Any, *rewards: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        membrane, membranes, currents, beta = ctx.saved_tensors
        single = membranes is None
        arrived = [reward for reward in rewards if reward is not None]
        if not arrived:
            return (None,) * 9
        reward = arrived[0] if len(arrived) == 1 else arrived[0] + arrived[1]
        if single:
            reward, earlier = reward[None], currents[:0]
        else:
            earlier = membranes[:-1]
        q = _backward_in_time(reward, currents, membrane, earlier, beta, *ctx.options)
        to_membrane = None
        if ctx.needs_input_grad[1]:
            to_membrane = share(membrane, membrane, ctx.owed, limit=1.0).mul_(q[0]).mul_(beta)
        return q[0] if single else q, to_membrane, *[None] * 7


def _fused(currents: Tensor) -> ModuleType | None:
    """Return what makes all time steps at once where the currents are, if there is something."""
    if not currents.is_cuda:
        return native.usable()
    return None if _torch.is_compiling() else _kernels(currents.device)


@cache
@torch.no_grad()
def _kernels(device: torch.device) -> ModuleType | None:
    """Return the kernels for a GPU; None without Triton, or with a warning where it fails."""
    try:
        kernels = import_module("lfp_core.spiking_kernels")
        one = torch.ones(1, 1, device=device, dtype=torch.float32)  # which the kernels take
        kernels.forward_in_time(one, one[0], one, one, True, one.clone(), one.clone())
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        return None
    except Exception as error:  # there is no C compiler, or Triton does not know the GPU
        warnings.warn(f"spiking neurons on {device} are slow: {error!r}", stacklevel=2)
        return None
    return kernels


def _forward_in_time(
    currents: Tensor,
    membrane: Tensor,
    beta: Tensor,
    threshold: Tensor,
    reset_delay: bool,
    spikes: Tensor,
    membranes: Tensor,
) -> None:
    """Fill the spikes and the membranes, each (T, ...), of T steps from u_0."""
    fused = _fused(currents)
    if fused is not None:
        constants = beta, threshold, reset_delay
        if fused.forward_in_time(currents, membrane, *constants, spikes, membranes):
            return
    before = membrane
    # All that happens to the few hundred kB of one step, while they are in the cache.
    for t, (current, spike, after) in enumerate(zip(currents, spikes, membranes, strict=True)):
        reset = spikes[t - 1] if t and reset_delay else (before > threshold).to(spike.dtype)
        torch.mul(before, beta, out=after).add_(current)  # rounded as in snntorch
        after.addcmul_(reset, threshold, value=-1)
        torch.gt(after, threshold, out=spike)
        if not reset_delay:
            after.addcmul_(spike - reset, threshold, value=-1)
        before = after


def _backward_in_time(
    rewards: Tensor,
    currents: Tensor,
    membrane: Tensor,
    earlier: Tensor,
    beta: Tensor,
    is_current: bool,
    epsilon: float,
    max_norm: bool,
) -> Tensor:
    """Return q_t (T, ...), the rewards over N_t, with what t + 1 carries back in them.

    `earlier` (T - 1, ...) are the membranes of all steps but the last.
    """
    fused = _fused(currents)
    if fused is not None and not max_norm:
        tensors = rewards, currents, membrane, earlier, beta
        made: Tensor | None = fused.backward_in_time(*tensors, is_current, epsilon)
        if made is not None:
            return made
    q, carried = currents.new_empty(currents.shape), None
    for t in reversed(range(len(currents))):
        before = earlier[t - 1] if t else membrane
        norm = torch.mul(before, beta).add_(currents[t])
        norm = norm.sub_(before).abs_().add_(before.abs()) if is_current else norm.abs_()
        norm.add_(epsilon)
        reward = rewards[t] if carried is None else carried.add_(rewards[t])
        if max_norm:
            low, high = reward.aminmax()
            largest = torch.maximum(-low, high)
            reward = reward / torch.where(largest > TINY, largest, 1.0)
        torch.div(reward, norm, out=q[t])
        if epsilon == 0:  # LFP-0: without contributions, no credit
            q[t].masked_fill_(norm == 0, 0.0)
        if t:
            carried = torch.mul(before, q[t]).mul_(beta)
    return q


# --- a neuron as an operation with a rule ---------------------------------------------------------


def unsupported(neuron: Any) -> str | None:
    """Return why LFP has no definition for one of snntorch's neurons; None if it has one.

    Args:
        neuron: a ``snntorch.SpikingNeuron``.

    Returns:
        The reason in a few words, such as "learn_beta is not supported".
    """
    kind = type(neuron)
    if not isinstance(neuron, snntorch.Leaky) or kind.forward is not _offered:
        return "only snntorch.Leaky has one"
    for name in DYNAMICS:
        if getattr(kind, name) is not getattr(snntorch.Leaky, name):
            return f"{kind.__name__} has a {name} of its own"
    if neuron.reset_mechanism != "subtract":
        return f"reset_mechanism must be 'subtract', not {neuron.reset_mechanism!r}"
    options = {
        "inhibition": neuron.inhibition,
        "state_quant": neuron.state_quant,
        "learn_beta": neuron.beta.requires_grad,
        "learn_threshold": neuron.threshold.requires_grad,
        "learn_graded_spikes_factor": neuron.graded_spikes_factor.requires_grad,
    }
    factor = neuron.graded_spikes_factor
    with _torch.DisableTorchFunction():  # or every step would offer this to the modes
        if _torch.is_compiling():  # a graph cannot ask, but it can fail when it runs
            ungraded = (factor == 1).all()
            _torch.assert_async(ungraded, "no LFP rule for Leaky: graded_spikes_factor")
        else:
            options["graded_spikes_factor"] = not _is_one(factor)
    return next((f"{name} is not supported" for name, on in options.items() if on), None)


def _is_one(factor: Tensor) -> bool:
    """Return whether all of a factor is 1; a GPU is asked once for what was not written since.

    While it is waited for, the GPU gets no work, and a CUDA graph cannot record that.
    """
    if not factor.is_cuda or factor.is_inference():
        return bool((factor == 1).all())
    version, answer = _asked.get(factor, (None, False))
    if version != factor._version:
        answer = bool((factor == 1).all())
        _asked[factor] = factor._version, answer
    return answer


def step(neuron: Any, current: Tensor, membrane: Tensor | None = None, **_: Any) -> Any:
    """Run one time step of a neuron, as ``neuron(current, membrane)`` does.

    Args:
        neuron: a ``snntorch.Leaky``.
        current: its input, of any shape.
        membrane: the potential before the step, of the same shape; None if the neuron keeps it
            (``init_hidden``).

    Returns:
        What the neuron returns: spikes, or spikes and potentials, of the shape of the current.

    Raises:
        TypeError: both the neuron and the caller give a potential.
    """
    return _forward(neuron, current, membrane)


def scan(neuron: Any, currents: Tensor, **options: Any) -> Tensor:
    """Run a neuron over all time steps, from the potential 0.

    Outside of `feedback` it is snntorch's step in a loop, or a faster equivalent if ``no_grad``.

    Args:
        neuron: a ``snntorch.Leaky``, whose own state stays as it is.
        currents: (T, ...).
        **options: what the active context adds.

    Returns:
        The spikes (T, ...).
    """
    # torch.compile takes the first question for a constant, and the second for what it is.
    if has_torch_function_unary(currents) or _torch.mode_is_active():
        return handle_torch_function(scan, (currents,), neuron, currents, **options)
    if not torch.is_grad_enabled() and not unsupported(neuron):
        return _integrate(neuron, currents, torch.zeros_like(currents[0]), epsilon=0.0)[0]
    state, neuron.mem = neuron.mem, torch.zeros_like(currents[0])
    try:
        outputs = [_forward(neuron, current) for current in currents]
    finally:
        neuron.mem = state
    spikes = torch.stack([out[0] if isinstance(out, tuple) else out for out in outputs])
    return spikes.to(currents.dtype)  # snntorch's surrogates give float32, whatever they are given


def _integrate(
    neuron: Any, currents: Tensor, membrane: Tensor, epsilon: float, **options: Any
) -> tuple[Tensor, Tensor]:
    """Return spikes and membranes of the currents' shape, which take undivided rewards."""
    constants = neuron.beta.clamp(0, 1), neuron.threshold, neuron.reset_delay
    mark = mark_of(membrane)  # given as data, or made of weights, it owes nothing
    owed = 0.0 if mark is None else mark.epsilon
    outputs = LeakyScan.apply(currents, membrane, *constants, epsilon, owed, *options.values())
    return marked(outputs[0], SPIKE), marked(outputs[1], SPIKE)


def _taken_over(current: Tensor) -> Tensor:
    """Return the current with what it owes applied, unless N_t takes that over."""
    mark = mark_of(current)
    if mark is None or (mark.kind == "activation" and mark.epsilon != UNDIVIDED):
        return current
    return used(current, mark)


def _step_rule(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    neuron, current, membrane = args
    if neuron.init_hidden and membrane is not None:
        raise TypeError("`mem` should not be passed as an argument while `init_hidden=True`")
    before = neuron.mem if membrane is None else membrane
    if before.shape != current.shape:
        before = torch.zeros_like(current)
    mark = mark_of(before)
    if mark is not None and mark.kind == "weight" and not mark.scaled:
        before = marked(used(before, mark), WEIGHT)  # or it would be taken for unscaled, again
    epsilon = context.stabiliser()
    spike, neuron.mem = _integrate(neuron, _taken_over(current), before, epsilon, **kwargs)
    return spike if neuron.init_hidden and not neuron.output else (spike, neuron.mem)


def _scan_rule(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Tensor:
    neuron, currents = args
    if unsupported(neuron):
        return _refuse(context, operation, args, kwargs)
    rest = torch.zeros_like(currents[0])
    return _integrate(neuron, _taken_over(currents), rest, context.stabiliser(), **kwargs)[0]


def _refuse(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run a neuron that LFP has no definition of; refuse the rewards of its output, if strict."""
    neuron, *operands = args
    if not context.strict:
        operands = [used(o, mark_of(o)) if isinstance(o, Tensor) else o for o in operands]
        return marked(operation(neuron, *operands, **kwargs), ACTIVATION)
    reason = unsupported(neuron) or "it fires outside of its forward"
    output = operation(*args, **kwargs)
    return marked(context.refuse(type(neuron), f": {reason}", output), ACTIVATION)


# torch.compile would trace past the mode, into the surrogate.
@torch.compiler.disable  # type: ignore[untyped-decorator]
@wraps(_forward)
def _offered(self: Any, input_: Tensor, mem: Tensor | None = None) -> Any:
    if has_torch_function_unary(input_) and not unsupported(self):
        return handle_torch_function(step, (input_,), self, input_, mem)
    return _forward(self, input_, mem)  # in a context, the `mem_reset` in there will be refused


def _refusable(method: Callable[..., Any]) -> Callable[..., Any]:
    """Offer a method of all of snntorch's neurons, one that calls the surrogate, to the modes."""

    @wraps(method)
    def refusable(self: Any, mem: Tensor) -> Any:
        if has_torch_function_unary(mem):
            return handle_torch_function(method, (mem,), self, mem)
        return method(self, mem)

    return refusable


_offered_fire, _offered_reset = _refusable(_fire), _refusable(_mem_reset)
for _operation, _rule in (
    (step, _step_rule),
    (scan, _scan_rule),
    (_fire, _refuse),
    (_mem_reset, _refuse),
):
    register_rule(_operation, _rule)


def install() -> None:
    """Wrap the methods of snntorch's neurons, so that contexts of LFP see them.

    Importing this module does so, and entering :class:`lfp_core.feedback` where snntorch is loaded.
    Outside of a context the neurons do what they did. A second call changes nothing.
    """
    snntorch.Leaky.forward = _offered
    snntorch.SpikingNeuron.fire = _offered_fire
    snntorch.SpikingNeuron.mem_reset = _offered_reset


def uninstall() -> None:
    """Put snntorch's own methods back, until the next :func:`install`."""
    snntorch.Leaky.forward = _forward
    snntorch.SpikingNeuron.fire = _fire
    snntorch.SpikingNeuron.mem_reset = _mem_reset


install()


# --- the fused path -------------------------------------------------------------------------------


def unroll(model: nn.Sequential, inputs: Tensor, steps: int | None = None) -> Tensor:
    """Run a feed-forward network over all time steps, layer by layer; return its spikes.

    The numbers are those of ``torch.stack([model(x) for x in inputs])`` from rest, but each layer
    gets T * batch rows at once, as time is part of its batch, and its neurons are scanned over T.
    Neurons keep the state they had; hooks of neurons and of Sequentials are not called.

    Args:
        model: torch layers and ``snntorch.Leaky`` in (nested) ``nn.Sequential``; the last is Leaky,
            and none stands at two places, where it would have one state.
        inputs: (T, batch, ...); or (batch, ...) with `steps`, the same at every step, for which
            the layers in front of the first neuron run once.
        steps: T for constant inputs.

    Returns:
        Spikes (T, batch, ...) of the last layer.

    Raises:
        ValueError: no Leaky at the end, one at two places, a layer that is or hides another neuron
            (as a Sequential or Leaky with a forward pass of its own), BatchNorm in training mode
            (its statistics would cover all steps), no step, or `steps` that is no integer.
        UnsupportedOperation: in a feedback context, a Leaky without a rule.
    """
    layers = list(_layers(model))
    if not layers or not isinstance(layers[-1], snntorch.Leaky):
        raise ValueError("the last layer of the model must be a snntorch.Leaky")
    neurons = [layer for layer in layers if isinstance(layer, snntorch.Leaky)]
    if len(set(map(id, neurons))) < len(neurons):
        raise ValueError("cannot unroll a Leaky that stands at two places, where it has one state")
    if steps is not None and (isinstance(steps, bool) or not hasattr(steps, "__index__")):
        raise ValueError(f"steps must be an integer, not {steps!r}")
    constant, steps = steps is not None, len(inputs) if steps is None else steps
    if steps < 1:
        raise ValueError("there must be at least one time step")
    for layer in layers:
        if constant and isinstance(layer, (snntorch.Leaky, _torch.Dropout)):
            inputs, constant = inputs.expand(steps, *inputs.shape), False
        if isinstance(layer, snntorch.Leaky):
            inputs = scan(layer, inputs)
        elif constant:
            inputs = layer(inputs)
        else:
            outputs = layer(inputs.flatten(0, 1))
            inputs = outputs.reshape(*inputs.shape[:2], *outputs.shape[1:])
    return inputs


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of nested Sequentials, checked."""
    if isinstance(model, nn.Sequential) and _runs_as(model, nn.Sequential):
        for child in model:
            yield from _layers(child)
        return
    if any(isinstance(each, _torch.BatchNorm) and each.training for each in model.modules()):
        raise ValueError("unroll would take the statistics of BatchNorm over all time steps")
    neurons = any(isinstance(module, snntorch.SpikingNeuron) for module in model.modules())
    if neurons and not (isinstance(model, snntorch.Leaky) and _runs_as(model, snntorch.Leaky)):
        raise ValueError(f"cannot unroll {type(model).__name__}: it is, or hides, another neuron")
    yield model


def _runs_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether neither a subclass nor the module itself has another forward pass."""
    return type(module).forward is kind.forward and "forward" not in vars(module)
