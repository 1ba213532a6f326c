"""Web pages for people: the list of models and the card of each, without scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from html import escape
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from repzoo.errors import HubError, ModelNotFound
from repzoo.hub_server.cards import Card, Metric, read_card, read_config
from repzoo.hub_server.context import (
    RequestedRepository,
    Server,
    requested_repository,
    server_of,
    visitor_of,
)
from repzoo.hub_server.library import Revision
from repzoo.hub_server.pages.markdown import render
from repzoo.hub_server.problems import Problem
from repzoo.report import format_bytes

__all__ = ["index", "login", "model", "problem_page"]

_STYLE = Path(__file__).with_name("style.css").read_text()
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; img-src 'self'; style-src 'sha256-{_STYLE_HASH}';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "private, no-cache",
}

_MAX_METRICS = 3
_MAX_REVISIONS = 50
# These do not distinguish models.
_BASELINES = frozenset({"majority", "random", "chance"})


def index(request: Request) -> Response:
    """``GET /``: the models that the visitor may see."""
    server, visitor = server_of(request), visitor_of(request)
    if request.path_params.get("org", server.org) != server.org:
        raise Problem(404, "this page does not exist")
    rows = [_row(server, name) for name in server.visible(visitor)]
    header = ("Model", "Method", "D", "Measured", "Size", "Updated")
    listing = _table(header, rows) if rows else "<p>No models yet.</p>"
    sign_in = ""
    if server.access.tokens is not None and visitor.role is None:
        sign_in = "<p class=quiet><a href=/login>Sign in</a> with a token as the password.</p>"
    count = f"{len(rows)} model{'' if len(rows) == 1 else 's'}"
    body = f"<h1>{escape(server.org)}</h1><p class=quiet>{count}</p>{listing}{sign_in}"
    return _page(server.org, body)


def model(request: Request) -> Response:
    """``GET /ORG/NAME[/tree/REV]``: a model's card, revisions and files."""
    requested = requested_repository(request)
    library = requested.server.library
    commit = requested.resolve(request.path_params.get("revision"))
    revision = library.revision(requested.name, commit)
    card, config = (
        read_card(library, requested.name, revision),
        read_config(library, requested.name, revision),
    )
    hub = f"{str(request.base_url).rstrip('/')}/{requested.server.org}"
    # The command includes this hub's URL, so that it can be copied unchanged.
    newest = commit == requested.resolve(None)
    name = requested.name if newest else f"{requested.name}@{commit[:12]}"
    private = " <small>private</small>" if library.is_private(requested.name) else ""
    summary = f"<p>{escape(config.summary)}</p>" if config is not None else ""
    body = (
        f"<p class=quiet><a href=/>{escape(requested.server.org)}</a> /</p>"
        f"<h1>{escape(requested.name)}{private}</h1>{summary}"
        f"<pre class=copy>zoo pull {escape(name)} --hub {escape(hub)}</pre>"
        f"<article>{_article(requested, revision, card)}</article>"
        f"<h2>Revisions</h2>{_revisions(requested, commit)}"
        f"<h2>Files</h2>{_files(requested, revision)}"
    )
    return _page(requested.id, body)


def login(request: Request) -> Response:
    """``GET /login``: make a browser ask for a token, which it then sends as the password."""
    server, visitor = server_of(request), visitor_of(request)
    if server.access.tokens is not None and visitor.role is None:
        headers = {"WWW-Authenticate": 'Basic realm="repzoo hub"'}
        raise Problem(
            401, "enter a token as the password; the user name does not matter", headers=headers
        )
    return RedirectResponse("/", 303)


def problem_page(problem: Problem) -> Response:
    """Show an error to people."""
    body = (
        f"<h1>{problem.status}</h1><p>{escape(problem.message)}</p><p><a href=/>All models</a></p>"
    )
    return _page(str(problem.status), body, problem.status, problem.headers)


def _row(server: Server, name: str) -> Sequence[str]:
    library = server.library
    link = f"<a href='/{escape(server.org)}/{escape(name)}'>{escape(name)}</a>"
    try:
        revision = library.revision(name, library.resolve(name))
        private = " <small>private</small>" if library.is_private(name) else ""
    except (HubError, ModelNotFound):
        return (link, "", "", "<span class=quiet>cannot be read</span>", "", "")
    config = read_config(library, name, revision)
    metrics = _shown(read_card(library, name, revision).metrics)
    return (
        f"{link}{private}<div class=quiet>{escape(config.summary) if config else ''}</div>",
        escape(config.method) if config is not None else "",
        str(config.latent_dim) if config is not None else "",
        "<br>".join(_metric(metric) for metric in metrics),
        _size(revision.size),
        _time(revision.time),
    )


def _shown(metrics: Iterable[Metric]) -> list[Metric]:
    return [each for each in metrics if each.name not in _BASELINES][:_MAX_METRICS]


def _metric(metric: Metric) -> str:
    name = f"{metric.dataset} {metric.name}".strip().replace("_", " ")
    return f"{escape(name)} <b>{metric.value:.4g}</b>"


def _article(requested: RequestedRepository, revision: Revision, card: Card) -> str:
    if not card.text.strip():
        return "<p class=quiet>This model has no card.</p>"
    return _rendered(card.text, requested.id, revision.commit, frozenset(revision.files))


@lru_cache(maxsize=128)
def _rendered(text: str, repository: str, commit: str, files: frozenset[str]) -> str:
    def address(path: str) -> str | None:
        return f"/{repository}/resolve/{commit}/{path}" if path in files else None

    return render(text, address)


def _revisions(requested: RequestedRepository, shown: str) -> str:
    names: dict[str, list[str]] = {}
    for tag, commit in requested.server.library.tags(requested.name).items():
        names.setdefault(commit, []).append(tag)
    # A repository begins with an empty revision, which is not shown.
    history = [
        revision
        for revision in requested.server.library.history(requested.name, requested.resolve(None))
        if revision.files
    ]
    if not history:
        return "<p class=quiet>Nothing has been published yet.</p>"
    rows = []
    for revision in history[:_MAX_REVISIONS]:
        commit = revision.commit
        link = f"<a href='/{escape(requested.id)}/tree/{commit}'><code>{commit[:12]}</code></a>"
        tags = " ".join(f"<small>{escape(tag)}</small>" for tag in names.get(commit, []))
        title = escape(revision.message.partition("\n")[0][:200])
        mark = " (shown)" if commit == shown else ""
        rows.append((f"{link} {tags}{mark}", title, _time(revision.time)))
    more = len(history) - _MAX_REVISIONS
    note = f"<p class=quiet>and {more} older revisions</p>" if more > 0 else ""
    return _table(("Revision", "What changed", "When"), rows) + note


def _files(requested: RequestedRepository, revision: Revision) -> str:
    base = f"/{requested.id}/resolve/{revision.commit}/"
    rows = [
        (
            f"<a href='{escape(base + quote(path))}'>{escape(path)}</a>",
            f"<code>{entry.sha256[:12]}</code>",
            _size(entry.size),
        )
        for path, entry in revision.files.items()
    ]
    if not rows:
        return "<p class=quiet>This revision has no files.</p>"
    return _table(("File", "sha256", "Size"), rows)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Format a table. Its cells are HTML."""
    head = "".join(f"<th>{escape(name)}" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return f"<table><thead><tr>{head}<tbody>{body}</table>"


def _size(size: int) -> str:
    return format_bytes(size).replace(" ", "&nbsp;")


def _time(moment: datetime) -> str:
    return f"<time datetime='{moment.isoformat()}'>{moment:%Y-%m-%d %H:%M}</time>"


def _page(
    title: str, body: str, status: int = 200, headers: dict[str, str] | None = None
) -> HTMLResponse:
    content = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style><main>{body}</main></html>"
    )
    return HTMLResponse(content, status, {**_HEADERS, **(headers or {})})
