"""Render cards as safe HTML: without their own HTML and without external images."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from html import escape
from urllib.parse import quote, unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

__all__ = ["render"]

#: Longer cards are shown as plain text, because rendering them takes seconds.
_MAX_LENGTH = 2**16
_SCHEMES = frozenset({"http", "https", "mailto"})

# "html": False shows HTML as text.
_PARSER = MarkdownIt("js-default", {"html": False, "linkify": False})


def render(text: str, address: Callable[[str], str | None]) -> str:
    """Render Markdown.

    Args:
        text: The Markdown.
        address: Returns the URL of a file in the repository, or None if it does not exist.
    """
    if len(text) > _MAX_LENGTH:
        return f"<pre>{escape(text)}</pre>"
    try:
        tokens = _PARSER.parse(text)
    except RecursionError:
        return f"<pre>{escape(text)}</pre>"
    for token in tokens:
        token.children = _safe(token.children or [], address) if token.children else token.children
    return str(_PARSER.renderer.render(tokens, _PARSER.options, {}))


def _safe(tokens: Sequence[Token], address: Callable[[str], str | None]) -> list[Token]:
    safe = []
    for token in tokens:
        if token.type == "image":
            source = _inside(str(token.attrGet("src") or ""), address)
            if source is None:
                token = Token("text", "", 0, content=token.content)  # its alternative text
            else:
                token.attrs = {"src": source, "alt": "", "loading": "lazy"}
        elif token.type == "link_open":
            target = _target(str(token.attrGet("href") or ""), address)
            token.attrs = {} if target is None else {"href": target, "rel": "nofollow noopener"}
        safe.append(token)
    return safe


def _target(href: str, address: Callable[[str], str | None]) -> str | None:
    try:
        scheme = urlsplit(href).scheme.lower()
    except ValueError:
        return None
    if scheme in _SCHEMES or href.startswith("#"):
        return href
    return _inside(href, address)


def _inside(href: str, address: Callable[[str], str | None]) -> str | None:
    """Return the URL of a file that is named relative to the card."""
    try:
        parts = urlsplit(href)
    except ValueError:
        return None
    if parts.scheme or parts.netloc:
        return None
    path = posixpath.normpath(unquote(parts.path))
    found = address(path)
    return quote(found, safe="/") if found is not None else None
