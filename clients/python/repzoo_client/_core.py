"""Sending requests, which both clients do by this one engine: retries, deadlines, bad images."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from repzoo_client import _calls, _wire
from repzoo_client._calls import Call
from repzoo_client._chunks import Chunk, Limits
from repzoo_client._options import Run
from repzoo_client._results import Generation, Model
from repzoo_client._retries import Patience
from repzoo_client.errors import (
    ClientError,
    InvalidRequest,
    RequestTimedOut,
    RequestTooLarge,
    ServerUnreachable,
    UnexpectedAnswer,
)

__all__ = ["Core"]

DEFAULT_URL = "http://127.0.0.1:3000"

# A server may take bodies of any length, memory may not.
_MAX_BYTES = 2**30


class Core:
    """A connection to a server. All its coroutines run in one event loop.

    The arguments are those of `repzoo_client.Client`.
    """

    def __init__(
        self,
        url: str | None,
        *,
        timeout: float | None,
        api_key: str | None,
        batch_size: int,
        answers: _wire.Answers,
        concurrency: int,
        retries: int,
        deadline: float | None,
    ) -> None:
        self.url = (url or os.environ.get("REPZOO_URL") or DEFAULT_URL).rstrip("/")
        if not _is_web_url(self.url):
            raise ValueError(f"{self.url!r} is not an http:// or https:// URL")
        if answers not in ("safetensors", "json"):
            raise ValueError(f"answers is {answers!r}: expected 'safetensors' or 'json'")
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("concurrency", concurrency, 1),
            ("retries", retries, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}: expected {least} or more")
        self.concurrency = concurrency
        self._answers = answers
        self._batch_size = batch_size
        self._timeout = timeout
        self._deadline = Run(deadline=deadline).deadline
        self._patience = Patience(retries)
        self._models: dict[str, Model] = {}
        api_key = api_key or os.environ.get("REPZOO_API_KEY")
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=timeout,
            # Servers close idle connections after 5 seconds: give them up before that, or a
            # request may meet one that is just being closed.
            limits=httpx.Limits(keepalive_expiry=3),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def ends(self, deadline: float | None) -> float | None:
        """When a call that starts now has to be over, in the loop's time."""
        seconds = self._deadline if deadline is None else deadline
        return None if seconds is None else asyncio.get_running_loop().time() + seconds

    async def begin(self, call: Call[Any], run: Run) -> tuple[Limits, float | None]:
        """What one request of a call may carry, and when the call ends."""
        ends = self.ends(run.deadline)
        model = await self._described(call.model, ends)
        with _as_unexpected():
            most, size = int(model.limits["max_images"]), int(model.limits["max_bytes"])
            shape = model.input_shape if run.collect else None
        return Limits(min(self._batch_size, most), min(size, _MAX_BYTES), shape), ends

    async def answer(
        self, call: Call[Any], chunk: Chunk, run: Run, ends: float | None
    ) -> _wire.Answer:
        """The answer for all images of a chunk, whose ``errors`` are completed where they collect.

        Raises:
            ClientError: if there is none; if errors do not collect, also for an image.
        """
        parts = [part async for part in self._parts(call, chunk, run, ends)] if chunk.places else []
        model = await self._described(call.model, ends)
        with _as_unexpected():
            return call.fill(model, chunk, parts)

    async def models(self) -> list[Model]:
        """What `Client.models` gives."""
        return _calls.read_models(await self.send("GET", "models", self.ends(None)))

    async def model(self, name: str, ends: float | None = None) -> Model:
        """What `Client.model` gives."""
        ends = self.ends(None) if ends is None else ends
        answer = await self.send("GET", _calls.model_path(name), ends)
        model = self._models[name] = _calls.read_model(answer.facts)
        return model

    async def generate(
        self, payload: _wire.Payload, options: dict[str, Any], deadline: float | None
    ) -> Generation:
        """What `Client.generate` gives."""
        ends = self.ends(Run(deadline=deadline).deadline)
        request = payload.request(options, self._answers)
        answer = await self.send("POST", "generate", ends, **request)
        return Generation(answer["images"], answer["latents"])

    async def send(
        self,
        method: str,
        path: str,
        ends: float | None,
        places: Sequence[int] = (),
        **request: Any,
    ) -> _wire.Answer:
        """Send a request, again if it need be, until there is an answer or no hope of one.

        Args:
            method: of HTTP.
            path: below the server's URL.
            ends: when to give up, in the loop's time.
            places: of its images among those of the call, for errors.
            request: the rest of it, for httpx.
        """
        failures = 0
        last: ClientError | None = None
        try:
            async with asyncio.timeout_at(ends) as timeout:
                while True:
                    try:
                        return await self._try(method, path, places, request)
                    except ClientError as error:
                        last, failures = error, failures + 1
                        delay = self._patience.delay(error, failures)
                        if delay is None or _passes(ends, delay):
                            raise
                        await asyncio.sleep(delay)
        except TimeoutError as error:
            if not timeout.expired():
                raise
            tried = f" (tried {failures} times before; {last})" if last else ""
            raise RequestTimedOut(
                f"{self.url}/{path} did not answer before the deadline{tried}"
            ) from error

    async def _try(
        self, method: str, path: str, places: Sequence[int], request: dict[str, Any]
    ) -> _wire.Answer:
        try:
            response = await self._http.request(method, f"{self.url}/{path}", **request)
        except httpx.ConnectError as error:
            raise ServerUnreachable(
                f"no server answers at {self.url} ({error}): start one with `zoo serve`, or say "
                f"where it is with REPZOO_URL"
            ) from error
        except httpx.TimeoutException as error:
            raise RequestTimedOut(
                f"{self.url}/{path} did not answer within {self._timeout:g} seconds"
            ) from error
        except httpx.RequestError as error:
            what = str(error) or type(error).__name__
            raise ServerUnreachable(f"the connection to {self.url} broke: {what}") from error
        return _wire.read(response, places)

    async def _described(self, name: str, ends: float | None) -> Model:
        """A model, asked for once."""
        return self._models.get(name) or await self.model(name, ends)

    async def _parts(
        self, call: Call[Any], chunk: Chunk, run: Run, ends: float | None
    ) -> AsyncIterator[tuple[Chunk, _wire.Answer]]:
        """Yield the parts of a chunk that were answered, with their answers.

        A server names one bad image a request. Without it the others are sent again; from the
        second on in halves, so that many bad ones do not have all others sent as many times.
        """
        waiting = [(chunk, False)]
        while waiting:
            part, has_failed = waiting.pop()
            payload = _wire.images_payload(part.items)
            request = payload.request(call.options, self._answers)
            try:
                answer = await self.send("POST", call.operation, ends, part.places, **request)
            except InvalidRequest as error:
                if isinstance(error, RequestTooLarge):
                    self._models.pop(call.model, None)  # other limits than those it told
                if not run.collect or error.index not in part.places:
                    raise
                chunk.errors[error.index] = error
                at = part.places.index(error.index)
                rest = [number for number in range(len(part.places)) if number != at]
                half = len(rest) // 2 if has_failed else 0
                waiting += [(part.pick(some), True) for some in (rest[half:], rest[:half]) if some]
            else:
                _require_rows(answer, len(part.places))
                yield part, answer


def _require_rows(answer: _wire.Answer, count: int) -> None:
    """Check that every image has its row: rows that were shifted would be wrong in silence."""
    for name, tensor in answer.tensors.items():
        if tensor.shape[:1] != (count,):
            raise UnexpectedAnswer(
                f"{count} images were sent, and {name} came back as {list(tensor.shape)}"
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
        raise UnexpectedAnswer(f"the server describes the model otherwise: {error!r}") from error


def _is_web_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)
