"""The API reference: the OpenAPI document as a web page, with examples that can be tried."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

__all__ = ["reference_page"]

#: A digit of 8×8 pixels.
_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAGUlEQVR42mNgQAL///+H0FDMgI/+D1MNBgCsqQz0"
    "KcjTpQAAAABJRU5ErkJggg=="
)

#: Values of required members in examples. The page's script replaces the words in capitals.
_VALUES = {
    "model": "MODEL",
    "images": [_PNG],
    "task": "TASK",
    "input": [f"data:image/png;base64,{_PNG}"],
}


def reference_page(described: Mapping[str, Any]) -> str:
    """Return an OpenAPI document as HTML."""
    info = described["info"]
    sections, index = [], []
    for tag in described["tags"]:
        sections.append(f"<h2>{_inline(tag['description'])}</h2>")
        for path, methods in described["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    sections.append(_operation(path, method, operation, described))
                    name = f"{method.upper()} {escape(path)}"
                    index.append(f"<li><a href=#{operation['operationId']}>{name}</a></li>")
    schemas = [
        f"<section class=card id={escape(name)}><h3>{escape(name)}</h3>{_schema(schema)}</section>"
        for name, schema in described["components"]["schemas"].items()
    ]
    return "".join(
        [
            "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
            '<meta name=viewport content="width=device-width, initial-scale=1">'
            "<title>repzoo: the API</title><link rel=icon href=data:,>"
            "<link rel=stylesheet href=style.css><script src=reference.js type=module></script>"
            "</head><body class=reference><main><h1>repzoo: the API</h1>",
            *(f"<p>{_inline(text)}</p>" for text in info["description"].split("\n\n")),
            "<p>Machine-readable: <a href=openapi.json>openapi.json</a>. "
            "With your own images: <a href=.>the explorer</a>.</p>",
            "<form><label>API key, if the server needs one: "
            "<input id=key type=password autocomplete=off></label></form>",
            f"<nav aria-label=operations><ul>{''.join(index)}</ul></nav>",
            *sections,
            "<h2>Schemas</h2>",
            *schemas,
            "</main></body></html>\n",
        ]
    )


def _operation(
    path: str, method: str, operation: Mapping[str, Any], described: Mapping[str, Any]
) -> str:
    name = operation["operationId"]
    parts = [
        f"<section class=card id={name}><h3><code>{method.upper()} {escape(path)}</code></h3>",
        f"<p>{_inline(operation['summary'])}. {_inline(operation.get('description', ''))}</p>",
    ]
    requests = operation.get("requestBody", {}).get("content", {})
    answers = operation["responses"]["200"]["content"]
    if "text/html" not in answers:
        parts.append(_example(path, name, requests, described))
    for title, content in (("Request", requests), ("Response", answers)):
        for media_type, body in content.items():
            summary = f"<summary>{title}, {escape(media_type)}</summary>"
            parts.append(f"<details>{summary}{_schema(body['schema'])}</details>")
    statuses = ", ".join(status for status in operation["responses"] if status != "200")
    parts.append(f"<p>Problems: {statuses}.</p></section>")
    return "".join(parts)


def _example(
    path: str, name: str, requests: Mapping[str, Any], described: Mapping[str, Any]
) -> str:
    """Return a curl command, and a form that sends the request and shows the response."""
    address = f"SERVER{path.replace('{name}', 'MODEL')}"
    command, field = f"curl {address}", ""
    if requests:
        schema = requests["application/json"]["schema"]
        if "$ref" in schema:
            schema = described["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        schema = schema.get("anyOf", [schema])[0]
        members = [*schema["required"], *(["input"] if "input" in schema["properties"] else [])]
        body = json.dumps({member: _VALUES[member] for member in members})
        command += f" -H 'Content-Type: application/json' -d '{body}'"
        field = f"<label>Body <textarea rows=4 spellcheck=false>{escape(body)}</textarea></label>"
    return (
        f"<pre tabindex=0><code>{escape(command)}</code></pre>"
        f"<details class=try><summary>Try it</summary>"
        f"<form data-operation={name} data-path={escape(path[1:])}>{field}<button>Send</button>"
        "<pre tabindex=0 role=status hidden></pre></form></details>"
    )


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
