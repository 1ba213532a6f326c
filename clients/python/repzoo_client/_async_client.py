"""The client for asyncio. What a call means stands in `repzoo_client.Client`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeAlias, TypeVar, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repzoo_client import _calls, _wire
from repzoo_client._calls import Call
from repzoo_client._chunks import Chunk, Chunker, ImageLike, Images, Limits, chunks, count
from repzoo_client._core import Core
from repzoo_client._options import Options, Run
from repzoo_client._results import (
    Embedding,
    Generation,
    Model,
    Posterior,
    Predictions,
    Reconstruction,
)

__all__ = ["AsyncClient"]

T = TypeVar("T")

AnyImages: TypeAlias = Images | AsyncIterable[ImageLike]


class AsyncClient:
    """`Client` for asyncio: the same arguments, calls, results and errors, awaited.

        >>> async with AsyncClient() as client:
        ...     await client.embed(["one.png", "two.png"], model="simvae-mnist")

    ``images`` may also be an asynchronous iterable. Other iterables are advanced, and files are
    read, in a thread, so that the loop goes on. Cancelling a call drops all of its requests, and
    their connections with them. A client belongs to the event loop that first used it.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout: float | None = 60.0,
        api_key: str | None = None,
        batch_size: int = 256,
        answers: _wire.Answers = "safetensors",
        concurrency: int = 4,
        retries: int = 2,
        deadline: float | None = None,
    ) -> None:
        self._core = Core(
            url,
            timeout=timeout,
            api_key=api_key,
            batch_size=batch_size,
            answers=answers,
            concurrency=concurrency,
            retries=retries,
            deadline=deadline,
        )
        self.url = self._core.url

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. The client cannot be used afterwards."""
        await self._core.close()

    async def embed(
        self, images: AnyImages, *, model: str, normalize: bool = False, **options: Unpack[Options]
    ) -> NDArray[np.float32]:
        """See `Client.embed`."""
        return await self._run(_calls.embed(model, normalize=normalize), images, options)

    def embed_iter(
        self, images: AnyImages, *, model: str, normalize: bool = False, **options: Unpack[Options]
    ) -> AsyncIterator[NDArray[np.float32]]:
        """See `Client.embed_iter`."""
        call = _calls.embed(model, normalize=normalize)
        return self._iterate(call, images, Run(**options))

    async def embed_with_uncertainty(
        self, images: AnyImages, *, model: str, normalize: bool = False, **options: Unpack[Options]
    ) -> Embedding:
        """See `Client.embed_with_uncertainty`."""
        call = _calls.embed_with_uncertainty(model, normalize=normalize)
        return await self._run(call, images, options)

    async def uncertainty(
        self, images: AnyImages, *, model: str, **options: Unpack[Options]
    ) -> NDArray[np.float32] | None:
        """See `Client.uncertainty`."""
        return await self._run(_calls.uncertainty(model), images, options)

    async def posterior(
        self, images: AnyImages, *, model: str, **options: Unpack[Options]
    ) -> Posterior:
        """See `Client.posterior`."""
        return await self._run(_calls.posterior(model), images, options)

    def posterior_iter(
        self, images: AnyImages, *, model: str, **options: Unpack[Options]
    ) -> AsyncIterator[Posterior]:
        """See `Client.posterior_iter`."""
        return self._iterate(_calls.posterior(model), images, Run(**options))

    async def reconstruct(
        self, images: AnyImages, *, model: str, **options: Unpack[Options]
    ) -> Reconstruction:
        """See `Client.reconstruct`."""
        return await self._run(_calls.reconstruct(model), images, options)

    async def probe(
        self,
        images: AnyImages,
        task: str,
        kind: str = "linear",
        *,
        model: str,
        **options: Unpack[Options],
    ) -> Predictions:
        """See `Client.probe`."""
        return await self._run(_calls.probe(model, task, kind), images, options)

    async def generate(
        self,
        n: int = 1,
        *,
        model: str,
        seed: int | None = None,
        latents: ArrayLike | None = None,
        deadline: float | None = None,
    ) -> Generation:
        """See `Client.generate`."""
        request = _wire.generation(model, n, seed, latents)
        return await self._core.generate(*request, deadline)

    async def models(self) -> list[Model]:
        """See `Client.models`."""
        return await self._core.models()

    async def model(self, name: str) -> Model:
        """See `Client.model`."""
        return await self._core.model(name)

    async def _run(self, call: Call[T], images: AnyImages, options: Options) -> T:
        async with aclosing(self._answers(call, images, Run(**options))) as answers:
            return call.join([answer async for answer in answers])

    async def _iterate(self, call: Call[T], images: AnyImages, run: Run) -> AsyncIterator[T]:
        async with aclosing(self._answers(call, images, run)) as answers:
            async for answer in answers:
                yield call.join([answer])

    async def _answers(
        self, call: Call[Any], images: AnyImages, run: Run
    ) -> AsyncGenerator[_wire.Answer, None]:
        """Yield the answers for all chunks in order; several are under way at a time."""
        limits, ends = await self._core.begin(call, run)
        waiting: deque[tuple[Chunk, asyncio.Task[_wire.Answer]]] = deque()
        try:
            with run.showing(count(images)) as advance:
                async with aclosing(_chunks(images, limits, collect=run.collect)) as parts:
                    async for chunk in parts:
                        work = self._core.answer(call, chunk, run, ends)
                        waiting.append((chunk, asyncio.create_task(work)))
                        if len(waiting) == self._core.concurrency:
                            yield await _take(waiting, run, advance)
                while waiting:
                    yield await _take(waiting, run, advance)
        finally:
            for _, task in waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)


async def _take(
    waiting: deque[tuple[Chunk, asyncio.Task[_wire.Answer]]],
    run: Run,
    advance: Callable[[int], object],
) -> _wire.Answer:
    """The answer for the chunk that has waited longest, once it is there."""
    chunk, task = waiting[0]
    answer = await task
    waiting.popleft()
    run.done(chunk, advance)
    return answer


async def _chunks(
    images: AnyImages, limits: Limits, *, collect: bool
) -> AsyncGenerator[Chunk, None]:
    """Yield what `chunks` gives, also of an asynchronous iterable."""
    if not isinstance(images, AsyncIterable):
        made = chunks(images, limits, collect=collect)
        while chunk := await asyncio.to_thread(next, made, None):
            yield chunk
        return
    chunker = Chunker(limits, collect=collect)
    there = False
    async for item in images:
        chunk = (
            chunker.add(item)
            if isinstance(item, (bytes, np.ndarray))
            else await asyncio.to_thread(chunker.add, item)
        )
        there = True
        if chunk:
            yield chunk
    if not there:
        raise ValueError("there are no images")
    if last := chunker.end():
        yield last
