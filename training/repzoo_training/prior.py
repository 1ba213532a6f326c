"""``prior.npz``: what ``/generate`` draws latents from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from repzoo.packages.arrays import write_arrays
from sklearn.mixture import GaussianMixture

__all__ = ["Prior", "fit_mixture", "standard_normal", "write_prior"]

Floats = NDArray[np.float32]
Prior = tuple[Floats, Floats, Floats]

#: Components of a fitted mixture, where there are at least 50 images for each.
COMPONENTS = 200
#: More embeddings than this do not change a mixture of that many components, and take longer.
MOST_ROWS = 20_000


def standard_normal(dim: int) -> Prior:
    """N(0, I) as a mixture of one: weights ``[1]``, means ``[1, D]``, scales ``[1, D]``."""
    return np.ones(1, np.float32), np.zeros((1, dim), np.float32), np.ones((1, dim), np.float32)


def fit_mixture(mean: Floats, log_variance: Floats | None, seed: int) -> Prior:
    """A mixture of diagonal Gaussians fitted to the aggregate posterior (1/N) Σ_n q(z|x_n).

    Without a posterior it is fitted to the embeddings themselves.

    SimVAE's prior of z is a mixture over the contents of the data, which training never makes
    explicit (ψ is integrated out), so it is estimated here from a sample of it.

    Args:
        mean: float32 ``[N, D]``, of training images.
        log_variance: float32 ``[N, D]``; None where there is no posterior.
        seed: of the sample and of the fit.

    Returns:
        weights ``[K]``, means ``[K, D]`` and scales ``[K, D]``, float32.
    """
    random = np.random.default_rng(seed)
    rows = random.permutation(len(mean))[:MOST_ROWS]
    sample = mean[rows]
    if log_variance is not None:
        noise = random.standard_normal(sample.shape, np.float32)
        sample = sample + np.exp(0.5 * log_variance[rows]) * noise
    mixture = GaussianMixture(
        max(1, min(COMPONENTS, len(sample) // 50)),
        covariance_type="diag",
        init_params="k-means++",
        max_iter=200,
        random_state=seed,
    ).fit(sample)
    return (
        mixture.weights_.astype(np.float32),
        mixture.means_.astype(np.float32),
        np.sqrt(mixture.covariances_).astype(np.float32),
    )


def write_prior(path: Path, prior: Prior) -> None:
    """Write ``prior`` to ``path``, an ``.npz`` without pickles."""
    weights, means, scales = prior
    write_arrays(path, {"weights": weights, "means": means, "scales": scales})
