"""BYOL: the online network predicts what a slow copy of itself makes of another view.

Grill et al. 2020, "Bootstrap Your Own Latent" (arXiv 2006.07733). With q_i the prediction from
view i, z′_j the projection of view j by the target network, and bars for unit norm,

    L_ij = ‖q̄_i − z̄′_j‖² = 2 − 2 cos(q_i, z′_j),     loss = L_12 + L_21     (equations 2 and 3)

No gradient reaches the target, whose weights follow θ′ ← m θ′ + (1 − m) θ with m rising to 1 by
half a cosine. Of J > 2 views the loss is the mean of L_ij + L_ji over all pairs.

Linear BYOL has one linear layer as its predictor. It was studied because its dynamics can be
solved: Tian, Chen, Ganguli 2021 (arXiv 2102.06810).

Unlike the paper's code, batch normalisation takes all views of a batch together; they come from
one distribution.
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

    The representation is the online encoder, as in the paper.

    Args:
        encoder: images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> ``[N, P]``.
        predictor: ``[N, P]`` -> ``[N, P]``; without it everything collapses.
        momentum: m at the start of the run.

    Raises:
        ValueError: if ``momentum`` is not in [0, 1].
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
            raise ValueError(f"momentum must be in [0, 1], not {momentum}")
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
        """With an MLP as predictor."""
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
        """Linear BYOL."""
        D, P = parts.latent_dim, projection_dim  # noqa: N806
        projector = ProjectionHead((D, projection_hidden, P))
        predictor = nn.Linear(P, P, bias=False)
        return cls(parts.encoder, projector, predictor, momentum=momentum)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``, in [0, 8].

        Raises:
            ValueError: for one view an image.
        """
        B, J = batch.views.shape[:2]  # noqa: N806
        if J < 2:
            raise ValueError(
                f"BYOL predicts a view from another: it needs at least 2 an image, not {J}"
            )
        x = batch.views.flatten(0, 1)  # [B*J, C, H, W]
        q = self.predictor(self.projector(self.encoder(x)))  # [B*J, P]
        target = self.target_projector(self.target_encoder(x))  # [B*J, P]
        # Every image has a loss of its own: there is nothing to gather.
        with torch.autocast(x.device.type, enabled=False):
            q, target = (z.float().unflatten(0, (B, J)) for z in (q, target))  # [B, J, P]
            return {"loss": regression_loss(q, target)}

    def after_step(self, progress: float) -> None:
        m = cosine_momentum(self.momentum, progress)
        self.target_encoder.follow(self.encoder, m)
        self.target_projector.follow(self.projector, m)


def regression_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over images and pairs {i, j} of L_ij + L_ji: ``[B, J, P]`` twice -> scalar.

    ``target`` is a constant.
    """
    B, J = prediction.shape[:2]  # noqa: N806
    q = F.normalize(prediction, dim=2)
    z = F.normalize(target.detach(), dim=2)
    cosine = torch.einsum("bip,bjp->ij", q, z) / B  # [J, J]
    different = (cosine.sum() - cosine.trace()) / (J * (J - 1))  # mean over i ≠ j
    return 4 - 4 * different
