"""The writing half of the API: repositories, tags and commits."""

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
from repzoo.hub_server.context import Found, find_for_writing, require_store, server_of
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
    f"xet; This hub takes files of more than {REGULAR_BYTES // 2**20} MiB as LFS, not through Xet:"
    " if their upload fails at a xet-write-token, set HF_HUB_DISABLE_XET=1."
)


async def create_repository(request: Request) -> JSONResponse:
    """``POST /api/repos/create``"""
    server, store = server_of(request), require_store(request)
    wanted = await read_json(request)
    org, name = wanted.get("organization") or server.org, wanted.get("name")
    if wanted.get("type") not in (None, "model"):
        raise Problem(400, "this hub holds models only")
    if org != server.org:
        message = f"this hub holds repositories of {server.org} only: {server.org}/NAME"
        raise Problem(403, message)
    if not isinstance(name, str):
        raise Problem(400, "a repository needs a name")
    url = f"{str(request.base_url).rstrip('/')}/{server.org}/{name}"
    repository = store.new_repository(name)
    private = _is_private(wanted) or False
    if not await run_in_threadpool(repository.create, private=private):
        message = "You already created this model repo"  # in the Hub's words
        return JSONResponse({"error": message, "url": url}, 409, {"X-Error-Message": message})
    return JSONResponse({"url": url, "name": f"{server.org}/{name}", "id": f"{server.org}/{name}"})


async def set_visibility(request: Request) -> JSONResponse:
    """``PUT /api/models/ORG/NAME/settings``"""
    _, repository = find_for_writing(request)
    private = _is_private(await read_json(request))
    if private is None:
        raise Problem(400, "all that can be set is whether a repository is private")
    await run_in_threadpool(repository.set_private, private)
    return JSONResponse({"private": private})


def delete_repository(request: Request) -> JSONResponse:
    """``DELETE /api/repos/delete``"""
    require_store(request)
    raise Problem(403, "what is published on this hub stays: repositories are not deleted")


def no_branches(request: Request) -> JSONResponse:
    """``POST`` or ``DELETE /api/models/ORG/NAME/branch/BRANCH``"""
    find_for_writing(request)
    raise Problem(400, "repositories of this hub have one branch, main; name revisions by tags")


async def create_tag(request: Request) -> JSONResponse:
    """``POST /api/models/ORG/NAME/tag/REV``"""
    found, repository = find_for_writing(request)
    tag = (await read_json(request)).get("tag")
    if not isinstance(tag, str):
        raise Problem(400, "a tag needs a name")
    commit = found.resolve(request.path_params["revision"])
    # The Hub's client takes a 409 for "it is there", which is all right to it only if exist_ok.
    if is_tag(tag) and repository.tags().get(tag) == commit:
        raise Problem(409, f"{found.id} has the tag {tag} already, on this commit")
    await run_in_threadpool(repository.create_tag, tag, commit)
    return JSONResponse({"tag": tag, "commit": commit}, 201)


def delete_tag(request: Request) -> JSONResponse:
    """``DELETE /api/models/ORG/NAME/tag/TAG``"""
    _, repository = find_for_writing(request)
    repository.delete_tag(request.path_params["revision"])
    return JSONResponse({"success": True})


async def validate_card(request: Request) -> JSONResponse:
    """``POST /api/validate-yaml``: is a card's metadata YAML"""
    require_store(request)
    content = (await read_json(request)).get("content")
    problem = check_card(content) if isinstance(content, str) else "there is no content"
    if problem is not None:
        errors = [{"message": problem}]
        return JSONResponse({"error": problem, "errors": errors, "warnings": []}, 400)
    return JSONResponse({"errors": [], "warnings": []})


async def preupload(request: Request) -> JSONResponse:
    """``POST /api/models/ORG/NAME/preupload/REV``: how each file is to come"""
    found, _ = find_for_writing(request)
    commit = _branch(found, request)
    wanted = (await read_json(request)).get("files")
    if not isinstance(wanted, list) or len(wanted) > _MAX_PREUPLOAD:
        raise Problem(400, f"no list of at most {_MAX_PREUPLOAD} files")
    there = found.server.library.revision(found.name, commit).files
    answers = []
    for file in wanted:
        path, size = (file.get("path"), file.get("size")) if isinstance(file, dict) else (0, 0)
        if not isinstance(path, str) or not isinstance(size, int):
            raise Problem(400, "a file without path and size")
        check_path(path)
        answer: dict[str, Any] = {"path": path, "shouldIgnore": False}
        answer["uploadMode"] = "regular" if size <= REGULAR_BYTES else "lfs"
        # What the file is now, so that the client does not send what would change nothing.
        entry = there.get(path)
        if entry is not None and entry.size == size:
            answer["oid"] = await run_in_threadpool(_oid, found, commit, path, entry)
        answers.append(answer)
    headers = {}
    if any(answer["uploadMode"] == "lfs" for answer in answers):
        # A client with hf-xet asks for nothing more, and what it then says of the failure is no
        # help. This it shows before.
        headers["X-HF-Warning"] = _NO_XET
    return JSONResponse({"files": answers, "commitOid": commit}, headers=headers)


async def commit(request: Request) -> JSONResponse:
    """``POST /api/models/ORG/NAME/commit/main``: the header and the changes, a line each"""
    found, repository = find_for_writing(request)
    _branch(found, request)
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
                raise InvalidInput("a commit starts with its header")
            header = parsed.value
            continue
        if len(changes) == MAX_FILES:
            raise InvalidInput(f"more than {MAX_FILES} changes in one commit")
        changes.append(await run_in_threadpool(change_of, parsed, store.blobs))
    if header is None:
        raise InvalidInput("a commit without a header")
    message = f"{header.summary}\n\n{header.description}".strip()
    try:
        name, _ = await run_in_threadpool(
            repository.change, changes, message, parent=header.parentCommit
        )
    except Conflict as error:
        raise Problem(412, str(error)) from None
    url = f"{str(request.base_url).rstrip('/')}/{found.id}/commit/{name}"
    return JSONResponse({"success": True, "commitOid": name, "commitUrl": url, "hookOutput": ""})


def _branch(found: Found, request: Request) -> str:
    """The newest commit, if the request is about the branch that there is."""
    if request.path_params["revision"] not in (MAIN, f"refs/heads/{MAIN}"):
        message = f"{found.id} has one branch to write to, main"
        raise Problem(404, message, "RevisionNotFound")
    return found.resolve(None)


def _oid(found: Found, commit: str, path: str, entry: FileEntry) -> str:
    """What the client compares: sha256, or for a file that would come as regular Git's sha1."""
    if entry.size > REGULAR_BYTES:
        return entry.sha256
    with found.server.library.open(found.name, commit, path) as file:
        content = file.read()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _is_private(wanted: dict[str, Any]) -> bool | None:
    """Whether a repository is wanted private; None if nothing is said of it."""
    visibility, private = wanted.get("visibility"), wanted.get("private")
    if visibility in ("public", "private"):
        return bool(visibility == "private")
    if visibility is not None or not isinstance(private, bool | None):
        raise Problem(400, "a repository is public or private")
    return private
