"""The network that a package stores as ``uncertainty.onnx``.

Let z be the embedding (the posterior's mean), log p(z) its density under a mixture of Gaussians
fitted to the training images, x̄ a thumbnail of the image, and d(z) the thumbnail that a small
decoder predicts. The uncertainty of an image is

    u = 1 − (1 − e) (1 − c·o)

    e = sigmoid(a · logit(ε) + b)                      error of an in-distribution image
    ε = 1 − Σ_y p(y | z, log σ², m, log v, log p(z), r, r′) · q(y | z, log σ², m, log v, log p(z))
    o = 1 − exp(−(t/κ)²)                               the image is out of distribution
    t = max over s of max(0, s − ℓ_s) / β_s,           s = −log p(z), r, r′

    r  = log mean (x̄ − d(z))²                          what the embedding misses of the image,
    r′ = r − log var x̄                                 and the same relative to its contrast

m and v are the mean and variance of the content posterior, if the package has one (see
`repzoo_training.content.posterior`). They tell p what a degraded image shows, while z tells q where
its neighbour is sought.

p predicts the label of the image and q the label of its neighbour. They are two small networks,
fitted to training images and their views. The neighbour is wrong if the two labels differ. One
network that only learns right or wrong learns less from the same images. Without labels it is the
only choice, and ε is its output. a and b calibrate ε on held-out images (Platt 1999).

Training has no images from outside the distribution. So o relies only on how rare an embedding or a
miss is among the training images: ℓ is the quantile that 5 % of them exceed, and β is their mean
excess. That makes t the largest excess in units of an exponential tail (peaks over threshold:
Pickands 1975). e⁻³ of the 5 %, one image in 400, lie beyond κ = 3. c = ½, because the neighbour of
an out-of-distribution image may just as well be right as wrong. e then still orders such images,
which include strongly cropped ones. With c = 1 it would not; see docs/experiments.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["UncertaintyHead", "components_for", "mixture_log_density"]

#: Largest number of weights: 0.4 MiB in float16.
_MOST_WEIGHTS = 195_000

#: Number of the last features, −log p(z), r and r′. Larger values are rarer.
RARE = 3
#: Share of the training images beyond ℓ.
TAIL_SHARE = 0.05
#: κ.
TAIL_SCALE = 3.0
#: c.
OUTSIDE = 0.5

#: Largest side of a thumbnail in pixels.
_SIDE = 16
#: Units of the hidden layers, at most.
_WIDTH = 128
#: Standardised inputs are clamped to this magnitude.
_FAR = 8.0
#: Added to mean squared differences. It is about the square of one grey level.
_LEAST = 1e-5


def components_for(dim: int) -> int:
    """Return the largest number of components for embeddings of ``dim`` dimensions.

    Their means and scales are at most a quarter of the weights.
    """
    return max(1, _MOST_WEIGHTS // (4 * 2 * dim))


class UncertaintyHead(nn.Module):
    """Maps embedding, images and the other outputs that a package has to uncertainty.

    It has at most 0.4 MiB in float16: a larger embedding or more classes leave fewer hidden units.
    `fit_uncertainty` sets the buffers: everything that is not a weight of a network.

    Args:
        dim: dimensions D of the embedding.
        components: components K of the mixture.
        image: height, width and channels of the images.
        classes: number of classes, 0 without labels.
        has_posterior: whether the encoder outputs a log_variance.
        has_content: whether the package has a content posterior.
    """

    weights: Tensor
    means: Tensor
    scales: Tensor
    center: Tensor
    spread: Tensor
    calibration: Tensor
    tails: Tensor

    def __init__(
        self,
        dim: int,
        components: int,
        image: tuple[int, int, int],
        *,
        classes: int,
        has_posterior: bool,
        has_content: bool = False,
    ) -> None:
        super().__init__()
        height, width, channels = image
        self.shrink = math.ceil(max(height, width) / _SIDE)
        pixels = (height // self.shrink) * (width // self.shrink) * channels
        features = dim * (1 + has_posterior + 2 * has_content) + RARE
        self.dim = dim
        sizes = [(dim, pixels), (features, max(1, classes))]
        if classes:
            sizes.append((features - RARE + 1, classes))
        # The standardisation stays float32: two numbers per feature, of twice the size.
        width = _widest(sizes, _MOST_WEIGHTS - 2 * components * dim - 4 * features)
        self.decoder, self.own, *neighbour = (_network(*size, width) for size in sizes)
        self.neighbour = neighbour[0] if neighbour else None
        self.register_buffer("weights", torch.full((components,), 1 / components))
        self.register_buffer("means", torch.zeros(components, dim))
        self.register_buffer("scales", torch.ones(components, dim))
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))  # a, b
        self.register_buffer("tails", torch.tensor([[math.inf, 1.0]] * RARE))  # ℓ and β

    def forward(
        self,
        embedding: Tensor,
        images: Tensor,
        log_variance: Tensor | None = None,
        content_mean: Tensor | None = None,
        content_variance: Tensor | None = None,
    ) -> Tensor:
        """Return uncertainties ``[N]`` in [0, 1] for outputs ``[N, D]`` and uint8 images."""
        features = self.features(
            self.thumbnail(images), embedding, log_variance, content_mean, content_variance
        )
        a, b = self.calibration.unbind()
        error = torch.sigmoid(a * self.logit(features) + b)  # [N]
        outside = -torch.expm1(-((self.excess(features) / TAIL_SCALE) ** 2))
        return 1 - (1 - error) * (1 - OUTSIDE * outside)

    def thumbnail(self, images: Tensor) -> Tensor:
        """Return thumbnails float32 ``[N, pixels]`` in [0, 1] of uint8 images ``[N, H, W, C]``."""
        pixels = images.permute(0, 3, 1, 2).float() / 255  # [N, C, H, W]
        if self.shrink > 1:
            pixels = F.avg_pool2d(pixels, self.shrink)
        return pixels.flatten(1)

    def decode(self, embedding: Tensor) -> Tensor:
        """Return d(z), the predicted thumbnails ``[N, pixels]`` of embeddings ``[N, D]``."""
        decoded: Tensor = self.decoder(
            _standardised(embedding, self.center[: self.dim], self.spread[: self.dim])
        )
        return decoded

    def features(
        self,
        thumbnail: Tensor,
        embedding: Tensor,
        log_variance: Tensor | None = None,
        content_mean: Tensor | None = None,
        content_variance: Tensor | None = None,
    ) -> Tensor:
        """Return z, log σ², m and log v as far as they exist, −log p(z), r and r′, concatenated."""
        log_density = mixture_log_density(embedding, self.weights, self.means, self.scales)
        missed = torch.log((thumbnail - self.decode(embedding)).square().mean(1) + _LEAST)
        there = torch.log((thumbnail - thumbnail.mean(1, keepdim=True)).square().mean(1) + _LEAST)
        log_content = None if content_variance is None else content_variance.log()
        optional = (embedding, log_variance, content_mean, log_content)
        parts = [part for part in optional if part is not None]
        rare = torch.stack([-log_density, missed, missed - there], dim=1)  # [N, 3]
        return torch.cat([*parts, rare], dim=1)

    def logits(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits of p and q, ``[N, classes]``, or without labels ``[N, 1]`` and None."""
        standardised = _standardised(features, self.center, self.spread)
        own: Tensor = self.own(standardised)
        return own, None if self.neighbour is None else self.neighbour(standardised[:, : 1 - RARE])

    def logit(self, features: Tensor) -> Tensor:
        """Return the logit of ε before calibration, ``[N]``, from features ``[N, F]``."""
        own, neighbour = self.logits(features)
        if neighbour is None:
            return own[:, 0]
        agree = (own.softmax(1) * neighbour.softmax(1)).sum(1).clamp(1e-6, 1 - 1e-6)
        return torch.log1p(-agree) - torch.log(agree)

    def excess(self, features: Tensor) -> Tensor:
        """Return t, ``[N]``, from features ``[N, F]``."""
        threshold, unit = self.tails.unbind(1)
        return ((features[:, -RARE:] - threshold).clamp_min(0) / unit).amax(1)


def _widest(sizes: Sequence[tuple[int, int]], weights: int) -> int:
    """Return the number of hidden units with which networks of these sizes have ``weights``."""
    square, linear = len(sizes), sum(inputs + outputs for inputs, outputs in sizes)
    # The positive root of square · width² + linear · width = weights
    root = (math.sqrt(linear**2 + 4 * square * max(0, weights)) - linear) / (2 * square)
    return max(8, min(_WIDTH, int(root)))


def _network(inputs: int, outputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, outputs),
    )


def _standardised(x: Tensor, center: Tensor, spread: Tensor) -> Tensor:
    return ((x - center) / spread).clamp(-_FAR, _FAR)


def mixture_log_density(z: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """Return log Σ_k w_k N(z; m_k, diag s_k²).

        −½ Σ_d (z − m)²/s² = −½ [ z² · 1/s² − 2 z · m/s² + Σ_d m²/s² ]

    This takes two matrix products and never allocates N·K·D values. The origin is moved to the
    middle of the components first, to limit cancellation.

    Args:
        z: ``[N, D]``.
        weights: ``[K]``.
        means: ``[K, D]``.
        scales: standard deviations ``[K, D]``.

    Returns:
        Log densities ``[N]``.
    """
    middle = means.mean(0)
    z, means = z - middle, means - middle
    precision = scales.square().reciprocal()  # [K, D]
    square = z.square() @ precision.T - 2 * z @ (means * precision).T  # [N, K]
    square = square + (means.square() * precision).sum(1)
    log_norm = torch.log(weights) - torch.log(scales).sum(1)  # [K]
    constant = 0.5 * math.log(2 * math.pi) * means.shape[1]
    return torch.logsumexp(log_norm - 0.5 * square.clamp_min(0), dim=1) - constant
