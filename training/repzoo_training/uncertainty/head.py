"""The head that a package stores as ``uncertainty.onnx``.

With z the embedding (the posterior's mean) and log p(z) its density under a mixture of Gaussians
fitted to the training images, the uncertainty of an image is

    u = 1 − (1 − e) (1 − o)

    e = sigmoid(a · f(z, log σ², log p(z)) + b)                an error inside the distribution
    o = 1 − exp(−(t/κ)²),   t = max(0, ℓ − log p(z)) / β       that it is not from it at all

f is a small network fitted to the errors of neighbours that training images and their views have;
a and b calibrate it on images held out from that (Platt 1999). Nothing was seen from outside the
distribution, so o assumes no more than what the training images say about how rare a density is:
ℓ is their 5 % quantile and β their mean excess below it, which makes t the excess in the unit of an
exponential tail (peaks over threshold: Pickands 1975). At t = κ = 5, beyond which lies one image of
3,000 from inside under an exponential tail, o is 0.63. Both constants were chosen on MNIST against
FashionMNIST; what the other choices give is in training/RESULTS.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["TAIL_QUANTILE", "UncertaintyHead", "mixture_log_density"]

#: Share of the training images whose log density lies below ℓ.
TAIL_QUANTILE = 0.05
#: κ.
TAIL_SCALE = 5.0

_WIDTH = 128
#: Standardised inputs farther out than this are as far out as the network can tell.
_FAR = 8.0


class UncertaintyHead(nn.Module):
    """(embedding, log_variance) -> uncertainty; without a posterior, embedding -> uncertainty.

    Everything that is not a weight of the network f is a buffer, set by `fit_uncertainty`.

    Args:
        dim: D.
        components: K, of the mixture.
        has_posterior: whether there is a log_variance.
    """

    weights: Tensor
    means: Tensor
    scales: Tensor
    center: Tensor
    spread: Tensor
    calibration: Tensor
    tail: Tensor

    def __init__(self, dim: int, components: int, *, has_posterior: bool) -> None:
        super().__init__()
        self.has_posterior = has_posterior
        inputs = (2 * dim if has_posterior else dim) + 1
        self.network = nn.Sequential(
            nn.Linear(inputs, _WIDTH),
            nn.SiLU(),
            nn.Linear(_WIDTH, _WIDTH),
            nn.SiLU(),
            nn.Linear(_WIDTH, 1),
        )
        self.register_buffer("weights", torch.full((components,), 1 / components))
        self.register_buffer("means", torch.zeros(components, dim))
        self.register_buffer("scales", torch.ones(components, dim))
        self.register_buffer("center", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))  # a, b
        self.register_buffer("tail", torch.tensor([-math.inf, 1.0]))  # ℓ, β

    def forward(self, embedding: Tensor, log_variance: Tensor | None = None) -> Tensor:
        """Uncertainties ``[N]`` in [0, 1] of outputs ``[N, D]``."""
        features, log_density = self.features(embedding, log_variance)
        a, b = self.calibration.unbind()
        error = torch.sigmoid(a * self.logit(features) + b)  # [N]
        threshold, excess = self.tail.unbind()
        t = (threshold - log_density).clamp_min(0) / excess
        outside = -torch.expm1(-((t / TAIL_SCALE) ** 2))
        return 1 - (1 - error) * (1 - outside)

    def features(
        self, embedding: Tensor, log_variance: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the network f is given, ``[N, 2D + 1]`` or ``[N, D + 1]``, and log p(z) ``[N]``."""
        log_density = mixture_log_density(embedding, self.weights, self.means, self.scales)
        parts = [embedding, log_density[:, None]]
        if log_variance is not None:
            parts.insert(1, log_variance)
        return torch.cat(parts, dim=1), log_density

    def logit(self, features: Tensor) -> Tensor:
        """f before calibration: ``[N, I]`` -> ``[N]``."""
        standardised = ((features - self.center) / self.spread).clamp(-_FAR, _FAR)
        logits: Tensor = self.network(standardised)[:, 0]
        return logits


def mixture_log_density(z: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """log Σ_k w_k N(z; m_k, diag s_k²): ``[N, D]``, ``[K]``, ``[K, D]``, ``[K, D]`` -> ``[N]``.

        −½ Σ_d (z − m)²/s² = −½ [ z² · 1/s² − 2 z · m/s² + Σ_d m²/s² ]

    Two matrix products, so that nothing of size N·K·D is made. The origin is moved into the middle
    of the components first, so that less cancels.
    """
    middle = means.mean(0)
    z, means = z - middle, means - middle
    precision = scales.square().reciprocal()  # [K, D]
    square = z.square() @ precision.T - 2 * z @ (means * precision).T  # [N, K]
    square = square + (means.square() * precision).sum(1)
    log_norm = torch.log(weights) - torch.log(scales).sum(1)  # [K]
    constant = 0.5 * math.log(2 * math.pi) * means.shape[1]
    return torch.logsumexp(log_norm - 0.5 * square.clamp_min(0), dim=1) - constant
