"""Distances between diagonal Gaussian posteriors, in pure NumPy.

A posterior is N(μ, diag σ²). All functions take means and variances ``[..., D]`` that broadcast
against each other, compute in float64, and return ``[...]``. Smaller means nearer, except for
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

#: The prior of a content ψ: flat, or N(0, I).
ContentPrior = Literal["uniform", "normal"]


def euclidean(mean_a: ArrayLike, mean_b: ArrayLike) -> Floats:
    """‖μ₁ − μ₂‖², the squared distance of the means."""
    difference = np.asarray(mean_a, np.float64) - np.asarray(mean_b, np.float64)
    return np.asarray(np.square(difference).sum(-1))


def wasserstein(
    mean_a: ArrayLike, variance_a: ArrayLike, mean_b: ArrayLike, variance_b: ArrayLike
) -> Floats:
    """W₂² = ‖μ₁ − μ₂‖² + ‖σ₁ − σ₂‖², the squared 2-Wasserstein distance.

    It is the smallest E‖z₁ − z₂‖² over all joint distributions with these two marginals, and equals
    the squared Euclidean distance of the vectors [μ, σ].
    """
    spread_a, spread_b = (np.sqrt(np.asarray(v, np.float64)) for v in (variance_a, variance_b))
    return euclidean(mean_a, mean_b) + euclidean(spread_a, spread_b)


def closed_form_sampled(
    mean_a: ArrayLike, variance_a: ArrayLike, mean_b: ArrayLike, variance_b: ArrayLike
) -> Floats:
    """CSD = E‖z₁ − z₂‖² = ‖μ₁ − μ₂‖² + Σ σ₁² + Σ σ₂² of independent z₁ and z₂.

    This is the closed-form sampled distance (Chun 2023, arXiv 2305.18171). For one query it ranks
    like the Euclidean distance of [μ, 0] to the documents [μ, √Σσ²].
    """
    sums = [np.asarray(v, np.float64).sum(-1) for v in (variance_a, variance_b)]
    return np.asarray(euclidean(mean_a, mean_b) + sums[0] + sums[1])


def content_posterior(
    mean: ArrayLike, variance: ArrayLike, scatter: float, prior: ContentPrior = "uniform"
) -> tuple[Floats, Floats]:
    """Return mean and variance of p(ψ|x), the posterior of an image's content.

    In SimVAE (Bizeul, Schölkopf, Allen 2024) a latent is z = ψ + noise of variance s² around the
    content ψ. With z ~ N(μ, σ²) this gives

        ψ uniform:     p(ψ|x) = N(μ, σ² + s²)
        ψ ~ N(0, I):   p(ψ|x) = N(μ/(1 + s²), σ²/(1 + s²)² + s²/(1 + s²))

    Args:
        mean: μ, ``[..., D]``.
        variance: σ², ``[..., D]``.
        scatter: s².
        prior: The prior of ψ.
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

    This is the log likelihood that both are the same point: the mutual likelihood score of Shi and
    Jain (2019, arXiv 1904.09658). It ranks badly when computed from the posteriors themselves.
    Computed from `content_posterior`, it is the log likelihood that two images show the same
    content.
    """
    total = np.asarray(variance_a, np.float64) + np.asarray(variance_b, np.float64)
    square = np.square(np.asarray(mean_a, np.float64) - np.asarray(mean_b, np.float64))
    return np.asarray(-0.5 * (square / total + np.log(2 * math.pi * total)).sum(-1))


def trusted(distance: ArrayLike, uncertainty: ArrayLike, weight: float) -> Floats:
    """Return d² (1 + w u), a squared distance that grows with the document's uncertainty.

    u is the document's calibrated uncertainty: the probability that its nearest neighbour shows
    something else. The order is that of Gaussian kernels around the documents whose precisions grow
    with u: an ambiguous document speaks for a smaller neighbourhood.

    Args:
        distance: Squared distances, ``[...]``.
        uncertainty: Uncertainties of the documents, ``[...]`` in [0, 1]; NaN (unknown) counts as 1.
        weight: w, at least 0; 0 returns the distances unchanged.
    """
    doubt = np.nan_to_num(np.asarray(uncertainty, np.float64), nan=1.0)
    return np.asarray(np.asarray(distance, np.float64) * (1 + weight * doubt))
