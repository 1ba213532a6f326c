"""Distances between diagonal Gaussian posteriors, in numpy alone.

A posterior is N(μ, diag σ²). All functions take means and variances ``[..., D]`` that broadcast
against each other, compute in float64, and return ``[...]``; small is near, but for
`mutual_log_likelihood`, which is a log density.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ContentPrior",
    "closed_form_sampled",
    "content_posterior",
    "euclidean",
    "mutual_log_likelihood",
    "trusted",
    "wasserstein",
]

Floats: TypeAlias = NDArray[np.float64]

#: What is known of a content ψ before any image is seen: nothing, or N(0, I).
ContentPrior = Literal["uniform", "normal"]


def euclidean(mean_a: ArrayLike, mean_b: ArrayLike) -> Floats:
    """‖μ₁ − μ₂‖², the squared distance of the means."""
    difference = np.asarray(mean_a, np.float64) - np.asarray(mean_b, np.float64)
    return np.asarray(np.square(difference).sum(-1))


def wasserstein(
    mean_a: ArrayLike, variance_a: ArrayLike, mean_b: ArrayLike, variance_b: ArrayLike
) -> Floats:
    """W₂² = ‖μ₁ − μ₂‖² + ‖σ₁ − σ₂‖², the squared 2-Wasserstein distance.

    The least E‖z₁ − z₂‖² that any joint distribution with these two marginals has. It is the
    squared Euclidean distance of the vectors [μ, σ].
    """
    spread_a, spread_b = (np.sqrt(np.asarray(v, np.float64)) for v in (variance_a, variance_b))
    return euclidean(mean_a, mean_b) + euclidean(spread_a, spread_b)


def closed_form_sampled(
    mean_a: ArrayLike, variance_a: ArrayLike, mean_b: ArrayLike, variance_b: ArrayLike
) -> Floats:
    """CSD = E‖z₁ − z₂‖² = ‖μ₁ − μ₂‖² + Σ σ₁² + Σ σ₂² of independent z₁ and z₂.

    The closed-form sampled distance (Chun 2023, arXiv 2305.18171). For one query it ranks like the
    Euclidean distance of [μ, 0] to the documents [μ, √Σσ²].
    """
    sums = [np.asarray(v, np.float64).sum(-1) for v in (variance_a, variance_b)]
    return np.asarray(euclidean(mean_a, mean_b) + sums[0] + sums[1])


def content_posterior(
    mean: ArrayLike, variance: ArrayLike, scatter: float, prior: ContentPrior = "uniform"
) -> tuple[Floats, Floats]:
    """Mean and variance of p(ψ|x), the content that an image shows rather than its own latent.

    In SimVAE (Bizeul, Schölkopf, Allen 2024) z = ψ + noise of variance s² around the content ψ, so
    with z ~ N(μ, σ²)

        ψ uniform:     p(ψ|x) = N(μ, σ² + s²)
        ψ ~ N(0, I):   p(ψ|x) = N(μ/(1 + s²), σ²/(1 + s²)² + s²/(1 + s²))

    Args:
        mean: μ ``[..., D]``.
        variance: σ² ``[..., D]``.
        scatter: s².
        prior: of ψ.
    """
    mean, variance = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
    if prior == "uniform":
        return mean, variance + scatter
    shrunk = 1 + scatter
    return mean / shrunk, variance / shrunk**2 + scatter / shrunk


def mutual_log_likelihood(
    mean_a: ArrayLike, variance_a: ArrayLike, mean_b: ArrayLike, variance_b: ArrayLike
) -> Floats:
    """log ∫ N(ψ; μ₁, v₁) N(ψ; μ₂, v₂) dψ = −½ Σ_d [ (μ₁ − μ₂)²/(v₁ + v₂) + log 2π(v₁ + v₂) ].

    How likely both are the same point (the mutual likelihood score of Shi and Jain 2019, arXiv
    1904.09658). Of the posteriors themselves it ranks badly; of `content_posterior` it is the log
    likelihood that two images show the same content.
    """
    total = np.asarray(variance_a, np.float64) + np.asarray(variance_b, np.float64)
    square = np.square(np.asarray(mean_a, np.float64) - np.asarray(mean_b, np.float64))
    return np.asarray(-0.5 * (square / total + np.log(2 * math.pi * total)).sum(-1))


def trusted(distance: ArrayLike, uncertainty: ArrayLike, weight: float) -> Floats:
    """d² (1 + w u): a squared distance, longer the less the document is to be trusted.

    u is the document's own calibrated uncertainty: the probability that what lies next to it shows
    something else. The same order as that of Gaussian kernels around the documents, with precisions
    that grow with u: what is ambiguous speaks for a smaller neighbourhood.

    Args:
        distance: squared, ``[...]``.
        uncertainty: of the documents, ``[...]`` in [0, 1]; NaN, not known, is as bad as 1.
        weight: w, not negative; 0 is the distance itself.
    """
    doubt = np.nan_to_num(np.asarray(uncertainty, np.float64), nan=1.0)
    return np.asarray(np.asarray(distance, np.float64) * (1 + weight * doubt))
