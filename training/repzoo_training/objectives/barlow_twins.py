"""Barlow Twins: the cross-correlation of two views' embeddings should be the identity.

Zbontar, Jing, Misra, LeCun, Deny 2021, "Barlow Twins: Self-Supervised Learning via Redundancy
Reduction" (arXiv 2103.03230). With every dimension of each view standardised over the batch,

    c_ij = (1/N) Σ_n a_ni b_nj,     loss = Σ_i (1 − c_ii)² + λ Σ_i Σ_{j≠i} c_ij²

Of J > 2 views the loss is the mean over all pairs of them.
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
    """Ones on the diagonal of the cross-correlation, zeros beside it.

    Args:
        encoder: images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> ``[N, P]``; the paper finds that large P helps.
        redundancy: λ, the weight of what is beside the diagonal.

    Raises:
        ValueError: if ``redundancy`` is negative.
    """

    def __init__(
        self, encoder: nn.Module, projector: nn.Module, *, redundancy: float = 0.0051
    ) -> None:
        super().__init__(encoder)
        if not redundancy >= 0:
            raise ValueError(f"redundancy (λ) must not be negative, but is {redundancy}")
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
        """``loss`` and its terms ``invariance`` and ``redundancy``, before λ.

        Raises:
            ValueError: for one view an image, or one image.
        """
        B, J = batch.views.shape[:2]  # noqa: N806
        if J < 2:
            raise ValueError(f"Barlow Twins compares views: it needs at least 2 an image, not {J}")
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
    """Mean 0 and variance 1 over the images, of every dimension of every view: ``[N, ...]``.

    As batch normalisation in the authors' code: the variance is over N, with 1e-5 added, so that
    a dimension that does not vary becomes 0.

    Raises:
        ValueError: for one row.
    """
    if len(z) < 2:
        raise ValueError("a correlation needs at least 2 images in a batch, not 1")
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    return (z - mean) * torch.rsqrt(variance + 1e-5)


def cross_correlation(a: Tensor, b: Tensor) -> Tensor:
    """c_ij = (1/N) Σ_n a_ni b_nj of standardised embeddings: ``[N, P]`` twice -> ``[P, P]``."""
    return a.T @ b / len(a)


def invariance_loss(c: Tensor) -> Tensor:
    """Σ_i (1 − c_ii)², averaged over matrices: ``[..., P, P]`` -> scalar."""
    return (1 - c.diagonal(dim1=-2, dim2=-1)).square().sum(-1).mean()


def redundancy_loss(c: Tensor) -> Tensor:
    """Σ_i Σ_{j≠i} c_ij², averaged over matrices: ``[..., P, P]`` -> scalar."""
    diagonal = torch.eye(c.shape[-1], dtype=torch.bool, device=c.device)
    return c.masked_fill(diagonal, 0).square().sum((-2, -1)).mean()
