"""The Fréchet distance of two Gaussians: Dowson, Landau 1982; as FID, Heusel et al. 2017.

    d² = ‖m₁ − m₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½)                         (arXiv 1706.08500, eq. 6)

tr (Σ₁Σ₂)^½ is computed as the sum of the square roots of the eigenvalues of Σ₂^½Σ₁Σ₂^½. That matrix
has the same eigenvalues, and since it is symmetric they are never complex.
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
    """Return d² between two Gaussians, given their means ``[F]`` and covariances ``[F, F]``."""
    root = _root(other_covariance)
    between = np.linalg.eigvalsh(root @ covariance @ root).clip(0)
    difference = mean - other_mean
    traces = np.trace(covariance) + np.trace(other_covariance)
    return float(difference @ difference + traces - 2 * np.sqrt(between).sum())


def frechet_of_features(features: Floats, reference: Floats) -> tuple[float, float]:
    """Return d² between Gaussians fitted to two sets of features, and its standard error.

    The standard error describes drawing the N features anew with the reference fixed. To first
    order, a row x moves d² by 2 (m₁ − m₂)ᵀ(x − m₁) + (x − m₁)ᵀ(I − T)(x − m₁), where
    T = Σ₂^½ (Σ₂^½Σ₁Σ₂^½)^−½ Σ₂^½ transports the first Gaussian to the second. The standard error is
    the standard deviation of these terms divided by √N.

    Args:
        features: float64 ``[N, F]``.
        reference: float64 ``[M, F]``.

    Returns:
        d² and its standard error. d² is biased upwards by about 1/N, so compare it at equal N only.
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
    """Return the symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    result: Floats = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return result
