"""The Fréchet distance of two Gaussians: Dowson, Landau 1982; as FID, Heusel et al. 2017.

    d² = ‖m₁ − m₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½)                         (arXiv 1706.08500, eq. 6)

tr (Σ₁Σ₂)^½ is taken as the sum of the square roots of the eigenvalues of the symmetric Σ₂^½Σ₁Σ₂^½,
which are the same and are never complex.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["frechet_distance", "frechet_of_features"]

Floats = NDArray[np.float64]


def frechet_distance(
    mean: Floats, covariance: Floats, other_mean: Floats, other_covariance: Floats
) -> float:
    """d² of N(mean, covariance) and the other: ``[F]``, ``[F, F]`` each."""
    root = _root(other_covariance)
    between = np.linalg.eigvalsh(root @ covariance @ root).clip(0)
    difference = mean - other_mean
    traces = np.trace(covariance) + np.trace(other_covariance)
    return float(difference @ difference + traces - 2 * np.sqrt(between).sum())


def frechet_of_features(features: Floats, reference: Floats) -> tuple[float, float]:
    """d² of the Gaussians fitted to ``features [N, F]`` and ``reference [M, F]``, and its error.

    The standard error is that of drawing the N anew, the reference kept. To first order, a row x
    moves d² by 2 (m₁ − m₂)ᵀ(x − m₁) + (x − m₁)ᵀ(I − T)(x − m₁), where T = Σ₂^½ (Σ₂^½Σ₁Σ₂^½)^−½ Σ₂^½
    transports the first Gaussian to the second; the standard deviation of that over √N it is.

    Returns:
        d² and its standard error. d² is biased upwards by about 1/N: compare equal N only.
    """
    (mean, covariance), (other_mean, other) = _moments(features), _moments(reference)
    value = frechet_distance(mean, covariance, other_mean, other)
    root = _root(other)
    values, vectors = np.linalg.eigh(root @ covariance @ root)
    kept = values > 1e-10 * max(values.max(), 1e-300)
    inverse = (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
    transport = root @ inverse @ root
    x = features - mean
    pull = 2 * x @ (mean - other_mean) + (x * (x - x @ transport)).sum(1)  # [N]
    return value, float(pull.std() / math.sqrt(len(x)))


def _moments(features: Floats) -> tuple[Floats, Floats]:
    return features.mean(0), np.cov(features, rowvar=False)


def _root(matrix: Floats) -> Floats:
    """The symmetric square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    result: Floats = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return result
