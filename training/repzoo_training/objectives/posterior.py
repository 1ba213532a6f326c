"""The diagonal Gaussian posterior q(z|x) = N(μ, diag σ²); all values in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["entropy", "gaussian_log_prob", "kl", "kl_to_standard_normal", "sample"]

_LOG_2PI = math.log(2 * math.pi)


def sample(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """Return a reparametrised sample z = μ + σ ε, ε ~ N(0, I): ``[N, D]`` twice -> ``[N, D]``."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + torch.exp(0.5 * log_variance) * noise


def entropy(log_variance: Tensor) -> Tensor:
    """Return H = ½ Σ_d (1 + log 2πσ_d²): ``[N, D]`` -> ``[N]``."""
    return 0.5 * (1 + _LOG_2PI + log_variance).sum(-1)


def gaussian_log_prob(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return log N(z; μ, diag σ²): ``[N, D]`` three times -> ``[N]``."""
    squared = (z - mean).square() * torch.exp(-log_variance)
    return -0.5 * (squared + log_variance + _LOG_2PI).sum(-1)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(μ, diag σ²) ‖ N(0, I)): ``[N, D]`` twice -> ``[N]``.

    ½ Σ_d (μ² + σ² − log σ² − 1)
    """
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(-1)


def kl(mean: Tensor, log_variance: Tensor, mean_p: Tensor, log_variance_p: Tensor) -> Tensor:
    """Return KL(N(μ, diag σ²) ‖ N(μ_p, diag σ_p²)): ``[..., D]`` four times -> ``[...]``.

    ½ Σ_d ((μ − μ_p)²/σ_p² + σ²/σ_p² − log σ²/σ_p² − 1)
    """
    log_ratio = log_variance - log_variance_p
    squared = (mean - mean_p).square() * torch.exp(-log_variance_p)
    return 0.5 * (squared + log_ratio.exp() - log_ratio - 1).sum(-1)
