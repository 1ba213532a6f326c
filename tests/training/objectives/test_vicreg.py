"""VICReg: comparison with lightly, its definition in loops, and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from lightly.loss import VICRegLoss
from lightly.loss.vicreg_loss import covariance_loss as lightly_covariance
from lightly.loss.vicreg_loss import variance_loss as lightly_variance
from repzoo_training.objectives import Batch, Parts
from repzoo_training.objectives.vicreg import (
    VICReg,
    covariance_loss,
    invariance_loss,
    variance_loss,
)
from torch import Tensor, nn


def projections(N: int, J: int, P: int) -> Tensor:  # noqa: N803
    random = torch.Generator().manual_seed(N * J * P)
    z = torch.randn(N, J, P, generator=random, dtype=torch.float64)
    return 0.6 * z + 0.6 * torch.randn(N, 1, P, generator=random, dtype=torch.float64)


def loss(z: Tensor) -> Tensor:
    return 25 * invariance_loss(z) + 25 * variance_loss(z) + covariance_loss(z)


def by_definition(z: Tensor) -> tuple[float, float, float]:
    """Invariance, variance and covariance in loops."""
    N, J, P = z.shape  # noqa: N806
    pairs = [(a, b) for a in range(J) for b in range(a + 1, J)]
    invariance = sum((z[:, a] - z[:, b]).square().mean().item() for a, b in pairs) / len(pairs)
    variance = covariance = 0.0
    for j in range(J):
        mean = z[:, j].mean(0)
        C = torch.zeros(P, P, dtype=z.dtype)  # noqa: N806
        for n in range(N):
            C += torch.outer(z[n, j] - mean, z[n, j] - mean) / (N - 1)  # noqa: N806
        variance += sum(max(0.0, 1 - math.sqrt(C[d, d] + 1e-4)) for d in range(P)) / P
        covariance += sum(C[i, k] ** 2 for i in range(P) for k in range(P) if i != k).item() / P
    return invariance, variance / J, 2 * covariance / J


@pytest.mark.parametrize("J", [2, 3, 4])
def test_terms_equal_their_definition(J: int) -> None:  # noqa: N803
    z = projections(7, J, 5)
    terms = (invariance_loss(z), variance_loss(z), covariance_loss(z))
    for ours, expected in zip(terms, by_definition(z), strict=True):
        assert expected > 0.01
        assert ours.item() == pytest.approx(expected, rel=1e-10)


def test_two_views_equal_lightly_in_value_and_gradient() -> None:
    # lightly also follows the authors' code: ½ before the variances, the mean over N·P, N − 1. Its
    # functions take one view and ours take all views, so the class determines sums and halves.
    z = projections(16, 2, 8).requires_grad_()
    theirs = VICRegLoss()(z[:, 0], z[:, 1])
    ours = loss(z)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value, z)[0] for value in (ours, theirs)))
    views = z.unbind(1)
    torch.testing.assert_close(variance_loss(z), sum(lightly_variance(v) for v in views) / 2)
    torch.testing.assert_close(covariance_loss(z), sum(lightly_covariance(v) for v in views))


@pytest.mark.parametrize("J", [2, 3])
@pytest.mark.parametrize("term", [invariance_loss, variance_loss, covariance_loss])
def test_gradients_equal_finite_differences(term: Callable[[Tensor], Tensor], J: int) -> None:  # noqa: N803
    z = projections(5, J, 3).requires_grad_()
    assert term(z).item() > 0
    assert torch.autograd.gradcheck(term, (z,))


def test_what_each_term_sees() -> None:
    z = projections(9, 3, 4)
    rotation, _ = torch.linalg.qr(projections(4, 1, 4)[:, 0])
    for term in (invariance_loss, variance_loss, covariance_loss):
        torch.testing.assert_close(term(z[:, [2, 0, 1]]), term(z))  # views
        torch.testing.assert_close(term(z.roll(4, 0)), term(z))  # images
        torch.testing.assert_close(term(z + 3), term(z))
    torch.testing.assert_close(invariance_loss(z @ rotation), invariance_loss(z))
    torch.testing.assert_close(invariance_loss(3 * z), 9 * invariance_loss(z))
    torch.testing.assert_close(covariance_loss(3 * z), 81 * covariance_loss(z))
    assert variance_loss(10 * z).item() == 0  # a hinge
    assert variance_loss(0 * z).item() == pytest.approx(1 - 0.01)
    assert abs(covariance_loss(z @ rotation) - covariance_loss(z)) > 0.01


def test_the_objective_sums_the_terms_of_its_projections() -> None:
    z = projections(6, 3, 4)
    objective = VICReg(nn.Flatten(), nn.Identity(), invariance=2.0, variance=3.0, covariance=5.0)
    batch = Batch(z.float().view(6, 3, 1, 1, 4), torch.arange(6), torch.Generator())
    terms = objective(batch)
    invariance, variance, covariance = by_definition(z)
    expected = 2 * invariance + 3 * variance + 5 * covariance
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert terms["variance"].item() == pytest.approx(variance, rel=1e-5)


def test_without_the_variance_term_everything_collapses(
    toy_parts: Callable[..., Parts], train_toy: Callable[..., tuple[Tensor, list[float]]]
) -> None:
    def stds(variance: float) -> Tensor:
        objective = VICReg.build(
            toy_parts(), projection_hidden=32, projection_dim=16, variance=variance
        )
        images, _ = train_toy(objective, 100)
        with torch.no_grad():
            return objective.projector(objective.encoder(images)).std(0)

    assert stds(0.0).max() < 0.05
    assert stds(25.0).min() > 0.3


def test_its_state_is_in_its_state_dict(
    toy_parts: Callable[..., Parts], assert_resumes: Callable[..., None]
) -> None:
    assert_resumes(lambda seed: VICReg.build(toy_parts(seed), projection_dim=16))


def test_refusals(toy_parts: Callable[..., Parts]) -> None:
    objective = VICReg(nn.Flatten(), nn.Identity())

    def run(images: int, views: int) -> None:
        x = torch.zeros(images, views, 1, 1, 4)
        objective(Batch(x, torch.arange(images), torch.Generator()))

    with pytest.raises(ValueError, match="at least 2 views per image, got 1"):
        run(4, 1)
    with pytest.raises(ValueError, match="at least 2 images"):
        run(1, 2)
    with pytest.raises(ValueError, match="covariance=-1"):
        VICReg.build(toy_parts(), covariance=-1.0)
