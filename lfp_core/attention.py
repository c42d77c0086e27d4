"""Fused attention, without all of its scores in memory at once.

Attention is ``o = p v`` with ``p = softmax(x)`` and ``x = c q k^T + mask``. Written as these
operations (:func:`lfp_core.composed.attend`), LFP is the chain rule with three changes: where both
factors of a product are activations, each gets a half; the products, and x if numbers are added,
owe epsilon; and with attention="constant", p is a constant. What o owes is for its consumer to
apply, and a half is a factor before or behind. So torch's own kernel does for "constant", and for
"uniform" with epsilon 0. The epsilon of scores is applied by no fused kernel:
:class:`SharedAttention` computes the scores again in the backward pass, a part of them at a time.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lfp_core import _torch, kernels
from lfp_core.calls import Args, Context, Kwargs, Operation, known
from lfp_core.composed import attend, grouped
from lfp_core.marks import ACTIVATION, GATES, POWERS, Mark, marked, used
from lfp_core.slopes import Share

#: Scores that are computed at a time, or if the queries are more numbers than that, as many.
LEAST = 2**18
BANDS = 8  # of rows, where each query sees the keys up to its own place alone


def attention(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run fused attention as such; as the operations in it where these share in another way."""
    output = _fused(context, *args, **kwargs)
    if output is None:
        with context:
            output = attend(*args, **kwargs)
    return output


def _fused(
    context: Context,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """Return the output, marked; None where the operations have to run one by one."""
    marks = [known(context, tensor) for tensor in (query, key, value)]
    active = [mark is not None and mark.kind == "activation" for mark in marks]
    constant_value = marks[2] is None or marks[2].kind == "data"
    if constant_value or not (any(active[:2]) and all(map(_is_certain, marks))):
        return None
    refused = is_causal and attn_mask is not None
    if refused or (scale is not None and scale <= 0):  # of which torch's kernels may make NaN
        return None
    options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
    if context.attention == "constant":
        mask = None if attn_mask is None else attn_mask.detach()
        query, key, value = query.detach(), key.detach(), used(value, marks[2])
        output = FUSED(query, key, value, mask, dropout_p, is_causal, **options)
        return _marked(output, context.stabiliser())
    if attn_mask is not None and not _is_constant(context, attn_mask):
        return None
    epsilon, of_scores, of_output = context.stabiliser(), 1 / sum(active[:2]), 1 / (1 + active[2])
    if epsilon and (_torch.is_compiling() or query.is_nested):  # it fuses as it likes
        return None
    query, key, value = (
        used(tensor, mark, share if is_active else 1.0)
        for tensor, mark, is_active, share in zip(
            (query, key, value), marks, active, (of_scores, of_scores, 1.0), strict=True
        )
    )
    if epsilon:
        if enable_gqa:
            key, value = grouped(query, key), grouped(query, value)
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        owed = (scale * epsilon * of_scores, epsilon)
        output = _shared(query, key, value, attn_mask, dropout_p, is_causal, scale, owed)
    else:
        output = FUSED(query, key, value, attn_mask, dropout_p, is_causal, **options)
    if of_output != 1.0:
        output = Share.apply(output, of_output, False)
    return _marked(output, epsilon * of_output)


FUSED = F.scaled_dot_product_attention


def _is_certain(mark: Mark | None) -> bool:
    """Return whether a product of activations shares evenly with the tensor of this mark."""
    if mark is None:
        return True
    uncertain = mark.assumed or mark.hidden or mark.role in (*GATES, *POWERS)
    return mark.kind != "undetermined" and not uncertain


def _is_constant(context: Context, mask: Tensor) -> bool:
    """Return whether no reward reaches the mask, and none would if it were trainable."""
    mark = known(context, mask)
    return not mask.requires_grad and (mark is None or mark.kind == "data")


def _marked(output: Tensor, epsilon: float) -> Tensor:
    found: Tensor = marked(output, ACTIVATION._replace(epsilon=epsilon), frozen=True)
    return found


def _shared(query: Tensor, key: Tensor, value: Tensor, *options: Any) -> Tensor:
    """Run :class:`SharedAttention` on heads of one batch, in the dtype that autocast wants."""
    query, key, value = (_torch.as_autocast(tensor) for tensor in (query, key, value))
    batch = torch.broadcast_shapes(*(tensor.shape[:-2] for tensor in (query, key, value)))
    whole = (tensor.expand(*batch, *tensor.shape[-2:]) for tensor in (query, key, value))
    with _torch.without_autocast(query.device.type):
        output: Tensor = SharedAttention.apply(*whole, *options)
    return output


Part = tuple[slice, slice, slice]  # heads, rows and keys


class Scores:
    """The scores of queries (..., L, d) and keys (..., S, d), computed where they are asked for.

    Args:
        query, key: of the same dimensions, but for L and S.
        mask: of booleans or numbers, as ``F.scaled_dot_product_attention`` takes it.
        causal: whether each query sees the keys up to its own place alone.
        scale: c.
    """

    def __init__(
        self, query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> None:
        self.batch = query.shape[:-2]
        self.query, self.key, self.scale = flat(query), flat(key), scale
        self.mask, self.causal = mask, causal
        self.shape = (*self.query.shape[:2], self.key.shape[1])

    def parts(self) -> Iterator[Part]:
        """Yield the heads, the rows and the keys of each part."""
        heads, rows, keys = self.shape
        at_once = max(LEAST, self.query.numel()) // max(keys, 1)  # rows of any head
        of_rows = max(min(at_once, rows), 1)
        if self.causal and heads * rows > at_once:  # whose first rows see few of the keys
            of_rows = min(of_rows, -(-rows // BANDS))
        of_heads = max(at_once // of_rows, 1)
        for head in range(0, heads, of_heads):
            for row in range(0, rows, of_rows):
                end = min(row + of_rows, rows)
                seen = slice(0, min(end, keys) if self.causal else keys)
                yield slice(head, head + of_heads), slice(row, end), seen

    def __getitem__(self, part: Part) -> tuple[Tensor, Tensor]:
        """Return ``c q k^T`` of a part, and the same with the mask."""
        heads, rows, keys = part
        products = scaled_product(self.query[heads, rows], self.key[heads, keys].mT, self.scale)
        if self.causal:
            seen = products.new_ones(products.shape[-2:], dtype=torch.bool).tril(rows.start)
        elif self.mask is None:
            return products, products
        else:
            seen = self._mask_of(self.mask, heads, rows)
        if seen.dtype == torch.bool:
            products.masked_fill_(~seen, -math.inf)  # through which no reward goes
            return products, products
        return products, products + seen.to(products.dtype)

    def weights(self, scores: Tensor) -> Tensor:
        """Return the softmax of a part of the scores; 0 where a mask leaves nothing."""
        found: Tensor = (torch.softmax if self.mask is None else _torch.safe_softmax)(scores, -1)
        return found

    def _mask_of(self, mask: Tensor, heads: slice, rows: slice) -> Tensor:
        if mask.dim() <= 2:
            return mask.expand(self.shape[1:])[rows]
        whole = mask.expand(*self.batch, *self.shape[1:])
        numbers = torch.arange(self.shape[0], device=mask.device)[heads]
        places: tuple[Any, ...] = torch.unravel_index(numbers, self.batch)
        return whole[(*places, rows)]


def scaled_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return the products of two batches of matrices, times a number."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale)


def flat(tensor: Tensor) -> Tensor:
    """Return (..., tokens, features) with one dimension for all heads of the batch."""
    return tensor.reshape(math.prod(tensor.shape[:-2]), *tensor.shape[-2:])


class SharedAttention(torch.autograd.Function):
    """Attention whose scores owe epsilon, from which it keeps queries, keys and values alone.

    Dropout keeps one byte of each score, which says whether it was kept.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        dropout_p: float,
        causal: bool,
        scale: float,
        owed: tuple[float, float],
    ) -> Tensor:
        ctx.causal, ctx.scale, ctx.owed = causal, scale, owed
        ctx.kept_part = 1 / (1 - dropout_p) if dropout_p < 1 else 0.0
        kept: list[Tensor] = []
        if dropout_p > 0:
            scores = Scores(query, key, mask, causal, scale)
            output, kept = _with_dropout(scores, value, dropout_p, ctx.kept_part)
        else:
            output = FUSED(query, key, value, mask, 0.0, causal, scale=scale)
        ctx.save_for_backward(query, key, value, mask, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        query, key, value, mask, *dropped = ctx.saved_tensors
        with _torch.without_autocast(g.device.type):
            scores = Scores(query, key, mask, ctx.causal, ctx.scale)
            values, pushes = flat(value), flat(g)
            parts = list(scores.parts())
            gradients = (
                _of_part(ctx, scores, values, pushes, part, dropped[number] if dropped else None)
                for number, part in enumerate(parts)
            )
            if len(parts) == 1 and parts[0][2].stop == scores.shape[2]:
                found = next(gradients)
            else:
                found = _sum_of_parts(scores, values, parts, gradients)
        to_query, to_key, to_value = (
            to.to(tensor.dtype).view(tensor.shape)
            for to, tensor in zip(found, (query, key, value), strict=True)
        )
        return to_query, to_key, to_value, None, None, None, None, None


Gradients = tuple[Tensor, Tensor, Tensor]  # of queries, keys and values


def _of_part(
    ctx: Any, scores: Scores, values: Tensor, pushes: Tensor, part: Part, kept: Tensor | None
) -> Gradients:
    """Return the gradients by way of a part of the scores, and of the keys and values in it.

    `kept` says where dropout has left the weights of the part.
    """
    heads, rows, keys = part
    products, whole = scores[part]
    weights = scores.weights(whole)
    push = pushes[heads, rows]
    to_weights, used_weights = push @ values[heads, keys].mT, weights
    if kept is not None:
        to_weights.mul_(kept).mul_(ctx.kept_part)
        used_weights = (weights * kept).mul_(ctx.kept_part)
    to_value = used_weights.mT @ push
    to_scores = _torch.softmax_backward(to_weights, weights, -1, weights.dtype)
    del weights, used_weights, to_weights
    of_products, of_sums = ctx.owed
    if whole is not products:
        to_scores = kernels.share(whole, to_scores, of_sums, 1.0)
    to_scores = kernels.share(products, to_scores, of_products, 1.0)
    to_query = scaled_product(to_scores, scores.key[heads, keys], ctx.scale)
    to_key = scaled_product(to_scores.mT, scores.query[heads, rows], ctx.scale)
    return to_query, to_key, to_value


def _sum_of_parts(
    scores: Scores, values: Tensor, parts: list[Part], gradients: Iterable[Gradients]
) -> Gradients:
    """Return the gradients by way of all scores; sums are in float32 at least."""
    to_query = torch.empty_like(scores.query)
    precise = torch.promote_types(values.dtype, torch.float32)
    to_key, to_value = (torch.zeros_like(t, dtype=precise) for t in (scores.key, values))
    for (heads, rows, keys), found in zip(parts, gradients, strict=True):
        to_query[heads, rows] = found[0]
        to_key[heads, keys] += found[1]
        to_value[heads, keys] += found[2]
    return to_query, to_key, to_value


def _with_dropout(
    scores: Scores, value: Tensor, dropout_p: float, kept_part: float
) -> tuple[Tensor, list[Tensor]]:
    """Return attention of which some weights are 0, and for each part of the scores which are not.

    Dropout multiplies the others by `kept_part`.
    """
    output, values = value.new_empty(*scores.shape[:2], value.shape[-1]), flat(value)
    kept = []
    for part in scores.parts():
        heads, rows, keys = part
        weights = scores.weights(scores[part][1])
        kept.append(torch.empty_like(weights, dtype=torch.bool).bernoulli_(1 - dropout_p))
        output[heads, rows] = weights.mul_(kept[-1]).mul_(kept_part) @ values[heads, keys]
    return output.view(*value.shape[:-2], *output.shape[1:]), kept
