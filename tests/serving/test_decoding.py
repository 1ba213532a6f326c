"""The decoder on its own: fairness, cancellation and limits, with a pool that can be held."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image
from repzoo.errors import ImageTooLarge, InvalidImage
from repzoo.packages.config import InputSpec
from repzoo_serving.models import decoding
from repzoo_serving.models.batching import QueueFull
from repzoo_serving.models.decoding import Decoder

SPEC = InputSpec(height=4, width=4, channels=1)


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Held(ThreadPoolExecutor):
    """One thread, held until it is released."""

    def __init__(self) -> None:
        super().__init__(1)
        self.free = threading.Event()
        self.submit(self.free.wait, 10)


@pytest.fixture
def pool() -> Iterator[Held]:
    with Held() as pool:
        yield pool
        pool.free.set()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the number of files of every decoding call."""
    counts: list[int] = []
    as_pixels = decoding.as_pixels

    def counted(files: Any, *args: Any, **options: Any) -> Any:
        counts.append(len(files))
        return as_pixels(files, *args, **options)

    monkeypatch.setattr(decoding, "as_pixels", counted)
    return counts


def decoder(pool: Held, **options: Any) -> Decoder:
    return Decoder(pool, pool, **{"width": 1, "max_pixels": 10_000, "max_queued": 1000, **options})


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_many_files_come_out_in_their_order(pool: Held) -> None:
    pool.free.set()
    files = [png(level) for level in range(100)]
    for width in (1, 3):
        pixels = asyncio.run(decoder(pool, width=width)(files, SPEC))
        assert pixels.shape == (100, 4, 4, 1)
        assert pixels[:, 0, 0, 0].tolist() == list(range(100))


def test_one_file_waits_for_a_few_of_many(pool: Held, decoded: list[int]) -> None:
    buffer = io.BytesIO()
    Image.new("L", (100, 100)).save(buffer, "PNG")
    large = buffer.getvalue()

    async def main() -> int:
        decode = decoder(pool)
        many = asyncio.create_task(decode([png(1)] * 100, SPEC))
        await turn()
        one = asyncio.create_task(decode([large], SPEC))
        await turn()
        pool.free.set()
        await one
        before = sum(decoded)
        await many
        return before

    # Two turns of the large request, of 13. The first attempt counts, too: the file could be tiny.
    assert asyncio.run(main()) <= 1 + 8 + 8 + 1
    assert sum(decoded) == 102


def large_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (1025, 1024), 9).save(buffer, "PNG")
    return buffer.getvalue()


def test_small_files_do_not_wait_for_large_ones(pool: Held) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    assert len(buffer.getvalue()) > decoding._TINY_BYTES

    async def main() -> None:
        with ThreadPoolExecutor(1) as small:
            decode = Decoder(small, pool, width=1, max_pixels=2**22, max_queued=100)
            large = [asyncio.create_task(decode([large_png()] * 2, SPEC)) for _ in range(3)]
            await turn()
            assert (await decode([buffer.getvalue()], SPEC)).shape == (1, 4, 4, 1)
            assert (await decode([png(1)] * 9, SPEC)).shape == (9, 4, 4, 1)
            assert not any(each.done() for each in large)
            pool.free.set()
            assert (np.concatenate(await asyncio.gather(*large)) == 9).all()
            assert decode.queued == 0

    asyncio.run(main())


def test_large_files_among_small_ones_keep_their_order(pool: Held) -> None:
    pool.free.set()
    files = [large_png() if n % 5 == 3 else png(n) for n in range(20)]
    pixels = asyncio.run(decoder(pool, max_pixels=2**22)(files, SPEC))
    assert pixels[:, 0, 0, 0].tolist() == [9 if n % 5 == 3 else n for n in range(20)]


def test_a_lone_small_file_does_not_wait(pool: Held) -> None:
    decode = decoder(pool)
    assert asyncio.run(decode([png(3)], SPEC)).tolist() == [[[[3]] * 4] * 4]
    with pytest.raises(InvalidImage):
        asyncio.run(decode([b"no image"], SPEC))


def test_what_a_cancelled_request_had_waiting_is_not_decoded(
    pool: Held, decoded: list[int]
) -> None:
    async def main() -> None:
        decode = decoder(pool)
        gone = asyncio.create_task(decode([png(1)] * 100, SPEC))
        await turn()
        assert decode.queued == 100
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert decode.queued == 0
        pool.free.set()
        await decode([png(2)], SPEC)

    asyncio.run(main())
    assert decoded == [1]


def test_a_full_queue_refuses(pool: Held) -> None:
    async def main() -> None:
        decode = decoder(pool, max_queued=10)
        waits = asyncio.create_task(decode([png(1)] * 8, SPEC))
        await turn()
        with pytest.raises(QueueFull):
            await decode([png(1)] * 3, SPEC)
        pool.free.set()
        assert len(await waits) == 8
        assert len(await decode([png(1)] * 3, SPEC)) == 3

    asyncio.run(main())


@pytest.mark.parametrize("index", [0, 7, 8, 50, 99])
@pytest.mark.parametrize(("bad", "kind"), [(b"x", InvalidImage), (png(1), ImageTooLarge)])
def test_the_first_bad_file_is_named_and_ends_it(
    pool: Held, decoded: list[int], index: int, bad: bytes, kind: type[InvalidImage]
) -> None:
    pool.free.set()
    buffer = io.BytesIO()
    Image.new("L", (101, 100)).save(buffer, "PNG")
    files = [png(1)] * 100
    files[index] = buffer.getvalue() if kind is ImageTooLarge else bad
    decode = decoder(pool)
    with pytest.raises(kind) as caught:
        asyncio.run(decode(files, SPEC))
    assert type(caught.value) is kind
    assert caught.value.index == index
    assert f"image {index}: " in str(caught.value)
    assert sum(decoded) <= index + 16
    assert decode.queued == 0
