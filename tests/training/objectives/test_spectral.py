"""The spectral loss: comparison with loops, finite differences and a known spectrum."""

from __future__ import annotations

import pytest
import torch
from repzoo_training.networks import NetworkSpec, build_encoder
from repzoo_training.objectives import Batch, Parts
from repzoo_training.objectives.spectral import Spectral, clip_norm, spectral_loss
from torch import Tensor


def projections(B: int, J: int, P: int) -> Tensor:  # noqa: N803
    random = torch.Generator().manual_seed(B * J * P)
    return torch.randn(B, J, P, generator=random, dtype=torch.float64)


def by_definition(z: Tensor, *, same_image: bool) -> float:
    """−2 E_p[φᵀφ⁺] + E_p×p[(φᵀφ′)²], for each pair."""
    B, J, _ = z.shape  # noqa: N806
    views = [(i, a) for i in range(B) for a in range(J)]
    positive, negative = [], []
    for u in views:
        for v in views:
            product = torch.dot(z[u], z[v]).item()
            if u[0] == v[0] and u != v:
                positive.append(product)
            if same_image or u[0] != v[0]:
                negative.append(product**2)
    return -2 * sum(positive) / len(positive) + sum(negative) / len(negative)


@pytest.mark.parametrize("J", [2, 3, 4])
@pytest.mark.parametrize("same_image", [False, True])
def test_equals_its_definition(J: int, same_image: bool) -> None:  # noqa: N803
    z = projections(4, J, 5)
    expected = by_definition(z, same_image=same_image)
    assert spectral_loss(z, same_image=same_image).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("same_image", [False, True])
def test_gradient_equals_finite_differences(same_image: bool) -> None:
    z = projections(3, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: spectral_loss(z, same_image=same_image), (z,))


def test_invariances() -> None:
    z = projections(5, 3, 4)
    rotation, _ = torch.linalg.qr(projections(4, 4, 1)[..., 0])
    expected = spectral_loss(z)
    for same in (z @ rotation, -z, z[:, [2, 0, 1]], z[[3, 1, 4, 0, 2]]):
        torch.testing.assert_close(spectral_loss(same), expected)
    assert abs(spectral_loss(2 * z) - expected) > 0.1  # lengths matter


def test_the_negative_term_is_unbiased() -> None:
    # φ uniform over the 2·P signed unit vectors: (φᵀφ′)² is 1 with probability 1/P. Views of one
    # image are equal here, so including pairs of one image would make a large difference.
    P = 4  # noqa: N806
    corners = torch.cat([torch.eye(P), -torch.eye(P)]).double()
    random = torch.Generator().manual_seed(0)
    draws = torch.randint(2 * P, (4000, 6), generator=random)
    values = torch.stack([spectral_loss(corners[d][:, None].expand(-1, 2, -1)) for d in draws]) + 2
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean() - 1 / P) < 4 * error
    assert error < 0.01


def test_its_minimum_spans_the_leading_eigenfunctions() -> None:
    # Six inputs with equal probability, joint probability A: the best φᵀφ′ of rank P is the best
    # approximation of the density ratio, its leading eigenvectors (HaoChen et al., section 3).
    random = torch.Generator().manual_seed(1)
    distance = torch.rand(6, 6, generator=random, dtype=torch.float64)
    joint = torch.exp(-6 * (distance + distance.mT)) + torch.eye(6, dtype=torch.float64)
    for _ in range(500):  # equal marginals
        joint = joint / joint.sum(0, keepdim=True)
        joint = joint / joint.sum(1, keepdim=True)
        joint = (joint + joint.mT) / 2
    ratio = 6 * joint  # p(x, x′) / (p(x) p(x′)), with p(x) = 1/6
    phi = torch.randn(6, 3, generator=random, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([phi], max_iter=500, line_search_fn="strong_wolfe")

    def population_loss() -> Tensor:
        product = phi @ phi.mT
        return -2 * (joint / 6 * product).sum() + product.square().mean()

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = population_loss()
        loss.backward()
        return loss

    optimizer.step(step)
    values, vectors = torch.linalg.eigh(ratio)
    best = (vectors[:, -3:] * values[-3:]) @ vectors[:, -3:].mT
    torch.testing.assert_close((phi @ phi.mT).detach(), best, atol=1e-4, rtol=1e-3)

    # The loss of sampled pairs estimates the population loss.
    flat = torch.multinomial(joint.flatten(), 40_000, replacement=True, generator=random)
    z = phi.detach()[torch.stack([flat // 6, flat % 6], 1)]  # [B, 2, P]
    assert spectral_loss(z).item() == pytest.approx(population_loss().item(), rel=0.02)


def test_long_projections_are_shortened() -> None:
    z = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], requires_grad=True)
    clipped = clip_norm(z, 2.0)
    torch.testing.assert_close(clipped, torch.tensor([[1.2, 1.6], [0.3, 0.4], [0.0, 0.0]]))
    clipped.sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def spectral(**options: float) -> Spectral:
    encoder = build_encoder(NetworkSpec(widths=(16,)), (1, 8, 8), 4)
    return Spectral.build(Parts(encoder, 4, 100), projection_hidden=8, projection_dim=6, **options)


def batch(B: int, J: int) -> Batch:  # noqa: N803
    random = torch.Generator().manual_seed(0)
    return Batch(torch.rand(B, J, 1, 8, 8, generator=random), torch.arange(B), random)


@pytest.mark.parametrize("max_norm", [0.0, 0.7])
def test_the_objective_is_the_loss_of_its_projections(max_norm: float) -> None:
    objective, data = spectral(max_norm=max_norm), batch(6, 3)
    terms = objective(data)
    z = objective.projector(objective.encoder(data.views.flatten(0, 1)))
    if max_norm:
        assert (z.norm(dim=1) > max_norm).any()
        z = clip_norm(z, max_norm)
    torch.testing.assert_close(terms["loss"], spectral_loss(z.unflatten(0, (6, 3))))
    torch.testing.assert_close(terms["loss"], terms["repulsion"] - 2 * terms["attraction"])
    terms["loss"].backward()
    assert all(p.grad is not None for p in objective.parameters())


def test_the_loss_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert spectral()(batch(6, 2))["loss"].dtype == torch.float32


def test_state_goes_through_a_checkpoint() -> None:
    one, other = spectral(), spectral()
    one(batch(6, 2))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(batch(5, 2))["loss"], other(batch(5, 2))["loss"])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="max_norm must be positive, or 0 for no limit, got -1"):
        spectral(max_norm=-1)
    with pytest.raises(ValueError, match="at least 2 views per image, got 1"):
        spectral()(batch(4, 1))
    with pytest.raises(ValueError, match="at least 2 per batch, got 1"):
        spectral()(batch(1, 2))
