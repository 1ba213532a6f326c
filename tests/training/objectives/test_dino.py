"""DINO: comparison with lightly and its definition in loops, and collapse without its centre."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from lightly.loss import DINOLoss
from repzoo_training.objectives import Batch, Parts
from repzoo_training.objectives.dino import DINO, DINOHead, distillation_loss
from torch import Tensor, nn


def logits(B: int, J: int, K: int, seed: int = 0) -> Tensor:  # noqa: N803
    random = torch.Generator().manual_seed(seed)
    return torch.randn(B, J, K, generator=random, dtype=torch.float64)


def by_definition(teacher: Tensor, student: Tensor) -> float:
    """Cross entropies in loops, of logits divided by their temperatures."""
    B, J, K = teacher.shape  # noqa: N806
    total = 0.0
    for n in range(B):
        for i in range(J):
            for j in range(J):
                if i != j:
                    weights = [math.exp(t) for t in teacher[n, i].tolist()]
                    others = [math.exp(s) for s in student[n, j].tolist()]
                    total -= sum(
                        weights[k] / sum(weights) * math.log(others[k] / sum(others))
                        for k in range(K)
                    )
    return total / (B * J * (J - 1))


@pytest.mark.parametrize("J", [2, 3, 4])
def test_equals_its_definition(J: int) -> None:  # noqa: N803
    t, s = logits(4, J, 6), logits(4, J, 6, seed=1)
    ours = distillation_loss(t.softmax(2), s.log_softmax(2))
    assert ours.item() == pytest.approx(by_definition(t, s), rel=1e-10)


@pytest.mark.parametrize("J", [2, 3])
def test_the_objective_and_its_centre_equal_lightly(J: int) -> None:  # noqa: N803
    # With identity networks, the views are the logits. The centre of the first step affects the
    # second step.
    theirs = DINOLoss(6, teacher_temp=0.05, student_temp=0.2, center_momentum=0.8)
    dino = DINO(
        nn.Flatten(),
        nn.Identity(),
        6,
        teacher_temperature=0.05,
        student_temperature=0.2,
        center_momentum=0.8,
    )
    for step in range(3):
        views = 0.2 * logits(5, J, 6, seed=step).float() + torch.arange(6) / 10
        batch = Batch(views.view(5, J, 1, 1, 6), torch.arange(5), torch.Generator())
        per_view = list(views.unbind(1))
        torch.testing.assert_close(dino(batch)["loss"], theirs(per_view, per_view))
        torch.testing.assert_close(dino.center, theirs.center[0, 0])
    assert dino.center.abs().max() > 0.1


def test_gradient_equals_finite_differences_and_the_teacher_is_constant() -> None:
    t, s = logits(3, 3, 4).requires_grad_(), logits(3, 3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: distillation_loss(t.softmax(2).detach(), s.log_softmax(2)), (s,)
    )
    loss = distillation_loss(t.softmax(2), s.log_softmax(2))
    assert torch.autograd.grad(loss, t, allow_unused=True) == (None,)


def test_invariances() -> None:
    t, s = logits(5, 3, 4), logits(5, 3, 4, seed=1)

    def loss(t: Tensor, s: Tensor) -> Tensor:
        return distillation_loss(t.softmax(2), s.log_softmax(2))

    expected = loss(t, s)
    for change in (
        lambda x: x[:, [2, 0, 1]],  # views
        lambda x: x.roll(2, 0),  # images
        lambda x: x[..., [3, 1, 0, 2]],  # classes
        lambda x: x + 5,
    ):
        torch.testing.assert_close(loss(change(t), change(s)), expected)
    assert abs(loss(t.roll(1, 0), s) - expected) > 0.01


def test_entropy_is_of_the_teacher() -> None:
    def entropy(views: Tensor) -> float:
        dino = DINO(nn.Flatten(), nn.Identity(), 8, teacher_temperature=0.01)
        batch = Batch(views.view(4, 2, 1, 1, 8), torch.arange(4), torch.Generator())
        return dino(batch)["teacher_entropy"].item()

    assert entropy(torch.zeros(4, 2, 8)) == pytest.approx(math.log(8), rel=1e-5)
    assert entropy(torch.eye(8).view(4, 2, 8)) == pytest.approx(0, abs=1e-5)


def test_the_head_gives_cosines() -> None:
    head = DINOHead((5, 16, 4), 32)
    z = head(torch.randn(20, 5))
    assert z.shape == (20, 32)
    assert z.abs().max() <= 1 + 1e-6
    with torch.no_grad():  # weight normalisation: the lengths of the directions mean nothing
        head.eval()
        before = head(torch.ones(1, 5))
        head.directions.mul_(3.0)
        torch.testing.assert_close(head(torch.ones(1, 5)), before)


def test_the_student_learns_and_the_encoder_is_the_teacher_that_follows(
    toy_parts: Callable[..., Parts], digit_batch: Callable[..., Batch]
) -> None:
    dino = DINO.build(toy_parts(), momentum=0.9)
    dino(digit_batch(0))["loss"].backward()
    student = [*dino.student.parameters(), *dino.student_head.parameters()]
    teacher = [*dino.encoder.parameters(), *dino.head.parameters()]
    assert all(p.grad is not None for p in student)
    assert not any(p.requires_grad for p in teacher)
    before = [p.clone() for p in teacher]
    with torch.no_grad():
        for parameter in student:
            parameter.add_(1.0)
    dino.after_step(0.5)  # m = 1 − 0.1 / 2
    for old, new in zip(before, teacher, strict=True):
        torch.testing.assert_close(new, old + 0.05)


def test_without_centring_one_class_wins_everywhere(
    toy_parts: Callable[..., Parts], train_toy: Callable[..., tuple[Tensor, list[float]]]
) -> None:
    def used(center_momentum: float) -> tuple[int, float]:
        """Return the number of classes in use, and the mean std of centred probabilities."""
        dino = DINO.build(
            toy_parts(),
            projection_hidden=32,
            bottleneck_dim=16,
            classes=32,
            momentum=0.9,
            center_momentum=center_momentum,
        )
        images, _ = train_toy(dino, 100)
        dino.eval()
        with torch.no_grad():
            t = (dino.head(dino.encoder(images)) - dino.center) / dino.teacher_temperature
        return len(t.argmax(1).unique()), t.softmax(1).std(0).mean().item()

    classes, std = used(1.0)  # the centre stays 0
    assert classes <= 2
    assert std < 0.01
    classes, std = used(0.9)
    assert classes >= 6
    assert std > 0.03


def test_its_state_is_in_its_state_dict(
    toy_parts: Callable[..., Parts], assert_resumes: Callable[..., None]
) -> None:
    assert_resumes(lambda seed: DINO.build(toy_parts(seed), projection_hidden=32, classes=16))


def test_refusals(toy_parts: Callable[..., Parts], digit_batch: Callable[..., Batch]) -> None:
    with pytest.raises(ValueError, match="at least 2 views per image, got 1"):
        DINO.build(toy_parts())(digit_batch(0, views=1))
    with pytest.raises(ValueError, match="teacher_temperature=0"):
        DINO.build(toy_parts(), teacher_temperature=0.0)
    with pytest.raises(ValueError, match=r"center_momentum must be in \[0, 1\]"):
        DINO.build(toy_parts(), center_momentum=-0.1)
