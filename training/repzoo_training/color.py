"""Colour jitter on batches: every image its own factors, no Python per image.

The same four operations, ranges and arithmetic as torchvision's ColorJitter, in the fixed order
brightness, contrast, saturation, hue (torchvision draws the order anew for each image).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "color_jitter",
]


def color_jitter(
    x: Tensor, strengths: tuple[float, float, float, float], generator: torch.Generator
) -> Tensor:
    """Jitter RGB images ``[N, 3, H, W]`` in [0, 1] with factors drawn per image.

    Args:
        x: the images.
        strengths: (b, c, s, h); factors are uniform in [max(0, 1 − b), 1 + b] and so on, the hue
            shift in [−h, h] of a full turn.
        generator: on the device of ``x``.

    Raises:
        ValueError: if the images are not RGB.
    """
    if x.shape[1] != 3:
        raise ValueError(f"colour jitter needs RGB images, not {x.shape[1]} channels")
    unit = torch.rand((4, len(x), 1, 1, 1), generator=generator, device=x.device)
    brightness, contrast, saturation = (
        max(0.0, 1 - s) + u * (1 + s - max(0.0, 1 - s))
        for s, u in zip(strengths[:3], unit[:3], strict=True)
    )
    x = adjust_brightness(x, brightness)
    x = adjust_contrast(x, contrast)
    x = adjust_saturation(x, saturation)
    return adjust_hue(x, strengths[3] * (2 * unit[3] - 1))


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with black; ``factor`` ``[N, 1, 1, 1]``."""
    return (x * factor).clamp(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean grey; ``factor`` ``[N, 1, 1, 1]``."""
    mean = _grey(x).mean((2, 3), keepdim=True)  # [N, 1, 1, 1]
    return (mean + factor * (x - mean)).clamp(0, 1)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image; ``factor`` ``[N, 1, 1, 1]``."""
    grey = _grey(x)  # [N, 1, H, W]
    return (grey + factor * (x - grey)).clamp(0, 1)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by ``shift`` ``[N, 1, 1, 1]`` of a full circle.

    In HSV the channel n of a colour is v − v s max(0, min(k, 4 − k, 1)) with
    k = (n + 6 h) mod 6 and n = 5, 3, 1 for red, green and blue.
    """
    value, _ = x.max(1, keepdim=True)  # [N, 1, H, W]
    chroma = value - x.min(1, keepdim=True).values
    red, green, blue = x.split(1, dim=1)
    safe = chroma.clamp_min(1e-12)
    sextant = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    n = torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)
    k = (n + sextant + 6 * shift) % 6  # [N, 3, H, W]
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    """Luma of ITU-R BT.601: ``[N, 3, H, W]`` -> ``[N, 1, H, W]``."""
    weight = torch.tensor([0.2989, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
    return (x * weight).sum(1, keepdim=True)
