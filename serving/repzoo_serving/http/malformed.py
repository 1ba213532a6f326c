"""What is no HTTP gets a problem document too; the HTTP server would answer with plain text."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from repzoo_serving.http.exchange import RequestIds
from repzoo_serving.http.problems import PROBLEM_TYPE, Problem

__all__ = ["answer_with_problems"]

_ids = RequestIds()


def answer_with_problems() -> None:
    """Have the HTTP server of this process do so."""
    protocol: Any = AutoHTTPProtocol  # which of two it is, is found out by the server
    protocol.send_400_response = _refuse


def _refuse(connection: Any, message: str) -> None:
    """Answer bytes of which no request can be made, and close the connection."""
    request_id = _ids.make(None)
    body = Problem("malformed-request", message).body(request_id)
    head = (
        "HTTP/1.1 400 Bad Request\r\n"
        f"x-request-id: {request_id}\r\n"
        f"content-type: {PROBLEM_TYPE}\r\n"
        f"content-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    )
    connection.transport.write(head.encode() + body)
    connection.transport.close()
