"""Decoder likelihoods p(x|z), in nats per view.

A decoder returns logits. The mean of every likelihood is ``sigmoid(logits)``, so that decoded
images are in [0, 1] for every likelihood.
"""

from __future__ import annotations

import functools
import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from repzoo_training.distributed.gather import gather

__all__ = ["Bernoulli", "Gaussian", "Likelihood", "OptimalGaussian", "squared_error", "whiten"]


class Likelihood(Protocol):
    """``log_prob(x, logits)``: float32 ``[N, ...]`` twice -> ``[N]``, summed over pixels."""

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor: ...


class Bernoulli:
    """log p(x|z) = w · Σ_pixels [x log m + (1−x) log(1−m)], m = sigmoid(logits).

    With ``weight`` 1 and binary ``x``, this is a likelihood. With grey pixels or another weight, it
    is a pseudo-likelihood: its value ranks models of the same recipe, but cannot be compared in
    nats with anything else. The SimVAE authors divide by exp(−4.6), which is a weight of 99.5.
    """

    def __init__(self, weight: float = 1.0) -> None:
        if not weight > 0:
            raise ValueError(f"weight must be positive, got {weight}")
        self.weight = weight

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        return -self.weight * nll.flatten(1).sum(1)  # [N]


class Gaussian:
    """log p(x|z) = log N(x; m, σ_x² (AᵀA)⁻¹) with m = sigmoid(logits) and a fixed log σ_x².

    A is a linear map of the pixels. It weights the spatial frequencies of an error: with the
    orthonormal cosine transform C of each channel,

        A = diag(g) C,      g(f) ∝ (f² + 1)^(α/2),      log |det A| = Σ_f log g(f) = 0,

    so that log p(x|z) = −½ ‖A (x − m)‖² / σ_x² − ½ n log 2πσ_x² + log |det A|, and the last term
    vanishes. f is the frequency in half periods of the image side. With α = 0, A is orthogonal and
    this is the usual N(m, σ_x² I). Photographs have amplitudes of about 1/f (Field 1987, "Relations
    between the statistics of natural images and the response properties of cortical cells"), so
    that σ_x² I spends nearly all of the likelihood on the lowest frequencies; α = 1 weights an
    error of any frequency by its usual size.

    Args:
        log_variance: log σ_x².
        whitening: α.

    Raises:
        ValueError: If ``whitening`` is negative.
    """

    def __init__(self, log_variance: float = -4.6, whitening: float = 0.0) -> None:
        if whitening < 0:
            raise ValueError(f"whitening must not be negative, got {whitening}")
        self.log_variance = log_variance
        self.whitening = whitening

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        pixels = x[0].numel()
        if self.whitening:
            error = x - torch.sigmoid(logits)
            error = whiten(error, self.whitening).square().flatten(1).sum(1)  # [N]
        else:
            error = squared_error(x, logits)  # [N]
        normaliser = pixels * (math.log(2 * math.pi) + self.log_variance)
        return -0.5 * (error * math.exp(-self.log_variance) + normaliser)  # [N]


def whiten(x: Tensor, exponent: float) -> Tensor:
    """Return A x, the weighted cosine transform of each channel, ``[N, C, H, W]`` twice.

    Args:
        x: Images or differences of images, float32 ``[N, C, H, W]``.
        exponent: α, see :class:`Gaussian`.
    """
    rows, columns, gain = _cosine_map(x.shape[-2], x.shape[-1], exponent, x.device)
    with torch.autocast(x.device.type, enabled=False):
        return gain * (rows @ x.float() @ columns.mT)


@functools.lru_cache(maxsize=8)
def _cosine_map(
    height: int, width: int, exponent: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cosine transforms of rows and columns, and the gain ``[H, W]``."""
    vertical = torch.arange(height, dtype=torch.float64)[:, None]
    horizontal = torch.arange(width, dtype=torch.float64)[None]
    log_gain = exponent / 2 * torch.log(vertical.square() + horizontal.square() + 1)
    gain = torch.exp(log_gain - log_gain.mean())
    parts = (_cosine_transform(height), _cosine_transform(width), gain)
    rows, columns, gain = (part.to(device, torch.float32) for part in parts)
    return rows, columns, gain


def _cosine_transform(size: int) -> Tensor:
    """Return the orthonormal DCT-II, float64 ``[size, size]``."""
    frequency = torch.arange(size, dtype=torch.float64)[:, None]
    position = torch.arange(size, dtype=torch.float64)[None] + 0.5
    matrix = torch.cos(math.pi * frequency * position / size) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


class OptimalGaussian:
    """log N(x; m, σ_x² I) with the maximum-likelihood σ_x² of the batch, its mean squared error.

    Source: σ-VAE, Rybkin, Daniilidis, Levine 2021 (arXiv 2006.13202), eq. 6. The batch is the batch
    of all processes. The variance is detached: at the optimum d log p/dσ_x² = 0, and the gradient
    flows through m only. This holds for the whole batch, not for one process's share of it.
    """

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        pixels = x[0].numel()
        error = squared_error(x, logits)  # [N]
        variance = (gather(error.detach()).mean() / pixels).clamp_min(1e-6)  # scalar
        return -0.5 * (error / variance + pixels * torch.log(2 * math.pi * variance))  # [N]


def squared_error(x: Tensor, logits: Tensor) -> Tensor:
    """Return Σ_pixels (x − sigmoid(logits))²: ``[N, ...]`` twice -> ``[N]``."""
    return (x - torch.sigmoid(logits)).square().flatten(1).sum(1)
