"""The rules of attention: products of activations, softmax, and what is composed of them.

The authors train a ViT by the rules of AttnLRP (Achtibat et al., 2024, Propositions 3.1 and 3.3;
the authors' ``propagator_vit``). In terms of G, where a reward is ``R = a G``, they are:

* O = A B: each factor gets half of every contribution's reward, ``A_ik B_kj / (2 O_ij + eps s)
  R_ij``. That is half the chain rule, and O owes eps / 2. A gate, ``o = a b`` one to one, has one
  contribution to share, and owes nothing.
* p = softmax(x), by Deep Taylor decomposition at x: ``R_x = x (R_p - p sum R_p)``. With R_p = p G_p
  it is ``x p (G_p - sum p G_p)``, so G_x is the chain rule. It conserves no reward: what
  ``sum R_x`` lacks went to the bias of the linearised softmax, and is dropped.

These are the rules called "uniform". "constant" takes the attention weights p for constants, as
CP-LRP does (Ali et al., 2022): all reward goes to the values and none is lost, but queries and keys
get none and never learn. There the rule of p V is that of a product with constants.

Fused attention (:data:`COMPOSED`) is run as the operations it consists of, each under its rule.
"""

import math
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lfp_core.operations import (
    DIVISION,
    ELEMENTWISE,
    IN_PLACE,
    RULES,
    UNSURE,
    Args,
    Kwargs,
    Operation,
    Rule,
    UnsupportedOperation,
    carries_reward,
    name_of,
    named,
    owe,
    product,
    settle,
    tensors,
    total,
)


class EvenShare(torch.autograd.Function):
    """A product of n activations, each of which gets the n-th part of the reward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, factors: int) -> Tensor:  # noqa: D102
        ctx.factors = factors
        ctx.mark_dirty(z)  # not a view, which the model could not overwrite
        return z

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # noqa: D102
        return g / ctx.factors, None


# --- the rules ------------------------------------------------------------------------------------


def shared_product(epsilon: float, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Multiply activations, by weights or by each other."""
    operands = [o for o in tensors((*args, *kwargs.values())) if o.requires_grad]
    n = len(operands)
    if n < 2 or not all(map(carries_reward, operands)):
        return product(epsilon, operation, args, kwargs)
    if any(hasattr(operand, UNSURE) for operand in operands):
        raise UnsupportedOperation(
            f"no LFP rule for {name_of(operation)} of two activations, one of which may be a weight"
        )
    shared = EvenShare.apply(settle(operation, args, kwargs, 0.0, in_place=False), n)
    return owe(shared, 0.0 if operation in ELEMENTWISE else epsilon / n)


def added_product(epsilon: float, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run ``addmm`` and ``baddbmm``: beta times the first argument, plus alpha times a product."""
    if sum(map(carries_reward, tensors(args[1:]))) < 2:
        return product(epsilon, operation, args, kwargs)  # by weights, or refused

    def scaled(factor: float, tensor: Tensor) -> Tensor:
        return tensor if factor == 1 else product(epsilon, torch.mul, (tensor, factor), {})

    first, *matrices = args
    contribution = shared_product(epsilon, torch.matmul, tuple(matrices), {})
    terms = (scaled(kwargs.get("beta", 1), first), scaled(kwargs.get("alpha", 1), contribution))
    return total(epsilon, torch.add, terms, {})


def softmax(epsilon: float, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Hand the reward of p on to x by the chain rule: Deep Taylor decomposition at x."""
    return settle(operation, args, kwargs, 0.0, in_place=False)


def constant(epsilon: float, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Take what the softmax returns for constants."""
    return operation(*args, **kwargs).detach()


safe_softmax = torch.ops.aten._safe_softmax.default  # 0, not NaN, where all is masked
SOFTMAX = named("softmax") | {torch.special.softmax, safe_softmax}
#: The rule of softmax by the name of the way attention is treated.
ATTENTION: dict[str, dict[Operation, Rule]] = {
    "uniform": dict.fromkeys(SOFTMAX, softmax),
    "constant": dict.fromkeys(SOFTMAX, constant),
}
GATES = ELEMENTWISE - DIVISION - IN_PLACE
RULES |= dict.fromkeys(
    named("matmul", "mm", "bmm", "mv", "einsum", "inner", "tensordot")
    | {Tensor.__matmul__, Tensor.__rmatmul__}
    | GATES,
    shared_product,
)
RULES |= dict.fromkeys((torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm), added_product)


# --- fused attention ------------------------------------------------------------------------------


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return what ``F.scaled_dot_product_attention`` does, as its documentation writes it.

    Raises:
        UnsupportedOperation: both a mask and `is_causal`, which torch refuses as well.
    """
    if enable_gqa:  # heads of queries that share one of keys and values
        groups = query.size(-3) // key.size(-3)
        key, value = (t.repeat_interleave(groups, dim=-3) for t in (key, value))
    scale = query.size(-1) ** -0.5 if scale is None else scale
    scores = query @ key.transpose(-2, -1) * scale
    if is_causal:
        if attn_mask is not None:
            raise UnsupportedOperation("no LFP rule for attention with attn_mask and is_causal")
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return F.dropout(safe_softmax(scores, -1), dropout_p) @ value


def _unfolded(function: Any) -> Callable[..., Any]:
    """Return a copy of a function of torch.nn.functional that does not offer itself to the mode.

    Its body is Python, so that the mode sees the operations in there.
    """
    names = {**function.__globals__, "has_torch_function": lambda tensors: False}
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


#: Operations that are run as others, which the mode sees.
COMPOSED: dict[Operation, Callable[..., Any]] = {
    F.scaled_dot_product_attention: attend,
    F.multi_head_attention_forward: _unfolded(F.multi_head_attention_forward),
}
