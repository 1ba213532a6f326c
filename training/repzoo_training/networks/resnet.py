"""ResNet-18 and ResNet-50 for small or large images, and a transposed mirror.

He et al. 2016 (arXiv 1512.03385), with the stride of a bottleneck in its 3×3 convolution, as in
torchvision. ``widths`` are the channels of the stages; every stage but the first halves the
resolution. ``(64, 128, 256, 512)`` is the layout of the paper, and ``(32, 64, 128)`` in basic
blocks the narrow layout of the SimVAE authors.

The stem comes before the first stage. ``small``, the usual choice for images of 28 to 64 pixels, is
a 3×3 convolution of stride 1. ``imagenet`` is the paper's 7×7 convolution of stride 2, followed by
max-pooling of stride 2.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["BasicBlock", "Bottleneck", "ResNetBackbone", "ResNetDecoder", "Stem"]

Stem: TypeAlias = Literal["small", "imagenet"]


class ResNetBackbone(nn.Module):
    """Images ``[N, C, H, W]`` -> float32 features ``[N, feature_dim]``, averaged over positions.

    Args:
        channels: C.
        widths: The channels of the stages.
        block: The type of block; its output has ``block.expansion`` times as many channels.
        depths: The number of blocks of each stage; as many numbers as ``widths``.
        stem: The layers before the first stage.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        stem: Stem = "small",
    ) -> None:
        super().__init__()
        self.feature_dim = block.expansion * widths[-1]
        large = stem == "imagenet"
        first: list[nn.Module] = [
            nn.Conv2d(channels, widths[0], 7, 2, padding=3, bias=False)
            if large
            else nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        if large:
            first.append(nn.MaxPool2d(3, 2, padding=1))
        self.stem = nn.Sequential(*first)
        blocks: list[nn.Module] = []
        fan_in = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for number in range(depth):
                blocks.append(block(fan_in, width, down=stage > 0 and number == 0))
                fan_in = block.expansion * width
        self.blocks = nn.Sequential(*blocks)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(self.stem(images))  # [N, F, H', W']
        return features.float().mean((2, 3))  # [N, F]


class ResNetDecoder(nn.Module):
    """Features ``[N, feature_dim]`` of the stem -> logits ``[N, C, H, W]``, for any image size.

    It passes through the resolutions of the backbone with the same ``widths`` and ``stem``, in
    reverse. It always uses basic blocks: with bottlenecks, its first grid and the layer from the
    latents would be four times as wide.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], widths: Sequence[int], stem: Stem = "small"
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        sizes = [(height, width)]  # of the features, starting from the image
        for _ in range(len(widths) - 1 + (2 if stem == "imagenet" else 0)):
            height, width = (height + 1) // 2, (width + 1) // 2
            sizes.append((height, width))
        self.grid = (widths[-1], *sizes.pop())
        self.feature_dim = self.grid[0] * self.grid[1] * self.grid[2]
        blocks: list[nn.Module] = []
        for narrow, wide in reversed(list(itertools.pairwise(widths))):
            blocks += [BasicBlock(wide, wide), BasicBlock(wide, narrow, up=sizes.pop())]
        blocks += [BasicBlock(widths[0], widths[0]), BasicBlock(widths[0], widths[0])]
        if stem == "imagenet":
            blocks += [BasicBlock(widths[0], widths[0], up=sizes.pop()), nn.Upsample(sizes.pop())]
        self.blocks = nn.Sequential(*blocks)
        _initialise(self)
        self.output = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        grid = features.unflatten(1, self.grid).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.output(self.blocks(grid))  # [N, C, H, W]
        return logits


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch normalisation, added to an identity or 1×1 shortcut.

    ``down`` halves the resolution by a stride. ``up`` is the (height, width) to reach by repeating
    pixels first; unlike a strided transposed convolution, this causes no checkerboard artefacts.
    """

    expansion = 1

    def __init__(
        self,
        fan_in: int,
        width: int,
        *,
        down: bool = False,
        up: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        stride = 2 if down else 1
        self.up = up
        self.conv1 = nn.Conv2d(fan_in, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(fan_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        if self.up is not None:
            x = F.interpolate(x, self.up, mode="nearest")
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 3×3 convolution between two 1×1 convolutions, the last with 4 times ``width`` channels."""

    expansion = 4

    def __init__(self, fan_in: int, width: int, *, down: bool = False) -> None:
        super().__init__()
        stride = 2 if down else 1
        fan_out = self.expansion * width
        self.conv1 = nn.Conv2d(fan_in, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, fan_out, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(fan_out)
        self.shortcut = _shortcut(fan_in, fan_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


def _shortcut(fan_in: int, fan_out: int, stride: int) -> nn.Module:
    if stride == 1 and fan_in == fan_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out))


def _initialise(module: nn.Module) -> None:
    """Initialise as in He et al. 2015 (arXiv 1502.01852), by fan-out, as in torchvision."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
