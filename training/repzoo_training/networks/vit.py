"""A small vision transformer, and its mirror.

Dosovitskiy et al. 2021 (arXiv 2010.11929), pre-norm, with two changes that suit small data sets:
fixed 2-D sine-cosine positions, and the mean over patches instead of a class token (Beyer, Zhai,
Kolesnikov 2022, arXiv 2205.01580).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ViTBackbone", "ViTDecoder", "positions"]

#: The width of a block's MLP, relative to the width of the model.
EXPANSION = 4
#: The ε of the layer normalisations, as in the paper's code.
EPSILON = 1e-6


class ViTBackbone(nn.Module):
    """Images ``[N, C, H, W]`` -> float32 features ``[N, width]``, averaged over patches.

    Args:
        image_shape: (C, H, W).
        width: The width of each token, a multiple of 4 and of ``heads``.
        patch: The side of a patch, in pixels.
        depth: The number of blocks.
        heads: The number of attention heads.

    Raises:
        ValueError: If the image's sides are not multiples of ``patch``.
    """

    positions: Tensor

    def __init__(
        self, image_shape: tuple[int, int, int], width: int, patch: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        grid = _grid(image_shape, patch)
        self.feature_dim = width
        self.patches = nn.Conv2d(image_shape[0], width, patch, patch)
        # Constants, which do not need to be in a checkpoint.
        self.register_buffer("positions", positions(grid, width), persistent=False)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, EPSILON)
        nn.init.trunc_normal_(self.patches.weight, std=self.patches.weight[0].numel() ** -0.5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT + self.positions  # [N, T, width]
        features: Tensor = self.norm(self.blocks(tokens))  # [N, T, width]
        return features.float().mean(1)  # [N, width]


class ViTDecoder(nn.Module):
    """Features ``[N, feature_dim]`` of the stem, one token per patch -> logits ``[N, C, H, W]``.

    The same blocks as the backbone, followed by a map from each token to its patch. No positions
    are added: the layer of the stem has separate weights and biases for each token.

    Raises:
        ValueError: If the image's sides are not multiples of ``patch``.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], width: int, patch: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.grid = _grid(image_shape, patch)
        self.feature_dim = self.grid[0] * self.grid[1] * width
        self.width = width
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, EPSILON)
        self.output = nn.ConvTranspose2d(width, image_shape[0], patch, patch)

    def forward(self, features: Tensor) -> Tensor:
        tokens = self.norm(self.blocks(features.unflatten(1, (-1, self.width))))  # [N, T, width]
        logits: Tensor = self.output(tokens.mT.unflatten(2, self.grid))  # [N, C, H, W]
        return logits


class Block(nn.Module):
    """Attention, then an MLP, each on normalised tokens with a residual connection.

    ``[N, T, width]`` -> ``[N, T, width]``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.qkv = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.grow = nn.Linear(width, EXPANSION * width)
        self.shrink = nn.Linear(EXPANSION * width, width)
        # Queries, keys and values are separate layers, each with its own fan-out.
        for weight in self.qkv.weight.detach().chunk(3):
            nn.init.xavier_uniform_(weight)
        for layer in (self.merge, self.grow, self.shrink):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.qkv, self.merge, self.grow, self.shrink):
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._attend(self.norm1(tokens))
        change: Tensor = self.shrink(F.gelu(self.grow(self.norm2(tokens))))
        return tokens + change

    def _attend(self, tokens: Tensor) -> Tensor:
        heads = self.qkv(tokens).unflatten(2, (3, self.heads, -1))  # [N, T, 3, heads, E]
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # [N, heads, T, E] each
        attended = F.scaled_dot_product_attention(query, key, value)  # [N, heads, T, E]
        merged: Tensor = self.merge(attended.transpose(1, 2).flatten(2))  # [N, T, width]
        return merged


def positions(grid: tuple[int, int], width: int) -> Tensor:
    """Return sines and cosines of each patch's column and row: float32 ``[T, width]``.

    Each takes a quarter of ``width``, at frequencies from 1 down to 1/10,000.

    Raises:
        ValueError: If ``width`` is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"2-D positions need a width that is a multiple of 4, got {width}")
    steps = torch.arange(width // 4) / max(1, width // 4 - 1)
    frequencies = torch.exp(-math.log(10_000) * steps)  # [width/4]
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (columns, rows)]
    return torch.cat([wave(a) for a in angles for wave in (torch.sin, torch.cos)], dim=1)


def _grid(image_shape: tuple[int, int, int], patch: int) -> tuple[int, int]:
    _, height, width = image_shape
    if height % patch or width % patch:
        raise ValueError(
            f"patches of {patch}×{patch} do not tile images of {height}×{width} pixels: set "
            "network.patch to a divisor of both sides"
        )
    return height // patch, width // patch
