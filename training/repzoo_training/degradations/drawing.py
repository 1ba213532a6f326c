"""Degrade many images: at one severity of one kind, or at random for fitting."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from repzoo_training.degradations.kinds import FIT, TEST, VALIDATION, Degradation

__all__ = ["SEVERITIES", "degrade", "degrade_at_random", "draw_degraded"]

Pixels = NDArray[np.uint8]

#: Severities are 1 to 5; 0 is the image itself.
SEVERITIES = 5
#: Images that are worked on at once.
_CHUNK = 500
#: The share of drawn images that get a second kind on top of the first.
_TWO_KINDS = 0.5
#: Kinds that are drawn twice as often as others. What they change is hard to see in one image, and
#: a predictor that sees them rarely takes their images for undegraded ones.
_OFTEN = ("crop", "shift", "small-rotation")


def degrade(images: Pixels, kind: str, severity: int, seed: int = 0) -> Pixels:
    """Degrade every image by one kind, at one severity.

    Args:
        images: uint8 ``[N, H, W, C]``.
        kind: A name from `FIT`, `VALIDATION` or `TEST`.
        severity: 0 (unchanged) to 5.
        seed: The same seed gives the same result.

    Returns:
        uint8 ``[N, H, W, C]``.

    Raises:
        ValueError: If the kind is unknown or the severity is not 0 to 5.
    """
    known = {**FIT, **VALIDATION, **TEST}
    if kind not in known:
        raise ValueError(f"unknown degradation {kind!r}; known are {', '.join(known)}")
    if not 0 <= severity <= SEVERITIES:
        raise ValueError(f"severity must be 0 to {SEVERITIES}, got {severity}")
    if severity == 0:
        return images
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(images), _CHUNK):
        x = _to_float(images[start : start + _CHUNK])  # [n, C, H, W]
        strength = torch.full((len(x),), severity / SEVERITIES)
        parts.append(_to_pixels(known[kind](x, strength, generator)))
    return np.concatenate(parts) if parts else images


def draw_degraded(
    images: Pixels, generator: Generator, kinds: Mapping[str, Degradation] = FIT
) -> Pixels:
    """Degrade every image by a kind and a strength drawn for it, half of them by two kinds.

    Strengths are uniform in (0, 1], between severities 0 and 5.

    Args:
        images: uint8 ``[N, H, W, C]``.
        generator: A generator on the CPU.
        kinds: The kinds to draw from.

    Returns:
        uint8 ``[N, H, W, C]``.
    """
    result = np.empty_like(images)
    for start in range(0, len(images), _CHUNK):
        x = degrade_at_random(_to_float(images[start : start + _CHUNK]), generator, kinds)
        result[start : start + len(x)] = _to_pixels(x)
    return result


def degrade_at_random(
    x: Tensor, generator: Generator, kinds: Mapping[str, Degradation] = FIT
) -> Tensor:
    """Degrade tensors as `draw_degraded` does: float ``[N, C, H, W]`` in [0, 1], in place.

    Args:
        x: The images, on any device.
        generator: A generator on the device of ``x``.
        kinds: The kinds to draw from.
    """
    names = [*kinds, *(name for name in kinds if name in _OFTEN)]
    with x.device:
        for share in (1.0, _TWO_KINDS):
            chosen = torch.randint(0, len(names), (len(x),), generator=generator)
            chosen[torch.rand(len(x), generator=generator) >= share] = -1
            for number, name in enumerate(names):
                rows = (chosen == number).nonzero()[:, 0]
                if len(rows):
                    strength = 1 - torch.rand(len(rows), generator=generator)
                    x[rows] = kinds[name](x[rows], strength, generator).clamp(0, 1)
    return x


def _to_float(images: Pixels) -> Tensor:
    return torch.from_numpy(images).movedim(3, 1).float() / 255


def _to_pixels(x: Tensor) -> Pixels:
    pixels: Pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, 3).numpy()
    return pixels
