"""Decoder likelihoods p(x|z), in nats per view.

A decoder returns logits. The mean of every likelihood is ``sigmoid(logits)``, so that decoded
images are in [0, 1] for every likelihood.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from repzoo_training.distributed.gather import gather

__all__ = ["Bernoulli", "Gaussian", "Likelihood", "OptimalGaussian", "squared_error"]


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
    """log p(x|z) = log N(x; m, σ_x² I) with m = sigmoid(logits) and a fixed log σ_x²."""

    def __init__(self, log_variance: float = -4.6) -> None:
        self.log_variance = log_variance

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        pixels = x[0].numel()
        normaliser = pixels * (math.log(2 * math.pi) + self.log_variance)
        return -0.5 * (squared_error(x, logits) * math.exp(-self.log_variance) + normaliser)  # [N]


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
