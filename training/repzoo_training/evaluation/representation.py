"""Anything that embeds images can be evaluated."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from repzoo.errors import UnsupportedOperation
from tqdm import tqdm

__all__ = ["Representation", "reconstruction_errors", "represent"]


class Representation(Protocol):
    """A trained run in torch, a ``repzoo.Encoder``, or a baseline.

    An object may also have ``reconstruct(images)``. Its result has ``error`` float32 ``[N]``, the
    mean squared error per pixel value against images / 255. Like an encoder without a decoder, it
    may raise ``UnsupportedOperation``.
    """

    def embed(self, images: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Return embeddings ``[N, D]`` of uint8 images ``[N, H, W, C]``."""
        ...


def represent(
    representation: Representation,
    images: NDArray[np.uint8],
    *,
    batch_size: int = 1000,
    progress: bool = True,
) -> NDArray[np.float32]:
    """Embed many images in batches.

    Args:
        representation: the encoder.
        images: uint8 ``[N, H, W, C]``, N at least 1.
        batch_size: images per call of ``embed``.
        progress: show a progress bar on a terminal.

    Returns:
        Embeddings float32 ``[N, D]``.
    """
    return np.concatenate(
        [
            np.asarray(representation.embed(batch), np.float32)
            for batch in _batches(images, batch_size, "embedding", progress)
        ]
    )


def reconstruction_errors(
    representation: Representation,
    images: NDArray[np.uint8],
    *,
    batch_size: int = 1000,
    progress: bool = True,
) -> NDArray[np.float32] | None:
    """Return the reconstruction error of each image, float32 ``[N]``, or None without a decoder.

    The error is the mean over the H·W·C pixel values of an image, scaled to [0, 1], of the squared
    difference between the image and its reconstruction from the embedding.
    """
    reconstruct: Any = getattr(representation, "reconstruct", None)
    if reconstruct is None:
        return None
    try:
        return np.concatenate(
            [
                np.asarray(reconstruct(batch).error, np.float32)
                for batch in _batches(images, batch_size, "reconstructing", progress)
            ]
        )
    except UnsupportedOperation:
        return None


def _batches(
    images: NDArray[np.uint8], size: int, what: str, progress: bool
) -> tqdm[NDArray[np.uint8]]:
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    return tqdm(batches, what, unit=" batches", disable=None if progress else True)
