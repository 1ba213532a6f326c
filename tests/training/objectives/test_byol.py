"""BYOL: comparison of its regression with loops, and collapse without its safeguards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity
from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives import Batch, Parts
from repzoo_training.objectives.byol import BYOL, regression_loss
from torch import Tensor, nn
from torch.nn import functional as F


def projections(B: int, J: int, P: int, seed: int = 0) -> Tensor:  # noqa: N803
    random = torch.Generator().manual_seed(seed)
    return torch.randn(B, J, P, generator=random, dtype=torch.float64)


def by_definition(q: Tensor, z: Tensor) -> float:
    """Equation 2 for every image and ordered pair of views; both orders of a pair are summed."""
    B, J, _ = q.shape  # noqa: N806
    total = 0.0
    for n in range(B):
        for i in range(J):
            for j in range(J):
                if i != j:
                    unit_q, unit_z = q[n, i] / q[n, i].norm(), z[n, j] / z[n, j].norm()
                    total += (unit_q - unit_z).square().sum().item()
    return total / B / (J * (J - 1) / 2)


@pytest.mark.parametrize("J", [2, 3, 4])
def test_equals_its_definition(J: int) -> None:  # noqa: N803
    q, z = projections(5, J, 6), projections(5, J, 6, seed=1)
    assert regression_loss(q, z).item() == pytest.approx(by_definition(q, z), rel=1e-12)


def test_two_views_equal_lightly_in_value_and_gradient() -> None:
    # lightly's loss is −cos; ours is ‖q̄ − z̄‖² = 2 − 2 cos, in both orders.
    q, z = projections(5, 2, 6).requires_grad_(), projections(5, 2, 6, seed=1)
    cosine = NegativeCosineSimilarity()
    theirs = 4 + 2 * cosine(q[:, 0], z[:, 1]) + 2 * cosine(q[:, 1], z[:, 0])
    ours = regression_loss(q, z)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, q)[0] for loss in (ours, theirs)))


@pytest.mark.parametrize("J", [2, 3])
def test_gradient_equals_finite_differences(J: int) -> None:  # noqa: N803
    q, z = projections(3, J, 4).requires_grad_(), projections(3, J, 4, seed=1)
    assert torch.autograd.gradcheck(lambda q: regression_loss(q, z), (q,))


def test_the_target_is_a_constant() -> None:
    q, z = projections(3, 2, 4).requires_grad_(), projections(3, 2, 4, seed=1).requires_grad_()
    assert torch.autograd.grad(regression_loss(q, z), z, allow_unused=True) == (None,)


def test_angles_between_views_of_an_image_are_all_it_sees() -> None:
    q, z = projections(5, 3, 4), projections(5, 3, 4, seed=1)
    rotation, _ = torch.linalg.qr(projections(1, 4, 4)[0])
    lengths = projections(5, 3, 1).exp()
    expected = regression_loss(q, z)
    for change in (
        lambda x: x @ rotation,
        lambda x: x * lengths,
        lambda x: x[:, [2, 0, 1]],  # views
        lambda x: x[[3, 1, 4, 0, 2]],  # images
    ):
        torch.testing.assert_close(regression_loss(change(q), change(z)), expected)
    assert abs(regression_loss(q, z.roll(1, 0)) - expected) > 0.01


def test_known_values() -> None:
    z = projections(4, 2, 3)
    aligned = z[:, :1].expand(-1, 2, -1)
    assert regression_loss(aligned, aligned).item() == pytest.approx(0, abs=1e-12)
    assert regression_loss(-aligned, aligned).item() == pytest.approx(8)


@pytest.mark.parametrize("build", [BYOL.build, BYOL.build_linear])
def test_the_loss_is_of_predictions_and_momentum_targets(
    build: Callable[..., BYOL],
    toy_parts: Callable[..., Parts],
    digit_batch: Callable[..., Batch],
) -> None:
    byol = build(toy_parts(), momentum=0.9)
    batch = digit_batch(0, views=3)
    x = batch.views.flatten(0, 1)
    with torch.no_grad():
        for parameter in byol.encoder.parameters():
            parameter.add_(0.01)  # away from the target
        z = byol.target_projector.module(byol.target_encoder.module(x))
        q = byol.predictor(byol.projector(byol.encoder(x)))
    expected = by_definition(q.view(64, 3, -1).double(), z.view(64, 3, -1).double())
    assert byol(batch)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_gradients_train_the_online_network_and_the_target_follows(
    toy_parts: Callable[..., Parts], digit_batch: Callable[..., Batch]
) -> None:
    byol = BYOL.build(toy_parts(), momentum=0.9)
    byol(digit_batch(0))["loss"].backward()
    trained = [*byol.encoder.parameters(), *byol.projector.parameters()]
    assert all(p.grad is not None for p in [*trained, *byol.predictor.parameters()])
    targets = [*byol.target_encoder.parameters(), *byol.target_projector.parameters()]
    before = [p.clone() for p in targets]
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(1.0)
    byol.after_step(0.5)  # m = 1 − 0.1 / 2
    for old, new in zip(before, targets, strict=True):
        torch.testing.assert_close(new, old + 0.05)


def test_linear_byol_predicts_by_a_matrix(toy_parts: Callable[..., Parts]) -> None:
    predictor = BYOL.build_linear(toy_parts(), projection_dim=16).predictor
    a, b = torch.randn(2, 5, 16)
    torch.testing.assert_close(predictor(a + 2 * b), predictor(a) + 2 * predictor(b))


def test_without_predictor_and_stop_gradient_everything_collapses(
    toy_parts: Callable[..., Parts], train_toy: Callable[..., tuple[Tensor, list[float]]]
) -> None:
    class Unguarded(BYOL):
        """No predictor, and the online network as its own target at every step.

        The loss is then symmetric in prediction and target, so that the stop-gradient halves its
        gradient and does nothing else.
        """

        def after_step(self, progress: float) -> None:
            self.target_encoder.follow(self.encoder, 0.0)
            self.target_projector.follow(self.projector, 0.0)

    def spread(kind: type[BYOL], predictor: nn.Module) -> float:
        """Mean standard deviation of unit projections, times √P: about 1 if they fill a sphere."""
        projector = ProjectionHead((8, 32, 16))
        byol = kind(toy_parts().encoder, projector, predictor, momentum=0.95)
        images, _ = train_toy(byol, 100)
        with torch.no_grad():
            z = F.normalize(byol.projector(byol.encoder(images)))
        return 4 * z.std(0).mean().item()

    assert spread(Unguarded, nn.Identity()) < 0.1
    assert spread(BYOL, ProjectionHead((16, 32, 16))) > 0.5


@pytest.mark.parametrize("build", [BYOL.build, BYOL.build_linear])
def test_its_state_is_in_its_state_dict(
    build: Callable[..., BYOL],
    toy_parts: Callable[..., Parts],
    assert_resumes: Callable[..., None],
) -> None:
    assert_resumes(lambda seed: build(toy_parts(seed), projection_hidden=32, projection_dim=16))


def test_refusals(toy_parts: Callable[..., Parts], digit_batch: Callable[..., Batch]) -> None:
    with pytest.raises(ValueError, match="at least 2 views per image, got 1"):
        BYOL.build(toy_parts())(digit_batch(0, views=1))
    with pytest.raises(ValueError, match="momentum"):
        BYOL.build(toy_parts(), momentum=1.5)
