"""uvicorn's HTTP protocol with a timeout for requests that do not arrive.

uvicorn waits forever for the rest of a request's headers, so a client that opens many connections
and sends nothing could lock out everybody else.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

__all__ = ["ImpatientProtocol"]

#: Seconds in which the head of the first request must arrive, and after each response the next.
_HEADER_SECONDS = 20.0


class ImpatientProtocol(H11Protocol):
    """Closes a connection if no request head arrives in time. Bodies have their own limit."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_request()

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
