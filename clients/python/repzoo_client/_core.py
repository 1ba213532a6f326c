"""Sending requests, for both clients: retries, deadlines, and images that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from numpy.typing import ArrayLike

from repzoo_client import _calls, _wire
from repzoo_client._calls import Call
from repzoo_client._chunks import Chunk, DoNotFit, ImageLike, Limits, together, whole_groups
from repzoo_client._endpoint import Endpoint
from repzoo_client._options import CheckedOptions
from repzoo_client._results import Generation, Model
from repzoo_client._retries import RetryPolicy
from repzoo_client.errors import (
    ClientClosed,
    ClientError,
    InvalidRequest,
    RequestTimedOut,
    RequestTooLarge,
    ServerUnreachable,
    UnexpectedAnswer,
)

__all__ = ["ClientBase", "Core"]

T = TypeVar("T")

# A server may accept bodies of any size, but memory is limited.
_MAX_BYTES = 2**30


class ClientBase:
    """The arguments of both clients; see `repzoo_client.Client`.

    Attributes:
        url: The server's URL, without credentials.
    """

    url: str

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout: float | None = 60.0,
        api_key: str | None = None,
        batch_size: int = 256,
        answers: _wire.AnswerFormat = "safetensors",
        concurrency: int = 4,
        retries: int = 2,
        deadline: float | None = None,
    ) -> None:
        if answers not in ("safetensors", "json"):
            raise ValueError(f"answers is {answers!r}: expected 'safetensors' or 'json'")
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("concurrency", concurrency, 1),
            ("retries", retries, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}: expected {least} or more")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is {timeout}: expected more than 0 seconds")
        deadline = CheckedOptions(deadline=deadline).deadline
        endpoint = Endpoint.of(url, api_key)
        self.url = endpoint.url
        self._concurrency = concurrency
        self._core = Core(endpoint, timeout, batch_size, answers, RetryPolicy(retries), deadline)
        self._prepare()

    def _prepare(self) -> None:
        """Set up what only one of the clients has."""


class Core:
    """Sends the requests of one client, in any event loop.

    Connections belong to an event loop, so each loop gets its own. They close when the loop ends.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        timeout: float | None,
        batch_size: int,
        answers: _wire.AnswerFormat,
        retry_policy: RetryPolicy,
        deadline: float | None,
    ) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._batch_size = batch_size
        self._answers = answers
        self._retry_policy = retry_policy
        self._deadline = deadline
        self._models: dict[str, Model] = {}
        self._closed = False
        self._connections: dict[
            asyncio.AbstractEventLoop, tuple[httpx.AsyncClient, AsyncGenerator[None, None]]
        ] = {}

    async def close(self) -> None:
        """Close the connections of this loop. The client cannot be used afterwards."""
        self._closed = True
        if connection := self._connections.pop(asyncio.get_running_loop(), None):
            await connection[1].aclose()

    def ends(self, deadline: float | None) -> float | None:
        """Return when a call that starts now must end, in the loop's time."""
        seconds = self._deadline if deadline is None else deadline
        return None if seconds is None else asyncio.get_running_loop().time() + seconds

    async def begin(self, call: Call[Any], options: CheckedOptions) -> tuple[Limits, float | None]:
        """Return the limits of one request of a call, and when the call must end."""
        ends = self.ends(options.deadline)
        limits = await self._limits(call.model, ends)
        return limits._replace(images=min(self._batch_size, limits.images)), ends

    async def answer(
        self, call: Call[Any], chunk: Chunk, options: CheckedOptions, ends: float | None
    ) -> _wire.Answer:
        """Return the answer for all images of a chunk.

        With ``on_error="collect"``, images that the server cannot decode are added to the chunk's
        ``errors``.

        Raises:
            ClientError: If there is no answer or, with ``on_error="raise"``, an image fails.
        """
        parts = []
        if chunk.places:
            parts = [part async for part in self._parts(call, chunk, options, ends)]
        model = await self._described(call.model, ends)
        with _as_unexpected():
            return call.fill(model, chunk, parts)

    async def models(self) -> list[Model]:
        """See `Client.models`."""
        return _calls.read_models(await self.send("GET", "models", self.ends(None)))

    async def model(self, name: str, ends: float | None = None) -> Model:
        """See `Client.model`."""
        path = _calls.model_path(name)
        answer = await self.send("GET", path, self.ends(None) if ends is None else ends)
        model = self._models[name] = _calls.read_model(answer.facts)
        return model

    async def generate(
        self,
        n: int,
        *,
        model: str,
        seed: int | None,
        latents: ArrayLike | None,
        content: list[ImageLike] | None,
        vary: str,
        deadline: float | None,
    ) -> Generation:
        """See `Client.generate`."""
        ends = self.ends(CheckedOptions(deadline=deadline).deadline)
        chunk = None
        if content is None:
            request = _wire.generation(model, n, seed, latents, self._answers)
        elif latents is not None:
            raise ValueError("latents and content cannot be combined")
        else:
            limits = await self._limits(model, ends)
            chunk = await asyncio.to_thread(together, content, range(len(content)), limits)
            options = {"model": model, "vary": vary, **_wire.drawing(n, seed)}
            request = _wire.images_request(chunk.items, options, self._answers)
        answer = await self.send("POST", "generate", ends, chunk, **request)
        return Generation(answer["images"], answer["latents"])

    async def fused(
        self,
        call: Call[T],
        images: list[ImageLike],
        group: Iterable[Hashable],
        options: CheckedOptions,
        concurrency: int,
    ) -> T:
        """Return the result of a call with one row for each group of images.

        All images of a group are in one request.
        """
        if options.collect:
            raise ValueError("on_error='collect' cannot be combined with group")
        ends = self.ends(options.deadline)
        limits = await self._limits(call.model, ends)
        most = min(self._batch_size, limits.images)
        requests = whole_groups(group, len(images), most)
        if not requests:
            raise ValueError("there are no images")
        room = asyncio.Semaphore(concurrency)

        async def answers(groups: list[list[int]]) -> list[_wire.Answer]:
            places = [place for each in groups for place in each]
            ids = [number for number, each in enumerate(groups) for _ in each]
            try:
                chunk = await asyncio.to_thread(together, images, places, limits)
            except DoNotFit:
                if len(groups) == 1:
                    raise
                half = len(groups) // 2
                return [*await answers(groups[:half]), *await answers(groups[half:])]
            sent = {**call.options, "group": ids}
            request = _wire.images_request(chunk.items, sent, self._answers)
            answer = await self.send("POST", call.operation, ends, chunk, **request)
            _require_rows(answer, len(groups))
            advance(len(places))
            return [answer]

        async def within_room(groups: list[list[int]]) -> list[_wire.Answer]:
            async with room:
                return await answers(groups)

        with options.showing(len(images)) as advance:
            running = [asyncio.create_task(within_room(groups)) for groups in requests]
            try:
                return call.join([answer for task in running for answer in await task])
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    async def send(
        self,
        method: str,
        path: str,
        ends: float | None,
        chunk: Chunk | None = None,
        **request: Any,
    ) -> _wire.Answer:
        """Send a request, and retry it as the policy says.

        Args:
            method: The HTTP method.
            path: The path below the server's URL.
            ends: When to give up, in the loop's time.
            chunk: The images of the request, for errors that name one.
            request: Other arguments for httpx.
        """
        failures = 0
        last: ClientError | None = None
        http = await self._connection()
        try:
            async with asyncio.timeout_at(ends) as timeout:
                while True:
                    try:
                        return await self._try(http, method, path, chunk, request)
                    except ClientError as error:
                        last, failures = error, failures + 1
                        delay = self._retry_policy.delay(error, failures)
                        if delay is None or _passes(ends, delay):
                            raise
                        await asyncio.sleep(delay)
        except TimeoutError as error:
            if not timeout.expired():
                raise
            tried = f" (attempts before: {failures}; the last error: {last})" if last else ""
            raise RequestTimedOut(
                f"{self._endpoint.url}/{path} did not answer before the deadline{tried}"
            ) from error

    async def _try(
        self,
        http: httpx.AsyncClient,
        method: str,
        path: str,
        chunk: Chunk | None,
        request: dict[str, Any],
    ) -> _wire.Answer:
        url, proxy = self._endpoint.url, self._endpoint.proxy
        through = f" through the proxy {proxy}" if proxy else ""
        try:
            response = await http.request(method, f"{url}/{path}", **request)
        except (httpx.RequestError, RuntimeError) as error:
            if self._closed:  # in the meantime
                raise ClientClosed("the client was closed during the call") from error
            if isinstance(error, (httpx.ConnectError, httpx.ProxyError)):
                advice = "Check the proxy, or set NO_PROXY to connect directly"
                if not through:
                    advice = "Start one with `zoo serve`, or set REPZOO_URL to where it runs"
                raise ServerUnreachable(
                    f"no server answers at {url}{through} ({error}). {advice}"
                ) from error
            if isinstance(error, httpx.TimeoutException):
                raise RequestTimedOut(
                    f"{url}/{path} did not answer{through} within {self._timeout:g} seconds"
                ) from error
            if isinstance(error, RuntimeError):
                raise
            what = str(error) or type(error).__name__
            raise ServerUnreachable(f"the connection to {url}{through} broke: {what}") from error
        return _wire.read(response, chunk, through)

    async def _connection(self) -> httpx.AsyncClient:
        """Return the HTTP client of this event loop."""
        if self._closed:
            raise ClientClosed("the client is closed")
        loop = asyncio.get_running_loop()
        if loop not in self._connections:
            ended = [other for other in self._connections if other.is_closed()]
            for other in ended:
                del self._connections[other]
            http = self._endpoint.connect(self._timeout)
            self._connections[loop] = http, _until_loop_ends(http)
            await anext(self._connections[loop][1])
        return self._connections[loop][0]

    async def _described(self, name: str, ends: float | None) -> Model:
        """Return the description of a model, which is fetched once."""
        return self._models.get(name) or await self.model(name, ends)

    async def _limits(self, name: str, ends: float | None) -> Limits:
        """Return the server's limits of one request for a model."""
        model = await self._described(name, ends)
        with _as_unexpected():
            most, size, pixels = (
                int(model.limits[limit]) for limit in ("max_images", "max_bytes", "max_pixels")
            )
            size = min(size, _MAX_BYTES)
            return Limits(most, size, pixels, model.input_shape, model.config["input"])

    async def _parts(
        self, call: Call[Any], chunk: Chunk, options: CheckedOptions, ends: float | None
    ) -> AsyncIterator[tuple[Chunk, _wire.Answer]]:
        """Yield the parts of a chunk that succeeded, with their answers.

        A server names one bad image per request, so the others are sent again. From the second
        failure on they are sent in halves: many bad images must not multiply the traffic.
        """
        waiting = [(chunk, False)]
        while waiting:
            part, has_failed = waiting.pop()
            request = _wire.images_request(part.items, call.options, self._answers)
            try:
                answer = await self.send("POST", call.operation, ends, part, **request)
            except InvalidRequest as error:
                if isinstance(error, RequestTooLarge):
                    self._models.pop(call.model, None)  # the server's limits have changed
                if not options.collect or error.index not in part.places:
                    raise
                chunk.errors[error.index] = error
                at = part.places.index(error.index)
                rest = [number for number in range(len(part.places)) if number != at]
                half = len(rest) // 2 if has_failed else 0
                waiting += [(part.pick(some), True) for some in (rest[half:], rest[:half]) if some]
            else:
                _require_rows(answer, len(part.places))
                yield part, answer


async def _until_loop_ends(http: httpx.AsyncClient) -> AsyncGenerator[None, None]:
    """Yield once, and close the HTTP client when the generator is closed.

    An event loop closes its open asynchronous generators when it ends, for example at the end of
    ``asyncio.run``.
    """
    try:
        yield
    finally:
        await http.aclose()


def _require_rows(answer: _wire.Answer, count: int) -> None:
    """Check that every image has a row: shifted rows would be wrong without any error."""
    for name, tensor in answer.tensors.items():
        if tensor.shape[:1] != (count,):
            raise UnexpectedAnswer(
                f"expected {count} rows of {name} for {count} images, got shape "
                f"{list(tensor.shape)}"
            )


def _passes(ends: float | None, delay: float) -> bool:
    return ends is not None and asyncio.get_running_loop().time() + delay >= ends


@contextmanager
def _as_unexpected() -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        if isinstance(error, ClientError):
            raise
        raise UnexpectedAnswer(
            f"the answer does not fit the model's description: {error!r}"
        ) from error
