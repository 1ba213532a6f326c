"""The head that a package stores as ``uncertainty.onnx``.

With z the embedding (the posterior's mean), log p(z) its density under a mixture of Gaussians
fitted to the training images, x̄ a thumbnail of the image and d(z) what a small decoder takes it
for, the uncertainty of an image is

    u = 1 − (1 − e) (1 − c·o)

    e = sigmoid(a · logit(ε) + b)                      an error inside the distribution
    ε = 1 − Σ_y p(y | z, log σ², log p(z), r, r′) · q(y | z, log σ², log p(z))
    o = 1 − exp(−(t/κ)²)                               that it is not from it at all
    t = max over s of max(0, s − ℓ_s) / β_s,           s = −log p(z), r, r′

    r  = log mean (x̄ − d(z))²                          what the embedding misses of the image,
    r′ = r − log var x̄                                 and as a share of what there is to see

p is what label the image has and q what label its neighbour has, two small networks fitted to
training images and their views: a wrong neighbour is that the two differ. One network that is told
of right and wrong alone learns less from as many images. Where there are no labels it is all there
is: then ε is its own. a and b calibrate on images held out from that (Platt 1999).

Nothing was seen from outside the distribution, so o assumes no more than what the training images
say about how rare an embedding or a miss is: ℓ is the quantile with 5 % of them beyond, and β their
mean excess, which makes t the largest excess in the unit of an exponential tail (peaks over
threshold: Pickands 1975). At κ = 3 lies e⁻³ of the 5 %: one image of 400. c = ½, because of an
image from elsewhere nothing is known but that its neighbour may as well be wrong as right; so e
still orders the images that are from elsewhere, strongly cropped ones among them. With c = 1 it
would not: training/RESULTS.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["UncertaintyHead", "mixture_log_density"]

#: The last features, of which more is rarer: −log p(z), r and r′.
RARE = 3
#: Share of the training images beyond ℓ.
TAIL_SHARE = 0.05
#: κ.
TAIL_SCALE = 3.0
#: c.
OUTSIDE = 0.5

#: Pixels on a side of a thumbnail, at most.
_SIDE = 16
_WIDTH = 128
#: Standardised inputs farther out than this are as far out as the networks can tell.
_FAR = 8.0
#: Mean squared differences below this, a grey level's square, are not told apart.
_LEAST = 1e-5


class UncertaintyHead(nn.Module):
    """(embedding, images, log_variance) -> uncertainty, without a posterior no log_variance.

    Everything that is not a weight of a network is a buffer, set by `fit_uncertainty`.

    Args:
        dim: D.
        components: K, of the mixture.
        image: H, W, C.
        classes: of the labels; 0 without.
        has_posterior: whether there is a log_variance.
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
    ) -> None:
        super().__init__()
        height, width, channels = image
        self.shrink = math.ceil(max(height, width) / _SIDE)
        pixels = (height // self.shrink) * (width // self.shrink) * channels
        features = (2 * dim if has_posterior else dim) + RARE
        self.dim = dim
        self.decoder = _network(dim, pixels)
        self.own = _network(features, max(1, classes))
        self.neighbour = _network(features - RARE + 1, classes) if classes else None
        self.register_buffer("weights", torch.full((components,), 1 / components))
        self.register_buffer("means", torch.zeros(components, dim))
        self.register_buffer("scales", torch.ones(components, dim))
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))  # a, b
        self.register_buffer("tails", torch.tensor([[math.inf, 1.0]] * RARE))  # ℓ and β

    def forward(
        self, embedding: Tensor, images: Tensor, log_variance: Tensor | None = None
    ) -> Tensor:
        """Uncertainties ``[N]`` in [0, 1] of outputs ``[N, D]`` for uint8 ``[N, H, W, C]``."""
        features = self.features(embedding, self.thumbnail(images), log_variance)
        a, b = self.calibration.unbind()
        error = torch.sigmoid(a * self.logit(features) + b)  # [N]
        outside = -torch.expm1(-((self.excess(features) / TAIL_SCALE) ** 2))
        return 1 - (1 - error) * (1 - OUTSIDE * outside)

    def thumbnail(self, images: Tensor) -> Tensor:
        """Images uint8 ``[N, H, W, C]`` -> float32 in [0, 1] ``[N, pixels]``."""
        pixels = images.permute(0, 3, 1, 2).float() / 255  # [N, C, H, W]
        if self.shrink > 1:
            pixels = F.avg_pool2d(pixels, self.shrink)
        return pixels.flatten(1)

    def decode(self, embedding: Tensor) -> Tensor:
        """d: ``[N, D]`` -> ``[N, pixels]``."""
        decoded: Tensor = self.decoder(
            _standardised(embedding, self.center[: self.dim], self.spread[: self.dim])
        )
        return decoded

    def features(
        self, embedding: Tensor, thumbnail: Tensor, log_variance: Tensor | None = None
    ) -> Tensor:
        """z, log σ², −log p(z), r, r′ ``[N, 2D + 3]``; without a posterior ``[N, D + 3]``."""
        log_density = mixture_log_density(embedding, self.weights, self.means, self.scales)
        missed = torch.log((thumbnail - self.decode(embedding)).square().mean(1) + _LEAST)
        there = torch.log((thumbnail - thumbnail.mean(1, keepdim=True)).square().mean(1) + _LEAST)
        parts = [embedding] if log_variance is None else [embedding, log_variance]
        rare = torch.stack([-log_density, missed, missed - there], dim=1)  # [N, 3]
        return torch.cat([*parts, rare], dim=1)

    def logits(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Of p and of q, ``[N, classes]`` each; without labels ``[N, 1]`` and none."""
        standardised = _standardised(features, self.center, self.spread)
        own: Tensor = self.own(standardised)
        return own, None if self.neighbour is None else self.neighbour(standardised[:, : 1 - RARE])

    def logit(self, features: Tensor) -> Tensor:
        """Of ε, before calibration: ``[N, features]`` -> ``[N]``."""
        own, neighbour = self.logits(features)
        if neighbour is None:
            return own[:, 0]
        agree = (own.softmax(1) * neighbour.softmax(1)).sum(1).clamp(1e-6, 1 - 1e-6)
        return torch.log1p(-agree) - torch.log(agree)

    def excess(self, features: Tensor) -> Tensor:
        """t: ``[N, features]`` -> ``[N]``."""
        threshold, unit = self.tails.unbind(1)
        return ((features[:, -RARE:] - threshold).clamp_min(0) / unit).amax(1)


def _network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, _WIDTH),
        nn.SiLU(),
        nn.Linear(_WIDTH, _WIDTH),
        nn.SiLU(),
        nn.Linear(_WIDTH, outputs),
    )


def _standardised(x: Tensor, center: Tensor, spread: Tensor) -> Tensor:
    return ((x - center) / spread).clamp(-_FAR, _FAR)


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
