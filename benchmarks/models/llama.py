"""A small Llama, with every part written by hand as in transformers, and no bias anywhere."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Features over the root of their mean square, written by hand as in Llama."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalise tokens (N, T, features)."""
        variance = tokens.pow(2).mean(-1, keepdim=True)
        return self.weight * (tokens * torch.rsqrt(variance + 1e-6))


class RotaryAttention(nn.Module):
    """Causal self-attention in which queries and keys are turned by their position."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, features: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads, width = heads, features // heads
        self.project = nn.Linear(features, 3 * features, bias=False)
        self.out = nn.Linear(features, features, bias=False)
        frequencies = 10000.0 ** (-torch.arange(0, width, 2) / width)
        angles = (torch.arange(context)[:, None] * frequencies).repeat(1, 2)
        self.register_buffer("cosines", angles.cos())
        self.register_buffer("sines", angles.sin())

    def turned(self, heads: Tensor) -> Tensor:
        """Turn pairs of features of (N, heads, T, width)."""
        left, right = heads.chunk(2, dim=-1)
        return heads * self.cosines + torch.cat((-right, left), dim=-1) * self.sines

    def forward(self, tokens: Tensor) -> Tensor:
        """Let tokens (N, T, features) look at those before them."""
        packed = self.project(tokens).view(*tokens.shape[:2], 3, self.heads, -1)
        query, key, value = packed.transpose(1, 3).unbind(2)
        query, key = self.turned(query), self.turned(key)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        attended: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return attended


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.gate = nn.Linear(features, 3 * features, bias=False)
        self.up = nn.Linear(features, 3 * features, bias=False)
        self.down = nn.Linear(3 * features, features, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform tokens (N, T, features)."""
        transformed: Tensor = self.down(F.silu(self.gate(tokens)) * self.up(tokens))
        return transformed


class LlamaBlock(nn.Module):
    """Attention, then SwiGLU, each normalised first and added."""

    def __init__(self, features: int, heads: int, context: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(RMSNorm(features), RotaryAttention(features, heads, context))
        self.dense = nn.Sequential(RMSNorm(features), SwiGLU(features))

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform tokens (N, T, features)."""
        tokens = tokens + self.attention(tokens)
        return tokens + self.dense(tokens)


class Llama(nn.Sequential):
    """Characters (N, T) to logits (N T, characters) of the one that follows each."""

    def __init__(self, characters: int, features: int, blocks: int, context: int) -> None:
        super().__init__(
            nn.Embedding(characters, features),
            *(LlamaBlock(features, 2, context) for _ in range(blocks)),
            RMSNorm(features),
            nn.Flatten(0, 1),
            nn.Linear(features, characters, bias=False),
        )
