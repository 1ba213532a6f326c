"""Barlow Twins: the cross-correlation between the embeddings of two views should be the identity.

Zbontar, Jing, Misra, LeCun, Deny 2021, "Barlow Twins: Self-Supervised Learning via Redundancy
Reduction" (arXiv 2103.03230). With every dimension of each view standardised over the batch,

    c_ij = (1/N) Σ_n a_ni b_nj,     loss = Σ_i (1 − c_ii)² + λ Σ_i Σ_{j≠i} c_ij²

With J > 2 views, the loss is averaged over all pairs of views.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from repzoo_training.distributed.gather import gather
from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives.objective import Batch, Objective, Parts

__all__ = ["BarlowTwins", "cross_correlation", "invariance_loss", "redundancy_loss", "standardize"]


class BarlowTwins(Objective):
    """Makes the diagonal of the cross-correlation one and the rest zero.

    Args:
        encoder: Images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> ``[N, P]``; in the paper, a large P helps.
        redundancy: λ, the weight of the off-diagonal entries.

    Raises:
        ValueError: If ``redundancy`` is negative.
    """

    def __init__(
        self, encoder: nn.Module, projector: nn.Module, *, redundancy: float = 0.0051
    ) -> None:
        super().__init__(encoder)
        if not redundancy >= 0:
            raise ValueError(f"redundancy (λ) must not be negative, got {redundancy}")
        self.projector = projector
        self.redundancy = redundancy

    @classmethod
    def build(
        cls,
        parts: Parts,
        *,
        projection_hidden: int = 512,
        projection_dim: int = 512,
        redundancy: float = 0.0051,
    ) -> BarlowTwins:
        projector = ProjectionHead((parts.latent_dim, projection_hidden, projection_dim))
        return cls(parts.encoder, projector, redundancy=redundancy)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms ``invariance`` and ``redundancy``, the latter before λ.

        Raises:
            ValueError: If there is only one view per image, or only one image.
        """
        B, J = batch.several_views("Barlow Twins")  # noqa: N806
        z = self.projector(self.encoder(batch.views.flatten(0, 1)))  # [B*J, P]
        with torch.autocast(z.device.type, enabled=False):
            z = gather(z.float().unflatten(0, (B, J)))  # [N, J, P]
            views = standardize(z).unbind(1)  # J times [N, P]
            c = torch.stack(
                [cross_correlation(a, b) for a, b in itertools.combinations(views, 2)]
            )  # [J(J−1)/2, P, P]
            invariance, redundancy = invariance_loss(c), redundancy_loss(c)
        return {
            "loss": invariance + self.redundancy * redundancy,
            "invariance": invariance,
            "redundancy": redundancy,
        }


def standardize(z: Tensor) -> Tensor:
    """Standardise every dimension of every view over the images: ``[N, ...]`` -> same shape.

    As in the authors' code, which uses batch normalisation, the variance is divided by N, and 1e-5
    is added, so that a constant dimension becomes 0.

    Raises:
        ValueError: If there is only one row.
    """
    if len(z) < 2:
        raise ValueError("a correlation needs at least 2 images per batch, got 1")
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    return (z - mean) * torch.rsqrt(variance + 1e-5)


def cross_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return c_ij = (1/N) Σ_n a_ni b_nj of standardised embeddings: ``[N, P]`` -> ``[P, P]``."""
    return a.T @ b / len(a)


def invariance_loss(c: Tensor) -> Tensor:
    """Return Σ_i (1 − c_ii)², averaged over matrices: ``[..., P, P]`` -> scalar."""
    return (1 - c.diagonal(dim1=-2, dim2=-1)).square().sum(-1).mean()


def redundancy_loss(c: Tensor) -> Tensor:
    """Return Σ_i Σ_{j≠i} c_ij², averaged over matrices: ``[..., P, P]`` -> scalar."""
    diagonal = torch.eye(c.shape[-1], dtype=torch.bool, device=c.device)
    return c.masked_fill(diagonal, 0).square().sum((-2, -1)).mean()
