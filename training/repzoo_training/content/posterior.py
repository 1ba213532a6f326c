"""The content posterior, a head that a package stores as ``content.onnx``.

**Definition.** An image x̃ shows a content ψ, perhaps degraded: blurred, cropped, noisy, badly lit.
Let x be the undegraded picture and t the embedding of *a fresh mild view* of x,

    t = μ(view(x)),      for models whose metric is cosine t = μ / ‖μ‖.

The content posterior is the Gaussian that predicts t from the single available image:

    p(t | x̃) ≈ N(t; m(x̃), diag v(x̃)).

m undoes what the degradation did to the embedding, v says how far off it may be, per dimension.
Taking μ(x) itself as t would make the clean case deterministic and its variance far too small; a
mean of several views would shrink the variance. A view is what the encoder was trained to be
invariant to, so v of a clean image is the encoder's own uncertainty about the content.

**Relation to SimVAE.** There p(z | ψ) = N(ψ, s² I): the embeddings of all views of one content
scatter around ψ. Given one view, p(ψ | x) = N(μ, σ² + s²) for a flat ψ, and the embedding of the
next view of the same content has that distribution plus s². SimVAE's σ² and s² are the same for a
sharp and for a blurred image; here both are learned, for degradations that the encoder never saw.

**Loss.** With u the standardised target (by mean c and standard deviation k of the gallery, per
dimension) and the head's outputs r, λ ``[N, D]``,

    loss = ½ mean_nd [ (u − r)² exp(−λ) + λ ],      m = c + k r,   v = k² exp(λ),

the Gaussian negative log-likelihood per dimension, up to a constant. Images held out from fitting
then set one factor on v, and the regions that hold 50, 90 and 99 % of the targets, see
`repzoo_training.content.fitting.recalibrate`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["ContentHead", "negative_log_likelihood"]

#: Units of the hidden layers, at most.
_WIDTH = 128
#: Largest number of weights: 0.4 MiB in float16.
_MOST_WEIGHTS = 201_000
#: Approximate number of pixels on a side after the first layer.
_SIDE = 16
#: Standardised inputs are clamped to this magnitude.
_FAR = 8.0
#: Standardised variances lie between e⁻⁸ and e³.
_LOG_VARIANCE = (-8.0, 3.0)


class ContentHead(nn.Module):
    """(images, embedding, log_variance) -> (content_mean, content_variance).

    Args:
        dim: D.
        image: (H, W, C).
        has_posterior: Whether the encoder gives a log_variance.
        unit: Whether embeddings are divided by their length, for a cosine metric.
    """

    center: Tensor
    spread: Tensor
    recalibration: Tensor

    def __init__(
        self, dim: int, image: tuple[int, int, int], *, has_posterior: bool, unit: bool
    ) -> None:
        super().__init__()
        height, width, channels = image
        self.unit = unit
        patch = math.ceil(max(height, width) / _SIDE)
        inputs = 2 * dim if has_posterior else dim
        # A large embedding leaves fewer weights for the hidden layers and for the pixels.
        units = min(_WIDTH, int(0.6 * _MOST_WEIGHTS) // (inputs + 2 * dim))
        positions = (_SIDE // 4) ** 2
        others = (inputs + 2 * dim + units) * units + 32 * (channels * (patch + 2) ** 2 + 32 * 9)
        # The first layer of images with 400 pixels on a side or more takes more than its share.
        maps = max(8, min(48, (_MOST_WEIGHTS - others) // (positions * units + 32 * 9)))
        self.pixels = nn.Sequential(
            nn.Conv2d(channels, 32, patch + 2, patch, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, 2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, maps, 3, 2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            seen = self.pixels(torch.zeros(1, channels, height, width)).shape[1]
        self.body = nn.Sequential(
            nn.Linear(inputs + seen, units),
            nn.SiLU(),
            nn.Linear(units, units),
            nn.SiLU(),
        )
        self.output = nn.Linear(units, 2 * dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.register_buffer("center", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        self.register_buffer("recalibration", torch.zeros(()))

    def forward(
        self, images: Tensor, embedding: Tensor, log_variance: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Means and variances ``[N, D]`` of uint8 images ``[N, H, W, C]`` and their outputs."""
        mean, log_var = self.standardised(images, embedding, log_variance)
        dim = embedding.shape[1]
        center, spread = self.center[:dim], self.spread[:dim]
        return center + spread * mean, spread.square() * torch.exp(log_var + self.recalibration)

    def standardised(
        self, images: Tensor, embedding: Tensor, log_variance: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """r and λ ``[N, D]``: the mean and the log variance of the standardised target."""
        if self.unit:
            embedding = embedding / embedding.norm(dim=1, keepdim=True).clamp_min(1e-12)
        parts = [embedding] if log_variance is None else [embedding, log_variance]
        z = ((torch.cat(parts, 1) - self.center) / self.spread).clamp(-_FAR, _FAR)
        pixels = images.permute(0, 3, 1, 2).float() / 255  # [N, C, H, W]
        hidden = self.body(torch.cat([z, self.pixels(pixels)], 1))  # [N, width]
        shift, log_var = self.output(hidden).chunk(2, 1)  # [N, D] each
        low, high = _LOG_VARIANCE
        return z[:, : shift.shape[1]] + shift, log_var.clamp(low, high)


def negative_log_likelihood(target: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean over images and dimensions, up to ½ log 2π: ``[N, D]`` each -> scalar, in nats."""
    return 0.5 * ((target - mean).square() * torch.exp(-log_variance) + log_variance).mean()
