"""The documentation site builds without a warning, and works offline and on a phone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a broken link or anchor is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loaded = r"<(?:script|img|source|iframe)[^>]*\ssrc=|<link[^>]*\shref="
    for page in site.rglob("*.html"):
        for tag in re.findall(rf"(?:{loaded})\"?(https?:)?//[^>]*", page.read_text()):
            pytest.fail(f"{page.relative_to(site)}: {tag}")
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\"?(https?:)?//", style.read_text()), style


def test_search_works_in_a_folder(site: Path) -> None:
    """Pages that are opened as files cannot fetch an index or start a worker."""
    assert (site / "search" / "search_index.js").read_text().startswith("var __index = ")
    assert '<script src="../iframe-worker.js">' in (site / "how-to" / "sign.html").read_text()
    (bundle,) = (site / "assets" / "javascripts").glob("bundle.*.min.js")
    assert "__index" in bundle.read_text()
    (worker,) = (site / "assets" / "javascripts" / "workers").glob("search.*.min.js")
    assert "IFrameWorker" in worker.read_text()


def test_every_link_leads_somewhere(site: Path) -> None:
    """Links in HTML and in generated pages too, which MkDocs does not check, and their anchors."""
    pages = {page: page.read_text() for page in site.rglob("*.html")}
    anchors = {
        page: set(re.findall(r'\s(?:id|name)="([^"]+)"', html)) for page, html in pages.items()
    }
    broken = []
    for page, html in pages.items():
        if page.name == "404.html":  # its links are relative to the root of a server
            continue
        links = set(re.findall(r'\s(?:href|src)="(?!https?:|data:|mailto:)([^"]*)"', html))
        assert links, page
        for link in links:
            path, _, anchor = unquote(link).partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors[target]):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


def test_files_of_the_repository_come_along(site: Path) -> None:
    card = (site / "repository/zoo/bundled/simvae-mnist/index.html").read_text()
    assert "<h1" in card
    assert "pipeline_tag" not in card  # the metadata for the Hub
    home = (site / "index.html").read_text()
    for picture in re.findall(r'<img[^>]*src="([^"]+)"', home):
        assert (site / picture).is_file()
    source = (site / "repository/training/repzoo_training/objectives/simvae.py.html").read_text()
    assert "expected_joint_log_prior" in source


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("cli", ["zoo index build", "--views", "exit status"]),
        ("http", ["POST /embed", "content mean", "POST /v1/embeddings", "Errors: 400"]),
        ("settings", ["REPZOO_SERVE_MAX_PIXELS", "16777216"]),
        ("recipes", ["augmentation", "degraded", "simvae-celeba-conv"]),
        ("package-format", ["encoder.onnx", "ContentSpec", "regions"]),
        ("errors", ["RevisionChanged", "DeadlineExceeded"]),
        ("http-errors", ["too-many-pixels", "REPZOO_SERVE_MAX_PIXELS", "RequestTooLarge"]),
        ("repzoo", ["repzoo.Encoder", "content_mean", "Raises"]),
        ("client", ["repzoo_client.AsyncClient", "PosteriorIndex"]),
        ("training", ["SimVAE", "checkpoint_seconds"]),
    ],
)
def test_reference_pages_say_what_the_code_says(site: Path, page: str, words: list[str]) -> None:
    html = (site / f"reference/{page}.html").read_text()
    text = re.sub(r"<[^>]+>", "", html)
    assert [word for word in words if word not in text] == []
    assert not re.search(r":\w+:`|====", text)  # markup of reStructuredText


@pytest.mark.parametrize(
    "page", ["http-errors", "metrics-and-logs", "package-format", "recipes", "settings"]
)
def test_every_field_has_a_meaning(site: Path, page: str) -> None:
    html = (site / f"reference/{page}.html").read_text()
    meanings = {}
    for table in html.split("<table>"):
        heads = re.findall(r"<th>(.*?)</th>", table)
        if "meaning" in heads:
            for row in table.split("<tr>")[2:]:
                cells = re.findall(r"<td>(.*?)</td>", row)
                meanings[cells[0]] = cells[heads.index("meaning")]
    assert len(meanings) > 10
    assert [field for field, meaning in meanings.items() if not meaning.strip()] == []


def test_pages_do_not_scroll_sideways_on_a_phone(site: Path, browser: Any) -> None:
    """Wide tables and code scroll by themselves."""
    browser.resize(390, 844)
    wide = {}
    for page in sorted(site.rglob("*.html")):
        # The links of 404 are relative to the root of a server. Pages of source files are alike.
        if page.name == "404.html" or page.name.endswith(".py.html"):
            continue
        browser.open(page.as_uri())
        width = browser.run("return document.documentElement.scrollWidth")
        if width > 390:
            wide[str(page.relative_to(site))] = width
    assert wide == {}
