"""The ResNet-18 pair for small images, and its transposed mirror.

He et al. 2016 (arXiv 1512.03385) with the usual small-image stem: a 3×3 convolution of stride 1 and
no max-pooling. ``widths`` gives the channels of the stages, two basic blocks each; every stage but
the first halves the resolution. ``(64, 128, 256, 512)`` is ResNet-18, ``(32, 64, 128)`` the narrow
layout of the SimVAE authors.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ResNetBackbone", "ResNetDecoder"]


class ResNetBackbone(nn.Module):
    """Images ``[N, C, H, W]`` -> features ``[N, widths[-1]]``, averaged over positions."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.feature_dim = widths[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        blocks: list[nn.Module] = [
            BasicBlock(widths[0], widths[0]),
            BasicBlock(widths[0], widths[0]),
        ]
        for narrow, wide in itertools.pairwise(widths):
            blocks += [BasicBlock(narrow, wide, down=True), BasicBlock(wide, wide)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(self.stem(images))  # [N, F, H', W']
        return features.mean((2, 3))


class ResNetDecoder(nn.Module):
    """Features ``[N, feature_dim]`` of the stem -> logits ``[N, C, H, W]``.

    Raises:
        ValueError: if the image's sides are not multiples of 2^(stages − 1).
    """

    def __init__(self, image_shape: tuple[int, int, int], widths: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        factor = 2 ** (len(widths) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"{len(widths)} stages halve the image {len(widths) - 1} times, "
                f"but {height}x{width} is no multiple of {factor}"
            )
        self.grid = (widths[-1], height // factor, width // factor)
        self.feature_dim = self.grid[0] * self.grid[1] * self.grid[2]
        blocks: list[nn.Module] = []
        for narrow, wide in reversed(list(itertools.pairwise(widths))):
            blocks += [BasicBlock(wide, wide), BasicBlock(wide, narrow, up=True)]
        blocks += [BasicBlock(widths[0], widths[0]), BasicBlock(widths[0], widths[0])]
        self.blocks = nn.Sequential(*blocks)
        self.output = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.output(self.blocks(features.unflatten(1, self.grid)))
        return logits


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch normalisation beside an identity or 1×1 shortcut.

    ``down`` halves the resolution by stride; ``up`` doubles it by repeating pixels first, which,
    unlike a strided transposed convolution, leaves no checkerboard.
    """

    def __init__(self, fan_in: int, fan_out: int, *, down: bool = False, up: bool = False) -> None:
        super().__init__()
        stride = 2 if down else 1
        self.up = up
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(fan_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or fan_in != fan_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))
