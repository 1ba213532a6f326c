"""MINC: comparison with the spectral loss, its definition in loops, and its divergences."""

from __future__ import annotations

import copy

import pytest
import torch
from repzoo_training.networks import NetworkSpec, build_encoder
from repzoo_training.objectives import Batch, Parts, build
from repzoo_training.objectives.minc import (
    MINC,
    MomentAverage,
    damping,
    minc_alpha_loss,
    second_moment,
)
from repzoo_training.objectives.spectral import attraction, spectral_loss
from torch import Tensor

ALPHAS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


def projections(B: int, J: int, P: int, seed: int = 0) -> Tensor:  # noqa: N803
    random = torch.Generator().manual_seed(seed)
    return torch.randn(B, J, P, generator=random, dtype=torch.float64)


def gradient(loss: Tensor, z: Tensor) -> Tensor:
    return torch.autograd.grad(loss, z)[0]


def minc_loss(z: Tensor, *, triangle: bool = False) -> Tensor:
    """Without moving average and target network."""
    moment = second_moment(z.detach())
    return damping(z, moment, triangle=triangle) - 2 * attraction(z, z.detach())


@pytest.mark.parametrize("J", [2, 3, 4])
def test_gradient_is_half_the_spectral_loss_s(J: int) -> None:  # noqa: N803
    # Without triangle, moving average and target, with all pairs including i = i, all views pooled.
    z = projections(5, J, 4).requires_grad_()
    half = 0.5 * gradient(spectral_loss(z, same_image=True), z)
    torch.testing.assert_close(gradient(minc_loss(z), z), half)
    torch.testing.assert_close(gradient(minc_alpha_loss(z, z, 2.0), z), half)
    # Each of these conditions is necessary.
    assert (gradient(minc_loss(z), z) - 0.5 * gradient(spectral_loss(z), z)).abs().max() > 0.01
    assert (gradient(minc_loss(z, triangle=True), z) - half).abs().max() > 0.01


@pytest.mark.parametrize("J", [2, 3])
@pytest.mark.parametrize("triangle", [False, True])
def test_gradient_view_by_view(J: int, triangle: bool) -> None:  # noqa: N803
    """−2 φ⁺ + 2 Σφ, or 2 tril(Σ)φ: component p is pushed only by components up to p."""
    B, P = 4, 3  # noqa: N806
    z = projections(B, J, P).requires_grad_()
    rows = z.detach().flatten(0, 1)
    sigma = torch.stack([torch.outer(row, row) for row in rows]).mean(0)
    expected = torch.zeros_like(rows).view(B, J, P)
    for i in range(B):
        for a in range(J):
            others = torch.stack([z[i, b].detach() for b in range(J) if b != a])
            expected[i, a] -= 2 * others.mean(0)
            for p in range(P):
                for q in range(p + 1 if triangle else P):
                    expected[i, a, p] += 2 * sigma[p, q] * z[i, a, q].item()
    torch.testing.assert_close(gradient(minc_loss(z, triangle=triangle), z), expected / (B * J))


def test_values() -> None:
    z = projections(4, 3, 5)
    sigma = second_moment(z)
    torch.testing.assert_close(damping(z, sigma, triangle=False), sigma.square().sum())
    torch.testing.assert_close(minc_loss(z), spectral_loss(z, same_image=True))
    torch.testing.assert_close(minc_alpha_loss(z, z, 2.0), minc_loss(z))


def test_finite_differences_with_what_is_stopped_held_fixed() -> None:
    z, positives = projections(3, 2, 4).requires_grad_(), projections(3, 2, 4, seed=1)
    moment = second_moment(projections(9, 2, 4, seed=2))

    def loss(z: Tensor) -> Tensor:
        return damping(z, moment, triangle=False) - 2 * attraction(z, positives)

    assert torch.autograd.gradcheck(loss, (z,))


def test_invariances() -> None:
    z = projections(5, 3, 4)
    rotation, _ = torch.linalg.qr(projections(4, 1, 4)[:, 0])
    for same in (z @ rotation, z[:, [2, 0, 1]], z[[3, 1, 4, 0, 2]]):
        torch.testing.assert_close(minc_loss(same), minc_loss(z))
        torch.testing.assert_close(minc_alpha_loss(same, same, 1.5), minc_alpha_loss(z, z, 1.5))
    # The triangle orders components: only their signs are free.
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    ordered = minc_loss(z, triangle=True)
    torch.testing.assert_close(minc_loss(z * signs, triangle=True), ordered)
    z.requires_grad_()
    turned = gradient(minc_loss(z @ rotation, triangle=True), z)
    assert (turned - gradient(minc_loss(z, triangle=True), z)).abs().max() > 0.01


def divergence_loss(positive: Tensor, negative: Tensor, alpha: float) -> Tensor:
    """−2/(α−1) E_p[t^(α−1)] + 2/α E_p×p[t^α], powers continued below 0; log t at α = 1."""
    if alpha == 1:
        first = positive.log()
    else:
        first = positive.sign() * positive.abs().pow(alpha - 1) / (alpha - 1)
    return -2 * first.mean() + 2 / alpha * negative.abs().pow(alpha).mean()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_alpha_gradient_is_half_the_divergence_s(alpha: float) -> None:
    z = 10 * projections(4, 3, 6)
    # Below 0 the logarithm at α = 1 and odd powers below it do not continue.
    z = (z.abs() if alpha <= 1 else z).requires_grad_()
    positive = (z @ z.mT)[:, ~torch.eye(3, dtype=torch.bool)]
    negative = z.flatten(0, 1) @ z.flatten(0, 1).mT
    assert negative.abs().min() > 0.1  # the floor of weights
    half = 0.5 * gradient(divergence_loss(positive, negative, alpha), z)
    torch.testing.assert_close(gradient(minc_alpha_loss(z, z, alpha), z), half)


def test_weights_have_a_bound() -> None:
    # Orthogonal views of two images: t = 0, whose weight for α = 1 would be infinite.
    z = torch.eye(4, dtype=torch.float64).view(2, 2, 4).requires_grad_()
    # −2 · 0.1⁻¹ φ⁺ + 2 φ/4, with t = 1 for a view with itself only.
    expected = (-20 * z.flip(1) + z / 2) / 4
    torch.testing.assert_close(gradient(minc_alpha_loss(z, z, 1.0), z), expected.detach())


@pytest.mark.parametrize("alpha", ALPHAS)
def test_every_alpha_is_at_rest_at_the_density_ratio(alpha: float) -> None:
    # Three inputs, p(x) = 1/3 and rational joint probabilities: a batch of 18 images has exactly
    # them, and φ with φᵀφ′ = p(x, x′)/(p(x) p(x′)) is a Cholesky factor.
    counts = torch.tensor([[4, 1, 1], [1, 4, 1], [1, 1, 4]])
    pairs = torch.tensor([(x, y) for x in range(3) for y in range(3) for _ in range(counts[x, y])])
    ratio = counts.double() / 18 * 9
    phi = torch.linalg.cholesky(ratio).requires_grad_()
    z = phi[pairs]  # [18, 2, 3]
    assert gradient(minc_alpha_loss(z, z, alpha), phi).abs().max() < 1e-12
    z = (1.1 * phi)[pairs]
    assert gradient(minc_alpha_loss(z, z, alpha), phi).abs().max() > 0.01


def test_the_moving_average() -> None:
    average = MomentAverage(2, 0.8)
    values: list[Tensor] = []
    weights: list[float] = []
    for seed in range(5):
        batch_moment = second_moment(projections(6, 2, 2, seed))
        values.append(batch_moment)
        weights = [0.8 * w for w in weights] + [0.2]
        weighted = [w * v for w, v in zip(weights, values, strict=True)]
        expected = torch.stack(weighted).sum(0) / sum(weights)
        torch.testing.assert_close(average.update(batch_moment), expected.float())
    assert torch.equal(MomentAverage(2, 0.0).update(torch.eye(2)), torch.eye(2))


def minc(seed: int = 0, **options: bool | int | float) -> MINC:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = build_encoder(NetworkSpec(widths=(16,)), (1, 8, 8), 4)
        widths = {"projection_hidden": 8, "projection_dim": 6}
        objective = build("minc", {**widths, **options}, Parts(encoder, 4, 100))
    assert isinstance(objective, MINC)
    return objective


def batch(B: int, J: int, seed: int = 0) -> Batch:  # noqa: N803
    random = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(B, J, 1, 8, 8, generator=random), torch.arange(B), random)


@pytest.mark.parametrize("triangle", [False, True])
@pytest.mark.parametrize("target_momentum", [0.0, 0.75])
def test_a_step_by_hand(triangle: bool, target_momentum: float) -> None:
    objective = minc(moment_momentum=0.6, triangle=triangle, target_momentum=target_momentum)
    first, second = batch(5, 3), batch(5, 3, seed=1)

    def project(model: MINC, data: Batch) -> Tensor:
        z: Tensor = model.projector(model.encoder(data.views.flatten(0, 1)))
        return z.detach().view(5, 3, -1)

    with torch.no_grad():
        earlier = project(copy.deepcopy(objective), first)
        objective(first)
        for parameter in objective.encoder.parameters():
            parameter.mul_(1.1)  # away from the target
    z = project(copy.deepcopy(objective), second)
    positives = z
    if target_momentum:
        old = copy.deepcopy(objective.target)
        assert old is not None
        positives = old(second.views.flatten(0, 1)).unflatten(0, (5, 3))
        assert not torch.allclose(positives, z)
    m1, m2 = second_moment(earlier), second_moment(z)
    moment = (0.6 * 0.4 * m1 + 0.4 * m2) / (0.6 * 0.4 + 0.4)
    expected = damping(z, moment, triangle=triangle) - 2 * attraction(z, positives)
    loss = objective(second)["loss"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    objective.after_step(0.5)
    if objective.target is not None:
        assert old is not None
        online = [*objective.encoder.parameters(), *objective.projector.parameters()]
        for was, now, source in zip(
            old.parameters(), objective.target.parameters(), online, strict=True
        ):
            torch.testing.assert_close(now, 0.75 * was + 0.25 * source)
            assert now.grad is None
        assert all(p.grad is not None for p in online)


def test_another_alpha() -> None:
    objective, data = minc(alpha=1.5, moment_momentum=0), batch(5, 2)
    z = objective.projector(objective.encoder(data.views.flatten(0, 1))).unflatten(0, (5, 2))
    torch.testing.assert_close(objective(data)["loss"], minc_alpha_loss(z, z, 1.5))


def test_the_loss_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert minc(target_momentum=0.9)(batch(6, 2))["loss"].dtype == torch.float32


def test_state_goes_through_a_checkpoint() -> None:
    one, other = (minc(seed, target_momentum=0.9) for seed in (1, 2))
    for seed in range(3):
        one(batch(8, 2, seed))
        one.after_step(0.1)
    other.load_state_dict(one.state_dict())
    for seed in range(3, 6):
        first, second = one(batch(8, 2, seed))["loss"], other(batch(8, 2, seed))["loss"]
        assert torch.equal(first, second)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="alpha must be positive, got 0"):
        minc(alpha=0)
    with pytest.raises(ValueError, match="set moment_momentum to 0 and triangle to false"):
        minc(alpha=1.5)
    with pytest.raises(ValueError, match="set moment_momentum to 0 and triangle to false"):
        minc(alpha=1.5, moment_momentum=0, triangle=True)
    with pytest.raises(ValueError, match=r"momentum of Σ must be in \[0, 1\), got 1"):
        minc(moment_momentum=1)
    with pytest.raises(ValueError, match=r"target_momentum must be in \[0, 1\), got -0.1"):
        minc(target_momentum=-0.1)
    for objective in (minc(), minc(alpha=3, moment_momentum=0)):
        with pytest.raises(ValueError, match="at least 2 views per image, got 1"):
            objective(batch(4, 1))
