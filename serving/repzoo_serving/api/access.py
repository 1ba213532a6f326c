"""Who may do what: keys, rates, what is public, and which web pages may ask (CORS).

All of it is of one worker: with several of them on one port each gives a key its full rate.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable
from pathlib import Path

from repzoo_serving.api.keys import Key, KeyFile
from repzoo_serving.http.exchange import Exchange, Reply
from repzoo_serving.http.problems import Problem
from repzoo_serving.pages.pages import PAGES
from repzoo_serving.settings import Settings

__all__ = ["Access", "Bucket"]

_HEALTH = frozenset({"/livez", "/healthz", "/readyz"})

_METHODS = b"GET, HEAD, POST"
_HEADERS = b"authorization, content-type, accept, x-request-id, traceparent, tracestate"
_EXPOSED = b"x-request-id, server-timing, retry-after"


class Bucket:
    """A token bucket: ``burst`` requests at once, ``rate`` a second in the long run."""

    __slots__ = ("_burst", "_clock", "_rate", "_tokens", "_when")

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._clock = clock
        self._tokens = self._burst
        self._when = clock()

    def take(self) -> float:
        """Take a token; 0, or the seconds until there is one."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._when) * self._rate)
        self._when = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0


class Access:
    """Admits requests, or refuses them.

    Raises:
        InvalidInput: if the file of keys cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = KeyFile(Path(settings.keys)) if settings.keys is not None else None
        self._supervisor_key = settings.supervisor_key
        self._rate = settings.rate
        self._buckets: dict[Key, Bucket] = {}
        self._public = frozenset[str]()
        for name, paths in (
            ("health", _HEALTH),
            ("metrics", frozenset({"/metrics"})),
            ("pages", PAGES),
        ):
            if name in settings.public:
                self._public |= paths
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)

    def admit(self, exchange: Exchange) -> None:
        """Let a request pass, and note whose it is.

        Raises:
            Problem: 401 without a key, 429 beyond its rate.
        """
        if self._keys is None or exchange.path in self._public:
            return
        scheme, _, shown = exchange.header(b"authorization").partition(" ")
        shown = shown.strip() if scheme.lower() == "bearer" else ""
        own = self._supervisor_key
        if own is not None and hmac.compare_digest(shown.encode(), own.encode()):
            return
        key = self._keys.find(shown)
        if key is None:
            raise Problem(
                "unauthorized",
                "the key is not known" if shown else "send a key: Authorization: Bearer KEY",
                headers=[(b"www-authenticate", b'Bearer realm="repzoo"')],
            )
        exchange.key = key.name
        rate = key.rate or self._rate
        if rate:
            self._take(key, rate)

    def _take(self, key: Key, rate: float) -> None:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(rate, key.burst or rate)
        if wait := bucket.take():
            seconds = math.ceil(wait)
            raise Problem(
                "rate-limited",
                f"{key.name} may send {rate:g} requests a second; try again in {seconds} s",
                headers=[(b"retry-after", str(seconds).encode())],
            )

    # Cross-origin requests, of web pages.

    def preflight(self, exchange: Exchange) -> Reply | None:
        """The answer to a browser that asks whether it may ask; None for everything else.

        The headers of every answer to it come on top.
        """
        if exchange.method != "OPTIONS" or b"access-control-request-method" not in exchange.headers:
            return None
        if not self._is_allowed(exchange.headers.get(b"origin")):
            return None
        headers = (
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _HEADERS),
            (b"access-control-max-age", b"600"),
        )
        return Reply(204, "", b"", headers)

    def _is_allowed(self, origin: bytes | None) -> bool:
        return bool(origin) and bool({origin, b"*"} & self._origins)

    def cors_headers(self, exchange: Exchange) -> tuple[tuple[bytes, bytes], ...]:
        """What an answer to another origin's page carries, if it may read it."""
        if not self._origins:
            return ()
        origin = exchange.headers.get(b"origin", b"")
        if not self._is_allowed(origin):
            return ((b"vary", b"origin"),)
        return (
            (b"access-control-allow-origin", b"*" if b"*" in self._origins else origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"origin"),
        )
