"""The few modules that generated networks need beyond torch's own: wiring, and fixed randomness."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """``x + body(x)``."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Add the body's output (of x's shape) to x."""
        return x + self.body(x)


class Concatenation(nn.Module):
    """The outputs of several branches, concatenated along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches' outputs (batch, channels, ...) in dimension 1."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Gated(nn.Module):
    """``gate(x) * value(x)``, as in a gated linear unit."""

    def __init__(self, gate: nn.Module, value: nn.Module) -> None:
        super().__init__()
        self.gate, self.value = gate, value

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the outputs of both, which have the same shape."""
        return self.gate(x) * self.value(x)


class Quotient(nn.Module):
    """``numerator(x) / divisor(x)``."""

    def __init__(self, numerator: nn.Module, divisor: nn.Module) -> None:
        super().__init__()
        self.numerator, self.divisor = numerator, divisor

    def forward(self, x: Tensor) -> Tensor:
        """Divide the outputs of the one by those of the other, which have the same shape."""
        return self.numerator(x) / self.divisor(x)


class Power(nn.Module):
    """``x ** exponent``, written in one of several ways."""

    WAYS: ClassVar[dict[str, Callable[[Tensor, float], Tensor]]] = {
        "operator": lambda x, exponent: x**exponent,
        "pow": torch.pow,
        "square, sqrt or reciprocal": lambda x, exponent: NAMED_POWERS[exponent](x),
        "product with itself": lambda x, exponent: x * x,
    }

    def __init__(self, exponent: float, way: str = "operator") -> None:
        super().__init__()
        self.exponent, self.way = exponent, way

    def forward(self, x: Tensor) -> Tensor:
        """Raise to the power; x is positive where the exponent asks for that."""
        return self.WAYS[self.way](x, self.exponent)

    def extra_repr(self) -> str:
        """Show the exponent, and how the power is written."""
        return f"{self.exponent}, {self.way}"


NAMED_POWERS: dict[float, Callable[[Tensor], Tensor]] = {
    2.0: torch.square,
    0.5: torch.sqrt,
    -0.5: torch.rsqrt,
    -1.0: torch.reciprocal,
}


class Exp(nn.Module):
    """The exponential function as an activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return x.exp()


class FixedDropout(nn.Module):
    """Dropout with a given mask of 0 and 1 / (1 - p), in the shape of one sample."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the mask."""
        return x * self.mask


class Positions(nn.Module):
    """``x + embedding``: a learned number for every unit of x (batch, ...), as tokens have.

    Args:
        shape: of x without the batch, such as (tokens, features).
        learned: whether the numbers are a parameter; else they are constants.
        subtracted: whether they are subtracted.
    """

    embedding: Tensor

    def __init__(self, *shape: int, learned: bool = True, subtracted: bool = False) -> None:
        super().__init__()
        self.subtracted = subtracted
        if learned:
            self.embedding = nn.Parameter(torch.randn(shape))
        else:
            self.register_buffer("embedding", torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Add the embedding, or subtract it."""
        return x - self.embedding if self.subtracted else x + self.embedding


class Shifted(nn.Module):
    """``x + number``."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        """Add the number."""
        return x + self.number


class Attention(nn.Module):
    """Self-attention over (batch, tokens, features), written in one of several ways.

    Args:
        features: of a token, for all heads together.
        heads: that share the features.
        way: "written", "einsum", "fused" (``F.scaled_dot_product_attention``), "multihead"
            (``F.multi_head_attention_forward``), or "weights" (the same where it also returns the
            attention weights, for which it scales the queries, not the scores).
        mask: (tokens, tokens); of booleans, True where a token (row) may look at another, or of
            numbers that are added to the scores.
        bias: whether the projections have one.
    """

    WAYS = ("written", "einsum", "fused", "multihead", "weights")
    mask: Tensor | None

    def __init__(
        self, features: int, heads: int, way: str, mask: Tensor | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        self.heads, self.way = heads, way
        self.register_buffer("mask", mask)
        self.causal = mask is not None and mask.equal(torch.ones_like(mask).tril())
        self.query, self.key, self.value, self.out = (
            nn.Linear(features, features, bias=bias) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Let every token look at the tokens."""
        if self.way in ("multihead", "weights"):
            return self._multihead(x)
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        if self.way == "fused":
            looked_at = F.scaled_dot_product_attention(
                q, k, v, attn_mask=None if self.causal else self.mask, is_causal=self.causal
            )
        else:
            product = torch.einsum("nhid,nhjd->nhij", q, k) if self.way == "einsum" else q @ k.mT
            scores = product / math.sqrt(q.shape[-1])
            if self.mask is not None and self.mask.dtype == torch.bool:
                scores = scores.masked_fill(~self.mask, -math.inf)
            elif self.mask is not None:
                scores = scores + self.mask
            looked_at = scores.softmax(dim=-1) @ v
        return self.out(looked_at.transpose(1, 2).flatten(2))

    def _multihead(self, x: Tensor) -> Tensor:
        """Run torch's own function, which takes the tokens first, and masks the other way round."""
        layers = (self.query, self.key, self.value)
        biased = self.out.bias is not None
        mask, tokens = self.mask, x.transpose(0, 1)
        outputs, _ = F.multi_head_attention_forward(
            query=tokens,
            key=tokens,
            value=tokens,
            embed_dim_to_check=x.shape[-1],
            num_heads=self.heads,
            in_proj_weight=None,
            in_proj_bias=torch.cat([layer.bias for layer in layers]) if biased else None,
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=self.out.weight,
            out_proj_bias=self.out.bias,
            need_weights=self.way == "weights",
            attn_mask=~mask if mask is not None and mask.dtype == torch.bool else mask,
            use_separate_proj_weight=True,
            q_proj_weight=self.query.weight,
            k_proj_weight=self.key.weight,
            v_proj_weight=self.value.weight,
        )
        return outputs.transpose(0, 1)
