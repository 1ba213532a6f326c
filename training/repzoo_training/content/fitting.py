"""Fit a content posterior to training images, their degraded copies and fresh mild views."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.errors import InvalidInput
from repzoo.packages.config import ContentSpec, Region
from repzoo.runtime.encoder import Encoder, unit_length
from torch import Tensor
from tqdm import tqdm

from repzoo_training.content.posterior import ContentHead, negative_log_likelihood
from repzoo_training.data import ImageDataset
from repzoo_training.degradations import FIT, Degradation, draw_degraded
from repzoo_training.uncertainty.examples import make_views, mild
from repzoo_training.views.views import ViewSpec

__all__ = ["FittedContent", "as_target", "fit_content"]

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
#: The head's inputs for N degraded copies, and their standardised targets ``[N, D]``.
Copies: TypeAlias = tuple[list[Tensor], Tensor]

#: Maximum number of images that a head is fitted to.
MOST_IMAGES = 20_000
#: Degraded copies that a head is fitted to, in rounds with new degradations and new views.
COPIES = 400_000
#: The number of passes over each copy. Encoding a copy and its target costs more than a pass, and
#: five passes over 400,000 copies recover more than one over 800,000.
PASSES = 5
#: The share of a round's images that are not degraded.
CLEAN_SHARE = 0.15
#: The share of the images that recalibrates the variance instead of fitting the head.
HELD_OUT = 0.1

#: Probabilities of the stated regions.
REGIONS = (0.5, 0.9, 0.99)
#: Copies of each held-out image that recalibrate.
_HELD_OUT_COPIES = 4
#: Bytes of pixels in one round at most; larger images have smaller rounds.
_MOST_BYTES = 2**28

_BATCH = 256
_LEARNING_RATE = 2e-3


@dataclass(frozen=True, eq=False)
class FittedContent:
    """A head in evaluation mode, and the description of its outputs."""

    head: ContentHead
    spec: ContentSpec


def as_target(embedding: Floats, unit: bool) -> Floats:
    """Return embeddings in the space of the content posterior: of length 1 for a cosine metric.

    Args:
        embedding: float32 ``[N, D]``.
        unit: Whether to divide each row by its length.
    """
    return unit_length(embedding) if unit else embedding


def fit_content(
    encoder: Encoder,
    train: ImageDataset,
    views: ViewSpec,
    *,
    kinds: Mapping[str, Degradation] = FIT,
    copies: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> FittedContent:
    """Fit the head of a frozen encoder.

    Args:
        encoder: The encoder, as its package runs it.
        train: The images that it was trained on, or that it will be used on; labels are not used.
        views: The recipe's views; only whether they are mirrored matters.
        kinds: The kinds of degradation.
        copies: The number of degraded copies that the head is fitted to; by default 400,000, which
            takes about five minutes on one core.
        seed: Decides everything random.
        progress: Show a bar, on a terminal only.

    Raises:
        InvalidInput: If there are fewer than 100 images.
    """
    if len(train) < 100:
        raise InvalidInput(
            f"{train.name} has {len(train)} images; a content posterior needs at least 100"
        )
    random = np.random.default_rng([seed, 0])
    shuffled = random.permutation(len(train))[:MOST_IMAGES]
    held_out, rows = np.split(shuffled, [max(10, round(HELD_OUT * len(shuffled)))])
    config = encoder.config
    # Modules initialise from the global generator; forking leaves the caller's as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ContentHead(
            config.latent_dim,
            config.input.shape,
            has_posterior=config.has_posterior,
            unit=config.metric == "cosine",
        )
    _standardise(head, encoder.outputs(train.images[rows]))
    size = min(len(rows), max(_BATCH, _MOST_BYTES // math.prod(config.input.shape)))
    rounds = max(1, math.ceil((copies or COPIES) / size))
    batches = sum(math.ceil(min(n, PASSES) * size / _BATCH) for n in range(1, rounds + 1))
    optimizer = torch.optim.AdamW(head.parameters(), _LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        _LEARNING_RATE,
        max(20, batches),  # it divides by zero at 10
        pct_start=0.1,
    )
    draws = torch.Generator().manual_seed(seed)
    latest: deque[Copies] = deque(maxlen=PASSES)
    with tqdm(
        total=batches, desc="content posterior", unit="step", disable=None if progress else True
    ) as bar:
        for number in range(rounds):
            chosen = rows[(number * size + np.arange(size)) % len(rows)]
            latest.append(_copies(encoder, train, chosen, views, head, kinds, draws, seed, number))
            inputs, target = _join(latest)
            for batch in torch.randperm(len(target), generator=draws).split(_BATCH):
                mean, log_variance = head.standardised(*(values[batch] for values in inputs))
                loss = negative_log_likelihood(target[batch], mean, log_variance)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(head.parameters(), 5.0)
                optimizer.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    head.eval().requires_grad_(False)
    apart = [
        _copies(encoder, train, held_out, views, head, kinds, draws, seed, rounds + number)
        for number in range(_HELD_OUT_COPIES)
    ]
    regions = recalibrate(head, *_join(apart))
    mirrored = ", mirrored or not" if views.horizontal_flip else ""
    spec = ContentSpec(
        target=(
            "the embedding of a fresh view of the undegraded image: a crop of "
            f"{100 * mild(views).scale[0]:.0f} % or more of its area{mirrored}"
        ),
        fitted_on=(
            f"{rounds * size:,} copies of {len(rows):,} training images of {train.name}, "
            f"degraded by {', '.join(kinds)}; recalibrated on {len(held_out):,} held-out images"
        ),
        unit_length=head.unit,
        inputs=("images", *config.outputs),
        regions=regions,
    )
    return FittedContent(head, spec)


def recalibrate(head: ContentHead, inputs: Sequence[Tensor], target: Tensor) -> tuple[Region, ...]:
    """Scale the variances by held-out targets, and return the regions that hold these.

    With z the residuals in predicted standard deviations ``[N, D]``, v is multiplied by mean z²,
    which makes its trace the expected squared error. The regions are quantiles of |z| and of the
    mean of z² over dimensions, see `repzoo.packages.config.Region`. They are not a Gaussian's,
    because residuals have heavier tails, and those of one image depend on each other.

    Args:
        head: A head in evaluation mode.
        inputs: Its inputs for N held-out images.
        target: Their standardised targets ``[N, D]``.
    """
    mean, log_variance = head.standardised(*inputs)
    z2 = ((target - mean).square() * torch.exp(-log_variance)).numpy()  # [N, D]
    factor = float(z2.mean())
    head.recalibration.fill_(math.log(factor))
    return tuple(
        Region(
            probability=p,
            deviations=math.sqrt(np.quantile(z2, p) / factor),
            distance=float(np.quantile(z2.mean(1), p)) / factor,
        )
        for p in REGIONS
    )


def _standardise(head: ContentHead, outputs: dict[str, Floats]) -> None:
    first, *rest = outputs.values()
    inputs = np.concatenate([as_target(first, head.unit), *rest], axis=1)
    head.center.copy_(torch.from_numpy(inputs.mean(0)))
    head.spread.copy_(torch.from_numpy(inputs.std(0).clip(1e-6)))


def _copies(
    encoder: Encoder,
    train: ImageDataset,
    rows: NDArray[np.int64],
    views: ViewSpec,
    head: ContentHead,
    kinds: Mapping[str, Degradation],
    draws: torch.Generator,
    seed: int,
    number: int,
) -> Copies:
    """Return the head's inputs for one copy of each image, and the standardised target."""
    images = train.images[rows]
    degraded = draw_degraded(images, draws, kinds)
    clean = torch.rand(len(rows), generator=draws).numpy() < CLEAN_SHARE
    degraded[clean] = images[clean]
    outputs = encoder.outputs(degraded)
    fresh = encoder.embed(make_views(train, rows, mild(views), seed, 1000 + number))
    target = torch.from_numpy(as_target(fresh, head.unit))
    D = target.shape[1]  # noqa: N806
    inputs = [torch.from_numpy(values) for values in (degraded, *outputs.values())]
    return inputs, (target - head.center[:D]) / head.spread[:D]


def _join(copies: Collection[Copies]) -> Copies:
    inputs = [torch.cat(values) for values in zip(*(each for each, _ in copies), strict=True)]
    return inputs, torch.cat([target for _, target in copies])
