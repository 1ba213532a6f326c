"""The BentoML service: workers, lifecycle and builds. Requests go to our own application.

``zoo serve`` runs it, and so does ``bentoml serve repzoo_serving.service:RepzooService`` with the
variables and the file of `repzoo_serving.configuration`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import bentoml
import click
from _bentoml_sdk import Service  # type: ignore[import-untyped]
from bentoml import server_context
from repzoo.errors import RepzooError

from repzoo_serving.api.app import App
from repzoo_serving.configuration import configure
from repzoo_serving.http import connection
from repzoo_serving.http.exchange import Message, Receive, Send
from repzoo_serving.models.loading import Loader
from repzoo_serving.models.memory import settle
from repzoo_serving.models.watch import Watcher

__all__ = ["RepzooService"]

_logger = logging.getLogger("repzoo_serving")

_worker = str(server_context.worker_index or 1)
try:
    _settings = configure(os.environ).settings
    _app = App(_settings, worker=_worker)
except RepzooError as error:
    raise SystemExit(f"zoo: {error}") from None

#: Seconds that a hanging run may take after all accepted requests have been answered.
_LAST_SECONDS = 5.0


class _WithOurWire(Service[Any]):  # type: ignore[misc]
    """A service whose requests go to our application and bypass BentoML's.

    BentoML's middleware takes 64 µs of every request even if it is switched off. Its timeout leaves
    a timer behind for every request, and they pile up: p99 was 100 ms, p50 11 ms. Its errors are
    not problem documents. BentoML still handles the lifespan.
    """

    def to_asgi(self, is_main: bool = True) -> Any:
        connection.install(_settings.max_head_bytes, _settings.head_seconds, _settings.idle_seconds)
        beneath: Any = super().to_asgi(is_main)

        async def front(scope: Message, receive: Receive, send: Send) -> None:
            app = beneath if scope["type"] == "lifespan" else _app
            await app(scope, receive, send)

        return front


@bentoml.service(
    name="repzoo",
    service_class=_WithOurWire,
    workers=_settings.workers,
    # For gateways; a little longer than our own deadline.
    traffic={"timeout": _settings.deadline_seconds + 5},
    metrics={"enabled": False, "namespace": "repzoo"},
    logging={"access": {"enabled": False}},
)
class RepzooService:
    """A representation API over a zoo of pretrained image encoders."""

    def __init__(self) -> None:
        """Load the models; the server accepts no connections before that."""
        _app.log_writer.capture()
        if _settings.supervisor is not None:
            _follow(_settings.supervisor)
        loader = Loader(
            _app.served,
            hub=_settings.hub,
            provider=_settings.provider,
            threads=_settings.threads,
        )
        self._watcher: Watcher | None = None
        try:
            _app.trace(_worker)
            if _settings.watch is not None:
                self._watcher = Watcher(Path(_settings.watch), _app.models, loader)
            else:
                _app.models.serve(map(loader.load, _settings.models))
        except RepzooError as error:
            # One line; otherwise BentoML, Starlette and uvicorn would each print a traceback.
            click.echo(f"zoo: {error}", err=True)
            os._exit(1)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Load the models that the watched file lists; from now on, SIGTERM drains."""
        if self._watcher is not None:
            await self._watcher.converge()
            self._watching = asyncio.create_task(self._watcher.run())
        settle()
        _app.drain.handle_signals(_settings.drain_seconds, _settings.deadline_seconds + 1)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Let the threads end; a hanging one would keep the process alive forever."""
        if self._watcher is not None:
            self._watching.cancel()
            self._watcher.close()
        closed = _app.close(_LAST_SECONDS)
        if not closed:
            _logger.error("a model hangs; the process exits without waiting for it")
        _app.log_writer.close(1.0)
        if not closed:
            os._exit(1)


def _follow(supervisor: int) -> None:
    """Send this process SIGTERM when the supervisor is gone.

    A supervisor that was killed cannot stop its workers, and they would keep the port. When a
    parent is gone, its children get another parent on every system.
    """

    def watch() -> None:
        while os.getppid() == supervisor:
            time.sleep(0.5)
        _logger.error("the supervisor is gone; this worker exits")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="follow-supervisor", daemon=True).start()
