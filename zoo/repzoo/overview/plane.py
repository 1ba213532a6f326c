"""Embeddings in two dimensions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repzoo.errors import MissingExtra

__all__ = ["plane"]

#: t-SNE starts from this many principal components, as in the paper. More only cost time.
_COMPONENTS = 50
_PERPLEXITY = 30.0
#: With fewer images, there are too few neighbours for t-SNE.
_FEWEST = 10


def plane(vectors: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Place images so that neighbours stay neighbours: float32 ``[N, 2]`` in [0, 1].

    By t-SNE (van der Maaten and Hinton 2008), started from the first two principal components.
    Distances between clusters, and their sizes, mean little.

    Args:
        vectors: float32 ``[N, D]``, N at least 1.
        seed: The seed of all randomness.

    Raises:
        MissingExtra: If scikit-learn is not installed.
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise MissingExtra("zoo map", "sklearn", error) from error
    count, dim = vectors.shape
    placed = np.zeros((count, 2), np.float32)
    if np.ptp(vectors, axis=0).any():
        found = PCA(min(_COMPONENTS, dim, count - 1), random_state=seed).fit_transform(vectors)
        placed[:, : found.shape[1]] = found[:, :2]
        if count >= _FEWEST and found.shape[1] >= 2:
            perplexity = min(_PERPLEXITY, (count - 1) / 3)
            start = placed / max(float(placed.std()), 1e-12) * 1e-4
            placed = TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(found)
    low, high = placed.min(axis=0), placed.max(axis=0)
    centred = (placed - (low + high) / 2) / max(float((high - low).max()), 1e-12)
    scaled: NDArray[np.float32] = np.clip(centred + 0.5, 0, 1).astype(np.float32)
    return scaled
