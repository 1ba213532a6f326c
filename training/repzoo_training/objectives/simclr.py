"""SimCLR: views of one image attract, views of different images repel.

Chen, Kornblith, Norouzi, Hinton 2020, "A Simple Framework for Contrastive Learning of Visual
Representations" (arXiv 2002.05709). With s_uv the cosine similarity of two projected views and τ
the temperature, a view u and another view v of its image have the NT-Xent loss (eq. 1)

    l(u, v) = −log [ exp(s_uv/τ) / (exp(s_uv/τ) + Σ_w exp(s_uw/τ)) ]

with w over all views of other images, and the loss is its mean over all ordered pairs (u, v). J = 2
is the paper's. With more views, the further views of the same image are positives of other pairs,
never negatives: they stand in no denominator but their own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repzoo_training.distributed.gather import gather
from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives.objective import Batch, Objective, Parts

__all__ = ["SimCLR", "nt_xent"]


class SimCLR(Objective):
    """NT-Xent on projected views, in nats.

    Args:
        encoder: images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> ``[N, P]``; thrown away after training.
        temperature: τ of the cosine similarities.

    Raises:
        ValueError: if ``temperature`` is not positive.
    """

    def __init__(
        self, encoder: nn.Module, projector: nn.Module, *, temperature: float = 0.1
    ) -> None:
        super().__init__(encoder)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        self.projector = projector
        self.temperature = temperature

    @classmethod
    def build(
        cls,
        parts: Parts,
        *,
        temperature: float = 0.1,
        projection_hidden: int = 256,
        projection_dim: int = 64,
    ) -> SimCLR:
        projector = ProjectionHead((parts.latent_dim, projection_hidden, projection_dim))
        return cls(parts.encoder, projector, temperature=temperature)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``.

        Raises:
            ValueError: for one view of each image, or a batch of one image.
        """
        B, J = batch.views.shape[:2]  # noqa: N806
        z = self.projector(self.encoder(batch.views.flatten(0, 1)))  # [B*J, P]
        with torch.autocast(z.device.type, enabled=False):
            z = gather(z.float().unflatten(0, (B, J)))  # [B, J, P] of all processes
            return {"loss": nt_xent(z, self.temperature)}


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Mean of l(u, v) over all ordered pairs of views of one image: ``[B, J, P]`` -> scalar.

    Raises:
        ValueError: if B or J is less than 2.
    """
    B, J = z.shape[:2]  # noqa: N806
    if J < 2:
        raise ValueError(f"NT-Xent pulls views together: it needs at least 2 an image, not {J}")
    if B < 2:
        raise ValueError(f"NT-Xent pushes images apart: it needs at least 2 in a batch, not {B}")
    z = F.normalize(z, dim=2)
    rows = z.flatten(0, 1)  # [B*J, P]
    image = torch.arange(B, device=z.device).repeat_interleave(J)  # [B*J]
    same = image[:, None] == image[None, :]  # [B*J, B*J]
    logits = (rows @ rows.mT / temperature).masked_fill(same, -math.inf)
    negatives = logits.logsumexp(1).view(B, J, 1)  # log Σ_w exp(s_uw/τ)
    positives = z @ z.mT / temperature  # [B, J, J]
    # −log [ e^p / (e^p + e^n) ] = log (1 + e^(n−p))
    losses = F.softplus(negatives - positives)  # [B, J, J]
    different = ~torch.eye(J, dtype=torch.bool, device=z.device)
    return losses[:, different].mean()
