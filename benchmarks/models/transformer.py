"""The parts of small transformers: what `vit-tiny` and the language model are made of."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Patches(nn.Module):
    """Images (N, C, H, W) to tokens (N, tokens, features): a strided convolution."""

    def __init__(self, channels: int, features: int, size: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, features, size, stride=size)

    def forward(self, images: Tensor) -> Tensor:
        """Cut images into patches, and project each."""
        return self.project(images).flatten(2).transpose(1, 2)


class Positions(nn.Module):
    """Tokens (N, tokens, features) plus what is learned for each position."""

    def __init__(self, tokens: int, features: int) -> None:
        super().__init__()
        # LFP never moves a weight that starts at 0; 0.02 is the ViT's.
        self.embedding = nn.Parameter(0.02 * torch.randn(tokens, features))

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the embedding."""
        return tokens + self.embedding


class Attention(nn.Module):
    """Self-attention over tokens (N, tokens, features), with torch's fused function."""

    def __init__(self, features: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.project, self.out = nn.Linear(features, 3 * features), nn.Linear(features, features)

    def forward(self, tokens: Tensor) -> Tensor:
        """Let tokens look at all others, or at those before them if causal."""
        packed = self.project(tokens).view(*tokens.shape[:2], 3, self.heads, -1)
        query, key, value = packed.transpose(1, 3).unbind(2)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then two layers that are four times as wide, each normalised first and added."""

    def __init__(
        self, features: int, heads: int, activation: Callable[[], nn.Module], causal: bool = False
    ) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(features), Attention(features, heads, causal))
        self.dense = nn.Sequential(
            nn.LayerNorm(features),
            nn.Linear(features, 4 * features),
            activation(),
            nn.Linear(4 * features, features),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform tokens (N, tokens, features)."""
        tokens = tokens + self.attention(tokens)
        return tokens + self.dense(tokens)


class TokenMean(nn.Module):
    """Tokens (N, tokens, features) to their mean (N, features)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Take the mean."""
        return tokens.mean(dim=1)
