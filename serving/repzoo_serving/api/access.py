"""Access control: API keys, rates, public paths, and cross-origin requests (CORS).

All of it is per worker: with several workers on one port, each grants a key its full rate.
"""

from __future__ import annotations

import hmac
import math
import re
import time
from collections.abc import Callable
from pathlib import Path

from repzoo.secrets_file import Secret, SecretFile

from repzoo_serving.http.exchange import Exchange, Response
from repzoo_serving.http.problems import Problem
from repzoo_serving.pages.pages import PAGES
from repzoo_serving.settings import Settings

__all__ = ["HEALTH_PATHS", "METRICS_PATH", "Access", "Bucket"]

HEALTH_PATHS = frozenset({"/livez", "/healthz", "/readyz"})
METRICS_PATH = "/metrics"

_METHODS = b"GET, HEAD, POST"
_HEADERS = b"authorization, content-type, accept, x-request-id, traceparent, tracestate"
_EXPOSED = b"x-request-id, server-timing, retry-after"
_HEADER_LIST = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,4096}")

#: The file of keys is checked for changes this often, when a request arrives.
_CHECK_SECONDS = 1.0


class Bucket:
    """A token bucket: ``burst`` requests at once, ``rate`` per second in the long run."""

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
        """Take a token and return 0, or return the seconds until there is one."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._when) * self._rate)
        self._when = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0


class Access:
    """Admits requests or refuses them.

    Raises:
        InvalidInput: If the file of keys cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys: SecretFile | None = None
        if settings.keys is not None:
            self._keys = SecretFile(Path(settings.keys), check_seconds=_CHECK_SECONDS)
        self._supervisor_key = settings.supervisor_key
        self._rate = settings.rate
        self._buckets: dict[Secret, Bucket] = {}
        groups = {"health": HEALTH_PATHS, "metrics": {METRICS_PATH}, "pages": PAGES}
        self._public = frozenset[str]().union(*(groups[name] for name in settings.public))
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)

    def admit(self, exchange: Exchange) -> None:
        """Let a request pass, and record whose it is.

        Raises:
            Problem: 401 without a valid key, 429 if the key exceeds its rate.
        """
        if self._keys is None or exchange.own or exchange.path in self._public:
            return
        shown = _shown(exchange)
        key = self._keys.find(shown)
        if key is None:
            raise Problem(
                "unauthorized",
                "the API key is unknown" if shown else "send an API key: Authorization: Bearer KEY",
                headers=[(b"www-authenticate", b'Bearer realm="repzoo"')],
            )
        exchange.key = key.name
        rate = key.rate or self._rate
        if rate:
            self._take(key, rate)

    def is_supervisor(self, exchange: Exchange) -> bool:
        """Whether a request is the supervisor's own, which checks that the server is up."""
        own = self._supervisor_key
        if own is None or b"authorization" not in exchange.headers:
            return False
        return hmac.compare_digest(_shown(exchange).encode(), own.encode())

    def _take(self, key: Secret, rate: float) -> None:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(rate, key.burst or rate)
        if wait := bucket.take():
            seconds = math.ceil(wait)
            raise Problem(
                "rate-limited",
                f"{key.name} may send {rate:g} requests per second; try again in {seconds} s",
                headers=[(b"retry-after", str(seconds).encode())],
            )

    # Cross-origin requests of web pages.

    def preflight(self, exchange: Exchange) -> Response | None:
        """Return the response to a CORS preflight request; None for every other request.

        `cors_headers` are added to it, as to every response.
        """
        if exchange.method != "OPTIONS" or b"access-control-request-method" not in exchange.headers:
            return None
        if not self._is_allowed(exchange.headers.get(b"origin")):
            return None
        # Clients send headers of their own, such as x-stainless-*, and all are harmless here.
        asked = exchange.headers.get(b"access-control-request-headers", b"")
        headers = (
            (b"access-control-allow-methods", _METHODS),
            (
                b"access-control-allow-headers",
                asked if _HEADER_LIST.fullmatch(asked) else _HEADERS,
            ),
            (b"access-control-max-age", b"600"),
        )
        return Response(204, "", b"", headers)

    def _is_allowed(self, origin: bytes | None) -> bool:
        return bool(origin) and bool({origin, b"*"} & self._origins)

    def cors_headers(self, exchange: Exchange) -> tuple[tuple[bytes, bytes], ...]:
        """Return the CORS headers of a response."""
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


def _shown(exchange: Exchange) -> str:
    """Return the key that a request carries, or an empty string."""
    scheme, _, key = exchange.header(b"authorization").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
