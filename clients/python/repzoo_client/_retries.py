"""What is tried again, and after how long."""

from __future__ import annotations

import random
from typing import NamedTuple

from repzoo_client.errors import APIError, Overloaded, ServerUnreachable, Unavailable

__all__ = ["Patience"]


class Patience(NamedTuple):
    """When to send a request again.

    Every operation may be repeated: none changes anything on the server. ``generate`` without a
    seed draws anew each time, and what was drawn for an answer that never arrived, nobody has seen.

    Tried again is what may be over soon: no connection or one that broke, 429, 502 and 503. A
    time-out (of the client, or the server's 504) is not: the work was too much, and would be again.

    The waits double from ``first`` to ``longest`` seconds, each up to a quarter longer or shorter,
    so that those whom a busy server turned away do not all come back at once. ``Retry-After`` is
    granted, up to ``limit`` seconds.
    """

    retries: int = 2
    first: float = 0.5
    longest: float = 8.0
    limit: float = 60.0

    def delay(self, error: Exception, failures: int) -> float | None:
        """Seconds to wait after so many failures in a row; None: give up."""
        passing = isinstance(error, (ServerUnreachable, Overloaded, Unavailable))
        passing |= isinstance(error, APIError) and error.status == 502
        asked = (error.retry_after or 0.0) if isinstance(error, APIError) else 0.0
        if not passing or failures > self.retries or asked > self.limit:
            return None
        delay = min(self.longest, self.first * 2 ** (failures - 1))
        return float(max(asked, delay * random.uniform(0.75, 1.25)))
