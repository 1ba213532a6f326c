"""Spectral contrastive learning: the inner product of views models their density ratio.

HaoChen, Wei, Gaidon, Ma 2021, "Provable Guarantees for Self-Supervised Deep Learning with Spectral
Contrastive Loss" (arXiv 2106.04156). With φ, φ⁺ projected views of one image and φ, φ′ of two
images drawn independently (eq. 6):

    loss = −2 E_p[φᵀφ⁺] + E_p×p[(φᵀφ′)²]

Up to a constant it is E_p×p[(φᵀφ′ − p(x, x′)/(p(x) p(x′)))²], so that the best φ spans the leading
eigenfunctions of the graph of views, in any rotation.

With J views, E_p is the mean over all ordered pairs of different views of an image, and E_p×p that
over all pairs of views of different images, two drawn from the marginal each. The authors' code
pairs only first views with second ones there: the same expectation from a quarter of the pairs.
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
    """−2 E_p[φᵀφ⁺] + E_p×p[(φᵀφ′)²], an expectation that is estimated without bias.

    Args:
        encoder: images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> φ ``[N, P]``; thrown away after training.
        max_norm: √μ, to which longer φ are shortened, as the authors' code does; 0 leaves them.

    Raises:
        ValueError: if ``max_norm`` is negative.
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module, *, max_norm: float = 0.0) -> None:
        super().__init__(encoder)
        if max_norm < 0:
            raise ValueError(f"max_norm must be positive, or 0 for none, not {max_norm}")
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
        """``loss`` and its terms ``attraction`` and ``repulsion``.

        Raises:
            ValueError: for one view of each image, or a batch of one image.
        """
        B, J = batch.views.shape[:2]  # noqa: N806
        z = self.projector(self.encoder(batch.views.flatten(0, 1)))  # [B*J, P]
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            if self.max_norm:
                z = clip_norm(z, self.max_norm)
            z = gather(z.unflatten(0, (B, J)))  # [B, J, P] of all processes
            pull, push = attraction(z, z), repulsion(z)
            return {"loss": push - 2 * pull, "attraction": pull, "repulsion": push}


def spectral_loss(z: Tensor, *, same_image: bool = False) -> Tensor:
    """−2 E_p[φᵀφ⁺] + E_p×p[(φᵀφ′)²]: ``[B, J, P]`` -> scalar; see :func:`repulsion`."""
    return repulsion(z, same_image=same_image) - 2 * attraction(z, z)


def attraction(z: Tensor, positives: Tensor) -> Tensor:
    """E_p[φᵀφ⁺], the mean over ordered pairs of different views: ``[B, J, P]`` twice -> scalar.

    Σ_{a≠b} φ_aᵀφ_b⁺ = (Σ_a φ_a)ᵀ(Σ_b φ_b⁺) − Σ_a φ_aᵀφ_a⁺

    Args:
        z: φ.
        positives: φ⁺, ``z`` itself or other embeddings of the same views.

    Raises:
        ValueError: if J is less than 2.
    """
    B, J = z.shape[:2]  # noqa: N806
    if J < 2:
        raise ValueError(f"views attract each other: it needs at least 2 an image, not {J}")
    pairs = (z.sum(1) * positives.sum(1)).sum() - (z * positives).sum()
    return pairs / (B * J * (J - 1))


def repulsion(z: Tensor, *, same_image: bool = False) -> Tensor:
    """E_p×p[(φᵀφ′)²], the mean over pairs of views: ``[B, J, P]`` -> scalar.

    Σ over all pairs of (φᵀφ′)² = ‖Σ_n φ_n φ_nᵀ‖²_F, which needs no B·J × B·J similarities.

    Args:
        z: φ.
        same_image: take all pairs, views of one image and each view with itself too: biased, and
            equal to ‖E[φφᵀ]‖²_F. Otherwise views of different images alone.

    Raises:
        ValueError: if B is less than 2 where images must differ.
    """
    B, J = z.shape[:2]  # noqa: N806
    rows = z.flatten(0, 1)  # [B*J, P]
    every = (rows.mT @ rows).square().sum()
    if same_image:
        return every / (B * J) ** 2
    if B < 2:
        raise ValueError(f"different images repel each other: a batch needs at least 2, not {B}")
    within = (z @ z.mT).square().sum()  # of [B, J, J]
    return (every - within) / (B * (B - 1) * J**2)


def clip_norm(z: Tensor, max_norm: float) -> Tensor:
    """Shorten what is longer than ``max_norm`` to it: ``[N, P]`` -> ``[N, P]``."""
    norm = z.norm(dim=1, keepdim=True)
    return torch.where(norm > max_norm, F.normalize(z, dim=1) * max_norm, z)
