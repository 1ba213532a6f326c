"""Corruptions in five levels. No uncertainty head is fitted to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = ["CORRUPTIONS", "LEVELS", "corrupt"]

Pixels = NDArray[np.uint8]

#: Levels are 1 to 5. Level 0 leaves the image unchanged.
LEVELS = 5


def corrupt(images: Pixels, kind: str, level: int, seed: int = 0) -> Pixels:
    """Return images ``[N, H, W, C]`` at one level of a corruption. The seed decides the result.

    Raises:
        ValueError: If the kind does not exist, or the level is not 0 to 5.
    """
    if kind not in CORRUPTIONS or not 0 <= level <= LEVELS:
        raise ValueError(
            f"cannot corrupt images by {kind!r} at level {level}: expected one of "
            f"{', '.join(CORRUPTIONS)}, at level 0 to {LEVELS}"
        )
    return (
        CORRUPTIONS[kind](images, level / LEVELS, np.random.default_rng(seed)) if level else images
    )


def _blur(images: Pixels, strength: float, _: np.random.Generator) -> Pixels:
    """Blur by a Gaussian with a radius of up to an eighth of the side."""
    radius = strength * images.shape[1] / 8
    return _each(images, lambda image: image.filter(ImageFilter.GaussianBlur(radius)))


def _crop(images: Pixels, strength: float, random: np.random.Generator) -> Pixels:
    """Crop to as little as four tenths of the side, and enlarge the crop."""
    height, width = images.shape[1:3]
    share = 1 - 0.6 * strength
    tops = random.random(len(images)) * (1 - share) * height
    lefts = random.random(len(images)) * (1 - share) * width
    boxes = iter(zip(lefts, tops, lefts + share * width, tops + share * height, strict=True))
    bilinear = Image.Resampling.BILINEAR
    return _each(images, lambda image: image.resize((width, height), bilinear, next(boxes)))


def _noise(images: Pixels, strength: float, random: np.random.Generator) -> Pixels:
    """Add Gaussian noise with a standard deviation of up to half the range."""
    noise = random.standard_normal(images.shape, np.float32) * (127.5 * strength)
    return np.clip(images + noise, 0, 255).round().astype(np.uint8)


def _occlusion(images: Pixels, strength: float, random: np.random.Generator) -> Pixels:
    """Cover a black rectangle of up to seven tenths of each side."""
    height, width = images.shape[1:3]
    h, w = round(0.7 * strength * height), round(0.7 * strength * width)
    covered = images.copy()
    tops = random.integers(0, height - h + 1, len(images))
    lefts = random.integers(0, width - w + 1, len(images))
    for image, top, left in zip(covered, tops, lefts, strict=True):
        image[top : top + h, left : left + w] = 0
    return covered


def _each(images: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    changed = [
        np.asarray(change(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)))
        for pixels in images
    ]
    return np.stack(changed).reshape(images.shape)


CORRUPTIONS: Mapping[str, Callable[[Pixels, float, np.random.Generator], Pixels]] = {
    "blur": _blur,
    "crop": _crop,
    "noise": _noise,
    "occlusion": _occlusion,
}
