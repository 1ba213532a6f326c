"""``prior.npz`` of a package: the distribution that `Encoder.generate` draws latents from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from repzoo.errors import PackageError
from repzoo.packages.arrays import read_arrays
from repzoo.runtime.sessions import Floats

__all__ = ["Prior", "read_prior", "sample_prior"]


class Prior(NamedTuple):
    """A mixture of K diagonal Gaussians over D latents, float32."""

    #: ``[K]``, not negative. The weights need not sum to one.
    weights: Floats
    #: ``[K, D]``.
    means: Floats
    #: ``[K, D]``, standard deviations.
    scales: Floats


def read_prior(path: Path, dim: int) -> Prior:
    """Read a ``prior.npz``.

    Args:
        path: The file.
        dim: The number of latents that the mixture must have.

    Raises:
        PackageError: If the file cannot be read or is not such a mixture.
    """
    arrays = read_arrays(path)
    if arrays.keys() != set(Prior._fields):
        raise PackageError(f"{path} holds {sorted(arrays)}; expected {sorted(Prior._fields)}")
    prior = Prior(**arrays)
    shape = (len(prior.weights), dim)
    if (
        prior.weights.ndim != 1
        or len(prior.weights) == 0
        or prior.means.shape != shape
        or prior.scales.shape != shape
        or not all(array.dtype == np.float32 and np.isfinite(array).all() for array in prior)
        or not (prior.weights >= 0).all()
        or not prior.weights.sum() > 0
        or not (prior.scales >= 0).all()
    ):
        raise PackageError(f"{path} is not a mixture of Gaussians over {dim} latents")
    return prior


def sample_prior(prior: Prior, n: int, seed: int | None = None) -> Floats:
    """Draw latents from a mixture of Gaussians.

    The same seed gives the same latents, and the first rows do not depend on ``n``.

    Args:
        prior: The mixture.
        n: The number of latents to draw.
        seed: The seed, 0 or more. By default every call draws new latents.

    Returns:
        float32 ``[n, D]``.
    """
    # One stream for the components and one for the noise: a single stream would mix them by n.
    choices, noise = np.random.default_rng(seed).spawn(2)
    edges = np.cumsum(prior.weights, dtype=np.float64)
    component = np.searchsorted(edges[:-1], choices.random(n) * edges[-1], side="right")
    draws = noise.standard_normal((n, prior.means.shape[1]), dtype=np.float32)
    latents: Floats = prior.means[component] + prior.scales[component] * draws
    return latents
