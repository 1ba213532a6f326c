"""MoCo: a query finds the key of its image among a queue of keys of earlier batches.

He, Fan, Wu, Xie, Girshick 2020, "Momentum Contrast for Unsupervised Visual Representation
Learning" (arXiv 1911.05722), with an MLP head as in version 2 (arXiv 2003.04297). Query q and key
k⁺ are projected views of one image, k_1..k_K the queue, all of norm 1 (eq. 1):

    l(q, k⁺) = −log [ exp(qᵀk⁺/τ) / (exp(qᵀk⁺/τ) + Σ_i exp(qᵀk_i/τ)) ]

Queries come from the trained encoder, keys from a momentum copy of it, θ_k ← m θ_k + (1 − m) θ_q.
The keys of a batch, of all processes, enter the queue after the loss has seen it.

The first view of each image is its key and all others are its queries: J = 2 is the paper's. With
``symmetric``, every view is query and key, and the loss is the mean over all ordered pairs of
different views, as in the authors' symmetric version for small images.

Shuffled batch normalisation is left out. The paper shuffles keys among GPUs because statistics of a
small sub-batch on one GPU tell which key shares it with the query. Here batch normalisation, a
ResNet's or the head's, goes over the whole batch of all processes: there is no sub-batch to
recognise, and what is left is how statistics differ between this batch and those of the queue.

Unlike version 2, the head's hidden layer has batch normalisation by default: without it, short
runs with D = 10 used fewer of their dimensions and were less accurate. ``projection_norm`` turns
it off.
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
        encoder: images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> ``[N, P]``; thrown away after training.
        queue: K keys ``[K, P]``.
        temperature: τ.
        momentum: m of the key encoder. The paper's 0.999 is for runs of a million steps.
        symmetric: every view is query and key; otherwise the first is the key of the others.

    Raises:
        ValueError: if ``temperature`` is not positive, or ``momentum`` not in [0, 1).
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
            raise ValueError(f"temperature must be positive, not {temperature}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), not {momentum}")
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
        """``loss``, the mean over this process's queries.

        Raises:
            ValueError: for one view of each image.
        """
        x = batch.views  # [B, J, C, H, W]
        B, J = x.shape[:2]  # noqa: N806
        if J < 2:
            raise ValueError(f"MoCo needs a query and a key: at least 2 views an image, not {J}")
        x_q, x_k = (x, x) if self.symmetric else (x[:, 1:], x[:, :1])
        queries = self.projector(self.encoder(x_q.flatten(0, 1)))  # [B*Q, P]
        keys = self.key_encoder(x_k.flatten(0, 1))  # [B*M, P]
        with torch.autocast(x.device.type, enabled=False):
            queries = F.normalize(queries.float(), dim=1).unflatten(0, (B, -1))
            keys = F.normalize(keys.float(), dim=1).unflatten(0, (B, -1))
            # The gradient needs the queue as it is now, and the push below writes in place.
            loss = info_nce(queries, keys, self.queue.rows.clone(), self.temperature)
        self.queue.push(gather(keys).flatten(0, 1))
        return {"loss": loss}

    def after_step(self, progress: float) -> None:
        self.key_encoder.follow(nn.Sequential(self.encoder, self.projector), self.momentum)


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Mean of l(q, k⁺) over the queries and keys of one image.

    Args:
        queries: ``[B, Q, P]``, norm 1.
        keys: ``[B, M, P]``, norm 1. With M = 1 it is the key of all queries; with M = Q > 1, query
            and key of the same number are the same view, and no pair.
        queue: ``[K, P]``, the negatives.
        temperature: τ.

    Raises:
        ValueError: for any other M.
    """
    Q, M = queries.shape[1], keys.shape[1]  # noqa: N806
    if M not in (1, Q):
        raise ValueError(f"{Q} queries an image need 1 key or {Q}, not {M}")
    positives = queries @ keys.mT / temperature  # [B, Q, M]
    negatives = (queries @ queue.mT / temperature).logsumexp(2, keepdim=True)  # [B, Q, 1]
    # −log [ e^p / (e^p + e^n) ] = log (1 + e^(n−p))
    losses = F.softplus(negatives - positives)  # [B, Q, M]
    if M == 1:
        return losses.mean()
    different = ~torch.eye(Q, dtype=torch.bool, device=queries.device)
    return losses[:, different].mean()
