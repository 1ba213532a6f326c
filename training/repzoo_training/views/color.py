"""Colour jitter on batches, as one affine map of the colours of each image.

Brightness b, contrast c, saturation s and hue θ are linear or affine in a pixel's colour x. With
luma weights w (ITU-R BT.601, Σw = 1) and the image's mean luma m,

    brightness   x → b x
    contrast     x → c x + (1 − c) m 1              (m after brightness: b m)
    saturation   x → S_s x,   S_s = s I + (1 − s) 1 wᵀ
    hue          x → H_θ x,   H_θ rotates the chroma plane of YIQ by θ

Because S_s 1 = H_θ 1 = 1, all four together are

    x → b c H_θ S_s x + (1 − c) b m 1,

clipped to [0, 1] at the end. This is one batched 3×3 product. torchvision's ColorJitter makes the
same four changes one after the other, clips after each, and rotates the hue in HSV, which costs
more than a small network. NVIDIA DALI's ColorTwist works in the same way as this module.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["apply_color_maps", "color_factors", "color_jitter", "color_maps"]

#: From RGB to the luma Y and the chroma plane (I, Q) of NTSC.
YIQ = (
    (0.299, 0.587, 0.114),
    (0.595716, -0.274453, -0.321263),
    (0.211456, -0.522591, 0.311135),
)


def color_jitter(
    x: Tensor,
    strengths: tuple[float, float, float, float],
    generator: torch.Generator,
    *,
    probability: float = 1.0,
    greyscale: float = 0.0,
) -> Tensor:
    """Jitter RGB images with factors drawn independently for each image.

    Args:
        x: Float images ``[N, 3, H, W]`` in [0, 1].
        strengths: (b, c, s, h). Factors are uniform in [max(0, 1 − b), 1 + b] and so on; the hue
            shift is uniform in [−h, h] of a full turn.
        generator: On the device of ``x``.
        probability: The probability that an image is jittered.
        greyscale: The probability that an image loses its colour, jittered or not.

    Returns:
        Images ``[N, 3, H, W]`` in [0, 1].

    Raises:
        ValueError: If the images are not RGB.
    """
    if x.shape[1] != 3:
        raise ValueError(f"colour jitter needs RGB images, got {x.shape[1]} channels")
    unit = torch.rand((6, len(x)), generator=generator, device=x.device)  # [6, N]
    brightness, contrast, saturation, hue = color_factors(unit[:4], strengths)
    jittered = unit[4] < probability
    grey = unit[5] < greyscale
    one = torch.ones_like(brightness)
    matrix, offset = color_maps(
        x,
        torch.where(jittered, brightness, one),
        torch.where(jittered, contrast, one),
        torch.where(grey, 0 * one, torch.where(jittered, saturation, one)),
        torch.where(jittered, hue, 0 * one),
    )
    return apply_color_maps(x, matrix, offset)


def color_factors(
    unit: Tensor, strengths: tuple[float, float, float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return brightness, contrast, saturation and hue ``[N]`` from uniform numbers ``[4, N]``.

    The ranges are those of `color_jitter`.
    """
    brightness, contrast, saturation = (
        max(0.0, 1 - s) + u * (1 + s - max(0.0, 1 - s))
        for s, u in zip(strengths[:3], unit[:3], strict=True)
    )
    return brightness, contrast, saturation, strengths[3] * (2 * unit[3] - 1)


def apply_color_maps(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Map the colours of images ``[N, 3, H, W]`` by `color_maps`, and clip them to [0, 1]."""
    colors = torch.baddbmm(offset, matrix, x.flatten(2))  # [N, 3, H*W]
    return colors.clamp_(0, 1).view(x.shape)


def color_maps(
    x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the affine map of each image's colours: a matrix and an offset.

    Args:
        x: Float images ``[N, 3, H, W]``; only their mean luma is used.
        brightness: Factors b ``[N]``.
        contrast: Factors c ``[N]``.
        saturation: Factors s ``[N]``.
        hue: Shifts ``[N]`` in full turns.

    Returns:
        ``[N, 3, 3]`` and ``[N, 3, 1]``.
    """
    to_yiq = torch.tensor(YIQ, device=x.device)
    luma = to_yiq[0]
    angle = -2 * math.pi * hue  # [N], from red towards yellow, as in HSV
    cos, sin = saturation * angle.cos(), saturation * angle.sin()
    # H_θ S_s in YIQ: luma does not change, and the chroma plane is rotated and scaled.
    chroma = torch.zeros(len(x), 3, 3, device=x.device)  # [N, 3, 3]
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1], chroma[:, 1, 2] = cos, -sin
    chroma[:, 2, 1], chroma[:, 2, 2] = sin, cos
    matrix = to_yiq.inverse() @ chroma @ to_yiq  # [N, 3, 3]
    mean = x.mean((2, 3)) @ luma  # [N]
    offset = (1 - contrast) * brightness * mean  # [N]
    return (
        (brightness * contrast)[:, None, None] * matrix,
        offset[:, None, None].expand(-1, 3, 1),
    )
