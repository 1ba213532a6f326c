"""The layers next to the latents, which compute in float32 even under autocast.

Near 1, the spacing of bfloat16 is 0.008, as large as the σ of a posterior. Rounding latents to
bfloat16 would destroy the information in the posterior.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["GaussianEncoder", "LatentDecoder", "PointEncoder"]


class GaussianEncoder(nn.Module):
    """q(z|x): images ``[N, C, H, W]`` -> float32 (mean ``[N, D]``, log_variance ``[N, D]``)."""

    def __init__(self, backbone: nn.Module, feature_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(feature_dim, 2 * latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)  # [N, F]
        with torch.autocast(images.device.type, enabled=False):
            mean, log_variance = self.head(features.float()).chunk(2, dim=1)  # [N, D] each
        return mean, log_variance


class PointEncoder(nn.Module):
    """An encoder without a posterior: images ``[N, C, H, W]`` -> float32 embedding ``[N, D]``.

    Without a ``latent_dim``, the features are the embedding.
    """

    def __init__(self, backbone: nn.Module, feature_dim: int, latent_dim: int | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Identity() if latent_dim is None else nn.Linear(feature_dim, latent_dim)

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)  # [N, F]
        with torch.autocast(images.device.type, enabled=False):
            embedding: Tensor = self.head(features.float())  # [N, D]
        return embedding


class LatentDecoder(nn.Module):
    """Latents float32 ``[N, D]`` -> float32 logits ``[N, C, H, W]``; images are their sigmoid."""

    def __init__(self, decoder: nn.Module, feature_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.stem = nn.Linear(latent_dim, feature_dim)
        self.decoder = decoder

    def forward(self, latents: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            features = self.stem(latents.float())  # [N, F]
        logits: Tensor = self.decoder(features)  # [N, C, H, W]
        return logits.float()
