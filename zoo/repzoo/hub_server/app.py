"""The application: its routes and error handling."""

from __future__ import annotations

import logging

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from repzoo.errors import RepzooError
from repzoo.hub_server.access_log import GONE
from repzoo.hub_server.api import changes, models, trees, uploads
from repzoo.hub_server.api.downloads import download
from repzoo.hub_server.context import Server
from repzoo.hub_server.pages import pages
from repzoo.hub_server.problems import Problem, as_problem, problem_response

__all__ = ["OTHER_KINDS", "create_app"]

_log = logging.getLogger("repzoo.hub_server")

_MODEL = "/api/models/{org}/{name}"
_REVISION = "{revision:revision}"

#: Kinds of repositories that the Hub has besides models.
OTHER_KINDS = ("datasets", "spaces")


class _Revision(Convertor[str]):
    """A revision in the middle of a path; clients also write refs/heads/main and refs/tags/v1."""

    regex = "refs/[^/]+/[^/]+|[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("revision", _Revision())


def create_app(server: Server) -> Starlette:
    """Create the application of one server."""
    routes = [
        Route("/health", _health),
        Route("/api/whoami-v2", models.whoami),
        Route("/api/models", models.list_models),
        Route(_MODEL, models.model_info),
        Route(f"{_MODEL}/revision/{{revision:path}}", models.model_info),
        Route(f"{_MODEL}/tree/{_REVISION}", trees.list_tree),
        Route(f"{_MODEL}/tree/{_REVISION}/{{path:path}}", trees.list_tree),
        Route(f"{_MODEL}/paths-info/{{revision:path}}", trees.paths_info, methods=["POST"]),
        Route(f"{_MODEL}/refs", trees.list_refs),
        Route(f"{_MODEL}/commits/{{revision:path}}", trees.list_commits),
        Route("/api/validate-yaml", changes.validate_card, methods=["POST"]),
        Route("/api/repos/create", changes.create_repository, methods=["POST"]),
        Route("/api/repos/delete", changes.delete_repository, methods=["DELETE"]),
        Route(f"{_MODEL}/settings", changes.set_visibility, methods=["PUT"]),
        Route(f"{_MODEL}/branch/{{branch}}", changes.no_branches, methods=["POST", "DELETE"]),
        Route(f"{_MODEL}/tag/{{revision:path}}", changes.create_tag, methods=["POST"]),
        Route(f"{_MODEL}/tag/{{revision:path}}", changes.delete_tag, methods=["DELETE"]),
        Route(f"{_MODEL}/preupload/{{revision:path}}", changes.preupload, methods=["POST"]),
        Route(f"{_MODEL}/commit/{{revision:path}}", changes.commit, methods=["POST"]),
        Route(f"{_MODEL}/xet-{{kind}}-token/{{revision:path}}", _no_xet),
        Route("/{org}/{name}.git/info/lfs/objects/batch", uploads.lfs_batch, methods=["POST"]),
        Route("/api/lfs/{name}/{oid}", uploads.receive, methods=["PUT"]),
        *(Route(f"/api/{kind}", _empty_list) for kind in OTHER_KINDS),
        *(Route(f"/api/{kind}/{{rest:path}}", _models_only) for kind in OTHER_KINDS),
        *(Route(f"/{kind}/{{rest:path}}", _models_only) for kind in OTHER_KINDS),
        Route("/api/{rest:path}", _nothing, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        Route(f"/{{org}}/{{name}}/resolve/{_REVISION}/{{path:path}}", download),
        Route("/", pages.index),
        Route("/login", pages.login),
        Route("/{org}", pages.index),
        Route("/{org}/{name}", pages.model),
        Route("/{org}/{name}/tree/{revision:path}", pages.model),
        Route("/{org}/{name}/commit/{revision:path}", pages.model),
    ]
    handlers = {
        Problem: _answer,
        RepzooError: _answer,
        OSError: _answer,
        HTTPException: _answer,
        ClientDisconnect: _answer,
        Exception: _answer,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.server = server
    return app


def _health(_: Request) -> Response:
    return PlainTextResponse("ok\n")


def _nothing(_: Request) -> Response:
    raise HTTPException(404)


def _empty_list(_: Request) -> Response:
    return JSONResponse([])


def _models_only(_: Request) -> Response:
    raise Problem(404, "this hub only holds models, not datasets or spaces", "RepoNotFound")


def _no_xet(_: Request) -> Response:
    raise Problem(404, "this hub does not support Xet: set HF_HUB_DISABLE_XET=1")


def _answer(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=GONE)  # for the access log only
    if isinstance(error, HTTPException):
        message = f"this hub does not support {request.method} {request.url.path[:200]!a}"
        if request.url.path.startswith("/api/"):
            message += (
                ": it has models with files, commits and tags, but no datasets, spaces, branches, "
                "pull requests or discussions"
            )
        error = Problem(error.status_code, message, None, error.headers)
    elif isinstance(error, RepzooError | OSError):
        error = as_problem(error)
    elif not isinstance(error, Problem):
        _log.error("%s %a failed", request.method, request.url.path[:200], exc_info=error)
        error = Problem(500, "internal error; see the hub's log")
    for_people = not request.url.path.startswith("/api/") and request.method == "GET"
    if for_people and "text/html" in request.headers.get("accept", ""):
        return pages.problem_page(error)
    return problem_response(error, unread=getattr(request.state, "unread", False))
