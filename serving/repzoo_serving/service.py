"""The BentoML service: its workers, lifecycle and builds; every request is our own.

``zoo serve`` runs it; so does ``bentoml serve repzoo_serving.service:RepzooService`` with the
variables of `repzoo_serving.settings`.
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
from repzoo_serving.http.exchange import Message, Receive, Send
from repzoo_serving.http.malformed import answer_with_problems
from repzoo_serving.models.loading import Loader
from repzoo_serving.models.memory import settle
from repzoo_serving.models.watch import Watcher
from repzoo_serving.settings import Settings
from repzoo_serving.telemetry.logs import log_as_json

__all__ = ["RepzooService"]

_logger = logging.getLogger("repzoo_serving")

_settings = Settings.from_environ(os.environ)
_worker = str(server_context.worker_index or 1)
try:
    _app = App(_settings, worker=_worker)
except RepzooError as error:
    raise SystemExit(f"zoo: {error}") from None

#: Seconds that a run which hangs is given, after everything accepted has been answered.
_LAST_SECONDS = 5.0


class _WithOurWire(Service[Any]):  # type: ignore[misc]
    """A service whose requests meet our application before any of BentoML's.

    Its middlewares take 64 µs of every request even where they are told to do nothing, and its
    timeout leaves a timer behind each, which piles up: p99 of 100 ms against p50 of 11. Its own
    endpoints answer with errors that are no problem documents. The lifespan stays its own.
    """

    def to_asgi(self, is_main: bool = True) -> Any:
        beneath: Any = super().to_asgi(is_main)

        async def front(scope: Message, receive: Receive, send: Send) -> None:
            app = beneath if scope["type"] == "lifespan" else _app
            await app(scope, receive, send)

        return front


@bentoml.service(
    name="repzoo",
    service_class=_WithOurWire,
    workers=_settings.workers,
    # For gateways before it: a little more than our own deadline.
    traffic={"timeout": _settings.deadline_seconds + 5},
    metrics={"enabled": False, "namespace": "repzoo"},
    logging={"access": {"enabled": False}},
)
class RepzooService:
    """A representation API over a zoo of pretrained image encoders."""

    def __init__(self) -> None:
        """Load the models; the server takes no connection before this is done."""
        if _settings.log == "json":
            log_as_json()
        answer_with_problems()
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
            # One line, where BentoML, Starlette and uvicorn would print a traceback each.
            click.echo(f"zoo: {error}", err=True)
            os._exit(1)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Load what the file of wanted models says; from now on SIGTERM drains."""
        if self._watcher is not None:
            await self._watcher.converge()
            self._watching = asyncio.create_task(self._watcher.run())
        settle()
        _app.drain.handle_signals(_settings.drain_seconds, _settings.deadline_seconds + 1)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Let the threads end; one that hangs would keep the process alive for ever."""
        if self._watcher is not None:
            self._watching.cancel()
            self._watcher.close()
        if not _app.close(_LAST_SECONDS):
            _logger.error("a model hangs; the process ends without it")
            os._exit(1)


def _follow(supervisor: int) -> None:
    """End this process, as SIGTERM does, when the one that started it is gone.

    A supervisor that was killed cannot stop its workers, and they would keep the port. That a
    parent is gone shows everywhere by another becoming it.
    """

    def watch() -> None:
        while os.getppid() == supervisor:
            time.sleep(0.5)
        _logger.error("the supervisor is gone; this worker ends")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="follow-supervisor", daemon=True).start()
