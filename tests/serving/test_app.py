"""The ASGI application in this process: cases that cannot be provoked from outside."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import repzoo
from repzoo.errors import InvalidInput
from repzoo_serving.api.app import App
from repzoo_serving.settings import Limits
from repzoo_serving.wire.response_bodies import Result


@pytest.fixture
def app() -> Iterator[App]:
    app = App(Limits())
    yield app
    app.close()


def call(app: App, receive: Any, **scope: Any) -> tuple[int, dict[bytes, bytes], Any]:
    """Send a request; return the status, headers and document of the response."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/embed", "headers": [], **scope}
    asyncio.run(app(scope, receive, send))
    start, body = sent
    return start["status"], dict(start["headers"]), json.loads(body["body"])


async def nothing() -> Any:
    return {"type": "http.request", "body": b'{"model": "tiny", "images": ["aGk="]}'}


JSON = [(b"content-type", b"application/json")]


def test_a_fault_of_ours_is_a_problem_too_and_is_logged(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> Any:
        raise RuntimeError("the disk is on fire")

    with caplog.at_level(logging.ERROR):
        status, headers, problem = call(app, broken)
    assert status == 500
    assert headers[b"content-type"] == b"application/problem+json"
    assert problem["type"] == "urn:repzoo:problem:internal"
    # The response does not reveal the error, but its ID helps to find it.
    assert "fire" not in json.dumps(problem)
    assert "the disk is on fire" in caplog.text
    assert problem["request_id"] in caplog.text


def test_before_a_model_is_loaded_the_server_is_unavailable(app: App) -> None:
    assert not app.models
    status, headers, problem = call(app, nothing, headers=JSON)
    assert status == 503
    assert headers[b"retry-after"] == b"1"
    assert problem["type"] == "urn:repzoo:problem:unavailable"


def test_loading_makes_it_ready(app: App, tiny_package: Path) -> None:
    app.models.serve([app.served(repzoo.load(tiny_package, provider="cpu", threads=1))])
    assert app.models
    status, _, problem = call(app, nothing, headers=JSON)
    assert status == 422
    assert problem["index"] == 0


def test_two_models_of_one_name_are_refused(app: App, tiny_package: Path) -> None:
    encoder = repzoo.load(tiny_package, provider="cpu", threads=1)
    with pytest.raises(InvalidInput, match="named tiny"):
        app.models.serve([app.served(encoder), app.served(encoder)])
    assert not app.models


@pytest.mark.parametrize("media_type", ["application/json", "application/x-safetensors"])
def test_numbers_that_are_none_never_leave(media_type: str) -> None:
    result = Result({}, {"embeddings": np.array([[1, np.nan]], np.float32)})
    with pytest.raises(ValueError, match="embeddings"):
        result.encode(media_type)
