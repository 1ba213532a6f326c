"""The batcher on its own, with functions that record their inputs."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from repzoo_serving.models.batching import Batcher, Outputs, QueueFull


class Doubler:
    """Doubles rows, records the size of every batch, waits while it is held, and fails on -1."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.batches: list[Any] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, rows: NDArray[Any]) -> Outputs:
        assert self.free.wait(10)
        self.sizes.append(len(rows))
        self.batches.append(rows.tolist())
        if (rows == -1).any():
            raise ValueError("minus one")
        return {"twice": rows * 2, "names": [str(row) for row in rows]}


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def rows(*values: int) -> NDArray[np.int64]:
    return np.array(values)


def batcher(run: Doubler, executor: ThreadPoolExecutor, **options: Any) -> Batcher:
    return Batcher(run, **{"executor": executor, "max_rows": 4, "max_queued": 100, **options})


async def turn() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_lone_request_runs_at_once(executor: ThreadPoolExecutor) -> None:
    run = Doubler()
    results = asyncio.run(batcher(run, executor)(rows(1, 2)))
    assert results["twice"].tolist() == [2, 4]
    assert results["names"] == ["1", "2"]
    assert run.sizes == [2]


def test_what_arrives_while_a_batch_runs_is_the_next_batch(executor: ThreadPoolExecutor) -> None:
    run = Doubler()

    async def main() -> list[Any]:
        run.free.clear()
        call = batcher(run, executor)
        first = asyncio.create_task(call(rows(1)))
        await turn()
        others = [asyncio.create_task(call(rows(value))) for value in (2, 3, 4)]
        await turn()
        assert call.queued == 3
        run.free.set()
        return [(await task)["twice"].tolist() for task in (first, *others)]

    assert asyncio.run(main()) == [[2], [4], [6], [8]]
    assert run.sizes == [1, 3]


def test_a_full_batch_is_handed_over_while_another_runs(executor: ThreadPoolExecutor) -> None:
    run = Doubler()

    async def main() -> None:
        run.free.clear()
        call = batcher(run, executor)
        first = asyncio.create_task(call(rows(1)))
        await turn()
        others = [asyncio.create_task(call(rows(value))) for value in (2, 3, 4, 5, 6, 7, 8, 9, 10)]
        await turn()
        # Four run next, whatever arrives; the others wait and can still be cancelled.
        assert call.queued == 5
        run.free.set()
        await asyncio.gather(first, *others)
        assert call.queued == 0

    asyncio.run(main())
    assert run.sizes == [1, 4, 4, 1]


def test_a_batch_has_no_more_rows_than_run_in_a_moment(executor: ThreadPoolExecutor) -> None:
    sizes: list[int] = []

    def slowly(values: NDArray[Any]) -> Outputs:
        sizes.append(len(values))
        time.sleep(0.002 * len(values))
        return {"twice": values * 2}

    async def main() -> None:
        call = Batcher(slowly, executor=executor, max_rows=64, max_queued=100)
        await call(rows(1))
        results = await call(np.arange(40))
        assert results["twice"].tolist() == list(range(0, 80, 2))

    asyncio.run(main())
    # 10 ms allow 5 rows, but a few more are always taken.
    assert sizes == [1, 8, 8, 8, 8, 8]


def test_a_large_request_is_split_and_put_together(executor: ThreadPoolExecutor) -> None:
    run = Doubler()
    results = asyncio.run(batcher(run, executor)(np.arange(10)))
    assert results["twice"].tolist() == list(range(0, 20, 2))
    assert results["names"] == [str(value) for value in range(10)]
    assert run.sizes == [4, 4, 2]


def test_small_requests_are_in_the_next_batch_whatever_waits(executor: ThreadPoolExecutor) -> None:
    run = Doubler()
    done: list[str] = []

    async def main() -> None:
        run.free.clear()
        call = batcher(run, executor)

        async def named(name: str, values: NDArray[Any]) -> None:
            await call(values)
            done.append(name)

        large = [asyncio.create_task(named("large", np.arange(100, 140))) for _ in range(2)]
        await turn()
        small = [asyncio.create_task(named("small", rows(7))) for _ in range(2)]
        await turn()
        run.free.set()
        await asyncio.gather(*small, *large)

    asyncio.run(main())
    assert done == ["small", "small", "large", "large"]
    # When they arrived, one batch ran and another had been submitted; they were in the next.
    assert run.batches[2].count(7) == 2
    # No batch has room while rows wait.
    assert run.sizes == [4] * 20 + [2]


def test_more_requests_than_a_batch_has_rows_take_turns(executor: ThreadPoolExecutor) -> None:
    run = Doubler()
    done: list[int] = []

    async def main() -> None:
        run.free.clear()
        call = batcher(run, executor)

        async def numbered(number: int) -> None:
            assert (await call(rows(number, number)))["twice"].tolist() == [2 * number] * 2
            done.append(number)

        tasks = [asyncio.create_task(numbered(number)) for number in range(8)]
        await turn()
        run.free.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    # Each is complete after its turn; halves of all of them would delay all of them.
    assert run.sizes == [4, 4, 4, 4]
    assert done == list(range(8))


def test_requests_do_not_share_a_batch_that_must_not_mix(executor: ThreadPoolExecutor) -> None:
    run = Doubler()

    async def main() -> None:
        call = batcher(run, executor, mix=False)
        await asyncio.gather(call(np.arange(6)), call(rows(1)), call(rows(2)))

    asyncio.run(main())
    assert sorted(run.sizes) == [1, 1, 2, 4]


def test_a_full_queue_refuses(executor: ThreadPoolExecutor) -> None:
    run = Doubler()

    async def main() -> None:
        run.free.clear()
        call = batcher(run, executor, max_queued=3)
        first = asyncio.create_task(call(rows(1)))
        await turn()
        second = asyncio.create_task(call(rows(2, 3)))
        await turn()
        with pytest.raises(QueueFull, match="2 rows are waiting"):
            await call(rows(4, 5))
        third = asyncio.create_task(call(rows(6)))
        await turn()
        run.free.set()
        await asyncio.gather(first, second, third)
        assert call.queued == 0

    asyncio.run(main())


def test_a_cancelled_request_leaves_the_queue(executor: ThreadPoolExecutor) -> None:
    run = Doubler()

    async def main() -> None:
        run.free.clear()
        call = batcher(run, executor)
        first = asyncio.create_task(call(rows(1)))
        await turn()
        gone = asyncio.create_task(call(np.arange(30)))
        await turn()
        stays = asyncio.create_task(call(rows(5)))
        await turn()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert call.queued == 1
        run.free.set()
        assert (await stays)["twice"].tolist() == [10]
        await first

    asyncio.run(main())
    # All rows except the ones that had been submitted already.
    assert run.sizes == [1, 4, 1]


def test_cancelling_a_request_whose_batch_runs_harms_nobody(executor: ThreadPoolExecutor) -> None:
    run = Doubler()

    async def main() -> None:
        run.free.clear()
        call = batcher(run, executor)
        gone = asyncio.create_task(call(np.arange(6)))
        await turn()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        stays = asyncio.create_task(call(rows(5)))
        await turn()
        run.free.set()
        assert (await stays)["twice"].tolist() == [10]
        assert call.queued == 0

    asyncio.run(main())
    assert run.sizes == [4, 1]


def test_only_the_request_at_fault_fails(executor: ThreadPoolExecutor) -> None:
    run = Doubler()

    async def main() -> list[Any]:
        run.free.clear()
        call = batcher(run, executor)
        first = asyncio.create_task(call(rows(0)))
        await turn()
        mates = [asyncio.create_task(call(rows(value))) for value in (1, -1, 3)]
        await turn()
        run.free.set()
        await first
        results = await asyncio.gather(*mates, return_exceptions=True)
        # The batcher still works afterwards.
        assert (await call(rows(9)))["twice"].tolist() == [18]
        return results

    good, bad, other = asyncio.run(main())
    assert good["twice"].tolist() == [2]
    assert other["twice"].tolist() == [6]
    assert isinstance(bad, ValueError)


def test_a_large_request_that_fails_leaves_nothing_in_the_queue(
    executor: ThreadPoolExecutor,
) -> None:
    run = Doubler()

    async def main() -> None:
        call = batcher(run, executor)
        with pytest.raises(ValueError, match="minus one"):
            await call(np.array([-1] * 10))
        assert call.queued == 0

    asyncio.run(main())
    assert run.sizes == [4]


def test_rows_that_cannot_be_joined_fail_and_do_not_hang(executor: ThreadPoolExecutor) -> None:
    run = Doubler()

    async def main() -> None:
        run.free.clear()
        call = batcher(run, executor)
        first = asyncio.create_task(call(rows(0)))
        await turn()
        odd = asyncio.create_task(call(np.zeros((1, 3))))
        even = asyncio.create_task(call(np.ones((1, 2))))
        await turn()
        run.free.set()
        await first
        # Alone, each of them succeeds.
        assert (await odd)["twice"].shape == (1, 3)
        assert (await even)["twice"].shape == (1, 2)

    asyncio.run(main())


def test_rows_that_several_batches_in_flight_share_all_arrive_and_in_order(
    executor: ThreadPoolExecutor,
) -> None:
    def run(values: NDArray[Any]) -> Outputs:
        time.sleep(0.0001)
        return {"twice": values * 2}

    async def main() -> None:
        call = batcher(run, executor, max_rows=16, max_queued=10_000)  # type: ignore[arg-type]
        chance = random.Random(0)
        sent = [np.arange(chance.randrange(1, 60)) + 1000 * number for number in range(200)]

        async def ask(values: NDArray[Any], wait: float) -> None:
            await asyncio.sleep(wait)
            assert (await call(values))["twice"].tolist() == (2 * values).tolist()

        await asyncio.gather(*(ask(values, chance.random() / 20) for values in sent))

    asyncio.run(main())


def test_a_batch_that_fails_and_runs_again_does_not_change_the_order(
    executor: ThreadPoolExecutor,
) -> None:
    run = Doubler()

    async def main() -> None:
        run.free.clear()
        call = batcher(run, executor)
        first = asyncio.create_task(call(rows(0)))
        await turn()
        long = asyncio.create_task(call(np.arange(10, 20)))
        bad = asyncio.create_task(call(rows(-1)))
        await turn()
        run.free.set()
        assert (await long)["twice"].tolist() == list(range(20, 40, 2))
        with pytest.raises(ValueError, match="minus one"):
            await bad
        await first

    asyncio.run(main())
