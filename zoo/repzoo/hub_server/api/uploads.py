"""The bytes of large files: the Git LFS batch API, and where it sends them.

The client sends no token along with the bytes, because elsewhere they go to another company's
store. So the address itself says what may be sent there and until when, and is signed.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Any
from urllib.parse import urlencode

from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse

from repzoo.hub_server.api.bodies import pieces, read_json
from repzoo.hub_server.context import Server, find_for_writing, server_of
from repzoo.hub_server.limits import FILE_BYTES, UPLOAD_SECONDS
from repzoo.hub_server.problems import Problem
from repzoo.packages.package import FileEntry
from repzoo.store.blobs import Upload

__all__ = ["lfs_batch", "receive"]

#: bytes that are gathered before they are hashed and written, away from the other requests.
_CHUNK = 2**20


class _Object(BaseModel):
    oid: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class _Batch(BaseModel):
    operation: str
    objects: list[_Object] = Field(max_length=1000)
    hash_algo: str = "sha256"


async def lfs_batch(request: Request) -> JSONResponse:
    """``POST /ORG/NAME.git/info/lfs/objects/batch``"""
    found, _ = find_for_writing(request)
    try:
        batch = _Batch.model_validate(await read_json(request))
    except ValidationError as error:
        raise Problem(400, f"this is no LFS batch: {error.errors()[0]['msg']}") from None
    if batch.operation != "upload" or batch.hash_algo != "sha256":
        raise Problem(400, "only uploads go through LFS here, by sha256")
    store = found.server.library.store
    assert store is not None
    objects: list[dict[str, Any]] = []
    for each in batch.objects:
        entry = FileEntry(size=each.size, sha256=each.oid)
        answer: dict[str, Any] = {**each.model_dump(), "authenticated": True}
        if each.size > FILE_BYTES:
            message = f"{each.size} bytes: a file may have {FILE_BYTES}"
            answer["error"] = {"code": 422, "message": message}
        elif not store.blobs.renew(entry):
            path = f"/api/lfs/{found.name}/{each.oid}?{_sign(found.server, found.name, entry)}"
            answer["actions"] = {"upload": {"href": str(request.base_url).rstrip("/") + path}}
        objects.append(answer)
    headers = {"Content-Type": "application/vnd.git-lfs+json"}
    return JSONResponse({"transfer": "basic", "objects": objects}, headers=headers)


async def receive(request: Request) -> JSONResponse:
    """``PUT`` to the address that `lfs_batch` gave"""
    server = server_of(request)
    entry = _check(server, request)
    store = server.library.store
    assert store is not None
    with store.blobs.receive(entry.size) as upload:
        await _receive_pieces(request, upload, entry.size)
        await run_in_threadpool(upload.keep, entry)
    return JSONResponse({"success": True})


async def _receive_pieces(request: Request, upload: Upload, limit: int) -> None:
    """Write a body as it arrives."""
    gathered = bytearray()
    async for piece in pieces(request, limit):
        gathered += piece
        if len(gathered) >= _CHUNK:
            await run_in_threadpool(upload.write, gathered)
            gathered = bytearray()
    await run_in_threadpool(upload.write, gathered)


def _sign(server: Server, name: str, entry: FileEntry) -> str:
    expires = int(time.time()) + UPLOAD_SECONDS
    signature = _signature(server, name, entry, expires)
    return urlencode({"size": entry.size, "expires": expires, "signature": signature})


def _check(server: Server, request: Request) -> FileEntry:
    query, name = request.query_params, request.path_params["name"]
    try:
        entry = FileEntry(size=int(query["size"]), sha256=request.path_params["oid"])
        expires = int(query["expires"])
        signature = query["signature"]
    except (KeyError, ValueError):
        raise Problem(403, "this is no address for an upload") from None
    if not hmac.compare_digest(
        signature.encode(), _signature(server, name, entry, expires).encode()
    ):
        message = "the address for this upload is not valid, or the hub has restarted: try again"
        raise Problem(403, message)
    if time.time() > expires:
        raise Problem(403, "the address for this upload is no longer valid: try again")
    return entry


def _signature(server: Server, name: str, entry: FileEntry, expires: int) -> str:
    text = f"{name}\n{entry.sha256}\n{entry.size}\n{expires}"
    return hmac.new(server.key, text.encode(), hashlib.sha256).hexdigest()
