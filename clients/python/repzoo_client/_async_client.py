"""The client for asyncio. `repzoo_client.Client` documents the calls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Hashable,
    Iterable,
)
from contextlib import aclosing
from typing import Any, Literal, Self, TypeAlias, TypeVar, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repzoo_client import _calls, _wire
from repzoo_client._calls import Call
from repzoo_client._chunks import (
    Chunk,
    Chunker,
    ImageLike,
    Images,
    Limits,
    as_list,
    chunks,
    count,
)
from repzoo_client._core import ClientBase
from repzoo_client._options import CheckedOptions, Distance, Metric, Options
from repzoo_client._results import (
    Embedding,
    Generation,
    Model,
    Neighbours,
    Posterior,
    Predictions,
    Reconstruction,
)

__all__ = ["AsyncClient"]

T = TypeVar("T")

AnyImages: TypeAlias = "Images | AsyncIterable[ImageLike]"


class AsyncClient(ClientBase):
    """`Client` for asyncio, with the same arguments, calls, results and errors.

        >>> async with AsyncClient() as client:
        ...     await client.embed(["one.png", "two.png"], model="simvae-mnist")

    ``images`` may also be an asynchronous iterable. Other iterables are advanced in a thread, and
    files are read there, so that the event loop is never blocked. Cancelling a call drops all of
    its requests and their connections. A client may be used in several event loops, for example in
    one ``asyncio.run`` after the other.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. The client cannot be used afterwards."""
        await self._core.close()

    async def embed(
        self,
        images: AnyImages,
        *,
        model: str,
        normalize: bool = False,
        robust: bool = False,
        **options: Unpack[Options],
    ) -> NDArray[np.float32]:
        """See `Client.embed`."""
        return await self._run(
            _calls.embed(model, normalize=normalize, robust=robust), images, options
        )

    def embed_iter(
        self,
        images: AnyImages,
        *,
        model: str,
        normalize: bool = False,
        robust: bool = False,
        **options: Unpack[Options],
    ) -> AsyncIterator[NDArray[np.float32]]:
        """See `Client.embed_iter`."""
        return self._iterate(
            _calls.embed(model, normalize=normalize, robust=robust), images, options
        )

    async def embed_with_uncertainty(
        self,
        images: AnyImages,
        *,
        model: str,
        normalize: bool = False,
        robust: bool = False,
        **options: Unpack[Options],
    ) -> Embedding:
        """See `Client.embed_with_uncertainty`."""
        call = _calls.embed_with_uncertainty(model, normalize=normalize, robust=robust)
        return await self._run(call, images, options)

    async def uncertainty(
        self, images: AnyImages, *, model: str, **options: Unpack[Options]
    ) -> NDArray[np.float32] | None:
        """See `Client.uncertainty`."""
        return await self._run(_calls.uncertainty(model), images, options)

    async def posterior(
        self,
        images: AnyImages,
        *,
        model: str,
        content: bool = False,
        group: Iterable[Hashable] | None = None,
        **options: Unpack[Options],
    ) -> Posterior:
        """See `Client.posterior`."""
        call = _calls.posterior(model, content=content)
        if group is None:
            return await self._run(call, images, options)
        checked = CheckedOptions(**options)
        listed = await _as_list(images)
        return await self._core.fused(call, listed, group, checked, self._concurrency)

    def posterior_iter(
        self, images: AnyImages, *, model: str, content: bool = False, **options: Unpack[Options]
    ) -> AsyncIterator[Posterior]:
        """See `Client.posterior_iter`."""
        return self._iterate(_calls.posterior(model, content=content), images, options)

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

    async def search(
        self,
        images: AnyImages,
        *,
        model: str,
        k: int = 10,
        metric: Metric | Distance = "mean",
        max_uncertainty: float | None = None,
        abstain: float | None = None,
        **options: Unpack[Options],
    ) -> Neighbours:
        """See `Client.search`."""
        call = _calls.search(
            model, k, metric=metric, max_uncertainty=max_uncertainty, abstain=abstain
        )
        return await self._run(call, images, options)

    async def generate(
        self,
        n: int = 1,
        *,
        model: str,
        seed: int | None = None,
        latents: ArrayLike | None = None,
        content: AnyImages | None = None,
        vary: Literal["both", "style", "content"] = "both",
        deadline: float | None = None,
    ) -> Generation:
        """See `Client.generate`."""
        return await self._core.generate(
            n,
            model=model,
            seed=seed,
            latents=latents,
            content=None if content is None else await _as_list(content),
            vary=vary,
            deadline=deadline,
        )

    async def models(self) -> list[Model]:
        """See `Client.models`."""
        return await self._core.models()

    async def model(self, name: str) -> Model:
        """See `Client.model`."""
        return await self._core.model(name)

    async def _run(self, call: Call[T], images: AnyImages, options: Options) -> T:
        async with aclosing(self._answers(call, images, CheckedOptions(**options))) as answers:
            return call.join([answer async for answer in answers])

    def _iterate(self, call: Call[T], images: AnyImages, options: Options) -> AsyncIterator[T]:
        checked = CheckedOptions(**options)  # now, not when the iteration starts

        async def iterate() -> AsyncIterator[T]:
            async with aclosing(self._answers(call, images, checked)) as answers:
                async for answer in answers:
                    yield call.join([answer])

        return iterate()

    async def _answers(
        self, call: Call[Any], images: AnyImages, options: CheckedOptions
    ) -> AsyncGenerator[_wire.Answer, None]:
        """Yield the answers for all chunks in order, while more requests are running."""
        limits, ends = await self._core.begin(call, options)
        waiting: deque[tuple[Chunk, asyncio.Task[_wire.Answer]]] = deque()

        async def take(advance: Callable[[int], object]) -> _wire.Answer:
            chunk, task = waiting[0]
            answer = await task
            waiting.popleft()
            options.done(chunk, advance)
            return answer

        try:
            with options.showing(count(images)) as advance:
                async with aclosing(_chunks(images, limits, collect=options.collect)) as parts:
                    async for chunk in parts:
                        work = self._core.answer(call, chunk, options, ends)
                        waiting.append((chunk, asyncio.create_task(work)))
                        if len(waiting) == self._concurrency:
                            yield await take(advance)
                while waiting:
                    yield await take(advance)
        finally:
            for _, task in waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)


async def _as_list(images: AnyImages) -> list[ImageLike]:
    if isinstance(images, AsyncIterable):
        return [image async for image in images]
    return await asyncio.to_thread(as_list, images)


async def _chunks(
    images: AnyImages, limits: Limits, *, collect: bool
) -> AsyncGenerator[Chunk, None]:
    """Yield the chunks of any iterable or asynchronous iterable."""
    if not isinstance(images, AsyncIterable):
        made = chunks(images, limits, collect=collect)
        while chunk := await asyncio.to_thread(next, made, None):
            yield chunk
        return
    chunker = Chunker(limits, collect=collect)
    is_empty = True
    async for item in images:
        is_empty = False
        in_memory = isinstance(item, (bytes, np.ndarray))
        chunk = chunker.add(item) if in_memory else await asyncio.to_thread(chunker.add, item)
        if chunk:
            yield chunk
    if is_empty:
        raise ValueError("there are no images")
    if last := chunker.end():
        yield last
