"""Queues and memory banks: comparison with slow lists and dictionaries."""

from __future__ import annotations

import pytest
import torch
from repzoo_training.objectives.memory import MemoryBank, Queue, last_of_same
from torch import Tensor
from torch.nn import functional as F


def embeddings(rows: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def test_a_queue_keeps_the_latest() -> None:
    queue = Queue(5, 3)
    latest = list(queue.rows.clone())
    # Two pushes of 5 fill it, 7 exceeds its size, and the others wrap around its end.
    for seed, count in enumerate([2, 2, 2, 5, 7, 1, 4, 3]):
        pushed = embeddings(count, 3, seed)
        queue.push(pushed)
        latest = [*latest, *pushed][-5:]
        oldest_first = torch.cat([queue.rows[queue.position :], queue.rows[: queue.position]])
        assert torch.equal(oldest_first, torch.stack(latest))


def test_a_queue_starts_with_directions() -> None:
    rows = Queue(500, 4).rows
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(500))
    assert rows.mean(0).norm() < 0.15  # in all directions


def test_a_bank_follows_each_image() -> None:
    bank = MemoryBank(6, 3)
    untouched = bank.rows.clone()
    expected: dict[int, Tensor] = {}
    for seed, indices in enumerate([[1, 4, 2], [4, 1, 0], [2, 4, 0]]):
        z = embeddings(3, 3, seed)
        bank.update(torch.tensor(indices), z, momentum=0.75)
        for index, row in zip(indices, z, strict=True):
            old = expected.get(index)
            expected[index] = F.normalize(row if old is None else 0.75 * old + 0.25 * row, dim=0)
    for index in range(6):
        torch.testing.assert_close(bank.rows[index], expected.get(index, untouched[index]))
    assert bank.seen.tolist() == [index in expected for index in range(6)]


@pytest.mark.parametrize("seen_before", [False, True])
def test_of_an_image_that_comes_twice_the_last_embedding_counts(seen_before: bool) -> None:
    bank, once = MemoryBank(4, 3), MemoryBank(4, 3)
    once.load_state_dict(bank.state_dict())
    if seen_before:
        for each in (bank, once):
            each.update(torch.arange(4), embeddings(4, 3, 1), momentum=0.5)
    z = embeddings(5, 3)
    bank.update(torch.tensor([2, 0, 2, 3, 2]), z, momentum=0.5)
    once.update(torch.tensor([0, 3, 2]), z[[1, 3, 4]], momentum=0.5)
    assert torch.equal(bank.rows, once.rows)


def test_writes_to_one_row_carry_one_value() -> None:
    # A GPU writes them in any order, which a test on a CPU would not reveal.
    assert last_of_same(torch.tensor([2, 0, 2, 3, 2])).tolist() == [4, 1, 4, 3, 4]


@pytest.mark.parametrize("memory", [Queue(8, 3), MemoryBank(8, 3)], ids=["queue", "bank"])
def test_no_gradient_enters_a_memory(memory: Queue | MemoryBank) -> None:
    z = embeddings(4, 3).requires_grad_()
    if isinstance(memory, Queue):
        memory.push(z)
    else:
        memory.update(torch.arange(4), z, momentum=0.5)
    assert not memory.rows.requires_grad
    assert not list(memory.parameters())


def test_a_loss_that_kept_the_rows_themselves_is_told() -> None:
    queue = Queue(4, 3)
    z = embeddings(2, 3).requires_grad_()
    loss = (z @ queue.rows.mT).sum()
    queue.push(z.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_memories_are_in_checkpoints() -> None:
    queue, bank = Queue(5, 3), MemoryBank(5, 3)
    queue.push(embeddings(3, 3))
    bank.update(torch.tensor([3, 1]), embeddings(2, 3), momentum=0.5)
    other_queue, other_bank = Queue(5, 3), MemoryBank(5, 3)
    other_queue.load_state_dict(queue.state_dict())
    other_bank.load_state_dict(bank.state_dict())
    for a_queue, a_bank in ((queue, bank), (other_queue, other_bank)):
        a_queue.push(embeddings(4, 3, 1))
        a_bank.update(torch.tensor([1, 2]), embeddings(2, 3, 1), momentum=0.5)
    assert torch.equal(queue.rows, other_queue.rows)
    assert torch.equal(bank.rows, other_bank.rows)


def test_memories_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Queue(0, 3)
    with pytest.raises(ValueError, match="at least 1 image, got 0"):
        MemoryBank(0, 3)
