"""MoCo: comparison of InfoNCE with lightly, loops and finite differences; the state of MoCo."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from lightly.loss import NTXentLoss
from repzoo_training.networks import NetworkSpec, build_encoder
from repzoo_training.objectives import Batch, Parts, build
from repzoo_training.objectives.moco import MoCo, info_nce
from torch import Tensor
from torch.nn import functional as F


def directions(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, generator=random, dtype=torch.float64), dim=-1)


def by_definition(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> float:
    """Eq. 1, query by query."""
    B, Q, _ = queries.shape  # noqa: N806
    losses = []
    for i in range(B):
        for a in range(Q):
            for b in range(keys.shape[1]):
                if keys.shape[1] > 1 and a == b:
                    continue  # the same view
                q = queries[i, a]
                positive = math.exp(q.dot(keys[i, b]).item() / temperature)
                negative = sum(math.exp(q.dot(k).item() / temperature) for k in queue)
                losses.append(-math.log(positive / (positive + negative)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("Q", "M"), [(1, 1), (3, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_its_definition(Q: int, M: int, temperature: float) -> None:  # noqa: N803
    queries, keys, queue = directions(4, Q, 5), directions(4, M, 5, seed=1), directions(6, 5)
    loss = info_nce(queries, keys, queue, temperature).item()
    assert loss == pytest.approx(by_definition(queries, keys, queue, temperature), rel=1e-9)


def test_equals_lightly_with_the_same_memory() -> None:
    # lightly normalises its inputs: the gradients are compared before normalisation.
    lengths = torch.linspace(0.5, 2, 8, dtype=torch.float64)[:, None, None]
    queries, keys = (lengths * directions(8, 1, 5)).requires_grad_(), directions(8, 1, 5, seed=1)
    lightly = NTXentLoss(0.1, memory_bank_size=(16, 5))
    lightly.memory_bank.bank = directions(16, 5, seed=2)
    queue = lightly.memory_bank.bank.clone()
    ours = info_nce(F.normalize(queries, dim=2), keys, queue, 0.1)
    theirs = lightly(queries[:, 0], keys[:, 0])
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, queries)[0] for loss in (ours, theirs)))


def test_gradient_equals_finite_differences() -> None:
    queries, keys = directions(3, 2, 4).requires_grad_(), directions(3, 2, 4, seed=1)
    queue = directions(5, 4)
    assert torch.autograd.gradcheck(lambda q: info_nce(q, keys, queue, 0.5), (queries,))


def test_invariances() -> None:
    queries, keys, queue = directions(4, 3, 5), directions(4, 3, 5, seed=1), directions(7, 5)
    expected = info_nce(queries, keys, queue, 0.2)
    rotation, _ = torch.linalg.qr(directions(5, 5, seed=2))
    views, images, places = [2, 0, 1], [1, 3, 0, 2], [6, 5, 4, 3, 2, 1, 0]
    for q, k, negatives in (
        (queries @ rotation, keys @ rotation, queue @ rotation),
        (queries[:, views], keys[:, views], queue),
        (queries[images], keys[images], queue),
        (queries, keys, queue[places]),
    ):
        torch.testing.assert_close(info_nce(q, k, negatives, 0.2), expected)
    assert abs(info_nce(queries, keys[images], queue, 0.2) - expected) > 0.01


def moco(seed: int = 0, **options: bool | int | float) -> MoCo:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = build_encoder(NetworkSpec(widths=(16,)), (1, 8, 8), 4)
        parts = Parts(encoder, 4, 100)
        sizes = {"queue_size": 20, "projection_hidden": 8, "projection_dim": 6}
        objective = build("moco", {**sizes, **options}, parts)
    assert isinstance(objective, MoCo)
    return objective


def batch(B: int, J: int, seed: int = 0) -> Batch:  # noqa: N803
    random = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(B, J, 1, 8, 8, generator=random), torch.arange(B), random)


@pytest.mark.parametrize("J", [2, 3])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_step_by_hand(J: int, symmetric: bool) -> None:  # noqa: N803
    objective = moco(momentum=0.75, temperature=0.3, symmetric=symmetric)
    with torch.no_grad():
        for parameter in objective.encoder.parameters():
            parameter.add_(0.01)  # so that the key encoder differs
    queue, before = objective.queue.rows.clone(), copy.deepcopy(objective)
    data = batch(3, J)

    def project(model: MoCo, views: Tensor, *, key: bool) -> Tensor:
        x = views.flatten(0, 1)
        z: Tensor = model.key_encoder(x) if key else model.projector(model.encoder(x))
        return F.normalize(z, dim=1).view(3, -1, 6)

    query_views = data.views if symmetric else data.views[:, 1:]
    key_views = data.views if symmetric else data.views[:, :1]
    keys = project(before, key_views, key=True)
    loss = objective(data)["loss"]
    queries = project(before, query_views, key=False)
    expected = by_definition(queries.double(), keys.double(), queue.double(), 0.3)
    assert loss.item() == pytest.approx(expected, rel=1e-5)

    loss.backward()  # still possible after the queue has changed
    count = keys.shape[0] * keys.shape[1]
    torch.testing.assert_close(objective.queue.rows[:count], keys.flatten(0, 1))
    assert torch.equal(objective.queue.rows[count:], queue[count:])

    objective.after_step(0.5)
    old, new = before.key_encoder.parameters(), objective.key_encoder.parameters()
    online = [*objective.encoder.parameters(), *objective.projector.parameters()]
    for was, now, source in zip(old, new, online, strict=True):
        torch.testing.assert_close(now, 0.75 * was + 0.25 * source)
        assert now.grad is None


@pytest.mark.parametrize("projection_norm", [False, True])
def test_every_trained_weight_has_a_gradient_and_no_key_has(projection_norm: bool) -> None:
    objective = moco(projection_norm=projection_norm)
    norms = [m for m in objective.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert bool(norms) == projection_norm
    objective(batch(3, 2))["loss"].backward()
    for name, parameter in objective.named_parameters():
        trained = not name.startswith("key_encoder")
        assert parameter.requires_grad == trained
        assert (parameter.grad is not None) == trained


def test_the_loss_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert moco()(batch(6, 2))["loss"].dtype == torch.float32


def test_state_goes_through_a_checkpoint() -> None:
    one, other = moco(seed=1), moco(seed=2)
    for seed in range(3):
        one(batch(8, 2, seed))
        one.after_step(0.1)
    other.load_state_dict(one.state_dict())
    for seed in range(3, 6):
        first, second = one(batch(8, 2, seed))["loss"], other(batch(8, 2, seed))["loss"]
        assert torch.equal(first, second)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got -1"):
        moco(temperature=-1)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1"):
        moco(momentum=1)
    with pytest.raises(ValueError, match="at least 2 views per image, got 1"):
        moco()(batch(4, 1))
    with pytest.raises(ValueError, match="3 queries per image need 1 or 3 keys, got 2"):
        info_nce(directions(4, 3, 5), directions(4, 2, 5), directions(7, 5), 0.1)
