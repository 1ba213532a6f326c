"""uvicorn's HTTP protocol with timeouts for clients that do not send, or do not read.

uvicorn waits forever for both, so a client that opens many connections could lock out everybody
else.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

__all__ = ["ImpatientProtocol"]

#: Seconds for the head of the first request to arrive, and for the next one after each response.
_HEADER_SECONDS = 20.0
#: A client that reads nothing for this many checks in a row is disconnected.
_CHECKS = 3
_CHECK_SECONDS = 20.0


class ImpatientProtocol(H11Protocol):
    """Closes connections whose client is idle or stalled. Request bodies have their own limit."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_request()
        self._check_reading(0, 0)

    def eof_received(self) -> bool:  # type: ignore[override]
        # A client may close its half of the connection after a complete request.
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_request()

    def _wait_for_request(self) -> None:
        self.loop.call_later(_HEADER_SECONDS, self._give_up_after, self.cycle)

    def _give_up_after(self, last: RequestResponseCycle | None) -> None:
        # A request that began in the meantime starts its own wait when it ends.
        waiting = self.cycle is last and (last is None or last.response_complete)
        if waiting and not self.transport.is_closing():
            self.transport.close()

    def _check_reading(self, before: int, stalled: int) -> None:
        """Disconnect a client that does not read its response."""
        size = self.transport.get_write_buffer_size()
        stalled = stalled + 1 if size and size == before else 0
        if stalled == _CHECKS:
            self.transport.abort()
        elif self in self.connections:
            self.loop.call_later(_CHECK_SECONDS, self._check_reading, size, stalled)
