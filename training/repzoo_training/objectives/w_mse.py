"""W-MSE: the whitened embeddings of two views should be equal.

Ermolov, Siarohin, Sangineto, Sebe 2021, "Whitening for Self-Supervised Representation Learning"
(arXiv 2007.06346). The batch is divided at random into sub-batches. Each view of each sub-batch is
whitened with its own mean m and covariance Σ = L Lᵀ (Cholesky):

    w = L⁻¹ (z − m),     loss = mean ‖w̄_a − w̄_b‖²,     bars for unit norm

Whitening scatters the embeddings over a sphere, which prevents collapse without negatives or a
target network. ``slices`` random divisions are drawn per step to reduce the noise of the estimate.
With J > 2 views, the loss is averaged over all pairs, as in the authors' code.

A sub-batch of fewer than about 2·P rows makes Σ⁻¹ large and noisy, and is refused. Whitening uses
float32 or better, because Σ has no Cholesky factor in bfloat16. If some direction hardly varies,
which the loss does not prevent, Σ has no such factor in float32 either. Unlike in the paper,
recipes therefore add a small ridge to Σ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repzoo_training.distributed.gather import agree, gather
from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives.objective import Batch, Objective, Parts

__all__ = ["WMSE", "similarity_loss", "whiten", "whitening_loss"]


class WMSE(Objective):
    """The mean squared distance of whitened, normalised embeddings.

    Args:
        encoder: Images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> ``[N, P]``.
        dim: P.
        sub_batch: The smallest number of images to whiten together, at least 2·P. The batch is
            divided into as many equal sub-batches as possible.
        slices: The number of random divisions per step.
        ridge: ε in Σ + ε (tr Σ / P) I; 0 in the paper.

    Raises:
        ValueError: If ``sub_batch`` is too small, or another setting is out of range.
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        *,
        dim: int,
        sub_batch: int,
        slices: int = 1,
        ridge: float = 0.0,
    ) -> None:
        super().__init__(encoder)
        if sub_batch < 2 * dim:
            raise ValueError(
                f"whitening {dim} dimensions needs sub-batches of at least {2 * dim} images, "
                f"got {sub_batch}: raise sub_batch or lower projection_dim"
            )
        if slices < 1:
            raise ValueError(f"slices must be at least 1, got {slices}")
        if not ridge >= 0:
            raise ValueError(f"ridge must not be negative, got {ridge}")
        self.projector = projector
        self.sub_batch = sub_batch
        self.slices = slices
        self.ridge = ridge

    @classmethod
    def build(
        cls,
        parts: Parts,
        *,
        projection_hidden: int = 512,
        projection_dim: int = 32,
        sub_batch: int = 0,
        slices: int = 1,
        ridge: float = 1e-4,
    ) -> WMSE:
        """Build W-MSE; a ``sub_batch`` of 0 means 2·P."""
        return cls(
            parts.encoder,
            ProjectionHead((parts.latent_dim, projection_hidden, projection_dim)),
            dim=projection_dim,
            sub_batch=sub_batch or 2 * projection_dim,
            slices=slices,
            ridge=ridge,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, in [0, 4].

        Raises:
            ValueError: If there is only one view per image, or fewer images than ``sub_batch``.
        """
        B, J = batch.several_views("W-MSE")  # noqa: N806
        z = self.projector(self.encoder(batch.views.flatten(0, 1)))  # [B*J, P]
        with torch.autocast(z.device.type, enabled=False):
            z = gather(z.float().unflatten(0, (B, J)))  # [N, J, P]
            N = len(z)  # noqa: N806
            if self.sub_batch > N:
                raise ValueError(
                    f"W-MSE whitens {self.sub_batch} images together, but the batch has {N}: raise "
                    f"images_per_step to at least {self.sub_batch}, or lower projection_dim"
                )
            losses = [
                whitening_loss(z[order], N // self.sub_batch, self.ridge)
                for order in self._orders(N, batch.generator)
            ]
        return {"loss": torch.stack(losses).mean()}

    def _orders(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Draw permutations int64 ``[count]``, the same on all processes."""
        device = generator.device
        return [
            agree(torch.randperm(count, generator=generator, device=device))
            for _ in range(self.slices)
        ]


def whitening_loss(z: Tensor, pieces: int, ridge: float = 0.0) -> Tensor:
    """Whiten each view of each of ``pieces`` sub-batches of ``[N, J, P]``, and compare the views.

    See :func:`similarity_loss`.
    """
    whitened = [
        whiten(piece.transpose(0, 1), ridge)  # [J, n, P]
        for piece in z.tensor_split(pieces)
    ]
    return similarity_loss(torch.cat(whitened, dim=1).transpose(0, 1))  # of [N, J, P]


def whiten(x: Tensor, ridge: float = 0.0) -> Tensor:
    """Return L⁻¹ (x − m), with mean 0 and covariance I: ``[..., n, P]`` -> ``[..., n, P]``.

    The covariance is divided by n − 1.

    Args:
        x: n rows of float32 or float64.
        ridge: ε in L Lᵀ = Σ + ε (tr Σ / P) I.

    Raises:
        ValueError: If Σ has no Cholesky factor, because the rows span fewer than P dimensions.
    """
    n, P = x.shape[-2:]  # noqa: N806
    centered = x - x.mean(-2, keepdim=True)  # [..., n, P]
    covariance = centered.mT @ centered / (n - 1)  # [..., P, P]
    if ridge:
        size = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)  # [...], tr Σ / P
        eye = torch.eye(P, dtype=x.dtype, device=x.device)
        covariance = covariance + ridge * size[..., None, None] * eye
    L, failed = torch.linalg.cholesky_ex(covariance)  # noqa: N806
    if failed.any():
        raise ValueError(
            f"{n} embeddings do not vary in all {P} dimensions and cannot be whitened: lower "
            "projection_dim or the learning rate, or set a ridge (1e-4)"
        )
    whitened: Tensor = torch.linalg.solve_triangular(L, centered.mT, upper=False)  # [..., P, n]
    return whitened.mT  # [..., n, P]


def similarity_loss(w: Tensor) -> Tensor:
    """Return the mean of ‖w̄_i − w̄_j‖² = 2 − 2 cos over images and pairs i ≠ j, a scalar.

    Args:
        w: ``[N, J, P]``.
    """
    N, J = w.shape[:2]  # noqa: N806
    unit = F.normalize(w, dim=2)  # [N, J, P]
    cosine = torch.einsum("nip,njp->ij", unit, unit) / N  # [J, J]
    return 2 - 2 * (cosine.sum() - cosine.trace()) / (J * (J - 1))
