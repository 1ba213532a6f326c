"""Spectral contrastive learning: inner products of views model their density ratio.

HaoChen, Wei, Gaidon, Ma 2021, "Provable Guarantees for Self-Supervised Deep Learning with Spectral
Contrastive Loss" (arXiv 2106.04156). With φ, φ⁺ projected views of one image, and φ, φ′ of two
images drawn independently (eq. 6):

    loss = −2 E_p[φᵀφ⁺] + E_p×p[(φᵀφ′)²]

Up to a constant, this is E_p×p[(φᵀφ′ − p(x, x′)/(p(x) p(x′)))²]. The optimal φ therefore spans the
leading eigenfunctions of the graph of views, up to rotation.

With J views, E_p is the mean over all ordered pairs of different views of an image, and E_p×p the
mean over all pairs of views of different images. In the second term, the authors' code pairs only
first views with second views: the same expectation, from a quarter of the pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repzoo_training.distributed.gather import gather
from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives.objective import Batch, Objective, Parts

__all__ = ["Spectral", "attraction", "clip_norm", "repulsion", "spectral_loss"]


class Spectral(Objective):
    """−2 E_p[φᵀφ⁺] + E_p×p[(φᵀφ′)²], with unbiased estimates of both expectations.

    Args:
        encoder: Images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> φ ``[N, P]``; discarded after training.
        max_norm: √μ, the largest norm of φ; longer φ are shortened, as in the authors' code. 0
            means no limit.

    Raises:
        ValueError: If ``max_norm`` is negative.
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module, *, max_norm: float = 0.0) -> None:
        super().__init__(encoder)
        if max_norm < 0:
            raise ValueError(f"max_norm must be positive, or 0 for no limit, got {max_norm}")
        self.projector = projector
        self.max_norm = max_norm

    @classmethod
    def build(
        cls,
        parts: Parts,
        *,
        max_norm: float = 0.0,
        projection_hidden: int = 512,
        projection_dim: int = 128,
    ) -> Spectral:
        projector = ProjectionHead((parts.latent_dim, projection_hidden, projection_dim))
        return cls(parts.encoder, projector, max_norm=max_norm)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms ``attraction`` and ``repulsion``.

        Raises:
            ValueError: If there is only one view per image, or only one image.
        """
        B, J = batch.several_views("spectral contrastive learning")  # noqa: N806
        z = self.projector(self.encoder(batch.views.flatten(0, 1)))  # [B*J, P]
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            if self.max_norm:
                z = clip_norm(z, self.max_norm)
            z = gather(z.unflatten(0, (B, J)))  # [N, J, P], from all processes
            pull, push = attraction(z, z), repulsion(z)
            return {"loss": push - 2 * pull, "attraction": pull, "repulsion": push}


def spectral_loss(z: Tensor, *, same_image: bool = False) -> Tensor:
    """Return −2 E_p[φᵀφ⁺] + E_p×p[(φᵀφ′)²]: ``[B, J, P]`` -> scalar; see :func:`repulsion`."""
    return repulsion(z, same_image=same_image) - 2 * attraction(z, z)


def attraction(z: Tensor, positives: Tensor) -> Tensor:
    """Return E_p[φᵀφ⁺], the mean over ordered pairs of different views: ``[B, J, P]`` -> scalar.

    Σ_{a≠b} φ_aᵀφ_b⁺ = (Σ_a φ_a)ᵀ(Σ_b φ_b⁺) − Σ_a φ_aᵀφ_a⁺

    Args:
        z: φ.
        positives: φ⁺, either ``z`` itself or other embeddings of the same views.
    """
    B, J = z.shape[:2]  # noqa: N806
    pairs = (z.sum(1) * positives.sum(1)).sum() - (z * positives).sum()
    return pairs / (B * J * (J - 1))


def repulsion(z: Tensor, *, same_image: bool = False) -> Tensor:
    """Return E_p×p[(φᵀφ′)²], the mean over pairs of views: ``[B, J, P]`` -> scalar.

    Over all pairs, Σ (φᵀφ′)² = ‖Σ_n φ_n φ_nᵀ‖²_F, which avoids a B·J × B·J matrix of similarities.

    Args:
        z: φ.
        same_image: Use all pairs, including views of one image and each view with itself. This is
            biased, and equals ‖E[φφᵀ]‖²_F. Otherwise only views of different images are used.

    Raises:
        ValueError: If B is less than 2 and images must differ.
    """
    B, J = z.shape[:2]  # noqa: N806
    rows = z.flatten(0, 1)  # [B*J, P]
    every = (rows.mT @ rows).square().sum()  # over [P, P]
    if same_image:
        return every / (B * J) ** 2
    if B < 2:
        raise ValueError(f"repulsion compares images: it needs at least 2 per batch, got {B}")
    within = (z @ z.mT).square().sum()  # over [B, J, J]
    return (every - within) / (B * (B - 1) * J**2)


def clip_norm(z: Tensor, max_norm: float) -> Tensor:
    """Shorten rows longer than ``max_norm`` to that norm: ``[N, P]`` -> ``[N, P]``."""
    norm = z.norm(dim=1, keepdim=True)  # [N, 1]
    return torch.where(norm > max_norm, F.normalize(z, dim=1) * max_norm, z)
