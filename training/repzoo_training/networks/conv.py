"""Strided convolutions and their transposed mirror, for photographs on a CPU.

A pair similar to DCGAN (Radford, Metz, Chintala 2016, arXiv 1511.06434). The first layer divides
the image into patches, as in a ViT: a convolution at full resolution would cost more than all other
layers. Every further stage is one 3×3 convolution of stride 2. Features keep their positions, which
tell a decoder where things are; an average over positions would not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ConvBackbone", "ConvDecoder"]


class ConvBackbone(nn.Sequential):
    """Images ``[N, C, H, W]`` -> features ``[N, feature_dim]``, all positions of the last stage.

    Args:
        image_shape: ``(C, H, W)``.
        widths: The channels of the stages. The first stage sees patches, and each further stage
            halves the resolution.
        patch: The side of a patch, in pixels.

    Raises:
        ValueError: If patches do not tile the image.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], widths: Sequence[int], patch: int
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(image_shape[0], widths[0], patch, patch, bias=False),
            *_normed(widths[0]),
        ]
        for fan_in, width in itertools.pairwise(widths):
            layers += [nn.Conv2d(fan_in, width, 3, 2, padding=1, bias=False), *_normed(width)]
        super().__init__(*layers, nn.Flatten())
        self.feature_dim = widths[-1] * math.prod(_grids(image_shape, widths, patch)[-1])
        _initialise(self)


class ConvDecoder(nn.Module):
    """Features ``[N, feature_dim]`` of the stem -> logits ``[N, C, H, W]``; a mirrored backbone."""

    def __init__(
        self, image_shape: tuple[int, int, int], widths: Sequence[int], patch: int
    ) -> None:
        super().__init__()
        grids = _grids(image_shape, widths, patch)
        self.grid = (widths[-1], *grids[-1])
        self.feature_dim = math.prod(self.grid)
        self.patch = patch
        layers: list[nn.Module] = [*_normed(widths[-1])]
        for wide, narrow, small, large in zip(
            widths[:0:-1], widths[-2::-1], grids[:0:-1], grids[-2::-1], strict=True
        ):
            # A stride of 2 maps two sizes to the same smaller size: restore the original one.
            rest = (large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1)
            up = nn.ConvTranspose2d(wide, narrow, 3, 2, padding=1, output_padding=rest, bias=False)
            layers += [up, *_normed(narrow)]
        self.layers = nn.Sequential(*layers)
        _initialise(self)
        # Each position outputs the pixels of its patch and sees its neighbours, to avoid seams.
        self.output = nn.Conv2d(widths[0], image_shape[0] * patch**2, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        grid = features.unflatten(1, self.grid).contiguous(memory_format=torch.channels_last)
        patches = self.output(self.layers(grid))  # [N, C·P², H/P, W/P]
        return F.pixel_shuffle(patches, self.patch)  # [N, C, H, W]


def _grids(
    image_shape: tuple[int, int, int], widths: Sequence[int], patch: int
) -> list[tuple[int, int]]:
    """Return (height, width) of the output of each stage."""
    _, height, width = image_shape
    if height % patch or width % patch:
        raise ValueError(
            f"patches of {patch}×{patch} do not tile images of {height}×{width} pixels: set "
            "network.patch to a divisor of both sides"
        )
    grids = [(height // patch, width // patch)]
    for _ in widths[1:]:
        height, width = grids[-1]
        grids.append(((height + 1) // 2, (width + 1) // 2))
    return grids


def _normed(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width), nn.ReLU(inplace=True)


def _initialise(module: nn.Module) -> None:
    """Initialise as in He et al. 2015 (arXiv 1502.01852), by the fan-in of an output position."""
    for part in module.modules():
        if isinstance(part, nn.ConvTranspose2d):
            # Its weight is [in, out, 3, 3]; with a stride of 2, a quarter of the inputs count.
            entering = part.in_channels * 9 / 4
            nn.init.normal_(part.weight, std=math.sqrt(2 / entering))
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
