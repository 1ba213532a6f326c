"""Which failures are retried, and when."""

from __future__ import annotations

import random
from typing import NamedTuple

from repzoo_client.errors import APIError, Overloaded, ServerUnreachable, Unavailable

__all__ = ["RetryPolicy"]


class RetryPolicy(NamedTuple):
    """When to send a request again.

    All operations are safe to repeat, because none changes anything on the server. ``generate``
    without a seed draws new images, which is fine because the lost answer was never seen.

    Failures that may pass soon are retried: no connection, a broken connection, 429, 502 and 503.
    Timeouts (the client's, or a 504 from the server) are not: the same work would take as long
    again.

    Delays double from ``first`` to ``longest`` seconds, each with up to 25 % of random jitter, so
    that the clients of a busy server do not return all at once. A longer ``Retry-After`` takes
    precedence; if it exceeds ``limit`` seconds, the request is not retried.
    """

    retries: int = 2
    first: float = 0.5
    longest: float = 8.0
    limit: float = 60.0

    def delay(self, error: Exception, failures: int) -> float | None:
        """Return the seconds to wait after this many failures in a row, or None to give up."""
        passing = isinstance(error, (ServerUnreachable, Overloaded, Unavailable))
        passing |= isinstance(error, APIError) and error.status == 502
        asked = (error.retry_after or 0.0) if isinstance(error, APIError) else 0.0
        if not passing or failures > self.retries or asked > self.limit:
            return None
        delay = min(self.longest, self.first * 2 ** (failures - 1))
        return float(max(asked, delay * random.uniform(0.75, 1.25)))
