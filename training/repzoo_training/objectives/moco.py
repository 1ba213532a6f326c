"""MoCo: a query identifies the key of its image among a queue of keys from earlier batches.

He, Fan, Wu, Xie, Girshick 2020, "Momentum Contrast for Unsupervised Visual Representation Learning"
(arXiv 1911.05722), with an MLP head as in version 2 (arXiv 2003.04297). Query q and key k⁺ are
projected views of one image, k_1..k_K is the queue, and all have norm 1 (eq. 1):

    l(q, k⁺) = −log [ exp(qᵀk⁺/τ) / (exp(qᵀk⁺/τ) + Σ_i exp(qᵀk_i/τ)) ]

Queries come from the trained encoder, keys from its momentum copy, θ_k ← m θ_k + (1 − m) θ_q. After
the loss, the keys of the batch, from all processes, enter the queue.

The first view of each image is its key, and all others are its queries: J = 2 is the paper's
setting. With ``symmetric``, every view is both query and key, and the loss is averaged over all
ordered pairs of different views, as in the authors' symmetric version for small images.

Shuffled batch normalisation is omitted. The paper shuffles keys among GPUs, because the statistics
of a small sub-batch on one GPU reveal which key shares it with the query. Here, batch normalisation
in a ResNet or in the head spans the whole batch of all processes, so there are no sub-batches to
recognise. What remains is the difference between the statistics of this batch and of earlier ones.

Unlike in version 2, the hidden layer of the head is batch-normalised by default. Without it, short
runs with D = 10 used fewer of their dimensions and were less accurate. ``projection_norm`` turns it
off.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repzoo_training.distributed.gather import gather
from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives.memory import Queue
from repzoo_training.objectives.momentum import MomentumCopy
from repzoo_training.objectives.objective import Batch, Objective, Parts

__all__ = ["MoCo", "info_nce"]


class MoCo(Objective):
    """InfoNCE against a queue of keys, in nats.

    Args:
        encoder: Images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> ``[N, P]``; discarded after training.
        queue: K keys ``[K, P]``.
        temperature: τ of the cosine similarities.
        momentum: m, the momentum of the key encoder. The paper's 0.999 is meant for runs of a
            million steps.
        symmetric: Use every view as both query and key; otherwise the first view is the key.

    Raises:
        ValueError: If ``temperature`` is not positive, or ``momentum`` is not in [0, 1).
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        queue: Queue,
        *,
        temperature: float = 0.1,
        momentum: float = 0.99,
        symmetric: bool = False,
    ) -> None:
        super().__init__(encoder)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.projector = projector
        self.key_encoder = MomentumCopy(nn.Sequential(encoder, projector))
        self.queue = queue
        self.temperature = temperature
        self.momentum = momentum
        self.symmetric = symmetric

    @classmethod
    def build(
        cls,
        parts: Parts,
        *,
        temperature: float = 0.1,
        momentum: float = 0.99,
        symmetric: bool = False,
        queue_size: int = 4096,
        projection_hidden: int = 256,
        projection_dim: int = 64,
        projection_norm: bool = True,
    ) -> MoCo:
        widths = (parts.latent_dim, projection_hidden, projection_dim)
        return cls(
            parts.encoder,
            ProjectionHead(widths, norm=projection_norm),
            Queue(queue_size, projection_dim),
            temperature=temperature,
            momentum=momentum,
            symmetric=symmetric,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, the mean over this process's queries.

        Raises:
            ValueError: If there is only one view per image.
        """
        B, _ = batch.several_views("MoCo")  # noqa: N806
        x = batch.views  # [B, J, C, H, W]
        x_q, x_k = (x, x) if self.symmetric else (x[:, 1:], x[:, :1])  # [B, Q or M, C, H, W]
        queries = self.projector(self.encoder(x_q.flatten(0, 1)))  # [B*Q, P]
        keys = self.key_encoder(x_k.flatten(0, 1))  # [B*M, P]
        with torch.autocast(x.device.type, enabled=False):
            queries = F.normalize(queries.float(), dim=1).unflatten(0, (B, -1))  # [B, Q, P]
            keys = F.normalize(keys.float(), dim=1).unflatten(0, (B, -1))  # [B, M, P]
            # The gradient needs the current queue, and the push below writes in place.
            loss = info_nce(queries, keys, self.queue.rows.clone(), self.temperature)
        self.queue.push(gather(keys).flatten(0, 1))  # [N*M, P], from all processes
        return {"loss": loss}

    def after_step(self, progress: float) -> None:
        self.key_encoder.follow(nn.Sequential(self.encoder, self.projector), self.momentum)


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return the mean of l(q, k⁺) over the queries and keys of each image, a scalar.

    Args:
        queries: ``[B, Q, P]``, of norm 1.
        keys: ``[B, M, P]``, of norm 1. If M = 1, it is the key of all queries. If M = Q > 1, query
            and key number i are the same view and do not form a pair.
        queue: ``[K, P]``, the negatives.
        temperature: τ of the cosine similarities.

    Raises:
        ValueError: If M is neither 1 nor Q.
    """
    Q, M = queries.shape[1], keys.shape[1]  # noqa: N806
    if M not in (1, Q):
        raise ValueError(f"{Q} queries per image need 1 or {Q} keys, got {M}")
    positives = queries @ keys.mT / temperature  # [B, Q, M]
    negatives = (queries @ queue.mT / temperature).logsumexp(2, keepdim=True)  # [B, Q, 1]
    # −log [ e^p / (e^p + e^n) ] = log (1 + e^(n−p))
    losses = F.softplus(negatives - positives)  # [B, Q, M]
    if M == 1:
        return losses.mean()
    different = ~torch.eye(Q, dtype=torch.bool, device=queries.device)  # [Q, Q]
    return losses[:, different].mean()
