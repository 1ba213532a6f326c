"""SimCLR: views of one image attract, views of different images repel.

Chen, Kornblith, Norouzi, Hinton 2020, "A Simple Framework for Contrastive Learning of Visual
Representations" (arXiv 2002.05709). With s_uv the cosine similarity of two projected views and τ
the temperature, a view u and another view v of its image have the NT-Xent loss (eq. 1)

    l(u, v) = −log [ exp(s_uv/τ) / (exp(s_uv/τ) + Σ_w exp(s_uw/τ)) ]

where w runs over all views of other images. The loss is the mean over all ordered pairs (u, v). J =
2 is the paper's setting. With more views, the further views of the same image are positives of
other pairs, and never negatives: they only appear in the denominators of their own pairs.
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
        encoder: Images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> ``[N, P]``; discarded after training.
        temperature: τ of the cosine similarities.

    Raises:
        ValueError: If ``temperature`` is not positive.
    """

    def __init__(
        self, encoder: nn.Module, projector: nn.Module, *, temperature: float = 0.1
    ) -> None:
        super().__init__(encoder)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
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
        """Return ``loss``.

        Raises:
            ValueError: If there is only one view per image, or only one image.
        """
        B, J = batch.several_views("SimCLR")  # noqa: N806
        z = self.projector(self.encoder(batch.views.flatten(0, 1)))  # [B*J, P]
        with torch.autocast(z.device.type, enabled=False):
            z = gather(z.float().unflatten(0, (B, J)))  # [N, J, P], from all processes
            return {"loss": nt_xent(z, self.temperature)}


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Return the mean of l(u, v) over ordered pairs of views of one image: ``[B, J, P]`` -> scalar.

    Raises:
        ValueError: If B is less than 2.
    """
    B, J = z.shape[:2]  # noqa: N806
    if B < 2:
        raise ValueError(f"NT-Xent compares images: it needs at least 2 per batch, got {B}")
    z = F.normalize(z, dim=2)  # [B, J, P]
    rows = z.flatten(0, 1)  # [B*J, P]
    image = torch.arange(B, device=z.device).repeat_interleave(J)  # [B*J]
    same = image[:, None] == image[None, :]  # [B*J, B*J]
    logits = (rows @ rows.mT / temperature).masked_fill(same, -math.inf)  # [B*J, B*J]
    negatives = logits.logsumexp(1).view(B, J, 1)  # [B, J, 1], log Σ_w exp(s_uw/τ)
    positives = z @ z.mT / temperature  # [B, J, J]
    # −log [ e^p / (e^p + e^n) ] = log (1 + e^(n−p))
    losses = F.softplus(negatives - positives)  # [B, J, J]
    different = ~torch.eye(J, dtype=torch.bool, device=z.device)  # [J, J]
    return losses[:, different].mean()
