"""The synchronous client."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Literal, Self, TypeVar, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repzoo_client import _calls, _wire
from repzoo_client._calls import Call
from repzoo_client._chunks import Chunk, Images, as_list, chunks, count
from repzoo_client._core import ClientBase
from repzoo_client._options import CheckedOptions, Distance, Metric, Options
from repzoo_client._portal import Portal
from repzoo_client._results import (
    Embedding,
    Generation,
    Model,
    Neighbours,
    Posterior,
    Predictions,
    Reconstruction,
)
from repzoo_client.errors import ClientError

__all__ = ["Client"]

T = TypeVar("T")


class Client(ClientBase):
    """A client of a repzoo server, which any number of threads may share.

        >>> with Client() as client:
        ...     posterior = client.posterior("digit.png", model="simvae-mnist")
        ...     posterior.mean.shape
        (1, 10)

    ``images`` is one image or an iterable of images. An image is a uint8 array ``[H, W]`` or
    ``[H, W, C]``, a Pillow image, or an image file, as a path, as bytes or as an open binary file.
    A uint8 array ``[N, H, W, C]`` works too. With Pillow installed, the client scales what the
    server would refuse. Any number of images is split into requests that the server's limits allow;
    several requests run at a time, and results keep the order of the images. Iterators are advanced
    and files are read only as requests need them.

    Calls with images also take ``on_error``, ``errors``, ``progress`` and ``deadline``: see
    `repzoo_client.Options`. A forked process may go on using the client: it opens connections of
    its own.

    Every call may raise, in addition to its own errors:

    - `ServerUnreachable`, `RequestTimedOut`: There is no answer.
    - `ModelNotFound`: The server does not serve the model.
    - `InvalidImage`: An image cannot be decoded; ``index`` is its position. `InvalidRequest`: An
      array does not have the model's size. `RequestTooLarge`, `Overloaded`: A limit of the server.
    - `ClientClosed`: The client was closed.
    - Other kinds of `APIError`, see `repzoo_client.errors`.
    - TypeError, ValueError, OSError: An image cannot be sent.

    Args:
        url: The server's URL. Default: ``REPZOO_URL``, or ``http://127.0.0.1:3000``. A user name
            and password in it are sent as basic authentication. Requests to other machines go
            through the proxy that ``HTTP_PROXY``, ``HTTPS_PROXY`` or ``ALL_PROXY`` sets.
        timeout: Seconds for each of these: connecting, sending, and the next bytes of the answer.
            None means no limit.
        api_key: The API key, sent as a bearer token. Default: ``REPZOO_API_KEY``, or no key.
        batch_size: The largest number of images per request, if the server's limits allow it.
        answers: The format of answers. "json" (with base64 vectors) is for proxies that only pass
            JSON; reading images from it needs Pillow.
        concurrency: The number of requests that one call keeps running at a time.
        retries: How often to retry a request after a broken connection, 429, 502 or 503. Delays
            grow, or follow ``Retry-After``. All operations are safe to repeat.
        deadline: Seconds for a whole call, including retries and waits. Requests still running
            after that are dropped. None means no limit.

    Attributes:
        url: The server's URL, without credentials.

    Raises:
        ValueError: If the URL does not start with http:// or https://, or another argument is
            invalid.
    """

    def _prepare(self) -> None:
        # All requests run in one event loop, where a deadline or Ctrl-C can stop them at any byte.
        self._portal = Portal()
        self._finalizer = weakref.finalize(self, self._portal.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The client cannot be used afterwards."""
        self._finalizer()

    def embed(
        self,
        images: Images,
        *,
        model: str,
        normalize: bool = False,
        robust: bool = False,
        **options: Unpack[Options],
    ) -> NDArray[np.float32]:
        """Embed images.

        Args:
            images: One image or many.
            model: The name of a model that the server serves.
            normalize: Divide each embedding by its Euclidean length.
            robust: Return the content mean instead: the expected embedding of an undegraded picture
                of the same content.
            options: See `repzoo_client.Options`.

        Returns:
            float32 ``[N, D]``; the mean of the posterior if the model has one.

        Raises:
            UnsupportedOperation: If ``robust`` is set and the model has no content posterior.
        """
        return self._run(_calls.embed(model, normalize=normalize, robust=robust), images, options)

    def embed_iter(
        self,
        images: Images,
        *,
        model: str,
        normalize: bool = False,
        robust: bool = False,
        **options: Unpack[Options],
    ) -> Iterator[NDArray[np.float32]]:
        """Embed any number of images in constant memory: yield embeddings as they arrive, in order.

        Leaving the iteration early drops the requests that are still running.

        Yields:
            float32 ``[n, D]`` of the next n images.
        """
        return self._iterate(
            _calls.embed(model, normalize=normalize, robust=robust), images, options
        )

    def embed_with_uncertainty(
        self,
        images: Images,
        *,
        model: str,
        normalize: bool = False,
        robust: bool = False,
        **options: Unpack[Options],
    ) -> Embedding:
        """Return what `embed` and `uncertainty` return, with half the work of calling both."""
        return self._run(
            _calls.embed_with_uncertainty(model, normalize=normalize, robust=robust),
            images,
            options,
        )

    def uncertainty(
        self, images: Images, *, model: str, **options: Unpack[Options]
    ) -> NDArray[np.float32] | None:
        """Return the uncertainty of each image: a calibrated probability.

        For most models, it is the probability that the nearest of the training images has another
        label. ``model(name).config["uncertainty"]`` says exactly what it is. It is calibrated for
        images like those that it was fitted to.

        Returns:
            float32 ``[N]`` in [0, 1], or None if the model has no calibrated uncertainty.
        """
        return self._run(_calls.uncertainty(model), images, options)

    def posterior(
        self,
        images: Images,
        *,
        model: str,
        content: bool = False,
        group: Iterable[Hashable] | None = None,
        **options: Unpack[Options],
    ) -> Posterior:
        """Return the posterior over the latents of each image, and its content posterior.

        Several views of one thing give a sharper posterior of what they share than one view.

        Args:
            images: One image or many.
            model: The name of a model that the server serves.
            content: Accept a content posterior alone, if the model has no other.
            group: An id for each image. Images with the same id are views of one thing, and are
                fused into one row; rows are in the order in which ids first appear. All images of
                a group go into one request.
            options: See `repzoo_client.Options`; not ``on_error="collect"`` with ``group``.

        Raises:
            UnsupportedOperation: If the model has no posterior, or cannot fuse views.
        """
        call = _calls.posterior(model, content=content)
        if group is None:
            return self._run(call, images, options)
        checked = CheckedOptions(**options)
        return self._portal.run(
            self._core.fused(call, as_list(images), group, checked, self._concurrency)
        )

    def posterior_iter(
        self, images: Images, *, model: str, content: bool = False, **options: Unpack[Options]
    ) -> Iterator[Posterior]:
        """Yield what `posterior` returns in pieces, like `embed_iter`.

        Raises:
            UnsupportedOperation: If the model has no posterior.
        """
        return self._iterate(_calls.posterior(model, content=content), images, options)

    def reconstruct(
        self, images: Images, *, model: str, **options: Unpack[Options]
    ) -> Reconstruction:
        """Encode images, and decode their embeddings.

        Raises:
            UnsupportedOperation: If the model has no decoder.
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
            UnknownTask: If the model has no probe for this task and kind.
        """
        return self._run(_calls.probe(model, task, kind), images, options)

    def search(
        self,
        images: Images,
        *,
        model: str,
        k: int = 10,
        metric: Metric | Distance = "mean",
        max_uncertainty: float | None = None,
        abstain: float | None = None,
        **options: Unpack[Options],
    ) -> Neighbours:
        """Find the images of the server's index that are nearest to each image.

        The server must have been started with ``zoo serve --index``. Choices and results are those
        of `repzoo_client.retrieval.PosteriorIndex.search`.

        Args:
            images: One image or many.
            model: The model that the index was built with.
            k: The number of neighbours of each image, from 1 to 100. An index of fewer images
                returns all of them.
            metric: The distance. "mean" is the one that the model recommends: "euclidean" (squared)
                or "cosine" (1 − cos). "trusted" ranks uncertain images of the index lower.
                "robust" needs an index of content posteriors.
            max_uncertainty: Skip images of the index that are more uncertain.
            abstain: Return no neighbours of images that are more uncertain than this.
            options: See `repzoo_client.Options`. The row of an image that failed has no ids.

        Raises:
            UnsupportedOperation: If the server has no index of this model, the index does not have
                the metric, or ``abstain`` is given and the model has no uncertainty.
            InvalidRequest: If ``k``, ``metric`` or a limit is out of range.
        """
        call = _calls.search(
            model, k, metric=metric, max_uncertainty=max_uncertainty, abstain=abstain
        )
        return self._run(call, images, options)

    def generate(
        self,
        n: int = 1,
        *,
        model: str,
        seed: int | None = None,
        latents: ArrayLike | None = None,
        content: Images | None = None,
        vary: Literal["both", "style", "content"] = "both",
        deadline: float | None = None,
    ) -> Generation:
        """Draw images from the model's prior, decode given latents, or draw new views of a thing.

        This is one request.

        Args:
            n: The number of images to draw.
            model: The name of a model that the server serves.
            seed: The same seed gives the same images. Without one, every call draws new images.
            latents: float ``[N, D]`` or ``[D]`` to decode; ``n`` and ``seed`` are then ignored.
            content: Views of one thing, of which new views are drawn; one image or many. With the
                same seed, image i has the same style for every content.
            vary: What differs between the new views: the "content", as far as the images leave it
                open, the "style", or "both".
            deadline: Seconds for the call; the default is the client's deadline.

        Raises:
            UnsupportedOperation: If the model has no decoder or, with ``content``, was not trained
                with SimVAE.
        """
        images = None if content is None else as_list(content)
        return self._portal.run(
            self._core.generate(
                n,
                model=model,
                seed=seed,
                latents=latents,
                content=images,
                vary=vary,
                deadline=deadline,
            )
        )

    def models(self) -> list[Model]:
        """Return the models that the server serves."""
        return self._portal.run(self._core.models())

    def model(self, name: str) -> Model:
        """Return one of the models that the server serves.

        Raises:
            ModelNotFound: If the server does not serve it.
        """
        return self._portal.run(self._core.model(name))

    def _run(self, call: Call[T], images: Images, options: Options) -> T:
        return call.join(list(self._answers(call, images, CheckedOptions(**options))))

    def _iterate(self, call: Call[T], images: Images, options: Options) -> Iterator[T]:
        answers = self._answers(call, images, CheckedOptions(**options))
        return (call.join([answer]) for answer in answers)

    def _answers(
        self, call: Call[Any], images: Images, options: CheckedOptions
    ) -> Iterator[_wire.Answer]:
        """Yield the answers for all chunks in order, while more requests are running."""
        process = os.getpid()
        limits, ends = self._portal.run(self._core.begin(call, options))
        waiting: deque[tuple[Chunk, Future[_wire.Answer]]] = deque()

        def take(advance: Callable[[int], object]) -> _wire.Answer:
            if os.getpid() != process:
                raise ClientError(
                    "an iteration cannot continue in a forked process; start a new one"
                )
            chunk, future = waiting[0]
            answer = self._portal.wait(future)
            waiting.popleft()
            options.done(chunk, advance)
            return answer

        try:
            with options.showing(count(images)) as advance:
                # Images are taken in the caller's thread: an iterator may be bound to it.
                for chunk in chunks(images, limits, collect=options.collect):
                    work = self._core.answer(call, chunk, options, ends)
                    waiting.append((chunk, self._portal.submit(work)))
                    if len(waiting) == self._concurrency:
                        yield take(advance)
                while waiting:
                    yield take(advance)
        finally:
            if os.getpid() == process:
                for _, future in waiting:
                    future.cancel()
