"""W-MSE: comparison with lightly, explicit whitening in NumPy, and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from lightly.loss.wmse_loss import Whitening2d, WMSELoss
from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives import Batch, Parts
from repzoo_training.objectives.w_mse import WMSE, similarity_loss, whiten, whitening_loss
from torch import Tensor, nn
from torch.nn import functional as F


def projections(N: int, J: int, P: int) -> Tensor:  # noqa: N803
    random = torch.Generator().manual_seed(N * J * P)
    z = torch.randn(N, J, P, generator=random, dtype=torch.float64)
    z = z + torch.randn(N, 1, P, generator=random, dtype=torch.float64)
    mixing = torch.randn(P, P, generator=random, dtype=torch.float64)
    return z @ mixing


def by_definition(z: Tensor, pieces: list[list[int]]) -> float:
    """Whiten every view of every sub-batch separately; compare all ordered pairs of views."""
    J = z.shape[1]  # noqa: N806
    total, count = 0.0, 0
    for rows in pieces:
        unit = []
        for j in range(J):
            x = z[rows, j].numpy()
            factor = np.linalg.cholesky(np.cov(x, rowvar=False))
            w = (x - x.mean(0)) @ np.linalg.inv(factor).T
            unit.append(w / np.linalg.norm(w, axis=1, keepdims=True))
        for a in range(J):
            for b in range(J):
                if a != b:
                    total += float(((unit[a] - unit[b]) ** 2).sum())
                    count += len(rows)
    return total / count


@pytest.mark.parametrize("J", [2, 3])
def test_equals_its_definition(J: int) -> None:  # noqa: N803
    z = projections(20, J, 4)
    whole = [list(range(20))]
    assert whitening_loss(z, 1).item() == pytest.approx(by_definition(z, whole), rel=1e-9)
    halves = [list(range(10)), list(range(10, 20))]
    assert whitening_loss(z, 2).item() == pytest.approx(by_definition(z, halves), rel=1e-9)
    uneven = [list(range(10)), list(range(10, 19))]  # no image is left out
    expected = by_definition(z[:19], uneven)
    assert whitening_loss(z[:19], 2).item() == pytest.approx(expected, rel=1e-9)
    assert abs(by_definition(z, whole) - by_definition(z, halves)) > 0.01


def test_whitened_embeddings_are_white() -> None:
    w = whiten(projections(30, 2, 5).transpose(0, 1))  # [J, n, P]
    for view in w:
        torch.testing.assert_close(view.mean(0), torch.zeros(5, dtype=w.dtype))
        torch.testing.assert_close(torch.cov(view.T), torch.eye(5, dtype=w.dtype))


def test_whitening_equals_lightly() -> None:
    x = projections(30, 1, 5)[:, 0]
    theirs = Whitening2d(5, track_running_stats=False)(x)
    torch.testing.assert_close(whiten(x), theirs)


@pytest.mark.parametrize("J", [2, 3])
def test_one_sub_batch_equals_lightly_in_value_and_gradient(J: int) -> None:  # noqa: N803
    # lightly takes views one after the other, and only supports float32.
    z = projections(16, J, 4).float().requires_grad_()
    loss = WMSELoss(4, w_size=16, num_samples=J, track_running_stats=False)
    theirs = loss(z.transpose(0, 1).flatten(0, 1))
    ours = whitening_loss(z, 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(value, z)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_random_sub_batches_equal_lightly_on_the_same_draw() -> None:
    random = torch.Generator().manual_seed(0)
    z = torch.randn(32, 2, 4, generator=random)
    loss = WMSELoss(4, w_size=8, track_running_stats=False)
    torch.manual_seed(3)
    theirs = loss(z.transpose(0, 1).flatten(0, 1))
    objective = WMSE(nn.Flatten(), nn.Identity(), dim=4, sub_batch=8)
    batch = Batch(z.view(32, 2, 1, 1, 4), torch.arange(32), torch.Generator().manual_seed(3))
    torch.testing.assert_close(objective(batch)["loss"], theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("J", [2, 3])
def test_gradient_equals_finite_differences(J: int) -> None:  # noqa: N803
    z = projections(12, J, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: whitening_loss(z, 2), (z,))
    assert torch.autograd.gradcheck(lambda z: whitening_loss(z, 1, 0.1), (z,))


def test_invariances() -> None:
    z = projections(14, 3, 4)
    expected = whitening_loss(z, 1)
    # Cholesky whitening undoes any lower triangular map with a positive diagonal, of each view.
    triangles = torch.linalg.cholesky(torch.eye(4) + projections(4, 3, 4).transpose(0, 1) ** 2 @ (
        projections(4, 3, 4).transpose(0, 1).mT ** 2
    ))  # fmt: skip  # [J, P, P]
    mapped = torch.einsum("njp,jqp->njq", z, triangles)
    for same in (
        mapped,
        100 * z + 7,
        z[:, [2, 0, 1]],  # views
        z.roll(5, 0),  # images
    ):
        torch.testing.assert_close(whitening_loss(same, 1), expected)
    # Rotations have an upper triangular part, and change the axes that a view is mapped to.
    rotation, _ = torch.linalg.qr(projections(4, 1, 4)[:, 0])
    assert abs(whitening_loss(z @ rotation, 1) - expected) > 1e-4


def test_the_ridge_is_relative_to_the_scale() -> None:
    z = projections(14, 2, 4)
    torch.testing.assert_close(whitening_loss(50 * z, 1, 0.1), whitening_loss(z, 1, 0.1))
    assert abs(whitening_loss(z, 1, 0.1) - whitening_loss(z, 1)) > 1e-3


def test_the_cut_comes_from_the_batch_s_generator() -> None:
    z = projections(32, 2, 4).float().view(32, 2, 1, 1, 4)
    objective = WMSE(nn.Flatten(), nn.Identity(), dim=4, sub_batch=8)

    def loss(seed: int, slices: int = 1) -> float:
        objective.slices = slices
        draws = torch.Generator().manual_seed(seed)
        return objective(Batch(z, torch.arange(32), draws))["loss"].item()

    assert loss(0) == loss(0) != loss(1)
    draws = torch.Generator().manual_seed(0)
    singles = [objective(Batch(z, torch.arange(32), draws))["loss"].item() for _ in range(3)]
    assert loss(0, slices=3) == pytest.approx(sum(singles) / 3)


def test_autocast_leaves_whitening_in_float32(
    toy_parts: Callable[..., Parts], digit_batch: Callable[..., Batch]
) -> None:
    objective = WMSE.build(toy_parts(), projection_dim=16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(digit_batch(0))["loss"]
    assert loss.dtype == torch.float32
    loss.backward()
    exact = objective(digit_batch(0))["loss"]
    assert loss.item() == pytest.approx(exact.item(), abs=0.1)


def test_without_whitening_everything_collapses(
    toy_parts: Callable[..., Parts],
    train_toy: Callable[..., tuple[Tensor, list[float]]],
) -> None:
    class Unwhitened(WMSE):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            z = self.projector(self.encoder(batch.views.flatten(0, 1)))
            return {"loss": similarity_loss(z.unflatten(0, batch.views.shape[:2]))}

    def spread(kind: type[WMSE]) -> float:
        """Mean standard deviation of unit projections, times √P: about 1 if they fill a sphere."""
        projector = ProjectionHead((8, 32, 8), norm=False)
        objective = kind(toy_parts().encoder, projector, dim=8, sub_batch=32, ridge=1e-4)
        images, _ = train_toy(objective, 100)
        with torch.no_grad():
            z = F.normalize(objective.projector(objective.encoder(images)))
        return 8**0.5 * z.std(0).mean().item()

    assert spread(Unwhitened) < 0.05
    assert spread(WMSE) > 0.15  # 0.26 and more, depending on the processor


def test_its_state_is_in_its_state_dict(
    toy_parts: Callable[..., Parts], assert_resumes: Callable[..., None]
) -> None:
    assert_resumes(lambda seed: WMSE.build(toy_parts(seed), projection_dim=16))


def test_refusals(toy_parts: Callable[..., Parts], digit_batch: Callable[..., Batch]) -> None:
    with pytest.raises(ValueError, match="at least 2 views per image, got 1"):
        WMSE.build(toy_parts())(digit_batch(0, views=1))
    with pytest.raises(ValueError, match=r"the batch has 64.*images_per_step to at least 128"):
        WMSE.build(toy_parts(), projection_dim=64)(digit_batch(0))
    with pytest.raises(ValueError, match="at least 64 images, got 63"):
        WMSE.build(toy_parts(), projection_dim=32, sub_batch=63)
    with pytest.raises(ValueError, match="slices"):
        WMSE.build(toy_parts(), slices=0)
    with pytest.raises(ValueError, match="ridge"):
        WMSE.build(toy_parts(), ridge=-1.0)
    flat = projections(20, 1, 4)[:, 0].clone()
    flat[:, 2] = 0
    with pytest.raises(ValueError, match="do not vary in all 4 dimensions"):
        whiten(flat)
    assert whiten(flat, 1e-4).isfinite().all()
