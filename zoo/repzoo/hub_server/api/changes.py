"""The routes that write: repositories, tags and commits."""

from __future__ import annotations

import hashlib
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse

from repzoo.errors import Conflict, InvalidInput
from repzoo.hub_server.api.bodies import lines, read_json
from repzoo.hub_server.api.commit_lines import Header, HeaderLine, change_of, parse_line
from repzoo.hub_server.cards import check_card
from repzoo.hub_server.context import (
    RequestedRepository,
    require_store,
    server_of,
    writable_repository,
)
from repzoo.hub_server.limits import COMMIT_BYTES, LINE_BYTES, REGULAR_BYTES
from repzoo.hub_server.problems import Problem
from repzoo.packages.package import FileEntry
from repzoo.store.commits import MAX_FILES, Change
from repzoo.store.paths import check_path
from repzoo.store.repository import MAIN, is_tag

__all__ = [
    "commit",
    "create_repository",
    "create_tag",
    "delete_repository",
    "delete_tag",
    "no_branches",
    "preupload",
    "set_visibility",
    "validate_card",
]

_MAX_PREUPLOAD = 1000
_NO_XET = (
    f"xet; This hub receives files of more than {REGULAR_BYTES // 2**20} MiB through LFS, not "
    "through Xet: if their upload fails at a xet-write-token, set HF_HUB_DISABLE_XET=1."
)


async def create_repository(request: Request) -> JSONResponse:
    """``POST /api/repos/create``"""
    server = server_of(request)
    wanted = await read_json(request)
    org, name = wanted.get("organization") or server.org, wanted.get("name")
    # Checked before the token, because another token would not help. Not 404, which the client
    # would attribute to a missing token.
    if wanted.get("type") not in (None, "model"):
        raise Problem(400, "this hub only holds models, not datasets or spaces")
    if org != server.org:
        message = f"this hub has no organisation {str(org)[:100]!a}, only {server.org}"
        raise Problem(400, f"{message}: create {server.org}/NAME")
    store = require_store(request)
    if not isinstance(name, str):
        raise Problem(400, "'name' must be a string")
    url = f"{str(request.base_url).rstrip('/')}/{server.org}/{name}"
    repository = store.new_repository(name)
    private = _is_private(wanted) or False
    if not await run_in_threadpool(repository.create, private=private):
        message = "You already created this model repo"  # the Hub's words
        return JSONResponse({"error": message, "url": url}, 409, {"X-Error-Message": message})
    return JSONResponse({"url": url, "name": f"{server.org}/{name}", "id": f"{server.org}/{name}"})


async def set_visibility(request: Request) -> JSONResponse:
    """``PUT /api/models/ORG/NAME/settings``"""
    _, repository = writable_repository(request)
    private = _is_private(await read_json(request))
    if private is None:
        raise Problem(400, "only 'visibility' or 'private' can be set")
    await run_in_threadpool(repository.set_private, private)
    return JSONResponse({"private": private})


def delete_repository(request: Request) -> JSONResponse:
    """``DELETE /api/repos/delete``"""
    require_store(request)
    raise Problem(403, "repositories on this hub cannot be deleted")


def no_branches(request: Request) -> JSONResponse:
    """``POST`` or ``DELETE /api/models/ORG/NAME/branch/BRANCH``"""
    writable_repository(request)
    raise Problem(
        400, "repositories on this hub have only the branch main; use tags to name revisions"
    )


async def create_tag(request: Request) -> JSONResponse:
    """``POST /api/models/ORG/NAME/tag/REV``"""
    requested, repository = writable_repository(request)
    tag = (await read_json(request)).get("tag")
    if not isinstance(tag, str):
        raise Problem(400, "'tag' must be a string")
    commit = requested.resolve(request.path_params["revision"])
    # The Hub's client accepts a 409 only with exist_ok.
    if is_tag(tag) and repository.tags().get(tag) == commit:
        raise Problem(409, f"{requested.id} already has the tag {tag} on this commit")
    await run_in_threadpool(repository.create_tag, tag, commit)
    return JSONResponse({"tag": tag, "commit": commit}, 201)


def delete_tag(request: Request) -> JSONResponse:
    """``DELETE /api/models/ORG/NAME/tag/TAG``"""
    _, repository = writable_repository(request)
    repository.delete_tag(request.path_params["revision"])
    return JSONResponse({"success": True})


async def validate_card(request: Request) -> JSONResponse:
    """``POST /api/validate-yaml``: check a card's metadata, without a token as on the Hub"""
    content = (await read_json(request)).get("content")
    problem: str | None = "'content' must be a string"
    if isinstance(content, str):
        problem = await run_in_threadpool(check_card, content)
    if problem is not None:
        errors = [{"message": problem}]
        return JSONResponse({"error": problem, "errors": errors, "warnings": []}, 400)
    return JSONResponse({"errors": [], "warnings": []})


async def preupload(request: Request) -> JSONResponse:
    """``POST /api/models/ORG/NAME/preupload/REV``: how to upload each file"""
    requested, _ = writable_repository(request)
    commit = _branch(requested, request)
    wanted = (await read_json(request)).get("files")
    if not isinstance(wanted, list) or len(wanted) > _MAX_PREUPLOAD:
        raise Problem(400, f"'files' must be a list of at most {_MAX_PREUPLOAD} files")
    there = requested.server.library.revision(requested.name, commit).files
    answers = []
    for file in wanted:
        path, size = (file.get("path"), file.get("size")) if isinstance(file, dict) else (0, 0)
        if not isinstance(path, str) or not isinstance(size, int):
            raise Problem(400, "each file needs 'path' and 'size'")
        check_path(path)
        answer: dict[str, Any] = {"path": path, "shouldIgnore": False}
        answer["uploadMode"] = "regular" if size <= REGULAR_BYTES else "lfs"
        # The current file's hash, so that the client does not send an unchanged file.
        entry = there.get(path)
        if entry is not None and entry.size == size:
            answer["oid"] = await run_in_threadpool(_oid, requested, commit, path, entry)
        answers.append(answer)
    headers = {}
    if any(answer["uploadMode"] == "lfs" for answer in answers):
        # A client with hf-xet fails later without a helpful message. It shows this one first.
        headers["X-HF-Warning"] = _NO_XET
    return JSONResponse({"files": answers, "commitOid": commit}, headers=headers)


async def commit(request: Request) -> JSONResponse:
    """``POST /api/models/ORG/NAME/commit/main``: a header and changes, one per line"""
    requested, repository = writable_repository(request)
    _branch(requested, request)
    if request.query_params.get("create_pr"):
        raise Problem(400, "this hub has no pull requests")
    store = require_store(request)
    header: Header | None = None
    changes: list[Change] = []
    async for line in lines(request, COMMIT_BYTES, LINE_BYTES):
        if not line.strip():
            continue
        parsed = await run_in_threadpool(parse_line, line)
        if header is None:
            if not isinstance(parsed, HeaderLine):
                raise InvalidInput("a commit must begin with its header")
            header = parsed.value
            continue
        if len(changes) == MAX_FILES:
            raise InvalidInput(f"more than {MAX_FILES} changes in one commit")
        changes.append(await run_in_threadpool(change_of, parsed, store.blobs))
    if header is None:
        raise InvalidInput("the commit has no header")
    message = f"{header.summary}\n\n{header.description}".strip()
    try:
        name, _ = await run_in_threadpool(
            repository.change, changes, message, parent=header.parentCommit
        )
    except Conflict as error:
        raise Problem(412, str(error)) from None
    url = f"{str(request.base_url).rstrip('/')}/{requested.id}/commit/{name}"
    return JSONResponse({"success": True, "commitOid": name, "commitUrl": url, "hookOutput": ""})


def _branch(requested: RequestedRepository, request: Request) -> str:
    """Return the newest commit if the request is about the branch main."""
    if request.path_params["revision"] not in (MAIN, f"refs/heads/{MAIN}"):
        message = f"{requested.id} can only be written on the branch main"
        raise Problem(404, message, "RevisionNotFound")
    return requested.resolve(None)


def _oid(requested: RequestedRepository, commit: str, path: str, entry: FileEntry) -> str:
    """Return the hash that the client compares: SHA-256 for LFS files, Git's SHA-1 for others."""
    if entry.size > REGULAR_BYTES:
        return entry.sha256
    with requested.server.library.open(requested.name, commit, path) as file:
        content = file.read()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _is_private(wanted: dict[str, Any]) -> bool | None:
    """Whether a repository should be private, or None if the request does not say."""
    visibility, private = wanted.get("visibility"), wanted.get("private")
    if visibility in ("public", "private"):
        return bool(visibility == "private")
    if visibility is not None or not isinstance(private, bool | None):
        raise Problem(400, "'visibility' must be 'public' or 'private'")
    return private
