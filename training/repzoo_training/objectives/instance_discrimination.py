"""Instance discrimination: every image is its own class.

Wu, Xiong, Yu, Lin 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination"
(arXiv 1805.01978). A memory bank stores one row v_i of norm 1 for each of n images. A view of image
i, projected to z of norm 1, has the loss (eq. 2)

    −log P(i|z),     P(i|z) = exp(v_iᵀz/τ) / Σ_j exp(v_jᵀz/τ)

Afterwards the row is updated, v_i ← normalise(m v_i + (1 − m) z).

For a large data set, the sum is estimated from ``negatives`` rows j ≠ i, drawn uniformly with
replacement and shared by the batch: Σ_{j≠i} ≈ (n − 1)/K Σ_k exp(v_kᵀz/τ). The estimate of the sum
is unbiased, the estimate of P is an upper bound on average, and both are exact in the limit of many
rows. The paper's noise contrastive estimation draws the same rows, but fits n binary problems with
a constant for Σ_j, guessed from the first batch; no constant is needed here. The paper's proximal
term is omitted.

Our change for short runs: a row is meaningless before its image was first seen. An image that is
seen for the first time therefore uses the mean of its own views in that step as v_i. In the paper,
it would have to predict a random direction during the whole first epoch.

J = 1 is the paper's setting. With more views, the loss is averaged over them, and a row follows the
mean of its image's views.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repzoo_training.distributed.gather import agree, gather
from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives.memory import MemoryBank
from repzoo_training.objectives.objective import Batch, Objective, Parts

__all__ = ["InstanceDiscrimination", "instance_cross_entropy"]


class InstanceDiscrimination(Objective):
    """Cross entropy of image indices under a non-parametric softmax, in nats.

    Args:
        encoder: Images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> ``[N, P]``; discarded after training.
        bank: Rows ``[n, P]``, one per image of the data set.
        temperature: τ of the cosine similarities.
        momentum: m, the momentum of the rows.
        negatives: K, the number of rows to compare with; 0 sums over all rows, at a cost of n·P
            per view.

    Raises:
        ValueError: If ``temperature`` is not positive, ``momentum`` is not in [0, 1), ``negatives``
            is negative, or the data set has only one image.
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        bank: MemoryBank,
        *,
        temperature: float = 0.07,
        momentum: float = 0.5,
        negatives: int = 4096,
    ) -> None:
        super().__init__(encoder)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        if negatives < 0:
            raise ValueError(f"negatives must be positive, or 0 for all rows, got {negatives}")
        if len(bank.rows) < 2:
            raise ValueError("instance discrimination needs at least 2 images, got 1")
        self.projector = projector
        self.bank = bank
        self.temperature = temperature
        self.momentum = momentum
        self.negatives = negatives

    @classmethod
    def build(
        cls,
        parts: Parts,
        *,
        temperature: float = 0.07,
        momentum: float = 0.5,
        negatives: int = 4096,
        projection_hidden: int = 256,
        projection_dim: int = 64,
    ) -> InstanceDiscrimination:
        return cls(
            parts.encoder,
            ProjectionHead((parts.latent_dim, projection_hidden, projection_dim)),
            MemoryBank(parts.images, projection_dim),
            temperature=temperature,
            momentum=momentum,
            negatives=negatives,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, the mean over this process's views."""
        B, J = batch.views.shape[:2]  # noqa: N806
        z = self.projector(self.encoder(batch.views.flatten(0, 1)))  # [B*J, P]
        with torch.autocast(z.device.type, enabled=False):
            z = F.normalize(z.float(), dim=1).unflatten(0, (B, J))  # [B, J, P]
            center = F.normalize(z.detach().mean(1), dim=1)  # [B, P]
            seen = self.bank.seen[batch.indices, None]  # [B, 1]
            own = torch.where(seen, self.bank.rows[batch.indices], center)  # [B, P]
            others = self._others(batch)  # [K]
            loss = instance_cross_entropy(
                z,
                own,
                self.bank.rows[others],  # [K, P]
                batch.indices[:, None] == others[None, :],  # [B, K]
                images=len(self.bank.rows),
                temperature=self.temperature,
            )
        self.bank.update(gather(batch.indices), gather(center), self.momentum)
        return {"loss": loss}

    def _others(self, batch: Batch) -> Tensor:
        """Draw the rows that represent all others, int64 ``[K]``, the same on every process."""
        n = len(self.bank.rows)
        if self.negatives in range(1, n):
            draws = torch.randint(
                n, (self.negatives,), generator=batch.generator, device=batch.views.device
            )
            return agree(draws)
        return torch.arange(n, device=batch.views.device)


def instance_cross_entropy(
    z: Tensor, own: Tensor, others: Tensor, hidden: Tensor, *, images: int, temperature: float
) -> Tensor:
    """Return the mean of −log P(i|z) over views, with Σ_{j≠i} estimated from a sample; a scalar.

    Args:
        z: ``[B, J, P]``, of norm 1.
        own: v_i ``[B, P]``, of norm 1.
        others: ``[K, P]``, rows drawn uniformly from the bank, or all rows.
        hidden: bool ``[B, K]``, which of these rows belong to the image itself and are ignored.
        images: n.
        temperature: τ of the cosine similarities.
    """
    positives = (z * own[:, None]).sum(2) / temperature  # [B, J]
    logits = (z @ others.mT / temperature).masked_fill(hidden[:, None], -math.inf)  # [B, J, K]
    # Apart from the image's own row, each sample is one of the n − 1 others.
    count = (~hidden).sum(1, keepdim=True).clamp_min(1)  # [B, 1]
    negatives = logits.logsumexp(2) + torch.log((images - 1) / count)  # [B, J]
    # −log [ e^p / (e^p + e^n) ] = log (1 + e^(n−p))
    return F.softplus(negatives - positives).mean()
