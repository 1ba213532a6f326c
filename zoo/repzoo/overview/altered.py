"""How far altered copies of images are from the images themselves, for the encoder at hand."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from repzoo.overview.embedded import Embedded

__all__ = ["altered_copies", "copy_distances"]

#: Images whose copies are made, and how many are embedded at once.
_SAMPLED, _BATCH = 200, 50
#: Larger images are reduced first: copies are for encoders, which see far fewer pixels.
_LARGEST = 512


def altered_copies(image: Image.Image) -> list[Image.Image]:
    """Return the image compressed, reduced, trimmed and brightened, as copies often are."""
    width, height = image.size
    compressed = io.BytesIO()
    image.save(compressed, "JPEG", quality=60)
    margin = (width // 25, height // 25)
    return [
        Image.open(compressed).convert(image.mode),
        image.resize((max(1, width * 6 // 10), max(1, height * 6 // 10))),
        image.crop((*margin, width - margin[0], height - margin[1])),
        ImageEnhance.Brightness(image).enhance(1.15),
    ]


def copy_distances(embedded: Embedded) -> NDArray[np.float32]:
    """Return distances between images and their altered copies, float32 ``[M]``."""
    distances: list[NDArray[np.float32]] = []
    chosen = np.arange(0, len(embedded), -(-len(embedded) // _SAMPLED)).tolist()
    for start in range(0, len(chosen), _BATCH):
        images = {
            number: embedded.image(number, _LARGEST) for number in chosen[start : start + _BATCH]
        }
        copies, originals = [], []
        for number, image in images.items():
            if image is not None:
                image.thumbnail((_LARGEST, _LARGEST))
                made = altered_copies(image)
                copies += made
                originals += [number] * len(made)
        if copies:
            off = embedded.embed(copies) - embedded.vectors[originals]
            distances.append(np.linalg.norm(off, axis=1))
    return np.concatenate(distances) if distances else np.zeros(0, np.float32)
