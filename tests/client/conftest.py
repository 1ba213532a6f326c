"""Both clients behind one function, and a server that misbehaves."""

from __future__ import annotations

import asyncio
import inspect
import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import repzoo
import repzoo_client
import safetensors.numpy
from PIL import Image


@pytest.fixture(autouse=True)
def _run_once(shared_admissions: None) -> None:
    """Run each package only once before its first load."""


@pytest.fixture(scope="session")
def encoder(tiny_package: Path) -> repzoo.Encoder:
    return repzoo.load(tiny_package, provider="cpu", threads=1)


@pytest.fixture(scope="session")
def make_png() -> Callable[..., bytes]:
    """``make_png(shape, seed)``: a file of noise."""

    def make(shape: tuple[int, ...] = (20, 13, 3), seed: int = 0) -> bytes:
        buffer = io.BytesIO()
        rng = np.random.default_rng(seed)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.fixture(params=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``ask(url, call, *args, client={}, **kwargs)`` returns the result of a call.

    Each test runs once with each client. A call that iterates returns a list.
    """

    def sync(url: str, call: str, *args: Any, client: Any = None, **kwargs: Any) -> Any:
        with repzoo_client.Client(url, **(client or {})) as made:
            result = getattr(made, call)(*args, **kwargs)
            return list(result) if inspect.isgenerator(result) else result

    async def awaited(url: str, call: str, *args: Any, client: Any = None, **kwargs: Any) -> Any:
        async with repzoo_client.AsyncClient(url, **(client or {})) as made:
            result = getattr(made, call)(*args, **kwargs)
            if inspect.isasyncgen(result):
                return [each async for each in result]
            return await result

    if request.param == "Client":
        return sync
    return lambda *args, **kwargs: asyncio.run(awaited(*args, **kwargs))


class Rogue:
    """A proxy in front of a real server, which spoils the answers to POST requests in turn.

    ``spoilt`` lists how: an HTTP status; ``"reset"`` in the middle of the answer; ``"drip"``, one
    byte of the body at a time, forever; ``"drip head"``; ``"silence"``; ``"garbage"``; ``"three
    rows"``, a valid answer for three images. After these, requests are passed on.
    """

    def __init__(self, url: str, spoilt: list[int | str], retry_after: str | None) -> None:
        self.spoilt = spoilt
        #: Requests that contain these bytes are never answered.
        self.marked: bytes | None = None
        self.retry_after = retry_after
        #: The requests, with their times.
        self.posts: list[tuple[float, bytes]] = []
        #: Set when the client closes a connection that drips or is silent.
        self.left = threading.Event()
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._real = httpx.Client(base_url=url)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        todo: int | str | None = None
        if handler.command == "POST":
            with self._lock:
                self.posts.append((time.monotonic(), body))
                todo = self.spoilt.pop(0) if self.spoilt else None
                if self.marked is not None and self.marked in body:
                    todo = "silence"
        if isinstance(todo, int):
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            self._send(handler, todo, headers, b"not now")
        elif todo == "three rows":
            rows = {"embeddings": np.zeros((3, 4), np.float32)}
            answer_body = safetensors.numpy.save(rows, {"response": "{}"})
            headers = {"Content-Type": "application/x-safetensors"}
            self._send(handler, 200, headers, answer_body)
        elif todo is not None:
            handler.close_connection = True
            self._misbehave(handler.connection, todo)
        else:
            headers = {k: v for k, v in handler.headers.items() if k.lower() != "host"}
            answer = self._real.request(
                handler.command, handler.path, content=body, headers=headers
            )
            kept = {"Content-Type": answer.headers["content-type"]}
            self._send(handler, answer.status_code, kept, answer.content)

    @staticmethod
    def _send(
        handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    def _misbehave(self, connection: socket.socket, how: str) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-safetensors\r\n"
        if how == "garbage":
            connection.sendall(b"\x00\xff" * 500)
            return
        if how == "reset":
            connection.sendall(head + b"Content-Length: 100000\r\n\r\n" + b"x" * 1000)
            # A linger time of zero sends RST instead of FIN.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            return
        if how == "drip":
            connection.sendall(head + b"Content-Length: 100000\r\n\r\n")
        elif how == "drip head":
            connection.sendall(head + b"X-Long: ")
        connection.settimeout(0.05)
        while not self.ended.is_set():
            try:
                if how != "silence":
                    connection.sendall(b"x")
                if connection.recv(1) == b"":
                    self.left.set()
                    return
            except TimeoutError:
                continue
            except OSError:
                self.left.set()
                return


@pytest.fixture
def rogue(server_url: str) -> Callable[..., Any]:
    """``with rogue(503, "reset", retry_after="1") as (url, rogue)``: see `Rogue`."""

    @contextmanager
    def start(*spoilt: int | str, retry_after: str | None = None) -> Iterator[tuple[str, Rogue]]:
        made = Rogue(server_url, list(spoilt), retry_after)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                made.handle(self)

            do_GET = do_POST = answer  # noqa: N815 - the names are http.server's

            def log_message(self, *_: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, made._real:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}", made
            finally:
                made.ended.set()
                server.shutdown()
                thread.join()

    return start


@pytest.fixture
def stranger() -> Callable[..., Any]:
    """``with stranger(200, {}, b"body") as (url, received)``: a server with only one answer.

    ``received`` lists the headers of each request.
    """
    return _stranger


@contextmanager
def _stranger(
    status: int, headers: dict[str, str], body: bytes, seconds: float = 0
) -> Iterator[tuple[str, list[Any]]]:
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            received.append(self.headers)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(seconds)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 - the names are http.server's

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join()
