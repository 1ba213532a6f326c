"""Check embeddings and labels, and move them to the device that computes with them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.errors import InvalidInput
from torch import Tensor

__all__ = ["Embeddings", "Labels", "default_device", "moments", "on_device", "standardise"]

#: A dimension whose standard deviation is below this share of its mean is constant up to rounding.
_CONSTANT = 1e-6

#: float ``[N, D]``.
Embeddings: TypeAlias = NDArray[np.floating] | Tensor

#: int64 ``[N]``, one class per image, or bool ``[N, A]``, a yes or no for each of A labels.
Labels: TypeAlias = NDArray[np.int64] | NDArray[np.bool_]


def default_device(device: torch.device | str | None = None) -> torch.device:
    """Return ``device``, by default the GPU if there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def on_device(
    embeddings: Embeddings, labels: Labels | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return embeddings as float32 ``[N, D]`` and labels as int64 ``[N]`` or bool ``[N, A]``.

    Raises:
        InvalidInput: If the shapes do not match, or an embedding is not finite.
    """
    z = torch.as_tensor(embeddings).to(device, torch.float32)
    if z.ndim != 2 or not len(z):
        raise InvalidInput(f"embeddings are {list(z.shape)}; expected [N, D] with N at least 1")
    if not torch.isfinite(z).all():
        raise InvalidInput("embeddings are not finite: the encoder has diverged")
    if labels is None:
        return z, torch.empty(0, device=device)
    y = torch.as_tensor(labels)
    if len(y) != len(z):
        raise InvalidInput(f"{len(z)} embeddings have {len(y)} labels")
    single = y.ndim == 1 and not y.is_floating_point() and y.dtype != torch.bool
    if not single and not (y.ndim == 2 and y.dtype == torch.bool):
        raise InvalidInput(
            f"labels are {y.dtype} {list(y.shape)}; expected integers [N] or bool [N, A]"
        )
    return z, y.to(device, torch.int64 if single else torch.bool)


def moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, float64 ``[D]``, with 1 for constant dimensions."""
    mean = z.double().mean(dim=0)
    std = (z.double() - mean).std(dim=0, correction=0)
    return mean, torch.where(std > _CONSTANT * mean.abs(), std, 1.0)


def standardise(
    train_z: NDArray[np.floating], test_z: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both sets of embeddings, standardised by the moments of the first."""
    mean, std = (each.numpy() for each in moments(torch.from_numpy(np.asarray(train_z))))
    return (train_z - mean) / std, (test_z - mean) / std
