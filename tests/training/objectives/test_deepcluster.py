"""DeepCluster: comparison of spherical k-means with scikit-learn, and its pseudo-labels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lightly.loss.swav_loss import sinkhorn
from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives import Batch, Parts, deepcluster
from repzoo_training.objectives.deepcluster import (
    DeepCluster,
    balanced_labels,
    prototype_loss,
    spherical_kmeans,
)
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn
from torch.nn import functional as F


def unit(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=random, dtype=torch.float64), dim=-1)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def similarity(rows: Tensor, centroids: Tensor) -> float:
    """Return the objective of k-means: the mean cosine to the nearest centroid."""
    return (rows @ F.normalize(centroids).T).amax(1).mean().item()


def clouds(K: int, each: int, noise: float) -> tuple[Tensor, Tensor]:  # noqa: N803
    """Return rows around K directions, and the direction of each row."""
    label = torch.arange(K).repeat(each)
    rows = unit(K, 8, seed=3)[label] + noise * unit(K * each, 8, seed=4)
    return F.normalize(rows), label


def test_separate_clouds_are_found_as_scikit_learn_finds_them() -> None:
    rows, label = clouds(6, 50, 0.4)
    theirs = KMeans(6, n_init=10, random_state=0).fit(rows.numpy()).labels_
    assert adjusted_rand_score(label, theirs) == 1.0
    found = []
    for seed in range(10):
        start = rows[torch.randperm(len(rows), generator=draws(seed))[:6]]
        found.append(spherical_kmeans(rows, start, 20, draws(seed)))
    _, ours = max(found, key=lambda result: similarity(rows, result[0]))
    assert adjusted_rand_score(theirs, ours) == 1.0


@pytest.mark.parametrize("digits_dim", [8, 32])
def test_objective_is_as_good_as_scikit_learn_s(digits: Tensor, digits_dim: int) -> None:
    # Real images, projected to few dimensions and to the sphere.
    x = digits.flatten(1).double() / 255
    x = F.normalize((x - x.mean(0)) @ torch.linalg.svd(x - x.mean(0))[2][:digits_dim].T)
    theirs = KMeans(20, n_init=1, random_state=0).fit(x.numpy()).cluster_centers_
    expected = similarity(x, torch.from_numpy(theirs))
    start = x[torch.randperm(len(x), generator=draws())[:20]]
    ours, nearest = spherical_kmeans(x, start, 30, draws())
    assert similarity(x, ours) > 0.98 * expected
    assert similarity(x, start) < 0.95 * expected  # it was not the start
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(20, dtype=x.dtype))
    assert torch.equal(nearest, (x @ ours.T).argmax(1))


def test_every_iteration_raises_the_objective() -> None:
    rows, _ = clouds(5, 40, 1.0)
    values = [
        similarity(rows, spherical_kmeans(rows, rows[:5], n, draws())[0]) for n in range(1, 8)
    ]
    assert values == sorted(values)
    assert values[-1] > values[0]


def test_centroids_are_mean_directions_of_their_rows() -> None:
    rows, _ = clouds(5, 40, 0.4)
    centroids, nearest = spherical_kmeans(rows, unit(5, 8, seed=3), 20, draws())
    for k, centroid in enumerate(centroids):
        torch.testing.assert_close(centroid, F.normalize(rows[nearest == k].sum(0), dim=0))


def test_an_empty_cluster_starts_again() -> None:
    rows, _ = clouds(3, 50, 0.3)
    far = -rows.mean(0, keepdim=True)
    start = torch.cat([rows[:1], F.normalize(far + 0.01 * unit(2, 8))])
    start[1:] = -rows[:1]  # the nearest centroid of no row, or of one cloud
    found, nearest = spherical_kmeans(rows, start, 30, draws(1))
    assert len(nearest.unique()) == 3
    assert similarity(rows, found) > similarity(rows, start)


def test_draws_come_from_the_generator() -> None:
    rows = unit(100, 4)
    start = -rows.mean(0, keepdim=True).expand(8, -1)  # all alike: seven are empty
    start = F.normalize(start)
    a, b, c = (spherical_kmeans(rows, start, 3, draws(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_prototype_loss_equals_its_definition() -> None:
    z, C = unit(5, 3, 4), unit(6, 4, seed=1)  # noqa: N806
    labels = torch.tensor([0, 5, 2, 2, 1])
    total = 0.0
    for n in range(5):
        for j in range(3):
            p = torch.tensor([torch.dot(z[n, j], c).item() / 0.3 for c in C]).double().exp()
            total -= (p[labels[n]] / p.sum()).log().item()
    ours = prototype_loss(z, C, labels, 0.3)
    assert ours.item() == pytest.approx(total / 15, rel=1e-6)


def test_prototype_loss_gradient_and_invariances() -> None:
    z, C = unit(4, 2, 3), unit(5, 3, seed=1)  # noqa: N806
    labels = torch.tensor([0, 4, 2, 2])
    assert torch.autograd.gradcheck(
        lambda z: prototype_loss(z, C, labels, 0.5), (z.clone().requires_grad_(),)
    )
    expected = prototype_loss(z, C, labels, 0.5)
    rotation, _ = torch.linalg.qr(unit(3, 3, seed=2))
    order = torch.tensor([3, 0, 4, 1, 2])  # new cluster k was cluster order[k]
    for same in (
        prototype_loss(z @ rotation, C @ rotation, labels, 0.5),
        prototype_loss(z[:, [1, 0]], C, labels, 0.5),  # views
        prototype_loss(z.roll(1, 0), C, labels.roll(1), 0.5),  # images
        prototype_loss(z, C[order], order.argsort()[labels], 0.5),  # clusters
    ):
        torch.testing.assert_close(same, expected)


def test_balanced_labels_share_the_clusters_out() -> None:
    # One centroid in a cloud of 4 rows, and two in a cloud of 8 rows; one is nearer to all 8.
    similarity = torch.full((12, 3), 0.1, dtype=torch.float64)
    similarity[:4, 0] = 0.9
    similarity[4:, 1:] = torch.tensor([0.8, 0.7])
    similarity += 0.01 * unit(12, 3, seed=1)
    assert torch.bincount(similarity.argmax(1), minlength=3).tolist() == [4, 8, 0]
    labels = balanced_labels(similarity, iterations=20)
    assert (labels[:4] == 0).all()
    assert torch.bincount(labels, minlength=3).min() >= 2


def test_balanced_labels_follow_lightly_s_sinkhorn() -> None:
    similarity = unit(32, 8) @ unit(8, 8, seed=1).T
    theirs = sinkhorn(similarity, iterations=3, epsilon=0.05).argmax(1)
    assert torch.equal(balanced_labels(similarity), theirs)
    assert not torch.equal(theirs, similarity.argmax(1))


def objective(**options: float) -> DeepCluster:
    """Build DeepCluster on points of the plane, with identity networks."""
    settings = {"clusters": 3, "recluster": 100, **options}
    torch.manual_seed(0)
    return DeepCluster(nn.Flatten(), nn.Identity(), dim=2, images=40, **settings)  # type: ignore[arg-type]


def plane(angles: Tensor) -> Tensor:
    """Unit vectors as views ``[B, J, 1, 1, 2]`` of angles ``[B, J]``."""
    return torch.stack([angles.cos(), angles.sin()], -1)[:, :, None, None, :]


def test_images_are_labelled_by_the_clusters_of_all_seen_so_far() -> None:
    angle = torch.tensor([0.0, 2.0, 4.0]).repeat(4)[:, None] + 0.1 * torch.rand(12, 2)
    method = objective()
    method(Batch(plane(angle), torch.arange(12), draws()))
    assert (method.labels[12:] == -1).all()
    assert method.bank.seen.sum() == 12
    assert method.labels[:12].view(4, 3).eq(method.labels[:3]).all()  # the three clusters
    assert len(method.labels[:3].unique()) == 3
    mean = F.normalize(F.normalize(plane(angle).flatten(2), dim=2).mean(1))
    torch.testing.assert_close(method.bank.rows[:12], mean)


def test_the_loss_is_of_the_last_clustering_s_label_until_the_next() -> None:
    method = objective(recluster=3)
    angle = torch.tensor([0.0, 2.0, 4.0]).repeat(4)[:, None].expand(12, 2)
    for _ in range(3):  # steps 0, 1 and 2 all cluster
        method(Batch(plane(angle), torch.arange(12), draws()))
    method.recluster = 100
    method.step.fill_(5)  # no power of 2
    labels = method.labels.clone()
    # Every image moves to the next cloud, and keeps the label that it had.
    moved = angle.roll(1, 0)
    loss = method(Batch(plane(moved), torch.arange(12), draws()))["loss"]
    assert torch.equal(method.labels, labels)
    z = plane(moved).flatten(2)
    expected = prototype_loss(z, method.centroids, labels[:12], 0.1)
    torch.testing.assert_close(loss, expected)
    # Images that were never clustered get the label of their position.
    loss = method(Batch(plane(moved), torch.arange(12, 24), draws()))["loss"]
    nearest = (z[:, 0] @ method.centroids.T).argmax(1)
    torch.testing.assert_close(loss, prototype_loss(z, method.centroids, nearest, 0.1))
    assert (method.labels[12:24] == -1).all()


def test_clusters_are_made_often_at_first_and_then_regularly(
    toy_parts: Callable[..., Parts], digit_batch: Callable[..., Batch]
) -> None:
    method = DeepCluster.build(toy_parts(), recluster=10, clusters=8, projection_dim=8)
    changed = []
    for step in range(31):
        before = method.centroids.clone()
        method(digit_batch(step))
        if not torch.equal(method.centroids, before):
            changed.append(step)
    assert changed == [0, 1, 2, 4, 8, 10, 20, 30]


def test_more_clusters_than_images_are_allowed() -> None:
    method = objective(clusters=20)
    start = method.centroids.clone()
    angle = torch.rand(5, 2) * 6
    assert method(Batch(plane(angle), torch.arange(5), draws()))["loss"].isfinite()
    assert torch.equal(method.centroids[5:], start[5:])
    assert method.labels[:5].max() < 5


def test_without_clustering_and_balance_few_labels_are_left(
    toy_parts: Callable[..., Parts],
    train_toy: Callable[..., tuple[Tensor, list[float]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def perplexity(guarded: bool) -> float:
        """Return the effective number of clusters of 512 digits, from 1 to K."""
        method = DeepCluster(
            toy_parts().encoder,
            ProjectionHead((8, 32, 8)),
            dim=8,
            images=2000,
            clusters=32,
            recluster=20,
        )
        if not guarded:
            monkeypatch.setattr(method, "_cluster", lambda generator: None)
            monkeypatch.setattr(deepcluster, "balanced_labels", lambda cosine: cosine.argmax(1))
        images, _ = train_toy(method, 100)
        method.eval()
        with torch.no_grad():
            z = F.normalize(method.projector(method.encoder(images)))
        share = torch.bincount((z @ method.centroids.T).argmax(1), minlength=32) / 512
        return torch.special.entr(share).sum().exp().item()

    assert perplexity(guarded=True) > 6
    assert perplexity(guarded=False) < 3


def test_its_state_is_in_its_state_dict(
    toy_parts: Callable[..., Parts], assert_resumes: Callable[..., None]
) -> None:
    assert_resumes(lambda seed: DeepCluster.build(toy_parts(seed), projection_dim=8, clusters=16))


def test_refusals(toy_parts: Callable[..., Parts], digit_batch: Callable[..., Batch]) -> None:
    with pytest.raises(ValueError, match="at least 2 views per image, got 1"):
        DeepCluster.build(toy_parts())(digit_batch(0, views=1))
    with pytest.raises(ValueError, match="clusters"):
        DeepCluster.build(toy_parts(), clusters=1)
    with pytest.raises(ValueError, match="temperature"):
        DeepCluster.build(toy_parts(), temperature=0.0)
    with pytest.raises(ValueError, match="recluster"):
        DeepCluster.build(toy_parts(), recluster=0)
