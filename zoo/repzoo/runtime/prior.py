"""The prior of a package, from which `Encoder.generate` draws."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from repzoo.errors import PackageError
from repzoo.packages.arrays import read_arrays
from repzoo.runtime.sessions import Floats

__all__ = ["Prior"]


class Prior(NamedTuple):
    """``prior.npz``: a mixture of diagonal Gaussians."""

    weights: Floats  # [K]
    means: Floats  # [K, D]
    scales: Floats  # [K, D], standard deviations

    @classmethod
    def read(cls, path: Path, dim: int) -> Prior | None:
        if not path.exists():
            return None
        arrays = read_arrays(path)
        if arrays.keys() != set(cls._fields):
            raise PackageError(f"{path} holds {sorted(arrays)}; expected {sorted(cls._fields)}")
        prior = cls(**arrays)
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

    def sample(self, n: int, seed: int | None) -> Floats:
        # Two streams, so that the first rows do not depend on how many are drawn.
        choices, noise = np.random.default_rng(seed).spawn(2)
        edges = np.cumsum(self.weights, dtype=np.float64)
        component = np.searchsorted(edges[:-1], choices.random(n) * edges[-1], side="right")
        draws = noise.standard_normal((n, self.means.shape[1]), dtype=np.float32)
        latents: Floats = self.means[component] + self.scales[component] * draws
        return latents
