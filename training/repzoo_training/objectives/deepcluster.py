"""DeepCluster: k-means assigns pseudo-labels, and the network learns to predict them.

Caron, Bojanowski, Joulin, Douze 2018, "Deep Clustering for Unsupervised Learning of Visual
Features" (arXiv 1807.05520), in the form called DeepCluster-v2 by Caron et al. 2020
(arXiv 2006.09882). A memory bank stores the last embedding z_n of every image. Spherical k-means on
the bank gives centroids c_k and labels y_n, and the centroids are the classifier:

    loss = mean over images and views of −log softmax(C z̄ / τ)_y,     bars for unit norm

The papers cluster once per epoch, after a first pass that fills the bank. Runs here may last only
two or three epochs, so the schedule is our own:

- An image enters the bank in its first step, and only images in the bank are clustered.
- Images are clustered every ``recluster`` steps, and before that at steps 0, 1, 2, 4, 8, ...,
  while the bank and the network change fast.
- Each clustering starts from the previous centroids, so that a cluster remains the same class.
- An image that was never clustered is labelled by the mean of its own views, such that the images
  of a batch are divided equally among the clusters (as in SwAV, in the same paper). If it took the
  nearest cluster instead, few clusters would soon contain all images.

An empty cluster restarts at a random image, which usually belongs to a large cluster. The last
layer of the projection is batch-normalised: if all embeddings point in nearly the same direction,
so do the centroids, and nothing can be learned from them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repzoo_training.distributed.gather import agree, gather, rank
from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives.memory import MemoryBank
from repzoo_training.objectives.objective import Batch, Objective, Parts

__all__ = ["DeepCluster", "balanced_labels", "prototype_loss", "spherical_kmeans"]


class DeepCluster(Objective):
    """Cross entropy with the cluster of the image as the target.

    Args:
        encoder: Images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> ``[N, P]``.
        dim: P.
        images: The size of the data set.
        clusters: K, the number of clusters. At most as many clusters as images are used.
        temperature: τ of the softmax over clusters.
        recluster: The number of steps between clusterings.
        iterations: The number of k-means iterations per clustering.

    Attributes:
        centroids: float32 ``[K, P]``, of norm 1.
        labels: int64 ``[images]``; −1 for an image that was never clustered.
        step: int64, the number of steps taken.

    Raises:
        ValueError: If a setting is not positive, or K is 1.
    """

    centroids: Tensor
    labels: Tensor
    step: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        *,
        dim: int,
        images: int,
        clusters: int = 64,
        temperature: float = 0.1,
        recluster: int = 50,
        iterations: int = 5,
    ) -> None:
        super().__init__(encoder)
        if clusters < 2:
            raise ValueError(f"clusters must be at least 2, got {clusters}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if min(recluster, iterations) < 1:
            raise ValueError(
                f"recluster and iterations must be at least 1, got {recluster} and {iterations}"
            )
        self.projector = projector
        self.bank = MemoryBank(images, dim)
        self.register_buffer("centroids", F.normalize(torch.randn(clusters, dim)))
        self.register_buffer("labels", torch.full((images,), -1))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.temperature = temperature
        self.recluster = recluster
        self.iterations = iterations

    @classmethod
    def build(
        cls,
        parts: Parts,
        *,
        projection_hidden: int = 512,
        projection_dim: int = 64,
        clusters: int = 64,
        temperature: float = 0.1,
        recluster: int = 50,
        iterations: int = 5,
    ) -> DeepCluster:
        return cls(
            parts.encoder,
            ProjectionHead((parts.latent_dim, projection_hidden, projection_dim), last_norm=True),
            dim=projection_dim,
            images=parts.images,
            clusters=clusters,
            temperature=temperature,
            recluster=recluster,
            iterations=iterations,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, and ``used``, the share of clusters among the labels of the batch.

        Raises:
            ValueError: If there is only one view per image.
        """
        B, J = batch.several_views("DeepCluster")  # noqa: N806
        z = self.projector(self.encoder(batch.views.flatten(0, 1)))  # [B*J, P]
        with torch.autocast(z.device.type, enabled=False):
            z = F.normalize(z.float()).unflatten(0, (B, J))  # [B, J, P]
            mean = gather(z.detach().mean(1))  # [N, P], from all processes
            indices = gather(batch.indices)  # [N]
            self.bank.update(indices, mean, momentum=0.0)
            if self._due():
                self._cluster(batch.generator)
            self.step += 1
            shared = balanced_labels(mean @ self.centroids.T).view(-1, B)[rank()]  # [B]
            label = self.labels[batch.indices]  # [B]
            label = torch.where(label < 0, shared, label)
            loss = prototype_loss(z, self.centroids, label, self.temperature)
            used = F.one_hot(label, len(self.centroids)).amax(0).float().mean()
        return {"loss": loss, "used": used}

    def _due(self) -> bool:
        step = int(self.step)
        return step % self.recluster == 0 or (step < self.recluster and step & (step - 1) == 0)

    @torch.no_grad()
    def _cluster(self, generator: torch.Generator) -> None:
        """Compute new centroids and labels from the bank, the same on all processes."""
        seen = self.bank.seen.nonzero()[:, 0]  # [n]
        rows = self.bank.rows[seen]  # [n, P]
        centroids = self.centroids.clone()
        K = min(len(centroids), len(rows))  # noqa: N806
        centroids[:K], _ = spherical_kmeans(rows, centroids[:K], self.iterations, generator)
        self.centroids.copy_(agree(centroids))
        self.labels[seen] = (rows @ self.centroids[:K].T).argmax(1)  # [n]


def prototype_loss(z: Tensor, centroids: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the mean of −log softmax(C z / τ)_y over images and views, a scalar.

    Args:
        z: Embeddings of norm 1, ``[B, J, P]``.
        centroids: C, of norm 1, ``[K, P]``.
        labels: y, int64 ``[B]``.
        temperature: τ of the softmax over clusters.
    """
    logits = (z @ centroids.T / temperature).flatten(0, 1)  # [B*J, K]
    return F.cross_entropy(logits, labels.repeat_interleave(z.shape[1]))


def balanced_labels(
    similarity: Tensor, *, temperature: float = 0.05, iterations: int = 3
) -> Tensor:
    """Assign rows to clusters of about equal size: cosines ``[N, K]`` -> int64 ``[N]``.

    Sinkhorn-Knopp iterations on exp(cos / ε), with SwAV's settings. Columns are scaled to sum to N
    / K and rows to sum to 1, in turn. The label of a row is the column of its largest entry.
    """
    N, K = similarity.shape  # noqa: N806
    log_q = similarity / temperature  # [N, K]
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(0, keepdim=True) + math.log(N / K)
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
    return log_q.argmax(1)  # [N]


def spherical_kmeans(
    rows: Tensor, start: Tensor, iterations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Find unit centroids that increase Σ_n max_k cos(z_n, c_k) (Dhillon, Modha 2001).

    A centroid that is not the nearest one of any row restarts at a random row, except in the last
    iteration, in which it does not move.

    Args:
        rows: z, of norm 1, ``[N, P]``.
        start: The first centroids, of norm 1, ``[K, P]`` with K <= N.
        iterations: The number of assignments and updates.
        generator: The source of restarts, on the device of the rows.

    Returns:
        Centroids ``[K, P]``, and the nearest one of each row, int64 ``[N]``.
    """
    K = len(start)  # noqa: N806
    centroids = start
    for iteration in range(iterations):
        nearest = (rows @ centroids.T).argmax(1)  # [N]
        sums = torch.zeros_like(centroids).index_add(0, nearest, rows)  # [K, P]
        empty = torch.bincount(nearest, minlength=K) == 0  # [K]
        if iteration < iterations - 1:
            order = torch.randperm(len(rows), generator=generator, device=rows.device)
            restart = rows[order[:K]]  # [K, P]
        else:
            restart = centroids
        centroids = F.normalize(torch.where(empty[:, None], restart, sums))
    return centroids, (rows @ centroids.T).argmax(1)
