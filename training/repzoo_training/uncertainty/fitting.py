"""Fit the uncertainty head to training images, their labels if any, views and degraded copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.errors import InvalidInput
from repzoo.packages.config import UncertaintySpec
from repzoo.runtime.encoder import Encoder

from repzoo_training.data import ImageDataset
from repzoo_training.degradations import FIT, Degradation, draw_degraded
from repzoo_training.prior import COMPONENTS, fit_mixture
from repzoo_training.randomness import generator
from repzoo_training.uncertainty.examples import (
    ANSWERS,
    Examples,
    expected_answers,
    join,
    make_views,
    mild,
    missed,
    neighbours,
)
from repzoo_training.uncertainty.head import UncertaintyHead, components_for
from repzoo_training.uncertainty.learning import calibrate, learn
from repzoo_training.views.views import ViewSpec

__all__ = [
    "ANOTHER_ANSWER",
    "ANOTHER_IMAGE",
    "ANOTHER_LABEL",
    "MOST_IMAGES",
    "FittedUncertainty",
    "fit_uncertainty",
]

#: Endings of `UncertaintySpec.probability_of`: with labels, without labels, and without labels if
#: there is a content posterior.
ANOTHER_LABEL, ANOTHER_IMAGE = "has another label", "shows another image"
ANOTHER_ANSWER = (
    f"is not among the {ANSWERS} nearest of a fresh view of the same picture, undegraded"
)
#: Largest number of training images in the gallery. Queries come from the same images.
MOST_IMAGES = 60_000
#: Views of each image that are queries, in addition to the image itself.
VIEWS = 2
#: Degraded copies of each image that are queries as well, if there is a content posterior. Only the
#: content posterior says what such a copy shows.
DEGRADED = 2
#: Views of each image that decide without labels what is right: a view that the gallery may hold,
#: or a fresh view of the undegraded picture. The head learns the share of them for which the
#: neighbour is wrong. With a single view it would learn the luck of that draw as well.
DRAWS = 4
#: Number of the random stream for degradations; lower ones are used for views.
DEGRADATIONS = 900
#: Share of the images that calibrate the head instead of fitting it.
HELD_OUT = 0.1


@dataclass(frozen=True, eq=False)
class FittedUncertainty:
    """A head in evaluation mode, and the record that defines what its number means."""

    head: UncertaintyHead
    spec: UncertaintySpec


def fit_uncertainty(
    encoder: Encoder,
    train: ImageDataset,
    views: ViewSpec,
    *,
    kinds: Mapping[str, Degradation] = FIT,
    seed: int = 0,
    progress: bool = True,
) -> FittedUncertainty:
    """Fit the probability that the nearest neighbour is wrong.

    With labels, the gallery holds the training images except the query's own, and a neighbour with
    another label is wrong. Without labels, but with a content posterior, a neighbour is wrong if it
    is not among the nearest of a fresh mild view of the undegraded picture: the search would have
    answered otherwise. Without either, the gallery holds one view of each image, and a neighbour
    that shows another image is wrong. The probability is then learned and calibrated over ``DRAWS``
    views.

    Args:
        encoder: the encoder. Its ``config.metric`` is the distance between embeddings.
        train: the images that it was trained on, or that it will be used on.
        views: the recipe's views, which make queries that are harder than the images.
        kinds: the degradations of the degraded copies. They are used only if the encoder has a
            content posterior.
        seed: decides everything random.
        progress: show progress bars on a terminal.

    Raises:
        InvalidInput: If there are fewer than 100 images, or if all neighbours are right or all are
            wrong.
    """
    if len(train) < 100:
        raise InvalidInput(
            f"{train.name} has {len(train)} images; an uncertainty needs at least 100"
        )
    random = np.random.default_rng([seed, 0])
    rows = np.sort(random.permutation(len(train))[:MOST_IMAGES])
    outputs = encoder.outputs(train.images[rows])
    dim = encoder.config.latent_dim
    components = min(COMPONENTS, components_for(dim))
    mixture = fit_mixture(outputs["embedding"], outputs.get("log_variance"), seed, components)
    has_content = encoder.config.content is not None
    head = UncertaintyHead(
        dim,
        len(mixture[0]),
        encoder.config.input.shape,
        classes=0 if train.labels is None else int(train.labels.max()) + 1,
        has_posterior=encoder.config.has_posterior,
        has_content=has_content,
    )
    for buffer, values in zip((head.weights, head.means, head.scales), mixture, strict=True):
        buffer.copy_(torch.from_numpy(values))
    harder = [make_views(train, rows, views, seed, number) for number in range(VIEWS)]
    draws = generator(seed, "uncertainty", DEGRADATIONS)
    for _ in range(DEGRADED if has_content else 0):
        harder.append(draw_degraded(train.images[rows], draws, kinds))
    queries = _examples(encoder, head, train, rows, outputs, harder, views, seed, progress)
    # Answers to undegraded images are hardly ever wrong, so these alone would calibrate nothing.
    of_answers = has_content and train.labels is None
    held_out, others = _split(queries, random, queries if of_answers else queries[:1])
    if not 0 < others.error.mean() < 1:
        raise InvalidInput(
            f"{others.wrong.sum():,} of {len(others):,} queries have a wrong neighbour, so there "
            "is nothing to learn"
            + "; choose a recipe with other views by --recipe"
            * (train.labels is None)
        )
    learn(head, others, queries[0], seed, progress)
    calibrate(head, held_out)
    spec = UncertaintySpec(
        probability_of=_meaning(
            train, len(rows), encoder.config.metric, views, has_content=has_content
        ),
        fitted_on=(
            f"{len(rows):,} training images of {train.name}"
            f"{'' if train.labels is None else ', their labels,'} and {VIEWS} views "
            f"{f'and {DEGRADED} degraded copies ' if has_content else ''}of each; "
            f"calibrated on {len(held_out):,} held-out {'queries' if of_answers else 'images'} of "
            "these"
        ),
        inputs=(
            "embedding",
            "images",
            *(name for name in queries[0].outputs if name != "embedding"),
        ),
    )
    return FittedUncertainty(head.eval().requires_grad_(False), spec)


def _examples(
    encoder: Encoder,
    head: UncertaintyHead,
    train: ImageDataset,
    rows: NDArray[np.int64],
    outputs: dict[str, NDArray[np.float32]],
    harder: Sequence[NDArray[np.uint8]],
    views: ViewSpec,
    seed: int,
    progress: bool,
) -> list[Examples]:
    """Return the images as queries, then their harder versions, as examples of equal length."""
    places = np.arange(len(rows))
    metric = encoder.config.metric
    has_content = encoder.config.content is not None
    # Without labels the gallery holds further views, so that it does not hold the query itself; or
    # further views say what the answers should be.
    further = mild(views) if has_content else views
    drawn = [
        encoder.embed(make_views(train, rows, further, seed, VIEWS + number))
        for number in range(0 if train.labels is not None else DRAWS)
    ]
    answers = [
        expected_answers(each, outputs["embedding"], metric, own=places)
        for each in drawn
        if has_content
    ]
    queries = []
    for images in (train.images[rows], *harder):
        query = encoder.outputs(images, content=True)
        chunks = np.array_split(images, max(1, len(images) // 4096))
        thumbnails = [head.thumbnail(torch.from_numpy(chunk)).numpy() for chunk in chunks]
        thumbnail = np.concatenate(thumbnails)
        if train.labels is not None:
            gallery, labels = outputs["embedding"], train.labels[rows]
            found = neighbours(query["embedding"], gallery, metric, own=places, progress=progress)
            queries.append(Examples(query, thumbnail, labels, labels[found]))
            continue
        if has_content:
            gallery = outputs["embedding"]
            found = neighbours(query["embedding"], gallery, metric, own=places, progress=progress)
            right = [(each == found[:, None]).any(1) for each in answers]
            share = 1 - np.stack(right).mean(0, dtype=np.float32)
            queries.append(Examples(query, thumbnail, places, found, share))
            continue
        farther, others = missed(query["embedding"], drawn[0], places, np.stack(drawn, 1), metric)
        found = np.where(farther[:, 0], others, places)
        share = farther.mean(1, dtype=np.float32)
        queries.append(Examples(query, thumbnail, places, found, share))
    return queries


def _split(
    queries: list[Examples], random: np.random.Generator, calibrating: list[Examples]
) -> tuple[Examples, Examples]:
    """Return queries of some images to calibrate on, and those of the other images to fit to."""
    shuffled = random.permutation(len(queries[0]))
    count = max(1, round(HELD_OUT * len(shuffled)))
    apart, rest = shuffled[:count], shuffled[count:]
    kept = join([each.take(apart) for each in calibrating])
    return kept, join([each.take(rest) for each in queries])


def _meaning(
    train: ImageDataset, images: int, metric: str, views: ViewSpec, *, has_content: bool
) -> str:
    gallery = f"{images:,} training images of {train.name}"
    if train.labels is not None:
        return f"the nearest neighbour ({metric}) among {gallery} {ANOTHER_LABEL}"
    if has_content:
        return f"the nearest neighbour ({metric}) among {gallery} {ANOTHER_ANSWER}"
    made = f"views ({_changes(views)}) of {gallery}"
    return f"the nearest neighbour ({metric}) among {made} {ANOTHER_IMAGE}"


def _changes(views: ViewSpec) -> str:
    """Describe what a view changes, because the probability depends on it."""
    changes = []
    if views.scale != (1.0, 1.0) or views.ratio != (1.0, 1.0):
        low, high = (f"{100 * share:.0f}" for share in views.scale)
        changes.append(f"crops of {low} to {high} % of the area")
    if views.horizontal_flip or views.vertical_flip:
        changes.append("mirrored or not")
    if views.jitter is not None:
        changes.append("brightness, contrast, saturation and hue changed")
    if views.degraded:
        changes.append("degraded or not")
    return "; ".join(changes)
