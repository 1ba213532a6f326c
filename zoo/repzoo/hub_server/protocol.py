"""uvicorn's HTTP, with an end to the wait for requests that do not come.

uvicorn itself waits for ever for the rest of a request's headers, and so whoever opens enough
connections and sends nothing keeps everybody else out.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

__all__ = ["ImpatientProtocol"]

#: seconds in which a connection has to bring its first request, and after each the next one.
_HEADER_SECONDS = 20.0


class ImpatientProtocol(H11Protocol):
    """Closes a connection on which no request is complete in time; its body has its own limit."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_request()

    def _wait_for_request(self) -> None:
        self.loop.call_later(_HEADER_SECONDS, self._give_up_after, self.cycle)

    def _give_up_after(self, last: RequestResponseCycle | None) -> None:
        # A request that began meanwhile has its own wait after it.
        waiting = self.cycle is last and (last is None or last.response_complete)
        if waiting and not self.transport.is_closing():
            self.transport.close()
