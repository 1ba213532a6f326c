"""Both clients against a server that refuses, breaks off, drips, or sends garbage."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest
import repzoo
from repzoo_client import AsyncClient, Client, errors

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)


def embed(ask: Callable[..., Any], url: str, *, client: Any = None, **options: Any) -> Any:
    client = {"batch_size": 2, **(client or {})}
    return ask(url, "embed", PIXELS, model="tiny", client=client, **options)


def test_what_passes_is_waited_for(
    ask: Callable[..., Any], rogue: Callable[..., Any], encoder: repzoo.Encoder
) -> None:
    spoilt = [429, 503, 502, "reset", "garbage"]
    with rogue(*spoilt) as (url, seen):
        embeddings = embed(ask, url, client={"batch_size": 1, "concurrency": 6, "retries": 5})
        np.testing.assert_allclose(embeddings, encoder.embed(PIXELS), atol=1e-6)
        assert len(seen.posts) == 6 + len(spoilt)


def test_generation_is_repeated_too(ask: Callable[..., Any], rogue: Callable[..., Any]) -> None:
    with rogue("reset", 503) as (url, seen):
        assert ask(url, "generate", 2, model="tiny").images.shape == (2, 8, 8, 1)
        assert len(seen.posts) == 3


@pytest.mark.parametrize("dated", [False, True])
def test_retry_after_is_granted(
    ask: Callable[..., Any], rogue: Callable[..., Any], dated: bool
) -> None:
    # A date has whole seconds, so two seconds from now are more than one.
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    with rogue(429, retry_after=format_datetime(later, usegmt=True) if dated else "1") as (
        url,
        seen,
    ):
        embed(ask, url, client={"concurrency": 1})
        first, second = (when for when, _ in seen.posts[:2])
        assert second - first >= 1 or datetime.now(UTC) >= later


@pytest.mark.parametrize(
    ("spoilt", "kind"),
    [
        ([429] * 2, errors.Overloaded),
        ([503, "garbage"], errors.ServerUnreachable),
    ],
)
def test_patience_ends(
    ask: Callable[..., Any], rogue: Callable[..., Any], spoilt: list[Any], kind: type[Exception]
) -> None:
    with rogue(*spoilt) as (url, seen):
        with pytest.raises(kind):
            embed(ask, url, client={"concurrency": 1, "retries": 1})
        assert len(seen.posts) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 415, 422, 500, 504])
def test_what_does_not_pass_is_not_repeated(
    ask: Callable[..., Any], rogue: Callable[..., Any], status: int
) -> None:
    with rogue(status) as (url, seen):
        with pytest.raises(errors.APIError) as caught:
            embed(ask, url, client={"concurrency": 1})
        assert caught.value.status == status
        assert len(seen.posts) == 1


def test_a_server_that_wants_to_be_left_alone_for_long(
    ask: Callable[..., Any], rogue: Callable[..., Any]
) -> None:
    with rogue(429, retry_after="3600") as (url, seen):
        with pytest.raises(errors.Overloaded) as caught:
            embed(ask, url, client={"concurrency": 1})
        assert caught.value.retry_after == 3600
        assert len(seen.posts) == 1


def test_an_answer_that_lacks_rows_is_refused(
    ask: Callable[..., Any], rogue: Callable[..., Any]
) -> None:
    said = r"expected 6 rows of embeddings for 6 images, got shape \[3, 4\]"
    with rogue("three rows") as (url, _), pytest.raises(errors.UnexpectedAnswer, match=said):
        embed(ask, url, client={"batch_size": 6})


class TestDeadlines:
    @pytest.mark.parametrize("how", ["drip", "drip head", "silence"])
    @pytest.mark.parametrize("place", ["call", "client"])
    def test_it_ends_what_never_ends(
        self, ask: Callable[..., Any], rogue: Callable[..., Any], how: str, place: str
    ) -> None:
        options: Any = {"deadline": 0.5} if place == "call" else {"client": {"deadline": 0.5}}
        with rogue(*[how] * 20) as (url, seen):
            with pytest.raises(errors.RequestTimedOut, match="deadline") as caught:
                embed(ask, url, **options)
            assert isinstance(caught.value, TimeoutError)
            # The connections are closed, not abandoned.
            assert seen.left.wait(10)

    def test_it_is_for_all_tries_together(
        self, ask: Callable[..., Any], rogue: Callable[..., Any]
    ) -> None:
        with rogue("reset", "reset", "silence") as (url, seen):
            with pytest.raises(errors.RequestTimedOut, match=r"attempts before: 2; .*broke"):
                embed(ask, url, deadline=3, client={"concurrency": 1, "retries": 5})
            assert len(seen.posts) == 3

    def test_no_wait_goes_beyond_it(
        self, ask: Callable[..., Any], rogue: Callable[..., Any]
    ) -> None:
        with rogue(503, retry_after="30") as (url, _):
            start = time.monotonic()
            with pytest.raises(errors.Unavailable):
                embed(ask, url, deadline=20, client={"concurrency": 1})
            assert time.monotonic() - start < 20

    def test_of_generate(self, ask: Callable[..., Any], rogue: Callable[..., Any]) -> None:
        with rogue("drip") as (url, _), pytest.raises(errors.RequestTimedOut):
            ask(url, "generate", model="tiny", deadline=0.3)


def test_a_failed_call_drops_its_other_requests(
    ask: Callable[..., Any], rogue: Callable[..., Any]
) -> None:
    wrong = [b"no image", *np.full((2, 8, 8, 1), 255, np.uint8)]
    with rogue() as (url, seen):
        seen.marked = b"\xff" * 128
        with pytest.raises(errors.InvalidImage, match="not an image"):
            ask(url, "embed", wrong, model="tiny", client={"retries": 0})
        assert seen.left.wait(10)


def test_a_cancelled_call_frees_everything(rogue: Callable[..., Any]) -> None:
    async def main(url: str, seen: Any) -> None:
        async with AsyncClient(url, batch_size=2) as client:
            call = asyncio.create_task(client.embed(PIXELS, model="tiny"))
            while len(seen.posts) < 3:
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            # No task is left, and the connections are closed although the client is open.
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert await asyncio.to_thread(seen.left.wait, 10)
            assert (await client.embed(PIXELS, model="tiny")).shape == (6, 4)

    with rogue("silence", "silence", "silence") as (url, seen):
        asyncio.run(main(url, seen))


def test_an_asynchronous_iteration_that_is_left_frees_everything(
    rogue: Callable[..., Any],
) -> None:
    async def main(url: str, seen: Any) -> None:
        async with AsyncClient(url, batch_size=2, concurrency=1) as client:
            pieces = client.embed_iter(PIXELS, model="tiny")
            assert len(await anext(pieces)) == 2
            seen.spoilt.append("drip")
            waiting = asyncio.create_task(anext(pieces))
            while len(seen.posts) < 2:
                await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert await asyncio.to_thread(seen.left.wait, 10)

    with rogue() as (url, seen):
        asyncio.run(main(url, seen))


def test_ctrl_c_ends_a_call_at_once(rogue: Callable[..., Any]) -> None:
    with rogue("silence") as (url, seen), Client(url) as client:

        def interrupt() -> None:
            while not seen.posts:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.embed(PIXELS, model="tiny")
        thread.join()
        assert seen.left.wait(10)
        assert client.embed(PIXELS, model="tiny").shape == (6, 4)
