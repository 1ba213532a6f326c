"""Queries with a known nearest neighbour: the examples that an uncertainty head learns from."""

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

__all__ = [
    "Examples",
    "apart",
    "expected_answers",
    "join",
    "make_views",
    "mild",
    "missed",
    "neighbours",
]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]

#: Number of nearest images that answer a search.
ANSWERS = 10


@dataclass(frozen=True, eq=False)
class Examples:
    """N queries with their nearest neighbours.

    Attributes:
        outputs: float32 ``[N, D]`` by name: ``embedding``, with a posterior ``log_variance``, and
            with a content posterior ``content_mean`` and ``content_variance``.
        thumbnail: a thumbnail of each image, float32 ``[N, pixels]``.
        own: int64 ``[N]``, the query's label or, without labels, the number of its image.
        found: the same for the nearest neighbour, int64 ``[N]``.
        missed: without labels, the probability that the neighbour is wrong, over the views of the
            query's image that the gallery may hold, float32 ``[N]``. ``found`` is for one of them.
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
        """Whether the nearest neighbour is wrong, bool ``[N]``."""
        wrong: Flags = self.own != self.found
        return wrong

    @property
    def error(self) -> Floats:
        """Probability that the neighbour is wrong, float32 ``[N]``. With labels it is 0 or 1."""
        return self.wrong.astype(np.float32) if self.missed is None else self.missed

    def take(self, rows: Numbers) -> Examples:
        """Return the examples in these rows."""
        outputs = {name: values[rows] for name, values in self.outputs.items()}
        missed = None if self.missed is None else self.missed[rows]
        return Examples(outputs, self.thumbnail[rows], self.own[rows], self.found[rows], missed)


def join(parts: Sequence[Examples]) -> Examples:
    """Concatenate examples."""
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
    """Return the row of the gallery that is nearest to each query, int64 ``[N]``.

    Args:
        query: embeddings ``[N, D]``.
        gallery: embeddings ``[M, D]``.
        distance: distance between embeddings.
        own: row of the gallery that shows the query's own image, int64 ``[N]``. It does not count
            as a neighbour (leave-one-out). None if the gallery holds only other images.
        progress: show a progress bar on a terminal.
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
        # The nearest row of a view is not always the image itself.
        chosen = torch.where(found[:, 0] == torch.from_numpy(own), found[:, 1], found[:, 0])
    return chosen.numpy()


def missed(
    query: Floats, gallery: Floats, own: Numbers, views: Floats, distance: Distance
) -> tuple[NDArray[np.bool_], Numbers]:
    """Find the views of a query's own image that a search for the query would miss.

    A view is missed if the nearest other image is closer to the query than the view.

    Args:
        query: embeddings ``[N, D]``.
        gallery: embeddings ``[M, D]``.
        own: row of the gallery that shows the query's own image, int64 ``[N]``.
        views: embeddings of K views of that image, ``[N, K, D]``.
        distance: distance between embeddings.

    Returns:
        Whether each view is missed, bool ``[N, K]``, and the rows of the nearest other images,
        int64 ``[N]``.
    """
    others = neighbours(query, gallery, distance, own=own)
    nearest_other = apart(query, gallery[others], distance)
    farther = [apart(query, view, distance) > nearest_other for view in views.swapaxes(0, 1)]
    return np.stack(farther, axis=1), others


def expected_answers(
    fresh: Floats, gallery: Floats, distance: Distance, *, own: Numbers | None = None
) -> Numbers:
    """Return the rows of the ``ANSWERS`` images that are nearest to fresh views, ``[N, ANSWERS]``.

    Args:
        fresh: embeddings of fresh mild views of the undegraded queries, ``[N, D]``.
        gallery: embeddings ``[M, D]``.
        distance: distance between embeddings.
        own: row of the gallery that shows the query's own image, int64 ``[N]``, which is left out.
    """
    k = ANSWERS + (own is not None)
    chunks = nearest(
        torch.from_numpy(gallery), torch.from_numpy(fresh), k=k, distance=distance, progress=False
    )
    found = torch.cat(list(chunks)).numpy()  # [N, k]
    if own is None:
        return found
    # Own rows move to the end, which is cut off; a view is rarely farther than k images.
    last = np.argsort(found == own[:, None], axis=1, kind="stable")
    answers: Numbers = np.take_along_axis(found, last, 1)[:, :ANSWERS]
    return answers


def mild(views: ViewSpec) -> ViewSpec:
    """Return views that leave the content alone: crops of 90 % or more of the area.

    With 75 %, the content means of undegraded FashionMNIST images found 1.8 points less than the
    embeddings; with 90 %, 1.0 points less, and as much for degraded images.
    """
    return ViewSpec(scale=(0.9, 1.0), ratio=(0.95, 1.05), horizontal_flip=views.horizontal_flip)


def apart(one: Floats, other: Floats, metric: Distance) -> Floats:
    """Return the distances ``[N]`` between corresponding rows of two arrays ``[N, D]``."""
    a, b = torch.from_numpy(one), torch.from_numpy(other)
    if metric == "cosine":
        return 1 - torch.cosine_similarity(a, b).numpy()
    distance: Floats = (a - b).norm(dim=1).numpy()
    return distance


def make_views(
    dataset: ImageDataset, rows: Numbers, spec: ViewSpec, seed: int, number: int
) -> Pixels:
    """Return one random view of each image, uint8 ``[N, H, W, C]``.

    Args:
        dataset: the images.
        rows: rows of the images, int64 ``[N]``.
        spec: how views are made. Binarising is left out, because the encoder's graph does it.
        seed: decides the views, together with ``number``.
        number: another number gives other views of the same images.
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
