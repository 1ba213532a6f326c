"""Queries of which it is known whether their nearest neighbour is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repzoo_training.data import ImageDataset
from repzoo_training.evaluation.knn import Distance, nearest
from repzoo_training.randomness import generator
from repzoo_training.views import Views, ViewSpec

__all__ = ["Examples", "join", "make_views", "other_images", "other_labels"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Examples:
    """N queries.

    Attributes:
        outputs: of the encoder, by name: ``embedding`` and, with a posterior, ``log_variance``;
            float32 ``[N, D]`` each.
        wrong: bool ``[N]``, whether the nearest neighbour is a wrong one.
    """

    outputs: dict[str, Floats]
    wrong: Flags

    def __len__(self) -> int:
        return len(self.wrong)

    def take(self, rows: NDArray[np.int64]) -> Examples:
        """The examples of these rows."""
        taken = {name: values[rows] for name, values in self.outputs.items()}
        return Examples(taken, self.wrong[rows])


def join(first: Examples, second: Examples) -> Examples:
    """All of both."""
    outputs = {
        name: np.concatenate([values, second.outputs[name]])
        for name, values in first.outputs.items()
    }
    return Examples(outputs, np.concatenate([first.wrong, second.wrong]))


def other_labels(
    query: dict[str, Floats],
    query_labels: NDArray[np.int64],
    gallery: Floats,
    gallery_labels: NDArray[np.int64],
    distance: Distance,
    *,
    own: NDArray[np.int64] | None = None,
    progress: bool = False,
) -> Examples:
    """Wrong is a nearest neighbour with another label.

    Args:
        query: the encoder's outputs of the queries.
        query_labels: int64 ``[N]``.
        gallery: embeddings ``[M, D]`` to look for neighbours in.
        gallery_labels: int64 ``[M]``.
        distance: what is near.
        own: int64 ``[N]``, the row of the gallery that shows the query's own image, which is no
            neighbour of it (leave one out); None if the gallery holds other images.
        progress: show a bar, on a terminal only.
    """
    found = _nearest_other(query["embedding"], gallery, distance, own, progress)
    return Examples(query, gallery_labels[found] != query_labels)


def other_images(
    query: dict[str, Floats],
    images: NDArray[np.int64],
    gallery: Floats,
    distance: Distance,
    *,
    progress: bool = False,
) -> Examples:
    """Wrong is a nearest neighbour that is no view of the same image.

    Args:
        query: the encoder's outputs of one view of each of N images.
        images: int64 ``[N]``, the row of the gallery that has another view of the same image.
        gallery: embeddings ``[M, D]`` of those.
        distance: what is near.
        progress: show a bar, on a terminal only.
    """
    found = _nearest_other(query["embedding"], gallery, distance, None, progress)
    return Examples(query, found != images)


def make_views(
    dataset: ImageDataset, rows: NDArray[np.int64], spec: ViewSpec, seed: int, number: int
) -> Pixels:
    """One random view of each of these images, as images again: uint8 ``[N, H, W, C]``.

    Other views come of another ``number``. Binarising is left out: the encoder's graph does it.
    """
    spec = spec.model_copy(update={"binarize": None})
    views = Views(spec, dataset.images.shape[1:3])
    draws = generator(seed, "uncertainty", number)
    made = []
    for part in np.array_split(rows, max(1, len(rows) // 1000)):
        images = torch.from_numpy(dataset.images[part]).permute(0, 3, 1, 2)  # [n, C, H, W]
        view = views(images, 1, draws)[:, 0]
        made.append((view * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(made)


def _nearest_other(
    query: Floats,
    gallery: Floats,
    distance: Distance,
    own: NDArray[np.int64] | None,
    progress: bool,
) -> NDArray[np.int64]:
    """The row of the nearest neighbour that is not ``own``: int64 ``[N]``."""
    chunks = nearest(
        torch.from_numpy(gallery),
        torch.from_numpy(query),
        k=1 if own is None else 2,
        distance=distance,
        progress=progress,
    )
    found = torch.cat(list(chunks))  # [N, k]
    if own is None:
        chosen: Tensor = found[:, 0]
    else:
        # A view of an image need not have the image itself as its nearest.
        chosen = torch.where(found[:, 0] == torch.from_numpy(own), found[:, 1], found[:, 0])
    return chosen.numpy()
