"""The routes that read whole repositories: the user, the list of models, and one model."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from repzoo.errors import HubError, ModelNotFound
from repzoo.hub_server.api.paging import page_of
from repzoo.hub_server.api.trees import describe_sibling
from repzoo.hub_server.cards import Card, read_card, read_config
from repzoo.hub_server.context import Server, requested_repository, server_of, visitor_of
from repzoo.hub_server.library import Revision, timestamp
from repzoo.hub_server.problems import Problem

__all__ = ["describe", "list_models", "model_info", "whoami"]


def whoami(request: Request) -> JSONResponse:
    """``GET /api/whoami-v2``"""
    server, visitor = server_of(request), visitor_of(request)
    if visitor.name is None:
        message = "this request has no token"
        words = {"X-Error-Message": "Invalid credentials in Authorization header"}
        raise Problem(401, message, headers=words)
    token = {"displayName": visitor.name, "role": visitor.role, "type": "access_token"}
    return JSONResponse(
        {
            "type": "user",
            "id": visitor.name,
            "name": visitor.name,
            "fullname": visitor.name,
            "isPro": False,
            "canPay": False,
            "orgs": [{"type": "org", "id": server.org, "name": server.org, "fullname": server.org}],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def list_models(request: Request) -> JSONResponse:
    """``GET /api/models?search=&author=&filter=&pipeline_tag=&sort=&limit=``"""
    server, query = server_of(request), request.query_params
    visitor = visitor_of(request)
    if query.get("author", server.org) != server.org:
        return JSONResponse([])
    words = query.get("search", "").casefold().split()
    wanted = {tag for each in query.getlist("filter") for tag in each.split(",") if tag}
    wanted |= set(query.getlist("pipeline_tag"))
    found = []
    for name in server.visible(visitor):
        try:
            revision = server.library.revision(name, server.library.resolve(name))
            described = describe(server, name, revision)
        except (HubError, ModelNotFound):
            continue  # a damaged repository must not hide the others
        text = f"{described['id']} {described['summary']}".casefold()
        if all(word in text for word in words) and wanted <= set(described["tags"]):
            found.append(described)
    if query.get("sort") in ("lastModified", "createdAt"):
        found.sort(key=lambda each: str(each[query["sort"]]), reverse=True)
    if not query.get("full"):
        for each in found:
            del each["siblings"]
    if not query.get("full") and not query.get("cardData"):
        for each in found:
            del each["cardData"]
    return page_of(request, found)


def model_info(request: Request) -> JSONResponse:
    """``GET /api/models/ORG/NAME[/revision/REV]?blobs=``"""
    requested = requested_repository(request)
    server = requested.server
    commit = requested.resolve(request.path_params.get("revision"))
    revision = server.library.revision(requested.name, commit)
    described = describe(server, requested.name, revision)
    if request.query_params.get("blobs"):
        described["siblings"] = [
            describe_sibling(path, entry) for path, entry in revision.files.items()
        ]
        described["usedStorage"] = revision.size
    return JSONResponse(described)


def describe(server: Server, name: str, revision: Revision) -> dict[str, Any]:
    """Describe a model as the Hub does, with ``summary`` and tags from the package's config."""
    library = server.library
    card, config = read_card(library, name, revision), read_config(library, name, revision)
    tags = card.tags
    if config is not None:
        known = [config.method, "posterior" if config.has_posterior else None]
        tags += [tag for tag in known if tag is not None and tag not in tags]
    return {
        "_id": name,
        "id": f"{server.org}/{name}",
        "modelId": f"{server.org}/{name}",
        "author": server.org,
        "sha": revision.commit,
        "lastModified": timestamp(revision.time),
        "createdAt": timestamp(library.created(name)),
        "private": library.is_private(name),
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags,
        "summary": config.summary if config is not None else "",
        "siblings": [{"rfilename": path} for path in revision.files],
        "cardData": dict(card.metadata),
        **_texts(card, "pipeline_tag", "library_name"),
    }


def _texts(card: Card, *keys: str) -> dict[str, str]:
    values = {key: card.metadata.get(key) for key in keys}
    return {key: value for key, value in values.items() if isinstance(value, str)}
