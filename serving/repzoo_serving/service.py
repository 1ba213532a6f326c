"""The BentoML service: its workers, lifecycle, readiness and builds; the wire is our own.

``zoo serve`` runs it; so does ``bentoml serve repzoo_serving.service:RepzooService`` with the
variables of `repzoo_serving.settings`. BentoML's own endpoints stay beside ours: ``/livez``,
``/healthz``, ``/readyz`` and ``/schema.json``.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

import bentoml
import click
import repzoo
from repzoo.errors import RepzooError

from repzoo_serving.app import App
from repzoo_serving.settings import Settings

__all__ = ["RepzooService"]

_logger = logging.getLogger("repzoo_serving")

_settings = Settings.from_environ(os.environ)
_app = App(_settings.limits)


@bentoml.asgi_app(_app, path="/", name="wire")
@bentoml.service(
    name="repzoo",
    # BentoML's own timeout answers with no problem document, and leaves a timer of its length
    # behind every request. It comes after ours, but not long after.
    traffic={"timeout": _settings.deadline_seconds + 5},
    # What BentoML does to every request besides, each several times the cost of our own handling:
    # its metrics, its access log, and a span.
    metrics={"enabled": False, "namespace": "repzoo"},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class RepzooService:
    """A representation API over a zoo of pretrained image encoders."""

    def __init__(self) -> None:
        """Load the models; BentoML takes no connection before this is done."""
        if _settings.supervisor is not None:
            _follow(_settings.supervisor)
        try:
            _app.load(
                repzoo.load(name, hub=_settings.hub, provider=_settings.provider)
                for name in _settings.models
            )
        except RepzooError as error:
            # One line, where BentoML, Starlette and uvicorn would print a traceback each.
            click.echo(f"zoo: {error}", err=True)
            os._exit(1)

    async def __is_ready__(self) -> bool:
        """What ``/readyz`` says."""
        return _app.ready

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Let the threads end."""
        _app.close()


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
