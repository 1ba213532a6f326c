"""Both clients under one name, and a server that misbehaves."""

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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import repzoo
import repzoo_client
import safetensors.numpy
from PIL import Image


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
    """``ask(url, call, *args, client={}, **kwargs)``: what a call of either client gives.

    Of a call that iterates, a list of all.
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
    """Stands before a real server, and spoils the POST requests as it is told, one after another.

    What there is to spoil: a status; ``"reset"`` in the middle of the answer; ``"drip"``, a byte of
    the body at a time without an end; ``"drip head"``; ``"silence"``; ``"garbage"``; ``"three
    rows"``, whatever was asked. After the last of them everything is passed on.
    """

    def __init__(self, url: str, spoilt: list[int | str], retry_after: str | None) -> None:
        self.spoilt = spoilt
        #: requests with these bytes are not answered at all.
        self.marked: bytes | None = None
        self.retry_after = retry_after
        #: what came, with the time at which it did.
        self.posts: list[tuple[float, bytes]] = []
        #: set when a connection that drips or is silent has been closed by the client.
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
            # Linger of no time: RST instead of FIN.
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
