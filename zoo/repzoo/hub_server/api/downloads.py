"""Downloads of files, with ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import BufferedReader
from mimetypes import guess_type
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from repzoo.hub_server.context import requested_repository
from repzoo.hub_server.problems import Problem

__all__ = ["download"]

#: Bytes that are read and sent at a time, and that a download holds in memory.
_CHUNK = 2**20

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

# Types that a browser may show; files of other types are saved. `_SANDBOX` keeps scripts in an SVG
# from running.
_SHOWN = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/svg+xml"})
_SANDBOX = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


def download(request: Request) -> Response:
    """``GET`` or ``HEAD /ORG/NAME/resolve/REV/PATH``"""
    requested = requested_repository(request)
    revision, path = request.path_params["revision"], request.path_params["path"]
    commit = requested.resolve(revision)
    known = {"X-Repo-Commit": commit}
    entry = requested.server.library.revision(requested.name, commit).files.get(path)
    if entry is None:
        message = f"{requested.id} has no file {path[:200]!a} in {commit[:12]}"
        raise Problem(404, message, "EntryNotFound", known)

    etag = f'"{entry.sha256}"'
    kind = guess_type(path)[0]
    headers = {
        **known,
        "ETag": etag,
        "X-Linked-ETag": etag,
        "X-Linked-Size": str(entry.size),
        "Accept-Ranges": "bytes",
        "Content-Security-Policy": _SANDBOX,
        "Content-Type": kind if kind in _SHOWN else "application/octet-stream",
        # The content of a commit never changes, but its visibility may.
        "Cache-Control": f"private, {'max-age=86400' if revision == commit else 'no-cache'}",
    }
    if kind not in _SHOWN:
        name = quote(path.rpartition("/")[2], safe="")
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{name}"
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)

    part = _part(request.headers, etag, entry.size)
    start, stop = part or (0, entry.size)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{entry.size}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=200 if part is None else 206, headers=headers)
    file = requested.server.library.open(requested.name, commit, path)
    return _FileResponse(file, start, stop, 200 if part is None else 206, headers)


class _FileResponse(Response):
    """A part of an open file. Sending it closes the file."""

    def __init__(
        self,
        file: BufferedReader,
        start: int,
        stop: int,
        status: int,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(status_code=status, headers=headers)
        self._file = file
        self._start = start
        self._left = stop - start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        with self._file as file:
            file.seek(self._start)
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            while self._left and not await request.is_disconnected():
                piece = await run_in_threadpool(file.read, min(_CHUNK, self._left))
                if not piece:
                    # Fewer bytes than announced: break the connection, so that the client notices.
                    raise EOFError(f"{file.name} ends {self._left} bytes early")
                self._left -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _part(headers: Mapping[str, str], etag: str, size: int) -> tuple[int, int] | None:
    """Return the requested bytes as start and stop, or None for all.

    Multiple or invalid ranges are ignored, as HTTP allows.

    Raises:
        Problem: If the file does not have the requested bytes.
    """
    match = _RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if match is None or headers.get("if-range", etag) != etag:
        return None
    first, last = match.groups()
    if first:
        start, stop = int(first), min(int(last) + 1 if last else size, size)
        if last and int(last) < int(first):
            return None
    elif last:
        start, stop = max(size - int(last), 0), size
    else:
        return None
    if start >= stop:
        message = f"the file has {size} bytes; {headers['range'][:60]!a} is outside of it"
        raise Problem(416, message, headers={"Content-Range": f"bytes */{size}"})
    return start, stop
