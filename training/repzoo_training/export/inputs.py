"""Make the images that a package stores as golden inputs."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from repzoo.runtime.encoder import Encoder

__all__ = ["golden_files", "own_images"]

Pixels = NDArray[np.uint8]


def golden_files(pixels: Pixels) -> Sequence[bytes]:
    """Return encoded files of odd sizes and modes, which exercise every step of preprocessing.

    Two are JPEG files that are large enough to be decoded at an eighth and at a quarter.

    Args:
        pixels: uint8 ``[N, H, W, C]``. All files show the first image.
    """
    image = Image.fromarray(pixels[0].squeeze()).convert("RGB")
    width, height = image.size
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: rotate by 90 degrees
    wide = image.resize((2 * width + 7, height + 1), Image.Resampling.BICUBIC)
    photo = image.resize((17 * width + 1, 16 * height + 3), Image.Resampling.BICUBIC)
    clear = image.resize((width - 5, 3 * height), Image.Resampling.NEAREST)
    clear.putalpha(clear.convert("L"))
    variants: list[tuple[Image.Image, str, dict[str, object]]] = [
        (image, "PNG", {}),
        (wide.convert("L"), "PNG", {}),
        (wide, "JPEG", {"exif": turned}),
        (clear, "PNG", {}),
        (wide.quantize(16), "PNG", {}),
        (Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG", {}),
        (photo, "JPEG", {}),
        (photo.reduce(2), "JPEG", {"exif": turned, "progressive": True}),
    ]
    files = []
    for variant, kind, options in variants:
        buffer = io.BytesIO()
        variant.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


def own_images(encoder: Encoder, count: int) -> Pixels:
    """Return ``count`` images, uint8 ``[N, H, W, C]``, to replace images that may not be shared.

    If the model has a decoder, three quarters are its samples. The rest is seeded noise in squares
    of 1, 2, 4 and 8 pixels in turn, because noise of single pixels alone embeds to a point.
    """
    height, width, channels = encoder.config.input.shape
    random = np.random.default_rng(0)
    samples = np.empty((0, height, width, channels), np.float32)
    if encoder.config.has_decoder:
        samples = encoder.generate(3 * count // 4, seed=1).images
    noise = []
    for number in range(count - len(samples)):
        side = 2 ** (number % 4)
        coarse = random.random((-(-height // side), -(-width // side), channels), np.float32)
        noise.append(coarse.repeat(side, axis=0).repeat(side, axis=1)[:height, :width])
    return (np.concatenate([samples, np.stack(noise)]) * 255).round().astype(np.uint8)
