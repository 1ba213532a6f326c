"""The client."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repzoo_client import _calls, _wire
from repzoo_client._calls import Call
from repzoo_client._chunks import Chunk, Images, chunks, count
from repzoo_client._core import Core
from repzoo_client._options import Options, Run
from repzoo_client._portal import Portal
from repzoo_client._results import (
    Embedding,
    Generation,
    Model,
    Posterior,
    Predictions,
    Reconstruction,
)

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """A connection to a repzoo server, for one or many threads.

        >>> with Client() as client:
        ...     posterior = client.posterior("digit.png", model="simvae-mnist")
        ...     posterior.mean.shape
        (1, 10)

    Wherever ``images`` are taken, they are one image or an iterable of them: uint8 arrays of the
    model's own size, ``[H, W]`` or ``[H, W, C]``; or PNG, JPEG or WebP files of any size, as paths
    or bytes; or one uint8 array ``[N, H, W, C]``. However many they are, they travel in requests
    that the server's limits allow, several at a time, and results are in their order. An iterator
    is taken as it is needed, and files are read when their turn comes.

    Calls over images also take ``on_error``, ``errors``, ``progress`` and ``deadline``: see
    `repzoo_client.Options`.

    Every call raises, besides what it says itself:

    - `ServerUnreachable`, `RequestTimedOut`: there is no answer;
    - `ModelNotFound`: the server does not serve that model;
    - `InvalidImage`: an image is not one, with its ``index``; `InvalidRequest`: arrays have not
      the model's size; `RequestTooLarge`, `Overloaded`: the server's limits;
    - other kinds of `APIError`, see `repzoo_client.errors`;
    - TypeError, ValueError, OSError: images that cannot be sent.

    Args:
        url: the server's; by default ``REPZOO_URL``, else ``http://127.0.0.1:3000``.
        timeout: seconds that connecting, sending and waiting for the next bytes of the answer may
            take, each; None for no limit.
        api_key: sent as a bearer token; by default ``REPZOO_API_KEY``, else none.
        batch_size: the most images in one request, if the server's limits allow as many.
        answers: the format of answers. "json", with base64 vectors, is for what lies between and
            lets nothing else through; reading images from it takes Pillow.
        concurrency: requests of one call that are under way at once.
        retries: how often a request is sent again after a broken connection, 429, 502 or 503, with
            growing waits between, or what ``Retry-After`` asks for. Nothing that the server does
            changes anything there, so all operations are safe to repeat.
        deadline: seconds that a call may take in all, retries and waits included; None for no
            limit. Whatever it has under way is then dropped.

    Raises:
        ValueError: if the URL is not one of http or https, or another argument is out of range.
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
        # All that waits does so in one loop, where a deadline or Ctrl-C can end it at any byte.
        self._portal = Portal()
        self._finalizer = weakref.finalize(self, _close, self._core, self._portal)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The client cannot be used afterwards."""
        self._finalizer()

    def embed(
        self, images: Images, *, model: str, normalize: bool = False, **options: Unpack[Options]
    ) -> NDArray[np.float32]:
        """Embed images; with a posterior, its mean.

        Args:
            images: one image or many.
            model: name of a model that the server serves.
            normalize: divide each embedding by its Euclidean length.
            options: see `repzoo_client.Options`.

        Returns:
            float32 ``[N, D]``.
        """
        return self._run(_calls.embed(model, normalize=normalize), images, options)

    def embed_iter(
        self, images: Images, *, model: str, normalize: bool = False, **options: Unpack[Options]
    ) -> Iterator[NDArray[np.float32]]:
        """`embed` in pieces, in order, as they arrive: any number of images in constant memory.

        Ending the iteration early drops what is under way.

        Yields:
            float32 ``[n, D]`` of the next n images.
        """
        call = _calls.embed(model, normalize=normalize)
        return self._iterate(call, images, Run(**options))

    def embed_with_uncertainty(
        self, images: Images, *, model: str, normalize: bool = False, **options: Unpack[Options]
    ) -> Embedding:
        """`embed` and `uncertainty` by the same requests, for half the work of both.

        Args:
            As `embed`.
        """
        return self._run(_calls.embed_with_uncertainty(model, normalize=normalize), images, options)

    def uncertainty(
        self, images: Images, *, model: str, **options: Unpack[Options]
    ) -> NDArray[np.float32] | None:
        """How likely each image's nearest neighbour is a wrong one: a calibrated probability.

        The config of `model` says in which gallery, and what wrong is.

        Returns:
            float32 ``[N]`` in [0, 1]; None if the model has no calibrated uncertainty.
        """
        return self._run(_calls.uncertainty(model), images, options)

    def posterior(self, images: Images, *, model: str, **options: Unpack[Options]) -> Posterior:
        """The posterior over the latents of each image.

        Raises:
            UnsupportedOperation: if the model has no posterior.
        """
        return self._run(_calls.posterior(model), images, options)

    def posterior_iter(
        self, images: Images, *, model: str, **options: Unpack[Options]
    ) -> Iterator[Posterior]:
        """`posterior` in pieces, as `embed_iter`.

        Raises:
            UnsupportedOperation: if the model has no posterior.
        """
        return self._iterate(_calls.posterior(model), images, Run(**options))

    def reconstruct(
        self, images: Images, *, model: str, **options: Unpack[Options]
    ) -> Reconstruction:
        """Encode images and decode them again.

        Raises:
            UnsupportedOperation: if the model has no decoder.
        """
        return self._run(_calls.reconstruct(model), images, options)

    def probe(
        self,
        images: Images,
        task: str,
        kind: str = "linear",
        *,
        model: str,
        **options: Unpack[Options],
    ) -> Predictions:
        """Classify images with one of the model's probes.

        Raises:
            UnknownTask: if the model has no probe for this task and kind.
        """
        return self._run(_calls.probe(model, task, kind), images, options)

    def generate(
        self,
        n: int = 1,
        *,
        model: str,
        seed: int | None = None,
        latents: ArrayLike | None = None,
        deadline: float | None = None,
    ) -> Generation:
        """Draw images from the model's prior, or decode given latents, in one request.

        Args:
            n: how many to draw.
            model: name of a model that the server serves.
            seed: the same seed gives the same images; by default every call draws anew.
            latents: float ``[N, D]`` or ``[D]`` to decode; ``n`` and ``seed`` then mean nothing.
            deadline: seconds for the call; by default the client's.

        Raises:
            UnsupportedOperation: if the model has no decoder.
        """
        request = _wire.generation(model, n, seed, latents)
        return self._portal.run(self._core.generate(*request, deadline))

    def models(self) -> list[Model]:
        """The models that the server serves."""
        return self._portal.run(self._core.models())

    def model(self, name: str) -> Model:
        """One of the models that the server serves.

        Raises:
            ModelNotFound: if it does not serve it.
        """
        return self._portal.run(self._core.model(name))

    def _run(self, call: Call[T], images: Images, options: Options) -> T:
        return call.join(list(self._answers(call, images, Run(**options))))

    def _iterate(self, call: Call[T], images: Images, run: Run) -> Iterator[T]:
        return (call.join([answer]) for answer in self._answers(call, images, run))

    def _answers(self, call: Call[Any], images: Images, run: Run) -> Iterator[_wire.Answer]:
        """The answers for all chunks in order, several of which are under way at a time."""
        limits, ends = self._portal.run(self._core.begin(call, run))
        waiting: deque[tuple[Chunk, Future[_wire.Answer]]] = deque()
        try:
            with run.showing(count(images)) as advance:
                # Images are taken in the caller's thread: an iterator may be bound to it.
                for chunk in chunks(images, limits, collect=run.collect):
                    work = self._core.answer(call, chunk, run, ends)
                    waiting.append((chunk, self._portal.submit(work)))
                    if len(waiting) == self._core.concurrency:
                        yield _take(waiting, run, advance)
                while waiting:
                    yield _take(waiting, run, advance)
        finally:
            for _, future in waiting:
                future.cancel()


def _take(
    waiting: deque[tuple[Chunk, Future[_wire.Answer]]],
    run: Run,
    advance: Callable[[int], object],
) -> _wire.Answer:
    """The answer for the chunk that has waited longest, once it is there."""
    chunk, future = waiting[0]
    answer = future.result()
    waiting.popleft()
    run.done(chunk, advance)
    return answer


def _close(core: Core, portal: Portal) -> None:
    if portal.started:
        portal.run(core.close())
    portal.close()
