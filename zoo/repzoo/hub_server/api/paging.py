"""Listings in pages, each with a link to the next one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse

from repzoo.hub_server.limits import PAGE_ITEMS

__all__ = ["page_of"]


def page_of(request: Request, items: Sequence[Any]) -> JSONResponse:
    """Return the page of a listing that a request asks for."""
    query = request.query_params
    cursor, limit = query.get("cursor", ""), query.get("limit", "")
    start = int(cursor[:9]) if cursor.isdecimal() else 0
    size = min(int(limit[:9]), PAGE_ITEMS) if limit.isdecimal() else PAGE_ITEMS
    headers = {}
    if size and start + size < len(items):
        others = [each for each in query.multi_items() if each[0] != "cursor"]
        url = request.url.replace(query=urlencode([*others, ("cursor", start + size)]))
        headers["Link"] = f'<{url}>; rel="next"'
    return JSONResponse(list(items[start : start + size]), headers=headers)
