"""The application in a thread of this process, over real sockets, with a model that can be held.

Use it if a test must control when something happens; other tests talk to ``zoo serve``.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import repzoo
import uvicorn
from repzoo_serving.api.app import App
from repzoo_serving.http import connection
from repzoo_serving.settings import Settings

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _run_once(shared_admissions: None) -> None:
    """Run each package only once before its first load."""


class Gate:
    """Holds an encoder's runs while it is shut."""

    def __init__(self, encoder: repzoo.Encoder) -> None:
        self._open = threading.Event()
        self._open.set()
        self._entered = threading.Semaphore(0)
        self._permits = threading.Semaphore(0)
        self._encode = encoder._encode
        encoder._encode = self._held  # type: ignore[method-assign]

    def _held(self, *args: Any, **options: Any) -> Any:
        if not self._open.is_set():
            self._entered.release()
            assert self._permits.acquire(timeout=30)
        return self._encode(*args, **options)

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()
        self._permits.release(100)

    def let_one_through(self) -> None:
        """Let the held run continue."""
        self._permits.release()

    def wait_for_a_run(self) -> None:
        """Return once a run is held."""
        assert self._entered.acquire(timeout=30)


class _Server(uvicorn.Server):
    def __init__(self, app: App) -> None:
        settings = app.settings
        protocol = connection.install(
            settings.max_head_bytes, settings.head_seconds, settings.idle_seconds
        )
        super().__init__(
            uvicorn.Config(app, http=protocol, log_config=None, lifespan="off")  # type: ignore[arg-type]
        )
        self.up = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.up.set()


class Live:
    """A running application: its ``url``, the ``app``, the ``gate`` of its model and a client."""

    def __init__(
        self, app: App, gate: Gate, url: str, http: httpx.Client, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.app = app
        self._loop = loop
        self.gate = gate
        self.url = url
        self.http = http

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the application's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def connect(self) -> socket.socket:
        url = httpx.URL(self.url)
        return socket.create_connection((url.host, url.port or 80), timeout=30)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels."""
        from prometheus_client.parser import text_string_to_metric_families

        text = self.http.get("/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], object]], None]:
    """``eventually(condition)``: return once it is true; fail if it does not become true."""

    def wait(condition: Callable[[], object], seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the condition did not become true"
            time.sleep(0.01)

    return wait


@contextmanager
def run(package: Path, settings: dict[str, Any]) -> Iterator[Live]:
    encoder = repzoo.load(package, provider="cpu", threads=1)
    gate = Gate(encoder)
    app = App(Settings(**settings))
    app.models.serve([app.served(encoder)])
    server = _Server(app)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        main = server.serve(sockets=[listener])
        thread = threading.Thread(target=asyncio.run, args=(main,))
        thread.start()
        try:
            assert server.up.wait(30)
            with httpx.Client(base_url=url, timeout=30) as http:
                yield Live(app, gate, url, http, server.loop)
        finally:
            gate.open()
            server.should_exit = True
            thread.join(30)
            app.close()
    assert not thread.is_alive()


@pytest.fixture
def live(tiny_package: Path) -> Iterator[Callable[..., Live]]:
    """``live(**settings)``: the application with the model "tiny" and these settings."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(run(tiny_package, settings))
