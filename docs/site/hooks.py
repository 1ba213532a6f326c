"""MkDocs hooks: the home page, reference pages from code, and repository files that pages link to.

Pages are written for readers of the repository, where links lead to files and folders. On the site,
every file that a page links to comes along: Markdown and source text as pages, pictures as they
are. So all links work offline, and in both places.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

#: Repository files that are pages of their own, by the path of the page.
HOME = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}

_PICTURES = {".png", ".svg", ".gif", ".jpg"}
_LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".yaml": "yaml", ".sh": "sh"}

#: A Markdown link or picture, or an HTML ``src`` or ``href``: text before, target, text after.
_LINK = re.compile(r"(\]\(|(?:src|href)=\")([^)\s\"]+)(\)|\")")
_FENCED = re.compile(r"^( *)(```|~~~).*?^\1\2", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and all repository files that are reachable by links."""
    for uri, source in HOME.items():
        files.append(File.generated(config, uri, content=(ROOT / source).read_text()))
    for uri, text in reference.pages().items():
        files.append(File.generated(config, uri, content=text))
    waiting = [file for file in files if file.is_documentation_page()]
    while waiting:
        page = waiting.pop()
        for target in _outside(page):
            uri = _uri(target)
            if uri not in files.src_uris:
                files.append(new := _bring(target, uri, config))
                if new.is_documentation_page():
                    waiting.append(new)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at where their targets are on the site."""
    here = posixpath.dirname(page.file.src_uri)
    if page.file.src_uri.startswith("repository/") and page.file.name != "index":
        page.meta["search"] = {"exclude": True}  # source code, not documentation

    def relink(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        path, hash_, anchor = target.partition("#")
        found = _resolve(page.file, path)
        if found is None:
            return match[0]
        uri = posixpath.relpath(_uri(found), here or ".")
        if before.endswith('="'):  # MkDocs does not rewrite HTML, which must name the final file
            file = files.get_file_from_path(_uri(found))
            assert file is not None
            uri = file.url_relative_to(page.file)
        return f"{before}{uri}{hash_}{anchor}{after}"

    return _outside_code(markdown, relink)


def _outside(page: File) -> Iterator[str]:
    """Yield the repository paths outside ``docs`` to which a page links."""
    found: list[str] = []

    def note(match: re.Match[str]) -> str:
        target = _resolve(page, match[2].partition("#")[0])
        if target is not None and not target.startswith("docs/"):
            found.append(target)
        return match[0]

    _outside_code(page.content_string, note)
    yield from found


def _outside_code(markdown: str, replace: object) -> str:
    """Apply ``replace`` to all links outside fenced code blocks."""
    assert callable(replace)
    parts, end = [], 0
    for block in _FENCED.finditer(markdown):
        parts += [_LINK.sub(replace, markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, _LINK.sub(replace, markdown[end:])])


def _resolve(page: File, target: str) -> str | None:
    """Return the repository path of a link's target, or None if it is not a repository file."""
    if not target or re.match(r"[a-z]+:", target):
        return None
    origin = _origin(page.src_uri)
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    return path if not path.startswith("..") and (ROOT / path).exists() else None


def _origin(uri: str) -> str:
    """Return the repository path that a page was written for."""
    if uri in HOME:
        return HOME[uri]
    if not uri.startswith("repository/"):
        return f"docs/{uri}"
    path = uri.removeprefix("repository/")
    if path.endswith("/index.md"):
        path = path.removesuffix("/index.md")
        readme = f"{path}/README.md"
        return readme if (ROOT / readme).exists() else f"{path}/"
    return path


def _uri(path: str) -> str:
    """Return where a repository path is on the site."""
    for uri, source in HOME.items():
        if path == source:
            return uri
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if (ROOT / path).is_dir():
        return f"repository/{path}/index.md"
    if path.endswith("/README.md"):
        return f"repository/{path.removesuffix('README.md')}index.md"
    if Path(path).suffix in (".md", *_PICTURES):
        return f"repository/{path}"
    return f"repository/{path}.md"


def _bring(path: str, uri: str, config: MkDocsConfig) -> File:
    source = ROOT / path
    if source.is_dir():
        if (readme := source / "README.md").exists():
            return File.generated(config, uri, content=_without_metadata(readme.read_text()))
        names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in source.iterdir())
        lines = [f"- [`{name}`]({name})" for name in names if not name.startswith(("_", "."))]
        return File.generated(config, uri, content=f"# {path}\n\n" + "\n".join(lines) + "\n")
    if source.suffix in _PICTURES:
        return File.generated(config, uri, abs_src_path=str(source))
    text = source.read_text()
    if source.suffix == ".md":
        return File.generated(config, uri, content=_without_metadata(text))
    language = _LANGUAGES.get(source.suffix, "text")
    return File.generated(
        config, uri, content=f"# {source.name}\n\n`{path}`\n\n````{language}\n{text}\n````\n"
    )


def _without_metadata(text: str) -> str:
    """Remove the YAML block at the top of a model card, which is for the Hub."""
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
