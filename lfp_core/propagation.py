"""Layer-wise Feedback Propagation (LFP) as a context manager around an unmodified model.

LFP (Weber et al., TMLR 2025, arXiv 2308.12053) shares the reward ``r_j`` of a unit among its inputs
in proportion to their contributions (the epsilon rule), and moves each weight along its share::

    r_i  = sum_j  a_i w_ij / (z_j + eps s(z_j)) r_j
    dw_ij =     |w_ij| a_i / (z_j + eps s(z_j)) r_j

Nothing of this is computed here. With ``R = a G`` both formulas are reverse-mode autodiff of G with
the changes of :mod:`lfp_core.slopes`, so a ``TorchFunctionMode``, which sees every torch operation
that the model calls, is enough to swap in those backward formulas (:mod:`lfp_core.operations`).

Why this way, as measured on two CPU cores: hooks and rules per module, as in zennit and the
authors' ``lfprop``, cost 1.5 to 2.1 times an SGD step and miss functional operations. The mode
leaves every heavy kernel to torch's own autograd, stores nothing per connection, costs a few
microseconds an operation, and leaves nothing behind on the model because it never touches it.
Multiplying by |w| inside the graph costs a few percent more than doing it once a step with
``torch._foreach_mul_``, but only so do accumulation over micro-batches, clipping and
DistributedDataParallel see the final values in ``p.grad``.
"""

import importlib
import math
import sys
from collections.abc import Iterable
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

from lfp_core.attention import ATTENTION, COMPOSED
from lfp_core.operations import (
    IN_PLACE,
    METHODS,
    OWED,
    RULES,
    WEIGHT,
    Operation,
    UnsupportedOperation,
    carries_reward,
    is_stranger,
    name_of,
    owe,
    settle,
    tensors,
)
from lfp_core.slopes import share

Attention = Literal["uniform", "constant"]

#: What goes past a ``TorchFunctionMode`` in a library, and the module that mends that.
SUPPORT = {
    "snntorch": "lfp_core.spiking",
    "torch.distributed.fsdp._fully_shard._fsdp_param_group": "lfp_core.sharding",
}


class feedback(TorchFunctionMode):  # noqa: N801  (reads as a function: ``with feedback():``)
    """Context in which the forward pass of any model prepares for :func:`backward`.

    Args:
        epsilon: stabiliser of the epsilon rule; 0 is LFP-0, with 0/0 taken as the limit f'(0) where
            f(0) = 0, as 0 for ReLU-like units and where f(0) is not 0.
        strict: raise on operations without a rule; if False they propagate as the chain rule does.
        attention: "uniform" shares the reward of attention evenly between its weights, on to
            queries and keys, and the values; "constant" leaves all of it to the values, so that
            queries and keys do not learn (:mod:`lfp_core.attention`).

    Raises:
        ValueError: epsilon is not a finite number >= 0, or attention is neither of the two.
        UnsupportedOperation: in the context, where the model uses an operation without a rule.

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

    def __init__(
        self, epsilon: float = 1e-6, *, strict: bool = True, attention: Attention = "uniform"
    ) -> None:
        if isinstance(epsilon, bool) or not isinstance(epsilon, Real):
            raise ValueError(f"epsilon must be a number >= 0, not {epsilon!r}")
        if not (math.isfinite(epsilon) and epsilon >= 0):
            raise ValueError(f"epsilon must be finite and >= 0, not {epsilon!r}")
        if attention not in ATTENTION:
            raise ValueError(f"attention must be 'uniform' or 'constant', not {attention!r}")
        super().__init__()
        self.epsilon = float(epsilon)
        self.strict = strict
        self.attention = attention
        # Only then can the model be sharded, or have spiking neurons, with no LFP derivatives.
        for library, support in SUPPORT.items():
            if library in sys.modules and not torch.compiler.is_compiling():
                importlib.import_module(support)

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
            output = func(*args, **kwargs)
            # DistributedDataParallel hands outputs on like this, to find unused parameters.
            if func is Tensor.clone and hasattr(args[0], OWED):
                setattr(output, OWED, getattr(args[0], OWED))
            return output
        if func in COMPOSED:
            with self:
                return COMPOSED[func](*args, **kwargs)
        rule = METHODS.get(name_of(func)) if torch.compiler.is_compiling() else None
        rule = rule or RULES.get(func) or ATTENTION[self.attention].get(func)
        if rule is None:
            return self._without_rule(func, args, kwargs)
        if not args:  # F.linear(input=x, ...), torch.cat(tensors=[...])
            first = next(name for name in ("input", "tensors", *kwargs) if name in kwargs)
            args, kwargs = (kwargs[first],), {k: v for k, v in kwargs.items() if k != first}
        self._meet_strangers(tensors((*args, *kwargs.values())))
        try:
            return rule(self.epsilon, func, args, kwargs)
        except UnsupportedOperation:
            if self.strict:
                raise
            return self._without_rule(func, args, kwargs)

    def _without_rule(self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = tensors((*args, *kwargs.values()))
        carried = any(carries_reward(operand) for operand in operands)
        strangers = [operand for operand in operands if is_stranger(operand)]
        output = func(*args, **kwargs)
        # Shapes, comparisons and detached values carry no reward on.
        differentiable = [tensor for tensor in tensors((output,)) if tensor.requires_grad]
        if func is Tensor.requires_grad_ or not (differentiable or func is Tensor.__setitem__):
            return output
        self._meet_strangers(strangers)
        if carried and self.strict:
            raise UnsupportedOperation(
                f"no LFP rule for {name_of(func)}: feedback(strict=False) propagates through it as "
                "the chain rule does; a loss belongs outside the context"
            )
        made_of_weights = any(isinstance(operand, Parameter) for operand in operands)
        initialised = any(tensor is operand for tensor in differentiable for operand in operands)
        if differentiable and (carried or (made_of_weights and not initialised)):
            return settle(func, args, kwargs, epsilon=0.0, in_place=func in IN_PLACE)
        return output if carried or initialised else owe(output, WEIGHT)

    def _meet_strangers(self, operands: Iterable[Tensor]) -> None:
        """Refuse tensors that no rule has seen the making of, or take them as they are."""
        for operand in operands:
            if is_stranger(operand):
                if self.strict:
                    assert operand.grad_fn is not None  # as it is no leaf
                    raise UnsupportedOperation(
                        f"no LFP rule for {operand.grad_fn.name()}, which made an operand outside "
                        "of the context, or where it cannot see into (a custom Function, a script, "
                        "an assignment to an index, reentrant checkpointing)"
                    )
                owe(operand, 0.0)


def backward(outputs: Tensor, reward: Tensor) -> None:
    """Propagate the reward and add the negated feedback to ``p.grad`` of every trainable parameter.

    So any ``torch.optim`` optimiser, which minimises, moves each parameter along its feedback.

    Args:
        outputs: what the model returned inside :class:`feedback`, of any shape.
        reward: of the same shape; positive rewards ask for outputs of larger magnitude. An output
            that is exactly 0 takes none, unless it is the result of an epsilon rule with eps > 0,
            or the spike or membrane of a neuron, which take their reward as it is.

    Raises:
        ValueError: outputs do not come from :class:`feedback`, or the shapes differ.
    """
    owed = getattr(outputs, OWED, WEIGHT)
    if owed is WEIGHT or not outputs.requires_grad:
        raise ValueError(
            "outputs carry no feedback: compute them inside `with lfp.feedback():`, from at least "
            "one parameter that requires a gradient, and pass them on unchanged"
        )
    if reward.shape != outputs.shape:
        raise ValueError(f"reward has shape {list(reward.shape)}, outputs {list(outputs.shape)}")
    with torch.no_grad():
        seed = share(-reward, outputs, owed, limit=0.0)
    outputs.backward(seed.to(outputs.dtype))
