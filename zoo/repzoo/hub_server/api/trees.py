"""The routes that read revisions: trees, paths, history and refs.

Every file is described as an LFS file, so that clients see its SHA-256, use it in their caches and
check it. Its Git ID is that of the corresponding LFS pointer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from repzoo.hub_server.api.bodies import read_form
from repzoo.hub_server.api.paging import page_of
from repzoo.hub_server.context import requested_repository
from repzoo.hub_server.library import timestamp
from repzoo.hub_server.problems import Problem
from repzoo.packages.package import FileEntry

__all__ = ["describe_sibling", "list_commits", "list_refs", "list_tree", "paths_info"]

_MAX_PATHS = 1000


def list_tree(request: Request) -> JSONResponse:
    """``GET /api/models/ORG/NAME/tree/REV[/FOLDER]?recursive=``"""
    requested = requested_repository(request)
    commit = requested.resolve(request.path_params["revision"])
    files = requested.server.library.revision(requested.name, commit).files
    folder = request.path_params.get("path", "").strip("/")
    below = f"{folder}/" if folder else ""
    inside = {path: entry for path, entry in files.items() if path.startswith(below)}
    if folder and not inside:
        raise Problem(
            404, f"{requested.id} has no folder {folder!a} in {commit[:12]}", "EntryNotFound"
        )
    deep = request.query_params.get("recursive", "").lower() in ("1", "true")
    shown: dict[str, dict[str, Any]] = {}
    for path, entry in inside.items():
        parts = path.removeprefix(below).split("/")
        for depth in range(1, len(parts) if deep else min(len(parts), 2)):
            parent = below + "/".join(parts[:depth])
            shown.setdefault(parent, _describe_folder(parent))
        if deep or len(parts) == 1:
            shown[path] = _describe_file(path, entry)
    return page_of(request, [shown[path] for path in sorted(shown)])


async def paths_info(request: Request) -> JSONResponse:
    """``POST /api/models/ORG/NAME/paths-info/REV`` with ``paths``"""
    requested = requested_repository(request)
    paths = (await read_form(request)).get("paths", [])
    if len(paths) > _MAX_PATHS:
        raise Problem(413, f"{len(paths)} paths; at most {_MAX_PATHS} are allowed per request")
    commit = requested.resolve(request.path_params["revision"])
    files = requested.server.library.revision(requested.name, commit).files
    described = (_describe(files, str(path)) for path in paths)
    return JSONResponse([each for each in described if each is not None])


def list_commits(request: Request) -> JSONResponse:
    """``GET /api/models/ORG/NAME/commits/REV``"""
    requested = requested_repository(request)
    commit = requested.resolve(request.path_params["revision"])
    described = []
    for revision in requested.server.library.history(requested.name, commit):
        title, _, text = revision.message.partition("\n")
        described.append(
            {
                "id": revision.commit,
                "title": title,
                "message": text.strip(),
                "authors": [],
                "date": timestamp(revision.time),
            }
        )
    return page_of(request, described)


def list_refs(request: Request) -> JSONResponse:
    """``GET /api/models/ORG/NAME/refs``"""
    requested = requested_repository(request)
    tags = requested.server.library.tags(requested.name)
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": requested.resolve(None)}
    return JSONResponse(
        {
            "branches": [main],
            "converts": [],
            "pullRequests": [],
            "tags": [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": commit}
                for tag, commit in tags.items()
            ],
        }
    )


def describe_sibling(path: str, entry: FileEntry) -> dict[str, Any]:
    """Describe a file for the ``siblings`` of a model."""
    pointer = _pointer(entry)
    lfs = {"sha256": entry.sha256, "size": entry.size, "pointerSize": len(pointer)}
    return {"rfilename": path, "size": entry.size, "blobId": _git_id(pointer), "lfs": lfs}


def _describe(files: Mapping[str, FileEntry], path: str) -> dict[str, Any] | None:
    path = path.strip("/")
    if path in files:
        return _describe_file(path, files[path])
    if any(each.startswith(f"{path}/") for each in files):
        return _describe_folder(path)
    return None


def _describe_file(path: str, entry: FileEntry) -> dict[str, Any]:
    pointer = _pointer(entry)
    lfs = {"oid": entry.sha256, "size": entry.size, "pointerSize": len(pointer)}
    return {
        "type": "file",
        "path": path,
        "size": entry.size,
        "oid": _git_id(pointer),
        "lfs": lfs,
    }


def _describe_folder(path: str) -> dict[str, Any]:
    # Folders have no Git trees here; their IDs only have to differ.
    digest = hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
    return {"type": "directory", "path": path, "size": 0, "oid": digest}


def _pointer(entry: FileEntry) -> bytes:
    return (
        "version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:{entry.sha256}\nsize {entry.size}\n"
    ).encode()


def _git_id(content: bytes) -> str:
    blob = b"blob %d\0" % len(content) + content
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest()
