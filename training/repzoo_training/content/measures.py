"""Measure a content posterior: retrieval of degraded queries, coverage, likelihood, sharpness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.packages.config import Region

from repzoo_training.evaluation.knn import nearest

__all__ = ["Located", "Measured", "mutual_likelihood", "rank", "recovered"]

Floats = NDArray[np.float32]

#: Number of neighbours, k of precision@k.
K = 10
#: Candidates by the content mean that the likelihood re-ranks.
CANDIDATES = 100


@dataclass(frozen=True, eq=False)
class Located:
    """The positions of N images: from the encoder alone, and from the content posterior.

    Attributes:
        embedding: float32 ``[N, D]``, unit length if the metric is cosine.
        mean: content means, float32 ``[N, D]``.
        variance: content variances, float32 ``[N, D]``.
    """

    embedding: Floats
    mean: Floats
    variance: Floats


@dataclass(frozen=True, eq=False)
class Measured:
    """The results for one kind of degradation at one severity; precision is per image.

    Attributes:
        precision: precision@10 ``[N]`` of each ranking: ``euclidean``, ``mean``, ``robust``.
        coverage: Share of targets inside each region, per dimension.
        joint: The same for all dimensions together.
        nll: Negative log-likelihood per dimension of the standardised target, in nats.
        sharpness: Geometric mean of the standardised standard deviations.
        predicted_error: Mean of trace v, standardised.
        real_error: Mean of ‖t − m‖², standardised.
        trace: Trace of v, standardised, per image ``[N]``.
        wrong: Whether the nearest neighbour by the content mean has another label, bool ``[N]``.
        wrong_plain: The same for the nearest neighbour by the embedding.
    """

    precision: Mapping[str, Floats]
    coverage: tuple[float, ...]
    joint: tuple[float, ...]
    nll: float
    sharpness: float
    predicted_error: float
    real_error: float
    trace: Floats
    wrong: NDArray[np.bool_]
    wrong_plain: NDArray[np.bool_]


def measure(
    query: Located,
    target: Floats,
    labels: NDArray[np.int64],
    gallery: Located,
    gallery_labels: NDArray[np.int64],
    spread: Floats,
    regions: Sequence[Region],
) -> Measured:
    """Measure one set of queries.

    Args:
        query: Degraded images.
        target: Embeddings of fresh mild views of the undegraded images, float32 ``[N, D]``.
        labels: int64 ``[N]``.
        gallery: The positions of the documents.
        gallery_labels: int64 ``[M]``.
        spread: Standard deviations of the gallery's embeddings ``[D]``, the unit of all errors.
        regions: The regions of the content posterior whose coverage is measured.
    """
    orders = rank(query, gallery)
    hit = {name: gallery_labels[rows] == labels[:, None] for name, rows in orders.items()}
    z2 = np.square(target - query.mean) / query.variance  # [N, D]
    variance = query.variance / np.square(spread)
    error = np.square((target - query.mean) / spread)
    return Measured(
        precision={name: rows.mean(1, dtype=np.float32) for name, rows in hit.items()},
        coverage=tuple(float((z2 <= region.deviations**2).mean()) for region in regions),
        joint=tuple(float((z2.mean(1) <= region.distance).mean()) for region in regions),
        nll=float(0.5 * (z2 + np.log(2 * np.pi * variance)).mean()),
        sharpness=float(np.exp(0.5 * np.log(variance).mean())),
        predicted_error=float(variance.sum(1).mean()),
        real_error=float(error.sum(1).mean()),
        trace=variance.sum(1),
        wrong=~hit["mean"][:, 0],
        wrong_plain=~hit["euclidean"][:, 0],
    )


def rank(query: Located, gallery: Located) -> dict[str, NDArray[np.int64]]:
    """Return the rows of the K nearest documents of each query by each ranking, ``[N, K]``.

    ``euclidean`` compares embeddings and ``mean`` content means. ``robust`` re-ranks the nearest
    content means by `mutual_likelihood`.
    """
    by_mean = _nearest(query.mean, gallery.mean, min(CANDIDATES, len(gallery.mean)))
    return {
        "euclidean": _nearest(query.embedding, gallery.embedding, K),
        "mean": by_mean[:, :K],
        "robust": _rerank(query, gallery, by_mean)[:, :K],
    }


def mutual_likelihood(
    mean: Floats, variance: Floats, other_mean: Floats, other_variance: Floats
) -> Floats:
    """Log-likelihood that two images show one content, up to a constant.

    For t₁ ~ N(m₁, v₁) and t₂ ~ N(m₂, v₂) that are one point, ∫ N(t; m₁, v₁) N(t; m₂, v₂) dt =
    N(m₁ − m₂; 0, v₁ + v₂), so

        −½ Σ_d [ (m₁ − m₂)² / (v₁ + v₂) + log (v₁ + v₂) ].

    Without the logarithm, documents that could be anything would be near to everything.

    Args:
        mean: ``[N, D]``.
        variance: ``[N, D]``.
        other_mean: ``[N, K, D]``.
        other_variance: ``[N, K, D]``.

    Returns:
        ``[N, K]``.
    """
    total = variance[:, None] + other_variance  # [N, K, D]
    score: Floats = -0.5 * (np.square(mean[:, None] - other_mean) / total + np.log(total)).sum(2)
    return score


def recovered(
    clean: Floats, degraded: Sequence[Measured], ranking: str = "mean", *, resamples: int = 500
) -> tuple[float, float, float]:
    """R: the share of precision@10 lost to degradation that a ranking recovers.

    R = Σ (ranking − Euclid) / Σ (clean − Euclid) over kinds and severities.

    Args:
        clean: precision@10 of the undegraded queries by Euclid, ``[N]``.
        degraded: The same N images at several kinds and severities.
        ranking: The ranking whose precision is compared with Euclid's.
        resamples: The number of resamples of the images, for the interval.

    Returns:
        R and its 95 % bootstrap interval over images.
    """
    before = np.mean([m.precision["euclidean"] for m in degraded], axis=0)  # [N]
    after = np.mean([m.precision[ranking] for m in degraded], axis=0)
    gain, lost = after - before, clean - before
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(clean), (resamples, len(clean)))
    shares = gain[drawn].sum(1) / lost[drawn].sum(1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(gain.sum() / lost.sum()), float(low), float(high)


def _nearest(query: Floats, gallery: Floats, k: int) -> NDArray[np.int64]:
    chunks: Iterator[torch.Tensor] = nearest(
        torch.from_numpy(gallery),
        torch.from_numpy(query),
        k=k,
        distance="euclidean",
        progress=False,
    )
    return torch.cat(list(chunks)).numpy()


def _rerank(query: Located, gallery: Located, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    best = np.empty_like(candidates)
    for start in range(0, len(candidates), 500):
        part = slice(start, start + 500)
        rows = candidates[part]  # [n, candidates]
        score = mutual_likelihood(
            query.mean[part], query.variance[part], gallery.mean[rows], gallery.variance[rows]
        )
        best[part] = np.take_along_axis(rows, np.argsort(-score, 1, kind="stable"), 1)
    return best
