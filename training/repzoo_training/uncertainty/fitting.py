"""Fitting the head: on training images and the recipe's own views, and on nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.errors import InvalidInput
from repzoo.packages.config import UncertaintySpec
from repzoo.runtime.encoder import Encoder

from repzoo_training.data import ImageDataset
from repzoo_training.prior import fit_mixture
from repzoo_training.uncertainty.examples import Examples, join, make_views, missed, neighbours
from repzoo_training.uncertainty.head import UncertaintyHead
from repzoo_training.uncertainty.learning import calibrate, learn
from repzoo_training.views.views import ViewSpec

__all__ = ["ANOTHER_IMAGE", "MOST_IMAGES", "FittedUncertainty", "fit_uncertainty"]

#: What `UncertaintySpec.probability_of` ends with where there are labels, and where there are none.
ANOTHER_LABEL, ANOTHER_IMAGE = "has another label", "shows another image"
#: The gallery, and queries from it, are at most this many training images.
MOST_IMAGES = 60_000
#: Views of each image that are queries beside the image itself.
VIEWS = 2
#: Views of each image of which a gallery without labels may have any: what is learned is the share
#: of them that the query would miss. Told of one, the head would learn the luck of that one, too.
DRAWS = 4
#: Share of the images whose errors calibrate the head instead of fitting it.
HELD_OUT = 0.1


@dataclass(frozen=True, eq=False)
class FittedUncertainty:
    """A head in evaluation mode, and what its number is a probability of."""

    head: UncertaintyHead
    spec: UncertaintySpec


def fit_uncertainty(
    encoder: Encoder,
    train: ImageDataset,
    views: ViewSpec,
    *,
    seed: int = 0,
    progress: bool = True,
) -> FittedUncertainty:
    """Fit the probability that the nearest neighbour is a wrong one.

    With labels, wrong is a neighbour with another label, in a gallery of the training images
    without the query's own. Without, the gallery is one view of each image, and wrong is a
    neighbour that shows another image; how likely that is, is learned and calibrated on ``DRAWS``
    views that the gallery may have of the query's image.

    Args:
        encoder: whose outputs the head takes; its ``config.metric`` says what is near.
        train: the images that it was trained on, or that it is to be used on.
        views: the recipe's own, to make queries that are harder than the images.
        seed: of everything that is drawn.
        progress: show bars, on a terminal only.

    Raises:
        InvalidInput: for fewer than 100 images, or if every neighbour is right, or none is.
    """
    if len(train) < 100:
        raise InvalidInput(f"{train.name} has {len(train)} images; an uncertainty needs 100")
    random = np.random.default_rng([seed, 0])
    rows = np.sort(random.permutation(len(train))[:MOST_IMAGES])
    outputs = encoder.outputs(train.images[rows])
    mixture = fit_mixture(outputs["embedding"], outputs.get("log_variance"), seed)
    head = UncertaintyHead(
        encoder.config.latent_dim,
        len(mixture[0]),
        encoder.config.input.shape,
        classes=0 if train.labels is None else int(train.labels.max()) + 1,
        has_posterior=encoder.config.has_posterior,
    )
    for buffer, values in zip((head.weights, head.means, head.scales), mixture, strict=True):
        buffer.copy_(torch.from_numpy(values))
    queries = _examples(encoder, head, train, rows, outputs, views, seed, progress)
    held_out, others = _split(queries, random)
    if not 0 < others.error.mean() < 1:
        raise InvalidInput(
            f"of {len(others):,} queries, {others.wrong.sum():,} have a wrong neighbour: there is "
            "nothing to tell apart" + "; another recipe has other views" * (train.labels is None)
        )
    learn(head, others, queries[0], seed, progress)
    calibrate(head, held_out)
    spec = UncertaintySpec(
        probability_of=_meaning(train, len(rows), encoder.config.metric, views),
        fitted_on=(
            f"{len(rows):,} training images of {train.name} and {VIEWS} views of each; calibrated "
            f"on {len(held_out):,} of the images, held out from that"
        ),
        inputs=("embedding", "images", *encoder.config.outputs[1:]),
    )
    return FittedUncertainty(head.eval().requires_grad_(False), spec)


def _examples(
    encoder: Encoder,
    head: UncertaintyHead,
    train: ImageDataset,
    rows: NDArray[np.int64],
    outputs: dict[str, NDArray[np.float32]],
    views: ViewSpec,
    seed: int,
    progress: bool,
) -> list[Examples]:
    """Each image as a query, then its views: a list of equally long examples."""
    places = np.arange(len(rows))
    metric = encoder.config.metric
    made = [make_views(train, rows, views, seed, number) for number in range(VIEWS)]
    # Without labels, against one more view of each: an image is not looked for in a gallery that
    # holds it.
    drawn = [
        encoder.embed(make_views(train, rows, views, seed, VIEWS + number))
        for number in range(0 if train.labels is not None else DRAWS)
    ]
    queries = []
    for images in (train.images[rows], *made):
        query = encoder.outputs(images)
        chunks = np.array_split(images, max(1, len(images) // 4096))
        thumbnails = [head.thumbnail(torch.from_numpy(chunk)).numpy() for chunk in chunks]
        thumbnail = np.concatenate(thumbnails)
        if train.labels is not None:
            gallery, labels = outputs["embedding"], train.labels[rows]
            found = neighbours(query["embedding"], gallery, metric, own=places, progress=progress)
            queries.append(Examples(query, thumbnail, labels, labels[found]))
            continue
        farther, others = missed(query["embedding"], drawn[0], places, np.stack(drawn, 1), metric)
        found = np.where(farther[:, 0], others, places)
        share = farther.mean(1, dtype=np.float32)
        queries.append(Examples(query, thumbnail, places, found, share))
    return queries


def _split(queries: list[Examples], random: np.random.Generator) -> tuple[Examples, Examples]:
    """(images alone, to calibrate on; images and views of all others, to fit on)."""
    shuffled = random.permutation(len(queries[0]))
    count = max(1, round(HELD_OUT * len(shuffled)))
    apart, rest = shuffled[:count], shuffled[count:]
    return queries[0].take(apart), join([each.take(rest) for each in queries])


def _meaning(train: ImageDataset, images: int, metric: str, views: ViewSpec) -> str:
    gallery = f"{images:,} training images of {train.name}"
    if train.labels is not None:
        return f"the nearest neighbour ({metric}) among {gallery} {ANOTHER_LABEL}"
    made = f"views ({_changes(views)}) of {gallery}"
    return f"the nearest neighbour ({metric}) among {made} {ANOTHER_IMAGE}"


def _changes(views: ViewSpec) -> str:
    """What a view changes: how likely it is to be found depends on that."""
    changes = []
    if views.scale != (1.0, 1.0) or views.ratio != (1.0, 1.0):
        low, high = (f"{100 * share:.0f}" for share in views.scale)
        changes.append(f"crops of {low} to {high} % of the area")
    if views.horizontal_flip or views.vertical_flip:
        changes.append("mirrored or not")
    if views.jitter is not None:
        changes.append("brightness, contrast, saturation and hue changed")
    return "; ".join(changes)
