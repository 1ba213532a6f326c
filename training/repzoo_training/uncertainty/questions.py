"""What is asked of an uncertainty: queries, a gallery, and what makes a neighbour a wrong one.

A package's number is a probability of one of two things, and measured is the one that it states.

**With labels**: the nearest training image has another label than the query.

**Without**, what `fit_uncertainty` was fitted to, on images that took no part in it. The gallery
holds one random view of each of M images, one of them the query's own, and wrong is a nearest
neighbour that shows another image:

- *Views, not the images themselves.* A query that is a test image would else be at distance 0 from
  itself and never wrong, which is not what the number was fitted or calibrated to.
- *Each test image has a view in it*, as each training image had when the head was calibrated, or
  there would be nothing to find.
- *M is the size that it had then*, the number of training images (`MOST_IMAGES` at most): a wrong
  neighbour is the likelier the more there are to choose from, so among the test images alone a
  calibrated probability would look too high. What the test images do not fill, views of training
  images do; they are only ever there to be mistaken for a query's own.
- *The query is the image*, as in calibrating. Further views, and corrupted images, are queries too,
  apart: see `repzoo_training.uncertainty.searches`.

Seeds of the views are others than those of fitting.
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

#: Streams of random views that fitting never draws from.
OF_TEST, OF_TRAIN, OF_QUERIES, FURTHER = 100, 101, 102, 200


@dataclass(frozen=True, eq=False)
class Question:
    """N queries to a gallery of M images.

    Attributes:
        gallery: uint8 ``[M, H, W, C]``.
        shows: int64 ``[M]``, what each of them is: its label, or the number of its image.
        queries: uint8 ``[N, H, W, C]``.
        own: int64 ``[N]``, what a right neighbour of each is.
        precision_at: k of precision@k: 10, or 1 where there is but one right answer.
        kept: of the training images, those of which the gallery has views: int64 ``[M − N]``.
    """

    gallery: NDArray[np.uint8]
    shows: NDArray[np.int64]
    queries: NDArray[np.uint8]
    own: NDArray[np.int64]
    precision_at: int
    kept: NDArray[np.int64] | None = None

    @property
    def of_views(self) -> bool:
        """Whether wrong is another image, not another label."""
        return self.kept is not None


def is_of_views(encoder: Encoder, train: ImageDataset, test: ImageDataset) -> bool:
    """Whether wrong is another image, not another label: what the package says, else the data."""
    spec = encoder.config.uncertainty
    if spec is None:
        return train.labels is None or test.labels is None
    return spec.probability_of.endswith(ANOTHER_IMAGE)


def ask_of_labels(train: ImageDataset, test: ImageDataset) -> Question:
    """Whether the nearest training image has another label.

    Raises:
        DataError: if there are no labels.
    """
    if train.labels is None or test.labels is None:
        raise DataError(f"{test.name} has no labels: what is wrong cannot be told")
    return Question(train.images, train.labels, test.images, test.labels, NEIGHBOURS)


def ask_of_views(
    train: ImageDataset, test: ImageDataset, views: ViewSpec | None, seed: int
) -> Question:
    """Whether the nearest view is one of another image; the first N of the gallery are the right.

    Raises:
        DataError: if there is nothing to make views by.
    """
    if views is None:
        raise DataError(
            f"the uncertainty is that a neighbour among views shows another image: {test.name} "
            "needs views, of the recipe that it was calibrated with"
        )
    size = min(len(train), MOST_IMAGES)
    asked = np.arange(min(len(test), size))
    random = np.random.default_rng([seed, 3])
    kept = np.sort(random.permutation(len(train))[: size - len(asked)])
    gallery = make_views(test, asked, views, seed, OF_TEST)
    if len(kept):
        gallery = np.concatenate([gallery, make_views(train, kept, views, seed, OF_TRAIN)])
    return Question(gallery, np.arange(size), test.images[: len(asked)], asked, 1, kept)
