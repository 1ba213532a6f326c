"""BYOL: the online network predicts the projection of another view by a slow copy of itself.

Grill et al. 2020, "Bootstrap Your Own Latent" (arXiv 2006.07733). With q_i the prediction from
view i, z′_j the projection of view j by the target network, and bars for unit norm,

    L_ij = ‖q̄_i − z̄′_j‖² = 2 − 2 cos(q_i, z′_j),     loss = L_12 + L_21     (equations 2 and 3)

The target gets no gradient. Its weights follow θ′ ← m θ′ + (1 − m) θ, and m rises to 1 along half a
cosine. With J > 2 views, the loss is the mean of L_ij + L_ji over all pairs.

Linear BYOL uses a single linear layer as its predictor. Its learning dynamics can be solved
analytically: Tian, Chen, Ganguli 2021 (arXiv 2102.06810).

Unlike in the paper's code, batch normalisation processes all views of a batch together, because all
views have the same distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives.momentum import MomentumCopy, cosine_momentum
from repzoo_training.objectives.objective import Batch, Objective, Parts

__all__ = ["BYOL", "regression_loss"]


class BYOL(Objective):
    """Cosine regression on a momentum target.

    As in the paper, the representation is the online encoder.

    Args:
        encoder: Images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> ``[N, P]``.
        predictor: ``[N, P]`` -> ``[N, P]``; without it, embeddings collapse.
        momentum: m, the momentum of the target network, at the start of the run.

    Raises:
        ValueError: If ``momentum`` is not in [0, 1].
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        predictor: nn.Module,
        *,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(encoder)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], got {momentum}")
        self.projector = projector
        self.predictor = predictor
        self.target_encoder = MomentumCopy(encoder)
        self.target_projector = MomentumCopy(projector)
        self.momentum = momentum

    @classmethod
    def build(
        cls,
        parts: Parts,
        *,
        projection_hidden: int = 512,
        projection_dim: int = 128,
        momentum: float = 0.99,
    ) -> BYOL:
        """Build BYOL with an MLP predictor."""
        D, P = parts.latent_dim, projection_dim  # noqa: N806
        projector = ProjectionHead((D, projection_hidden, P))
        predictor = ProjectionHead((P, projection_hidden, P))
        return cls(parts.encoder, projector, predictor, momentum=momentum)

    @classmethod
    def build_linear(
        cls,
        parts: Parts,
        *,
        projection_hidden: int = 512,
        projection_dim: int = 128,
        momentum: float = 0.99,
    ) -> BYOL:
        """Build Linear BYOL."""
        D, P = parts.latent_dim, projection_dim  # noqa: N806
        projector = ProjectionHead((D, projection_hidden, P))
        predictor = nn.Linear(P, P, bias=False)
        return cls(parts.encoder, projector, predictor, momentum=momentum)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, in [0, 8].

        Raises:
            ValueError: If there is only one view per image.
        """
        B, J = batch.several_views("BYOL")  # noqa: N806
        x = batch.views.flatten(0, 1)  # [B*J, C, H, W]
        q = self.predictor(self.projector(self.encoder(x)))  # [B*J, P]
        target = self.target_projector(self.target_encoder(x))  # [B*J, P]
        # The loss is a mean over images, so there is nothing to gather.
        with torch.autocast(x.device.type, enabled=False):
            q, target = (z.float().unflatten(0, (B, J)) for z in (q, target))  # [B, J, P]
            return {"loss": regression_loss(q, target)}

    def after_step(self, progress: float) -> None:
        m = cosine_momentum(self.momentum, progress)
        self.target_encoder.follow(self.encoder, m)
        self.target_projector.follow(self.projector, m)


def regression_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean of L_ij + L_ji over images and pairs {i, j}: ``[B, J, P]`` twice -> scalar.

    ``target`` is treated as a constant.
    """
    B, J = prediction.shape[:2]  # noqa: N806
    q = F.normalize(prediction, dim=2)  # [B, J, P]
    z = F.normalize(target.detach(), dim=2)  # [B, J, P]
    cosine = torch.einsum("bip,bjp->ij", q, z) / B  # [J, J]
    different = (cosine.sum() - cosine.trace()) / (J * (J - 1))  # mean over i ≠ j
    return 4 - 4 * different
