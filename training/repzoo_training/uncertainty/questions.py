"""Define the queries and the gallery of a measurement, and when a neighbour is wrong.

The number of a package is the probability of one of three events. The event that the package states
is measured.

**With labels**: the nearest training image has another label than the query.

**Without labels, with a content posterior**: the nearest training image is not among the ten
nearest of a fresh mild view of the same picture, undegraded. A clean image may be wrong, too, if
its neighbours are so close together that a slightly different crop finds others.

**Without labels or content posterior**: the nearest neighbour shows another image. The gallery
holds one random view of each of M images, including the query's own. This is the event that
`fit_uncertainty` learns, but measured on images that took no part in fitting.

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
from repzoo_training.uncertainty.examples import expected_answers, make_views, mild
from repzoo_training.uncertainty.fitting import ANOTHER_ANSWER, ANOTHER_IMAGE, MOST_IMAGES
from repzoo_training.uncertainty.report import NEIGHBOURS, WITH_ANOTHER_LABEL
from repzoo_training.views.views import ViewSpec

__all__ = [
    "Question",
    "ask_of_answers",
    "ask_of_labels",
    "ask_of_views",
    "is_of_answers",
    "is_of_views",
]

#: Random streams of views that fitting never uses.
OF_TEST, OF_TRAIN, OF_QUERIES, FURTHER = 100, 101, 102, 200


@dataclass(frozen=True, eq=False)
class Question:
    """N queries to a gallery of M images.

    Attributes:
        gallery: uint8 ``[M, H, W, C]``.
        shows: label or image number of each gallery entry, int64 ``[M]``.
        queries: uint8 ``[N, H, W, C]``.
        own: values of ``shows`` for right neighbours of each query, int64 ``[N, R]``.
        precision_at: k of precision@k: 10, or 1 if only one neighbour is right.
        event: what a wrong neighbour is, as part of a sentence.
        kept: rows of the training images with a view in the gallery, int64 ``[M − N]``. None if
            the question is not about views.
    """

    gallery: NDArray[np.uint8]
    shows: NDArray[np.int64]
    queries: NDArray[np.uint8]
    own: NDArray[np.int64]
    precision_at: int
    event: str
    kept: NDArray[np.int64] | None = None

    @property
    def of_labels(self) -> bool:
        """Whether entries of the gallery share what they show, so that neighbours can vote."""
        return self.event == WITH_ANOTHER_LABEL

    def right(self, neighbours: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which neighbours ``[n, k]`` of the queries in ``rows`` ``[n]`` are right."""
        shown = self.shows[neighbours]
        right: NDArray[np.bool_] = (shown[:, :, None] == self.own[rows][:, None, :]).any(2)
        return right


def is_of_views(encoder: Encoder, train: ImageDataset, test: ImageDataset) -> bool:
    """Return whether the package, or else the data, makes this a question about images."""
    spec = encoder.config.uncertainty
    if spec is None:
        return train.labels is None or test.labels is None
    return spec.probability_of.endswith(ANOTHER_IMAGE)


def is_of_answers(encoder: Encoder) -> bool:
    """Return whether the package makes this a question about the answers of a search."""
    spec = encoder.config.uncertainty
    return spec is not None and spec.probability_of.endswith(ANOTHER_ANSWER)


def ask_of_labels(train: ImageDataset, test: ImageDataset) -> Question:
    """Ask whether the nearest training image has another label.

    Raises:
        DataError: If the images have no labels.
    """
    if train.labels is None or test.labels is None:
        raise DataError(
            f"{test.name} has no labels, but the uncertainty is about labels: give labelled images"
        )
    own = test.labels[:, None]
    return Question(train.images, train.labels, test.images, own, NEIGHBOURS, WITH_ANOTHER_LABEL)


def ask_of_answers(
    encoder: Encoder,
    train: ImageDataset,
    test: ImageDataset,
    views: ViewSpec | None,
    seed: int,
) -> Question:
    """Ask whether a search with the undegraded picture would not have found the nearest image.

    Raises:
        DataError: If ``views`` is None.
    """
    rows = np.arange(len(test))
    fresh = encoder.embed(make_views(test, rows, mild(_known(views, test)), seed, OF_TEST))
    gallery = train.images[:MOST_IMAGES]
    answers = expected_answers(fresh, encoder.embed(gallery), encoder.config.metric)
    return Question(
        gallery, np.arange(len(gallery)), test.images, answers, NEIGHBOURS, ANOTHER_ANSWER
    )


def ask_of_views(
    train: ImageDataset, test: ImageDataset, views: ViewSpec | None, seed: int
) -> Question:
    """Ask whether the nearest view shows another image. Query n belongs to gallery entry n.

    Raises:
        DataError: If ``views`` is None.
    """
    views = _known(views, test)
    size = min(len(train), MOST_IMAGES)
    asked = np.arange(min(len(test), size))
    random = np.random.default_rng([seed, 3])
    kept = np.sort(random.permutation(len(train))[: size - len(asked)])
    gallery = make_views(test, asked, views, seed, OF_TEST)
    if len(kept):
        gallery = np.concatenate([gallery, make_views(train, kept, views, seed, OF_TRAIN)])
    return Question(
        gallery,
        np.arange(size),
        test.images[: len(asked)],
        asked[:, None],
        1,
        ANOTHER_IMAGE,
        kept,
    )


def _known(views: ViewSpec | None, test: ImageDataset) -> ViewSpec:
    if views is None:
        raise DataError(
            f"the uncertainty is about views of images: measuring it on {test.name} needs views of "
            "the recipe that it was calibrated with"
        )
    return views
