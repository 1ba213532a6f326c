"""Read request bodies within their limits."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request

from repzoo.hub_server.limits import BYTES_PER_SECOND, IDLE_SECONDS, JSON_BYTES
from repzoo.hub_server.problems import Problem

__all__ = ["lines", "pieces", "read_form", "read_json"]


async def pieces(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield a body as it arrives.

    Raises:
        Problem: 413 if the body, or its announced length, exceeds the limit; 408 if it stalls or
            is very slow.
    """
    # A response before the end of the body has to close the connection; see `problem_response`.
    request.state.unread = True
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise _too_large(limit)
    stream = request.stream()
    start = time.monotonic()
    size = 0
    while True:
        try:
            piece = await asyncio.wait_for(anext(stream, None), IDLE_SECONDS)
        except TimeoutError:
            message = f"no data arrived for {IDLE_SECONDS:.0f} seconds"
            raise Problem(408, message) from None
        if piece is None:
            request.state.unread = False
            return
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        seconds = time.monotonic() - start
        if seconds > IDLE_SECONDS and size < seconds * BYTES_PER_SECOND:
            raise Problem(408, f"the body arrives at less than {BYTES_PER_SECOND} bytes per second")
        if piece:
            yield piece


async def lines(request: Request, limit: int, line_limit: int) -> AsyncIterator[bytes]:
    """Yield the lines of a body as they arrive, holding only one in memory."""
    line = bytearray()
    async for piece in pieces(request, limit):
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            line += piece[start:end]
            _check_line(line, line_limit)
            yield bytes(line)
            line.clear()
            start = end + 1
        line += piece[start:]
        _check_line(line, line_limit)
    if line:
        yield bytes(line)


async def read_json(request: Request, limit: int = JSON_BYTES) -> dict[str, Any]:
    """Read a body that is one JSON object.

    Raises:
        Problem: If it is anything else, or too large.
    """
    body = b"".join([piece async for piece in pieces(request, limit)])
    try:
        content = json.loads(body)
    except (RecursionError, ValueError) as error:
        raise Problem(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise Problem(400, "the body is not a JSON object")
    return content


async def read_form(request: Request) -> dict[str, list[str]]:
    """Read a body that is an HTML form, or a JSON object of strings and lists of strings."""
    if request.headers.get("content-type", "").startswith("application/json"):
        content = await read_json(request)
        return {
            key: value if isinstance(value, list) else [value] for key, value in content.items()
        }
    body = b"".join([piece async for piece in pieces(request, JSON_BYTES)])
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=10_000)
    except ValueError as error:
        raise Problem(400, f"the body is not a valid form: {error}") from None


def _check_line(line: bytearray, limit: int) -> None:
    if len(line) > limit:
        message = f"a line has more than {limit} bytes; upload larger files through LFS"
        raise Problem(413, message)


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the body is larger than {limit} bytes")
