"""Instance discrimination: comparison of its softmax with the definition, and its memory bank."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from repzoo_training.networks import NetworkSpec, build_encoder
from repzoo_training.objectives import Batch, Parts, build
from repzoo_training.objectives.instance_discrimination import (
    InstanceDiscrimination,
    instance_cross_entropy,
)
from torch import Tensor
from torch.nn import functional as F


def directions(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, generator=random, dtype=torch.float64), dim=-1)


def full(z: Tensor, bank: Tensor, indices: Tensor, *, temperature: float) -> Tensor:
    others = torch.arange(len(bank))
    hidden = indices[:, None] == others
    return instance_cross_entropy(
        z, bank[indices], bank, hidden, images=len(bank), temperature=temperature
    )


@pytest.mark.parametrize("J", [1, 2, 3])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_with_all_rows_it_is_the_cross_entropy_of_eq_2(J: int, temperature: float) -> None:  # noqa: N803
    z, bank, indices = directions(4, J, 5), directions(9, 5, seed=1), torch.tensor([3, 0, 8, 5])
    losses = []
    for i, index in enumerate(indices.tolist()):
        for a in range(J):
            weights = [math.exp(row.dot(z[i, a]).item() / temperature) for row in bank]
            losses.append(-math.log(weights[index] / sum(weights)))
    loss = full(z, bank, indices, temperature=temperature).item()
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-9)


def test_value_and_gradient_equal_torch_s_cross_entropy() -> None:
    z, bank = directions(4, 2, 5).requires_grad_(), directions(9, 5, seed=1)
    indices = torch.tensor([3, 0, 8, 5])
    logits = (z @ bank.mT / 0.1).flatten(0, 1)
    theirs = F.cross_entropy(logits, indices.repeat_interleave(2))
    ours = full(z, bank, indices, temperature=0.1)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in (ours, theirs)))
    assert torch.autograd.gradcheck(lambda z: full(z, bank, indices, temperature=0.5), (z,))


def test_a_sample_estimates_the_sum_over_all_others_without_bias() -> None:
    # exp(loss) − 1 is that sum over the positive's weight.
    n, z, bank = 40, directions(1, 1, 5), directions(40, 5, seed=1)
    index, temperature = torch.tensor([7]), 0.3
    exact = full(z, bank, index, temperature=temperature).exp() - 1
    random = torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(2000):
        others = torch.randint(n, (30,), generator=random)
        loss = instance_cross_entropy(
            z,
            bank[index],
            bank[others],
            index[:, None] == others,
            images=n,
            temperature=temperature,
        )
        estimates.append(loss.exp() - 1)
    values = torch.stack(estimates)
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean() - exact) < 4 * error
    assert error < 0.01 * exact


def test_a_sample_of_own_rows_alone_is_no_trouble() -> None:
    z, own = directions(2, 1, 5).requires_grad_(), directions(2, 5)
    hidden = torch.tensor([[True, True], [False, True]])
    loss = instance_cross_entropy(z, own, own, hidden, images=2, temperature=0.1)
    loss.backward()
    assert loss.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_invariances() -> None:
    z, bank, indices = directions(4, 3, 5), directions(9, 5, seed=1), torch.tensor([3, 0, 8, 5])
    expected = full(z, bank, indices, temperature=0.2)
    rotation, _ = torch.linalg.qr(directions(5, 5, seed=2))
    images, rows = torch.tensor([1, 3, 0, 2]), torch.tensor([8, 6, 7, 0, 2, 1, 3, 5, 4])
    for same in (
        (z @ rotation, bank @ rotation, indices),
        (z[:, [2, 0, 1]], bank, indices),
        (z[images], bank, indices[images]),
        (z, bank[rows], rows.argsort()[indices]),
    ):
        torch.testing.assert_close(full(*same, temperature=0.2), expected)
    assert abs(full(z, bank, indices[images], temperature=0.2) - expected) > 0.01


IMAGES = 30


def instance(seed: int = 0, **options: int | float) -> InstanceDiscrimination:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = build_encoder(NetworkSpec(widths=(16,)), (1, 8, 8), 4)
        parts = Parts(encoder, 4, IMAGES)
        widths = {"projection_hidden": 8, "projection_dim": 6}
        objective = build("instance-discrimination", {**widths, **options}, parts)
    assert isinstance(objective, InstanceDiscrimination)
    return objective


def batch(indices: list[int], J: int, seed: int = 0) -> Batch:  # noqa: N803
    random = torch.Generator().manual_seed(seed)
    views = torch.rand(len(indices), J, 1, 8, 8, generator=random)
    return Batch(views, torch.tensor(indices), random)


@pytest.mark.parametrize("J", [1, 3])
@pytest.mark.parametrize("negatives", [0, IMAGES, 10])
def test_a_step_by_hand(J: int, negatives: int) -> None:  # noqa: N803
    objective = instance(momentum=0.75, temperature=0.3, negatives=negatives)
    objective(batch([3, 7, 1], J, seed=1))
    rows, seen = objective.bank.rows.clone(), objective.bank.seen.clone()
    assert seen.nonzero().flatten().tolist() == [1, 3, 7]
    data = batch([7, 0, 3], J)
    model = copy.deepcopy(objective)
    z = F.normalize(model.projector(model.encoder(data.views.flatten(0, 1))), dim=1)
    z = z.detach().unflatten(0, (3, J))
    center = F.normalize(z.mean(1), dim=1)

    own = torch.stack([rows[7], center[1], rows[3]])  # image 0 is new
    others = torch.arange(IMAGES)
    if negatives == 10:
        state = data.generator.get_state()
        others = torch.randint(IMAGES, (10,), generator=data.generator)
        data.generator.set_state(state)
    expected = instance_cross_entropy(
        z,
        own,
        rows[others],
        data.indices[:, None] == others,
        images=IMAGES,
        temperature=0.3,
    )
    loss = objective(data)["loss"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in objective.parameters())

    new = objective.bank.rows
    torch.testing.assert_close(new[0], center[1])
    for place, image in ((0, 7), (2, 3)):
        mixed = F.normalize(0.75 * rows[image] + 0.25 * center[place], dim=0)
        torch.testing.assert_close(new[image], mixed)
    rest = [i for i in range(IMAGES) if i not in (7, 0, 3)]
    assert torch.equal(new[rest], rows[rest])


def test_draws_come_from_the_batch_s_generator() -> None:
    losses = []
    for seed in (0, 0, 1):
        data = batch([1, 2, 3], 2)
        data.generator.manual_seed(seed)
        losses.append(instance(negatives=5)(data)["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_the_loss_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert instance()(batch([1, 2, 3], 2))["loss"].dtype == torch.float32


def test_state_goes_through_a_checkpoint() -> None:
    one, other = instance(seed=1, negatives=8), instance(seed=2, negatives=8)
    one(batch([1, 2, 3], 2))
    one(batch([3, 4, 5], 2, seed=1))
    other.load_state_dict(one.state_dict())
    for seed in (2, 3):
        losses = [each(batch([2, 4, 6], 2, seed))["loss"] for each in (one, other)]
        assert torch.equal(*losses)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        instance(temperature=0)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1"):
        instance(momentum=1)
    with pytest.raises(ValueError, match="negatives must be positive, or 0 for all rows, got -1"):
        instance(negatives=-1)
    encoder = build_encoder(NetworkSpec(widths=(16,)), (1, 8, 8), 4)
    with pytest.raises(ValueError, match="needs at least 2 images"):
        build("instance-discrimination", {}, Parts(encoder, 4, 1))
