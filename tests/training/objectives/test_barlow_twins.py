"""Barlow Twins: comparison with lightly, its definition in loops, and finite differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from lightly.loss import BarlowTwinsLoss
from repzoo_training.objectives import Batch, Parts
from repzoo_training.objectives.barlow_twins import (
    BarlowTwins,
    cross_correlation,
    invariance_loss,
    redundancy_loss,
    standardize,
)
from torch import Tensor, nn


def projections(N: int, J: int, P: int) -> Tensor:  # noqa: N803
    random = torch.Generator().manual_seed(N * J * P)
    z = torch.randn(N, J, P, generator=random, dtype=torch.float64)
    return z + torch.randn(N, 1, P, generator=random, dtype=torch.float64)


def loss(z: Tensor, redundancy: float = 0.0051) -> Tensor:
    """From the public terms, as the class sums them."""
    pairs = itertools.combinations(standardize(z).unbind(1), 2)
    c = torch.stack([cross_correlation(a, b) for a, b in pairs])
    return invariance_loss(c) + redundancy * redundancy_loss(c)


def by_definition(z: Tensor, redundancy: float) -> float:
    """The paper's sums for every pair of views, with 1e-5 added to variances."""
    N, J, P = z.shape  # noqa: N806
    pairs = [(a, b) for a in range(J) for b in range(J) if a != b]
    total = 0.0
    for a, b in pairs:
        for i in range(P):
            for j in range(P):
                x, y = z[:, a, i].tolist(), z[:, b, j].tolist()
                mean_x, mean_y = sum(x) / N, sum(y) / N
                covariance = sum((u - mean_x) * (v - mean_y) for u, v in zip(x, y, strict=True)) / N
                var_x = sum((u - mean_x) ** 2 for u in x) / N + 1e-5
                var_y = sum((v - mean_y) ** 2 for v in y) / N + 1e-5
                c = covariance / math.sqrt(var_x * var_y)
                total += (1 - c) ** 2 if i == j else redundancy * c**2
    return total / len(pairs)


@pytest.mark.parametrize("J", [2, 3, 4])
@pytest.mark.parametrize("redundancy", [0.0051, 1.0])
def test_equals_its_definition(J: int, redundancy: float) -> None:  # noqa: N803
    z = projections(7, J, 5)
    expected = by_definition(z, redundancy)
    assert loss(z, redundancy).item() == pytest.approx(expected, rel=1e-10)


def test_two_views_equal_lightly_in_value_and_gradient() -> None:
    # Their default λ is 5e-3, the paper's 0.0051.
    z = projections(16, 2, 8).requires_grad_()
    theirs = BarlowTwinsLoss(0.0051)(z[:, 0], z[:, 1])
    ours = loss(z)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value, z)[0] for value in (ours, theirs)))


def test_the_second_term_leaves_the_diagonal_out() -> None:
    c = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    assert redundancy_loss(c).item() == 0
    assert invariance_loss(c).item() == pytest.approx(0 + 1 + 4)
    assert redundancy_loss(c + 1).item() == pytest.approx(6)


@pytest.mark.parametrize("J", [2, 3])
def test_gradient_equals_finite_differences(J: int) -> None:  # noqa: N803
    z = projections(5, J, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, 0.5), (z,))


def test_correlations_are_all_it_sees() -> None:
    z = projections(9, 3, 4)
    expected = loss(z)
    scale = projections(1, 1, 4).exp()
    for same in (
        z[:, [2, 0, 1]],  # views
        z[torch.randperm(9, generator=torch.Generator().manual_seed(0))],  # images
        z[..., [3, 1, 0, 2]],  # dimensions
        z + projections(1, 3, 4),
    ):
        torch.testing.assert_close(loss(same), expected)
    # Scale, up to the 1e-5 added to the variances.
    torch.testing.assert_close(loss(1e3 * scale * z), loss(1e3 * z), rtol=1e-5, atol=0)
    # Not rotations: single dimensions have a meaning.
    rotation, _ = torch.linalg.qr(projections(4, 1, 4)[:, 0])
    assert abs(loss(z @ rotation) - expected) > 0.01


def test_one_decorrelated_view_twice_has_no_loss() -> None:
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)
    assert loss(1e3 * signs[:, None].expand(-1, 2, -1)).item() == pytest.approx(0, abs=1e-12)


def test_the_objective_sums_the_terms_of_its_projections() -> None:
    z = projections(6, 3, 4)
    objective = BarlowTwins(nn.Flatten(), nn.Identity(), redundancy=0.1)
    batch = Batch(z.float().view(6, 3, 1, 1, 4), torch.arange(6), torch.Generator())
    terms = objective(batch)
    assert terms["loss"].item() == pytest.approx(by_definition(z, 0.1), rel=1e-5)
    total = terms["invariance"] + 0.1 * terms["redundancy"]
    assert terms["loss"].item() == pytest.approx(total.item())


def test_without_the_second_term_dimensions_say_the_same(
    toy_parts: Callable[..., Parts], train_toy: Callable[..., tuple[Tensor, list[float]]]
) -> None:
    def correlation(redundancy: float) -> float:
        """Mean absolute correlation of different dimensions of the projections."""
        objective = BarlowTwins.build(
            toy_parts(), projection_hidden=32, projection_dim=16, redundancy=redundancy
        )
        images, _ = train_toy(objective, 100)
        with torch.no_grad():
            z = standardize(objective.projector(objective.encoder(images)))
            c = cross_correlation(z, z)
        return ((c.abs().sum() - c.diagonal().abs().sum()) / (16 * 15)).item()

    unguarded, guarded = correlation(0.0), correlation(0.1)
    assert unguarded > 2 * guarded


def test_its_state_is_in_its_state_dict(
    toy_parts: Callable[..., Parts], assert_resumes: Callable[..., None]
) -> None:
    assert_resumes(lambda seed: BarlowTwins.build(toy_parts(seed), projection_dim=16))


def test_refusals(toy_parts: Callable[..., Parts], digit_batch: Callable[..., Batch]) -> None:
    objective = BarlowTwins.build(toy_parts())
    with pytest.raises(ValueError, match="at least 2 views per image, got 1"):
        objective(digit_batch(0, views=1))
    with pytest.raises(ValueError, match="at least 2 images"):
        standardize(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="redundancy"):
        BarlowTwins.build(toy_parts(), redundancy=-1.0)
