"""Web pages for a browser. They load nothing from other hosts.

Their Content-Security-Policy enforces that, and forbids inline scripts and styles, frames and
forms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from repzoo_serving.http.exchange import Response
from repzoo_serving.settings import Limits
from repzoo_serving.wire.openapi import document

__all__ = ["PAGES", "Pages"]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)

_HTML = "text/html; charset=utf-8"
_CSS = "text/css; charset=utf-8"
_JAVASCRIPT = "text/javascript; charset=utf-8"
_TYPES = {".css": _CSS, ".js": _JAVASCRIPT}
_EXPLORER = resources.files(__package__) / "explorer"

#: The media type and text of each file that the explorer loads, by path.
_FILES = {
    f"/explorer/{file.name}": (_TYPES[Path(file.name).suffix], file.read_text(encoding="utf-8"))
    for file in _EXPLORER.iterdir()
    if Path(file.name).suffix in _TYPES
}

#: The paths of all pages.
PAGES = frozenset({"/", "/docs", "/openapi.json", "/style.css", *_FILES})


@dataclass(frozen=True)
class Pages:
    """The responses of all pages, made once.

    Attributes:
        responses: The responses by path.
        index: The operations of the API in one line.
    """

    responses: Mapping[str, Response]
    index: str

    @classmethod
    def make(cls, limits: Limits) -> Pages:
        """Make the pages of a server with these limits."""
        described = document(limits)
        paths: dict[str, list[str]] = {}
        for path, methods in described["paths"].items():
            for method in methods:
                paths.setdefault(method.upper(), []).append(path)
        files = {
            "/": (_HTML, _read("explorer/index.html")),
            "/openapi.json": ("application/json", json.dumps(described)),
            "/docs": (_HTML, _docs(described)),
            "/style.css": (_CSS, _read("style.css")),
            **_FILES,
        }
        responses = {
            path: Response(200, media_type, text.encode(), _HEADERS)
            for path, (media_type, text) in files.items()
        }
        return cls(responses, "; ".join(f"{name} {', '.join(its)}" for name, its in paths.items()))


def _read(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _docs(described: Mapping[str, Any]) -> str:
    """Return the OpenAPI document as a web page."""
    info = described["info"]
    parts = [
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width">'
        "<title>repzoo: the API</title><link rel=icon href=data:,>"
        "<link rel=stylesheet href=style.css></head><body><main>"
        "<h1>repzoo: the API</h1>",
        *(f"<p>{_inline(text)}</p>" for text in info["description"].split("\n\n")),
        "<p>Machine-readable: <a href=openapi.json>openapi.json</a>. "
        "Try it: <a href=.>the explorer</a>.</p>",
    ]
    for tag in described["tags"]:
        parts.append(f"<h2>{_inline(tag['description'])}</h2>")
        for path, methods in described["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    parts.append(_operation(path, method, operation))
    parts.append("<h2>Schemas</h2>")
    for name, schema in described["components"]["schemas"].items():
        parts.append(
            f"<section id={escape(name)}><h3>{escape(name)}</h3>{_schema(schema)}</section>"
        )
    parts.append("</main></body></html>\n")
    return "".join(parts)


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    parts = [
        f"<section><h3><code>{method.upper()} {escape(path)}</code></h3>",
        f"<p>{_inline(operation['summary'])}. {_inline(operation.get('description', ''))}</p>",
    ]
    content = operation.get("requestBody", {}).get("content", {})
    for media_type, body in content.items():
        parts.append(f"<h4>Request, {escape(media_type)}</h4>{_schema(body['schema'])}")
    for media_type, body in operation["responses"]["200"]["content"].items():
        parts.append(f"<h4>Response, {escape(media_type)}</h4>{_schema(body['schema'])}")
    statuses = ", ".join(status for status in operation["responses"] if status != "200")
    parts.append(f"<p>Problems: {statuses}.</p></section>")
    return "".join(parts)


def _schema(schema: Mapping[str, Any]) -> str:
    """Return a table of an object's members, or one line."""
    if schema.get("type") != "object" or "properties" not in schema:
        return f"<p>{_kind(schema)}</p>"
    rows = []
    for name, member in schema["properties"].items():
        required = "" if name in schema.get("required", ()) else "optional"
        default = member.get("default")
        if default is not None:
            required = f"default {escape(json.dumps(default))}"
        about = _inline(member.get("description", ""))
        rows.append(
            f"<tr><td><code>{escape(name)}</code></td><td>{_kind(member)}</td>"
            f"<td>{required}</td><td>{about}</td></tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def _kind(schema: Mapping[str, Any]) -> str:
    """Describe a value's type in a few words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[1])
        return f"<a href=#{name}>{name}</a>"
    for several in ("anyOf", "oneOf"):
        if several in schema and "type" not in schema:
            return " or ".join(
                _schema(each) if each.get("type") == "object" else _kind(each)
                for each in schema[several]
            )
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}{_bounds(schema, 'minItems', 'maxItems')}"
    kind = schema.get("format", schema.get("type", "anything"))
    return f"{escape(str(kind))}{_bounds(schema, 'minimum', 'maximum')}"


def _bounds(schema: Mapping[str, Any], least: str, most: str) -> str:
    words = [
        f"{word} {schema[name]:g}" if isinstance(schema[name], float) else f"{word} {schema[name]}"
        for name, word in ((least, "at least"), (most, "at most"))
        if name in schema
    ]
    return f" ({', '.join(words)})" if words else ""


def _inline(text: str) -> str:
    """Escape text, and mark `code` in backquotes as code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{p}</code>" if n % 2 else p for n, p in enumerate(pieces))
