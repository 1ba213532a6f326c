"""SimCLR: comparison of NT-Xent with lightly, its definition in loops, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from lightly.loss import NTXentLoss
from repzoo_training.networks import NetworkSpec, build_encoder
from repzoo_training.objectives import Batch, Parts
from repzoo_training.objectives.simclr import SimCLR, nt_xent
from torch import Tensor


def projections(B: int, J: int, P: int) -> Tensor:  # noqa: N803
    random = torch.Generator().manual_seed(B * J * P)
    return torch.randn(B, J, P, generator=random, dtype=torch.float64)


def by_definition(z: Tensor, temperature: float) -> float:
    """Eq. 1 for each pair, without the other views of an image in its denominators."""
    B, J, _ = z.shape  # noqa: N806
    views = [(i, a) for i in range(B) for a in range(J)]

    def weight(u: tuple[int, int], v: tuple[int, int]) -> float:
        cosine = torch.dot(z[u], z[v]) / (z[u].norm() * z[v].norm())
        return math.exp(cosine.item() / temperature)

    losses = []
    for u in views:
        for v in views:
            if u[0] == v[0] and u != v:
                others = sum(weight(u, w) for w in views if w[0] != u[0])
                losses.append(-math.log(weight(u, v) / (weight(u, v) + others)))
    assert len(losses) == B * J * (J - 1)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("J", [2, 3, 4])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_equals_its_definition(J: int, temperature: float) -> None:  # noqa: N803
    z = projections(4, J, 5)
    assert nt_xent(z, temperature).item() == pytest.approx(by_definition(z, temperature), rel=1e-9)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_two_views_equal_lightly_in_value_and_gradient(temperature: float) -> None:
    z = projections(16, 2, 8).requires_grad_()
    theirs = NTXentLoss(temperature)(z[:, 0], z[:, 1])
    ours = nt_xent(z, temperature)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in (ours, theirs)))


@pytest.mark.parametrize("J", [2, 3])
def test_gradient_equals_finite_differences(J: int) -> None:  # noqa: N803
    z = projections(3, J, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: nt_xent(z, 0.5), (z,))


def test_angles_within_the_batch_are_all_it_sees() -> None:
    z = projections(5, 3, 4)
    rotation, _ = torch.linalg.qr(projections(4, 4, 1)[..., 0])
    lengths = projections(5, 3, 1).exp()
    expected = nt_xent(z, 0.2)
    for same in (
        z @ rotation,
        z * lengths,
        z[:, [2, 0, 1]],  # views
        z[[3, 1, 4, 0, 2]],  # images
    ):
        torch.testing.assert_close(nt_xent(same, 0.2), expected)
    # Exchanging views of different images makes a difference.
    mixed = torch.cat([z[:, :1].roll(1, 0), z[:, 1:]], 1)
    assert abs(nt_xent(mixed, 0.2) - expected) > 0.01


def test_known_values() -> None:
    # Equal views and opposite images, or everything equal.
    apart = torch.tensor([1.0, -1.0]).view(2, 1, 1).expand(2, 2, 1)
    assert nt_xent(apart, 0.5).item() == pytest.approx(math.log(1 + 2 * math.exp(-4)), rel=1e-5)
    collapsed = torch.ones(6, 2, 3)
    assert nt_xent(collapsed, 0.5).item() == pytest.approx(math.log(1 + 10), rel=1e-5)


def test_low_temperatures_do_not_overflow() -> None:
    z = projections(8, 2, 4).float().requires_grad_()
    nt_xent(z, 1e-4).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def simclr(**options: float) -> SimCLR:
    encoder = build_encoder(NetworkSpec(widths=(16,)), (1, 8, 8), 4)
    return SimCLR.build(Parts(encoder, 4, 100), projection_hidden=8, projection_dim=6, **options)


def batch(B: int, J: int) -> Batch:  # noqa: N803
    random = torch.Generator().manual_seed(0)
    return Batch(torch.rand(B, J, 1, 8, 8, generator=random), torch.arange(B), random)


def test_the_objective_is_nt_xent_of_its_projections() -> None:
    objective, data = simclr(temperature=0.3), batch(6, 3)
    loss = objective(data)["loss"]
    z = objective.projector(objective.encoder(data.views.flatten(0, 1)))
    torch.testing.assert_close(loss, nt_xent(z.unflatten(0, (6, 3)), 0.3))
    loss.backward()
    assert all(p.grad is not None for p in objective.parameters())


def test_the_loss_is_float32_under_autocast() -> None:
    objective, data = simclr(), batch(6, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert objective(data)["loss"].dtype == torch.float32


def test_state_goes_through_a_checkpoint() -> None:
    one, other = simclr(), simclr()
    one(batch(6, 2))  # running statistics change
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(batch(5, 2))["loss"], other(batch(5, 2))["loss"])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        simclr(temperature=0)
    with pytest.raises(ValueError, match="at least 2 views per image, got 1"):
        simclr()(batch(4, 1))
    with pytest.raises(ValueError, match="at least 2 per batch, got 1"):
        simclr()(batch(1, 2))
