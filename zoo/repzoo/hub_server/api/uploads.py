"""Uploads of large files: the Git LFS batch API, and the URLs that it hands out.

The client sends no token with the bytes, because the Hub stores them with another company. So the
URL itself says what may be uploaded and until when, and is signed.
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
from repzoo.hub_server.context import Server, server_of, writable_repository
from repzoo.hub_server.limits import FILE_BYTES, UPLOAD_SECONDS
from repzoo.hub_server.problems import Problem
from repzoo.packages.package import FileEntry
from repzoo.store.blobs import Upload

__all__ = ["lfs_batch", "receive"]

#: Bytes that are collected before a thread hashes and writes them.
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
    requested, _ = writable_repository(request)
    try:
        batch = _Batch.model_validate(await read_json(request))
    except ValidationError as error:
        raise Problem(400, f"not a valid LFS batch: {error.errors()[0]['msg']}") from None
    if batch.operation != "upload" or batch.hash_algo != "sha256":
        raise Problem(400, "LFS on this hub only supports uploads with sha256")
    store = requested.server.library.store
    assert store is not None
    objects: list[dict[str, Any]] = []
    for each in batch.objects:
        entry = FileEntry(size=each.size, sha256=each.oid)
        answer: dict[str, Any] = {**each.model_dump(), "authenticated": True}
        if each.size > FILE_BYTES:
            message = f"the file has {each.size} bytes; at most {FILE_BYTES} are allowed"
            answer["error"] = {"code": 422, "message": message}
        elif not store.blobs.renew(entry):
            query = _sign(requested.server, requested.name, entry)
            path = f"/api/lfs/{requested.name}/{each.oid}?{query}"
            answer["actions"] = {"upload": {"href": str(request.base_url).rstrip("/") + path}}
        objects.append(answer)
    headers = {"Content-Type": "application/vnd.git-lfs+json"}
    return JSONResponse({"transfer": "basic", "objects": objects}, headers=headers)


async def receive(request: Request) -> JSONResponse:
    """``PUT`` to a URL from `lfs_batch`"""
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
        raise Problem(403, "this is not a valid upload URL") from None
    if not hmac.compare_digest(
        signature.encode(), _signature(server, name, entry, expires).encode()
    ):
        message = "the upload URL is not valid, perhaps because the hub was restarted; try again"
        raise Problem(403, message)
    if time.time() > expires:
        raise Problem(403, "the upload URL has expired; try again")
    return entry


def _signature(server: Server, name: str, entry: FileEntry, expires: int) -> str:
    text = f"{name}\n{entry.sha256}\n{entry.size}\n{expires}"
    return hmac.new(server.key, text.encode(), hashlib.sha256).hexdigest()
