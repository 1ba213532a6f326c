"""VICReg: views agree, every dimension varies, and dimensions are uncorrelated.

Bardes, Ponce, LeCun 2022, "VICReg: Variance-Invariance-Covariance Regularization for
Self-Supervised Learning" (arXiv 2105.04906). For two views a, b of N images in P dimensions,

    loss = 25 · mean (a − b)²                                                over N·P
         + 25 · ½ Σ_views mean_d max(0, 1 − √(var_d + 1e-4))
         +  1 · Σ_views Σ_{i≠j} C_ij² / P                                    C over N − 1

The normalisation follows the authors' code. The paper's equations have no ½ before the variances,
and sum the squared distance over P where the code takes the mean.

With J > 2 views, the invariance is averaged over all pairs of views, the variance term over views,
and the covariance term is twice the mean over views. For J = 2, these are the sums above.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repzoo_training.distributed.gather import gather
from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives.objective import Batch, Objective, Parts

__all__ = ["VICReg", "covariance_loss", "invariance_loss", "variance_loss"]


class VICReg(Objective):
    """The weighted sum of :func:`invariance_loss`, :func:`variance_loss`, :func:`covariance_loss`.

    Args:
        encoder: Images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> ``[N, P]``, the paper's expander.
        invariance: λ, the weight of the distance between views.
        variance: μ, the weight of the variance term.
        covariance: ν, the weight of the covariance term.

    Raises:
        ValueError: If a weight is negative.
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> None:
        super().__init__(encoder)
        if not min(invariance, variance, covariance) >= 0:
            raise ValueError(
                "the weights of VICReg must not be negative, got "
                f"invariance={invariance}, variance={variance}, covariance={covariance}"
            )
        self.projector = projector
        self.invariance = invariance
        self.variance = variance
        self.covariance = covariance

    @classmethod
    def build(
        cls,
        parts: Parts,
        *,
        projection_hidden: int = 512,
        projection_dim: int = 512,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> VICReg:
        return cls(
            parts.encoder,
            ProjectionHead((parts.latent_dim, projection_hidden, projection_dim)),
            invariance=invariance,
            variance=variance,
            covariance=covariance,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its unweighted terms.

        Raises:
            ValueError: If there is only one view per image, or only one image.
        """
        B, J = batch.several_views("VICReg")  # noqa: N806
        z = self.projector(self.encoder(batch.views.flatten(0, 1)))  # [B*J, P]
        with torch.autocast(z.device.type, enabled=False):
            z = gather(z.float().unflatten(0, (B, J)))  # [N, J, P]
            if len(z) < 2:
                raise ValueError("a variance needs at least 2 images per batch, got 1")
            terms = {
                "invariance": invariance_loss(z),
                "variance": variance_loss(z),
                "covariance": covariance_loss(z),
            }
        loss = (
            self.invariance * terms["invariance"]
            + self.variance * terms["variance"]
            + self.covariance * terms["covariance"]
        )
        return {"loss": loss, **terms}


def invariance_loss(z: Tensor) -> Tensor:
    """Return the mean of (z_i − z_j)² over images, dimensions and pairs: ``[N, J, P]`` -> scalar.

    Because Σ_{i<j} (z_i − z_j)² = J Σ_j (z_j − z̄)², the mean over the J(J−1)/2 pairs i < j is
    twice the unbiased variance of the views.
    """
    return 2 * z.var(dim=1).mean()


def variance_loss(z: Tensor) -> Tensor:
    """Return the mean of max(0, 1 − √(var + 1e-4)), over views and P: ``[N, J, P]`` -> scalar."""
    return F.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean()


def covariance_loss(z: Tensor) -> Tensor:
    """Return twice the mean of Σ_{i≠j} C_ij² / P over views: ``[N, J, P]`` -> scalar."""
    N, _, P = z.shape  # noqa: N806
    centered = (z - z.mean(dim=0)).transpose(0, 1)  # [J, N, P]
    C = centered.mT @ centered / (N - 1)  # noqa: N806  [J, P, P]
    diagonal = torch.eye(P, dtype=torch.bool, device=z.device)  # [P, P]
    return 2 * C.masked_fill(diagonal, 0).square().sum((1, 2)).mean() / P
