"""Web pages for a browser. They load nothing from other hosts.

Their Content-Security-Policy enforces that, and forbids inline scripts and styles, frames and
forms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from repzoo_serving.http.exchange import Response
from repzoo_serving.pages.reference import reference_page
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
PAGES = frozenset({"/", "/docs", "/openapi.json", "/reference.js", "/style.css", *_FILES})


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
    def make(cls, limits: Limits, *, index: bool = False) -> Pages:
        """Make the pages of a server with these limits, and with an index of images or without."""
        described = document(limits, index=index)
        paths: dict[str, list[str]] = {}
        for path, methods in described["paths"].items():
            for method in methods:
                paths.setdefault(method.upper(), []).append(path)
        files = {
            "/": (_HTML, _read("explorer/index.html")),
            "/openapi.json": ("application/json", json.dumps(described)),
            "/docs": (_HTML, reference_page(described)),
            "/style.css": (_CSS, _read("style.css")),
            "/reference.js": (_JAVASCRIPT, _read("reference.js")),
            **_FILES,
        }
        responses = {
            path: Response(200, media_type, text.encode(), _HEADERS)
            for path, (media_type, text) in files.items()
        }
        return cls(responses, "; ".join(f"{name} {', '.join(its)}" for name, its in paths.items()))


def _read(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
