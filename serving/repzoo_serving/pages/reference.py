"""The API reference: the OpenAPI document as a web page, with a form for each operation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["reference_page"]


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
                    name = f"<code>{method.upper()} {escape(path)}</code>"
                    about = _inline(operation["summary"])
                    index.append(f"<li><a href=#{operation['operationId']}>{name}</a> {about}</li>")
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
            "</head><body class=reference><header><strong>repzoo</strong><form id=key-form>"
            "<label>API key <input id=key type=password autocomplete=off placeholder=none></label>"
            "</form><nav><a href=.>Explorer</a></nav></header><main><h1>The API</h1>",
            *(f"<p>{_inline(text)}</p>" for text in info["description"].split("\n\n")),
            "<p>Every operation has a form, which sends it to this server. "
            "Programs read <a href=openapi.json>openapi.json</a>.</p>",
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
    requests = operation.get("requestBody", {}).get("content", {})
    success = operation["responses"]["200"]["content"]
    parts = [
        f"<section class=card id={name}><h3><code>{method.upper()} {escape(path)}</code> "
        f"{_inline(operation['summary'])}</h3><p>{_inline(operation['description'])}</p>",
        _form(path, method, operation, described),
    ]
    for media_type, body in success.items():
        if "example" in body or "$ref" in body["schema"] or "properties" in body["schema"]:
            example = json.dumps(body["example"], indent=1) if "example" in body else ""
            parts.append(
                f"<details><summary>Response</summary>{_schema(body['schema'])}"
                f"{_example(f'{media_type}, for example', example)}</details>"
            )
    rows = []
    for status, problem in operation["responses"].items():
        if status != "200":
            about = _inline(_resolved(problem, described)["description"])
            rows.append(f"<tr><td>{status}</td><td>{about}</td></tr>")
    parts.append(f"<details><summary>Problems</summary><table>{''.join(rows)}</table></details>")
    formats = [f"Answers with {_either(success)}."]
    if requests:
        formats.insert(0, f"Takes {_either(requests)}.")
    parts.append(f"<p class=soft>{' '.join(formats)}</p></section>")
    return "".join(parts)


def _form(
    path: str, method: str, operation: Mapping[str, Any], described: Mapping[str, Any]
) -> str:
    """Return a form that sends an operation, with the same request as a curl command."""
    name = operation["operationId"]
    rows = [
        _row(name, each["name"], {**each, **each["schema"]}, each.get("example"), "data-in=path")
        for each in operation.get("parameters", ())
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    command = f"curl SERVER{path}"
    if body is not None:
        schema = _resolved(body["schema"], described)
        variants = [_resolved(each, described) for each in schema.get("anyOf", [schema])]
        members = {name: its for each in variants for name, its in each["properties"].items()}
        example = body["example"]
        required = [each for each in schema.get("required", ()) if each in members]
        rows += [
            _row(name, each, members[each], example.get(each))
            for each in dict.fromkeys([*required, *members])
        ]
        text = json.dumps(example)
        command += f" -H 'Content-Type: application/json' -d '{text}'"
    table = f"<table>{''.join(rows)}</table>" if rows else ""
    return (
        f"<form data-operation={name} data-path={escape(path[1:] or '.')} data-method={method}>"
        f"{table}{_example('The same with curl', command)}<button>Send</button></form>"
        "<div class=reply hidden></div>"
    )


def _row(operation: str, name: str, schema: Mapping[str, Any], example: Any, more: str = "") -> str:
    """Return a row of a form: a member of the request, its field, and what it means."""
    given = [each for each in schema.get("anyOf", [schema]) if each != {"type": "null"}]
    kind = {**schema, **given[0]} if len(given) == 1 else schema
    default = schema.get("default")
    attributes = f"id={operation}-{name} name={name} {more}".strip()
    about = _inline(schema.get("description", ""))
    type_ = f" <span class=soft>{_kind(schema)}</span>"
    if name in ("model", "name"):
        field = f"<select {attributes} data-models><option>{escape(example)}</option></select>"
        type_ = ""
    elif name == "images":
        field = f'<input {attributes} type=file accept="image/*" multiple'
        field += f' data-example="{example[0]}">' if example else ">"
        about += " Without a file, a small digit is sent." if example else ""
    elif "enum" in kind or "const" in kind or kind.get("type") == "boolean":
        values = kind.get("enum", [kind["const"]] if "const" in kind else [False, True])
        options = "".join(
            f"<option value='{'' if value == default else _text(value)}'>{_text(value)}</option>"
            for value in sorted(values, key=lambda value: value != default)
        )
        as_json = " data-json" if kind.get("type") == "boolean" else ""
        field, type_ = f"<select {attributes}{as_json}>{options}</select>", ""
    else:
        value = "" if example is None else escape(_text(example))
        shown = "" if default is None else escape(_text(default))
        if more:
            value, shown = "", value
        as_json = "" if kind.get("type") == "string" else "data-json"
        limits = "required type=text" if more else "type=text"
        if kind.get("type") in ("integer", "number"):
            step = 1 if kind["type"] == "integer" else "any"
            limits = f"type=number step={step}" + "".join(
                f" {limit}={kind[bound]}"
                for bound, limit in (("minimum", "min"), ("maximum", "max"))
                if bound in kind
            )
        field = f'<input {attributes} {as_json} {limits} value="{value}" placeholder="{shown}">'
    return (
        f"<tr><td><label for={operation}-{name}><code>{name}</code></label></td>"
        f"<td>{field}</td><td>{about}{type_}</td></tr>"
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _example(title: str, text: str) -> str:
    if not text:
        return ""
    return f"<p class=soft>{title}</p><pre tabindex=0><code>{escape(text)}</code></pre>"


def _either(media_types: Sequence[str] | Mapping[str, Any]) -> str:
    return " or ".join(f"<code>{escape(media_type)}</code>" for media_type in media_types)


def _resolved(schema: Mapping[str, Any], described: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference."""
    if "$ref" not in schema:
        return schema
    *_, group, name = schema["$ref"].split("/")
    found: Mapping[str, Any] = described["components"][group][name]
    return found


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
        if abs(schema.get(name, math.inf)) < 1e30  # not the bounds of float32
    ]
    return f" ({', '.join(words)})" if words else ""


def _inline(text: str) -> str:
    """Escape text, and mark `code` in backquotes as code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{p}</code>" if n % 2 else p for n, p in enumerate(pieces))
