"""Fitting the head: on training images and the recipe's own views, and on nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.config import UncertaintySpec
from repzoo.encoder import Encoder
from repzoo.errors import InvalidInput
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from repzoo_training.data import ImageDataset
from repzoo_training.evaluation.knn import Distance
from repzoo_training.export.prior import fit_mixture
from repzoo_training.randomness import generator
from repzoo_training.uncertainty.examples import (
    Examples,
    join,
    make_views,
    other_images,
    other_labels,
)
from repzoo_training.uncertainty.head import (
    TAIL_QUANTILE,
    UncertaintyHead,
    mixture_log_density,
)
from repzoo_training.views import ViewSpec

__all__ = ["FittedUncertainty", "fit_uncertainty"]

#: The gallery, and queries from it, are at most this many training images.
MOST_IMAGES = 60_000
#: Views of each image that are queries beside the image itself.
VIEWS = 2
#: Share of the images whose errors calibrate the head instead of fitting it.
HELD_OUT = 0.1
#: Passes over the queries, for no fewer and no more steps than these: more passes over a few
#: thousand queries only learn them by heart.
PASSES = 25
STEPS = (300, 8000)
BATCH = 512
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2


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
    neighbour that shows another image.

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
    images, of_images = _examples(encoder, train, rows, outputs, views, seed, progress)
    held_out, others = _split(images, of_images, random)
    if not 0 < others.wrong.mean() < 1:
        raise InvalidInput(
            f"of {len(others):,} queries, {others.wrong.sum():,} have a wrong neighbour: there is "
            "nothing to tell apart"
        )

    head = UncertaintyHead(
        outputs["embedding"].shape[1],
        len(mixture[0]),
        has_posterior=encoder.config.has_posterior,
    )
    for buffer, values in zip((head.weights, head.means, head.scales), mixture, strict=True):
        buffer.copy_(torch.from_numpy(values))
    _set_tail(head, torch.from_numpy(outputs["embedding"]))
    _train(head, others, seed, progress)
    _calibrate(head, held_out)
    spec = UncertaintySpec(
        probability_of=_meaning(train, len(rows), encoder.config.metric),
        fitted_on=(
            f"{len(rows):,} training images of {train.name} and {VIEWS} views of each; calibrated "
            f"on {len(held_out):,} of the images, held out from that"
        ),
        inputs=encoder.config.outputs,
    )
    return FittedUncertainty(head.eval().requires_grad_(False), spec)


def _examples(
    encoder: Encoder,
    train: ImageDataset,
    rows: NDArray[np.int64],
    outputs: dict[str, NDArray[np.float32]],
    views: ViewSpec,
    seed: int,
    progress: bool,
) -> tuple[list[Examples], NDArray[np.int64]]:
    """The image itself, then its views, each a query; and which image a query is of, ``[N]``."""
    places = np.arange(len(rows))
    gallery = outputs["embedding"]
    made = [outputs] + [
        encoder.outputs(make_views(train, rows, views, seed, number)) for number in range(VIEWS)
    ]
    if train.labels is not None:
        labels: NDArray[np.int64] = train.labels[rows]
        queries = [
            other_labels(
                query, labels, gallery, labels, _near(encoder), own=places, progress=progress
            )
            for query in made
        ]
    else:
        # Against one more view of each: an image is not looked for in a gallery that holds it.
        gallery = encoder.embed(make_views(train, rows, views, seed, VIEWS))
        queries = [
            other_images(query, places, gallery, _near(encoder), progress=progress)
            for query in made
        ]
    return queries, places


def _near(encoder: Encoder) -> Distance:
    return encoder.config.metric


def _split(
    queries: list[Examples], places: NDArray[np.int64], random: np.random.Generator
) -> tuple[Examples, Examples]:
    """(images alone, to calibrate on; images and views of all others, to fit on)."""
    shuffled = random.permutation(places)
    count = max(1, round(HELD_OUT * len(shuffled)))
    apart, rest = shuffled[:count], shuffled[count:]
    fitted = queries[0].take(rest)
    for views in queries[1:]:
        fitted = join(fitted, views.take(rest))
    return queries[0].take(apart), fitted


def _meaning(train: ImageDataset, images: int, metric: str) -> str:
    gallery = f"{images:,} training images of {train.name}"
    if train.labels is not None:
        return f"the nearest neighbour ({metric}) among {gallery} has another label"
    return f"the nearest neighbour ({metric}) among views of {gallery} shows another image"


def _set_tail(head: UncertaintyHead, embedding: Tensor) -> None:
    log_density = mixture_log_density(embedding, head.weights, head.means, head.scales)
    threshold = log_density.quantile(TAIL_QUANTILE)
    below = (threshold - log_density)[log_density < threshold]
    excess = below.mean() if len(below) else log_density.std()
    head.tail.copy_(torch.stack([threshold, excess.clamp_min(1e-6)]))


def _tensors(examples: Examples) -> list[Tensor]:
    return [torch.from_numpy(values) for values in examples.outputs.values()]


def _train(head: UncertaintyHead, examples: Examples, seed: int, progress: bool) -> None:
    """Binary cross entropy of f, by AdamW with a cosine schedule."""
    with torch.no_grad():
        features, _ = head.features(*_tensors(examples))
    head.center.copy_(features.mean(0))
    head.spread.copy_(features.std(0).clamp_min(1e-6))
    wrong = torch.from_numpy(examples.wrong).float()
    draws = generator(seed, "uncertainty", VIEWS + 1)
    for layer in head.network:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=draws)
            nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = min(max(STEPS[0], PASSES * len(features) // BATCH), STEPS[1])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in trange(steps, desc="uncertainty", leave=False, disable=None if progress else True):
        batch = torch.randint(len(features), (BATCH,), generator=draws)
        loss = F.binary_cross_entropy_with_logits(head.logit(features[batch]), wrong[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _calibrate(head: UncertaintyHead, held_out: Examples) -> None:
    """Platt scaling: a and b at the optimum of the cross entropy of sigmoid(a f + b).

    Its targets are Platt's, (n₊ + 1)/(n₊ + 2) and 1/(n₋ + 2): with few errors or none among the
    images held out, b stays finite.
    """
    with torch.no_grad():
        features, _ = head.features(*_tensors(held_out))
        logits = head.logit(features).double()
    wrong = torch.from_numpy(held_out.wrong)
    errors, count = int(wrong.sum()), len(wrong)
    target = torch.where(wrong, (errors + 1) / (errors + 2), 1 / (count - errors + 2)).double()
    scale = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scale], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(scale[0] * logits + scale[1], target)
        loss.backward()
        return loss

    optimizer.step(closure)
    head.calibration.copy_(scale.detach().float())
