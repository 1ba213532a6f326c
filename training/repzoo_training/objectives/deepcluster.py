"""DeepCluster: k-means makes labels, the network learns to predict them.

Caron, Bojanowski, Joulin, Douze 2018, "Deep Clustering for Unsupervised Learning of Visual
Features" (arXiv 1807.05520), in the form that Caron et al. 2020 (arXiv 2006.09882) call
DeepCluster-v2: a bank keeps the embedding z_n of every image as it was last seen, spherical
k-means on it gives centroids c_k and labels y_n, and the centroids are the classifier:

    loss = mean over images and views of −log softmax(C z̄ / τ)_y,     bars for unit norm

The papers cluster once an epoch, after a first pass that fills the bank. Runs here may last two or
three epochs, so (our choice):

- an image is in the bank from the first step that it is part of, and only those are clustered;
- clusters are made anew every ``recluster`` steps, and before that at steps 0, 1, 2, 4, 8, ...,
  while the bank and the network change fast;
- each clustering starts from the last centroids, so that a cluster stays the same class;
- an image that was never clustered takes a label by the mean of its own views, such that the
  images of a batch share the clusters out equally (as SwAV does, in the same paper): were it just
  the nearest, few clusters would soon take all.

An empty cluster restarts at a random image, which falls into the large clusters most often. The
last layer of the projection is batch-normalised: embeddings that all point nearly the same way
have nearly equal centroids, and from those nothing is learnt.
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
    """Cross entropy to the cluster of the image.

    Args:
        encoder: images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> ``[N, P]``.
        dim: P.
        images: size of the data set.
        clusters: K; at most as many as there are images get any.
        temperature: τ.
        recluster: steps from one clustering to the next.
        iterations: of k-means at each.

    Attributes:
        centroids: float32 ``[K, P]``, of norm 1.
        labels: int64 ``[images]``; −1 for an image that was never clustered.
        step: int64, steps taken.

    Raises:
        ValueError: if a setting is not positive, or K is 1.
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
            raise ValueError(f"one cluster teaches nothing: clusters must be >= 2, not {clusters}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        if min(recluster, iterations) < 1:
            raise ValueError(
                f"recluster and iterations must be at least 1, not {recluster} and {iterations}"
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
        """``loss``, and ``used``, the share of clusters that the batch's labels name.

        Raises:
            ValueError: for one view an image.
        """
        B, J = batch.views.shape[:2]  # noqa: N806
        if J < 2:
            raise ValueError(
                "DeepCluster labels a new image by its views together: "
                f"it needs at least 2 an image, not {J}"
            )
        z = self.projector(self.encoder(batch.views.flatten(0, 1)))  # [B*J, P]
        with torch.autocast(z.device.type, enabled=False):
            z = F.normalize(z.float()).unflatten(0, (B, J))  # [B, J, P]
            mean = gather(z.detach().mean(1))  # [N, P], of all processes
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
        """New centroids and labels from the bank, the same on all processes."""
        seen = self.bank.seen.nonzero()[:, 0]  # [n]
        rows = self.bank.rows[seen]  # [n, P]
        centroids = self.centroids.clone()
        K = min(len(centroids), len(rows))  # noqa: N806
        centroids[:K], _ = spherical_kmeans(rows, centroids[:K], self.iterations, generator)
        self.centroids.copy_(agree(centroids))
        self.labels[seen] = (rows @ self.centroids[:K].T).argmax(1)


def prototype_loss(z: Tensor, centroids: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Mean of −log softmax(C z / τ)_y over images and views.

    Args:
        z: of norm 1, ``[B, J, P]``.
        centroids: C, of norm 1, ``[K, P]``.
        labels: y, int64 ``[B]``.
        temperature: τ.
    """
    logits = (z @ centroids.T / temperature).flatten(0, 1)  # [B*J, K]
    return F.cross_entropy(logits, labels.repeat_interleave(z.shape[1]))


def balanced_labels(
    similarity: Tensor, *, temperature: float = 0.05, iterations: int = 3
) -> Tensor:
    """Clusters that take about as many rows each: cosines ``[N, K]`` -> int64 ``[N]``.

    Sinkhorn and Knopp's iterations on exp(cos / ε), with SwAV's settings: the columns are made to
    sum to N / K and the rows to 1, in turn; a row's label is its largest entry.
    """
    N, K = similarity.shape  # noqa: N806
    log_q = similarity / temperature
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(0, keepdim=True) + math.log(N / K)
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
    return log_q.argmax(1)


def spherical_kmeans(
    rows: Tensor, start: Tensor, iterations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Unit centroids that raise Σ_n max_k cos(z_n, c_k) (Dhillon, Modha 2001).

    A centroid that is nearest to no row restarts at a random one, but for the last iteration,
    after which it stays.

    Args:
        rows: z, of norm 1, ``[N, P]``.
        start: first centroids, of norm 1, ``[K, P]`` with K <= N.
        iterations: of assignment and mean.
        generator: of the restarts, on the rows' device.

    Returns:
        centroids ``[K, P]`` and the nearest of them to each row, int64 ``[N]``.
    """
    K = len(start)  # noqa: N806
    centroids = start
    for iteration in range(iterations):
        nearest = (rows @ centroids.T).argmax(1)  # [N]
        sums = torch.zeros_like(centroids).index_add(0, nearest, rows)
        empty = torch.bincount(nearest, minlength=K) == 0  # [K]
        if iteration < iterations - 1:
            order = torch.randperm(len(rows), generator=generator, device=rows.device)
            restart = rows[order[:K]]  # [K, P]
        else:
            restart = centroids
        centroids = F.normalize(torch.where(empty[:, None], restart, sums))
    return centroids, (rows @ centroids.T).argmax(1)
