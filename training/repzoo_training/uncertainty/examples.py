"""Queries of which it is known whether their nearest neighbour is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repzoo_training.data import ImageDataset
from repzoo_training.evaluation.knn import Distance, nearest
from repzoo_training.randomness import generator
from repzoo_training.views.views import Views, ViewSpec

__all__ = ["Examples", "apart", "join", "make_views", "missed", "neighbours"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Examples:
    """N queries, and what their nearest neighbours turned out to be.

    Attributes:
        outputs: of the encoder, by name: ``embedding`` and, with a posterior, ``log_variance``;
            float32 ``[N, D]`` each.
        thumbnail: of each image, float32 ``[N, pixels]``.
        own: int64 ``[N]``, what the query is: its label or, without labels, its image.
        found: int64 ``[N]``, the same of its nearest neighbour.
        missed: float32 ``[N]``, without labels: how likely the neighbour is a wrong one, over which
            view of its image the gallery has. ``found`` is of one of them.
    """

    outputs: dict[str, Floats]
    thumbnail: Floats
    own: Numbers
    found: Numbers
    missed: Floats | None = None

    def __len__(self) -> int:
        return len(self.own)

    @property
    def wrong(self) -> Flags:
        """Whether the nearest neighbour is a wrong one: bool ``[N]``."""
        wrong: Flags = self.own != self.found
        return wrong

    @property
    def error(self) -> Floats:
        """How likely that is, as far as it is known: float32 ``[N]``, 0 or 1 with labels."""
        return self.wrong.astype(np.float32) if self.missed is None else self.missed

    def take(self, rows: Numbers) -> Examples:
        """The examples of these rows."""
        outputs = {name: values[rows] for name, values in self.outputs.items()}
        missed = None if self.missed is None else self.missed[rows]
        return Examples(outputs, self.thumbnail[rows], self.own[rows], self.found[rows], missed)


def join(parts: Sequence[Examples]) -> Examples:
    """All of all."""
    return Examples(
        {name: np.concatenate([p.outputs[name] for p in parts]) for name in parts[0].outputs},
        np.concatenate([part.thumbnail for part in parts]),
        np.concatenate([part.own for part in parts]),
        np.concatenate([part.found for part in parts]),
        None
        if parts[0].missed is None
        else np.concatenate([part.missed for part in parts if part.missed is not None]),
    )


def neighbours(
    query: Floats,
    gallery: Floats,
    distance: Distance,
    *,
    own: Numbers | None = None,
    progress: bool = False,
) -> Numbers:
    """The nearest row of the gallery to each query: int64 ``[N]``.

    Args:
        query: embeddings ``[N, D]``.
        gallery: embeddings ``[M, D]``.
        distance: what is near.
        own: int64 ``[N]``, the row of the gallery that shows the query's own image, which is no
            neighbour of it (leave one out); None if the gallery holds other images.
        progress: show a bar, on a terminal only.
    """
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


def missed(
    query: Floats, gallery: Floats, own: Numbers, views: Floats, distance: Distance
) -> tuple[NDArray[np.bool_], Numbers]:
    """Which views of a query's own image are farther from it than its nearest other neighbour.

    Args:
        query: embeddings ``[N, D]``.
        gallery: embeddings ``[M, D]``.
        own: int64 ``[N]``, the row of the gallery that shows the query's own image.
        views: embeddings ``[N, K, D]`` of views of that image.
        distance: what is near.

    Returns:
        bool ``[N, K]``, and the rows of the other neighbours, int64 ``[N]``.
    """
    others = neighbours(query, gallery, distance, own=own)
    nearest_other = apart(query, gallery[others], distance)
    farther = [apart(query, view, distance) > nearest_other for view in views.swapaxes(0, 1)]
    return np.stack(farther, axis=1), others


def apart(one: Floats, other: Floats, metric: Distance) -> Floats:
    """Distances ``[N]`` of the rows of two ``[N, D]``."""
    a, b = torch.from_numpy(one), torch.from_numpy(other)
    if metric == "cosine":
        return 1 - torch.cosine_similarity(a, b).numpy()
    distance: Floats = (a - b).norm(dim=1).numpy()
    return distance


def make_views(
    dataset: ImageDataset, rows: Numbers, spec: ViewSpec, seed: int, number: int
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
