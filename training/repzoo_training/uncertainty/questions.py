"""Define the queries and the gallery of a measurement, and when a neighbour is wrong.

The number of a package is the probability of one of two events. The event that the package states
is measured.

**With labels**: the nearest training image has another label than the query.

**Without labels**: the nearest neighbour shows another image. The gallery holds one random view of
each of M images, including the query's own. This is the event that `fit_uncertainty` learns, but
measured on images that took no part in fitting.

- *The gallery holds views, not the images themselves.* Otherwise a query would be at distance 0
  from itself and never wrong, which is not what the number was calibrated for.
- *Each test image has a view in the gallery*, as each training image had during calibration.
  Otherwise there would be nothing to find.
- *M equals the gallery size during calibration*, the number of training images (`MOST_IMAGES` at
  most). Wrong neighbours are more likely in a larger gallery, so a calibrated probability would
  look too high among the test images alone. Views of training images fill the rest of the gallery,
  as distractors.
- *The query is the unchanged image*, as during calibration. Views and corrupted images are separate
  queries, see `repzoo_training.uncertainty.searches`.

The seeds of the views differ from those used for fitting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from repzoo.runtime.encoder import Encoder

from repzoo_training.data import ImageDataset
from repzoo_training.errors import DataError
from repzoo_training.uncertainty.examples import make_views
from repzoo_training.uncertainty.fitting import ANOTHER_IMAGE, MOST_IMAGES
from repzoo_training.uncertainty.report import NEIGHBOURS
from repzoo_training.views.views import ViewSpec

__all__ = ["Question", "ask_of_labels", "ask_of_views", "is_of_views"]

#: Random streams of views that fitting never uses.
OF_TEST, OF_TRAIN, OF_QUERIES, FURTHER = 100, 101, 102, 200


@dataclass(frozen=True, eq=False)
class Question:
    """N queries to a gallery of M images.

    Attributes:
        gallery: uint8 ``[M, H, W, C]``.
        shows: label or image number of each gallery entry, int64 ``[M]``.
        queries: uint8 ``[N, H, W, C]``.
        own: value of ``shows`` for a right neighbour of each query, int64 ``[N]``.
        precision_at: k of precision@k: 10, or 1 if only one neighbour is right.
        kept: rows of the training images with a view in the gallery, int64 ``[M − N]``. None if
            the question is about labels.
    """

    gallery: NDArray[np.uint8]
    shows: NDArray[np.int64]
    queries: NDArray[np.uint8]
    own: NDArray[np.int64]
    precision_at: int
    kept: NDArray[np.int64] | None = None

    @property
    def of_views(self) -> bool:
        """Whether the question is about another image instead of another label."""
        return self.kept is not None


def is_of_views(encoder: Encoder, train: ImageDataset, test: ImageDataset) -> bool:
    """Return whether the package, or else the data, makes this a question about images."""
    spec = encoder.config.uncertainty
    if spec is None:
        return train.labels is None or test.labels is None
    return spec.probability_of.endswith(ANOTHER_IMAGE)


def ask_of_labels(train: ImageDataset, test: ImageDataset) -> Question:
    """Ask whether the nearest training image has another label.

    Raises:
        DataError: If the images have no labels.
    """
    if train.labels is None or test.labels is None:
        raise DataError(
            f"{test.name} has no labels, but the uncertainty is about labels: give labelled images"
        )
    return Question(train.images, train.labels, test.images, test.labels, NEIGHBOURS)


def ask_of_views(
    train: ImageDataset, test: ImageDataset, views: ViewSpec | None, seed: int
) -> Question:
    """Ask whether the nearest view shows another image. Query n belongs to gallery entry n.

    Raises:
        DataError: If ``views`` is None.
    """
    if views is None:
        raise DataError(
            f"the uncertainty is about views of images: measuring it on {test.name} needs views of "
            "the recipe that it was calibrated with"
        )
    size = min(len(train), MOST_IMAGES)
    asked = np.arange(min(len(test), size))
    random = np.random.default_rng([seed, 3])
    kept = np.sort(random.permutation(len(train))[: size - len(asked)])
    gallery = make_views(test, asked, views, seed, OF_TEST)
    if len(kept):
        gallery = np.concatenate([gallery, make_views(train, kept, views, seed, OF_TRAIN)])
    return Question(gallery, np.arange(size), test.images[: len(asked)], asked, 1, kept)
