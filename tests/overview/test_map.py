"""``zoo map`` on real photos, and its page in a real browser."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from repzoo.errors import InvalidInput
from repzoo.overview.plane import plane

MODEL = Path(__file__).parents[2] / "zoo" / "bundled" / "simclr-cifar10"
CHROMIUM = shutil.which("chromium")

Run = Callable[..., Result]


def content_of(page: Path) -> dict[str, Any]:
    (text,) = re.findall(
        r'<script type="application/json" id="content">(.*?)</script>', page.read_text()
    )
    content: dict[str, Any] = json.loads(text)
    return content


@pytest.fixture
def page(zoo: Run, photos: Path, tmp_path: Path) -> Path:
    """A map of the photos, one of which has a hostile name."""
    (photos / "<").mkdir()
    (photos / "exact.png").rename(photos / "<" / "script><b>.png")
    out = tmp_path / "out"
    result = zoo("map", photos, "--model", MODEL, "--out", out, status=3)
    assert "map.html: 64 of 64 images" in result.stdout
    assert "images skipped because they cannot be read (1 of 65):\n  " in result.stdout
    return out / "map.html"


def test_the_page_holds_everything(page: Path, zoo: Run, photos: Path) -> None:
    text = page.read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert str(photos) not in text
    content = content_of(page)
    assert content["title"] == "64 images of photos"
    assert "</script><b>.png" in content["ids"]
    assert len(content["ids"]) == len(content["places"]) == len(content["uncertainty"]) == 64
    assert content["folders"] == [".", "0", "1", "<"]
    assert content["folder"][content["ids"].index("1/01.png")] == 2
    with Image.open(io.BytesIO(base64.b64decode(content["pictures"]))) as pictures:
        assert pictures.size == (2000, 80)
        first = pictures.crop((0, 0, 40, 40))
    with Image.open(photos / content["ids"][0]) as photo:
        off = np.asarray(first, float) - np.asarray(photo.convert("RGB").resize((40, 40)), float)
    assert np.abs(off).mean() < 12
    # A photo and its exact copy are next to each other.
    places = np.array(content["places"])
    pair = [content["ids"].index(name) for name in ("0/00.png", "</script><b>.png")]
    distances = np.linalg.norm(places - places[pair[0]], axis=1)
    assert np.argsort(distances)[:2].tolist().count(pair[1]) == 1
    assert places.min() >= 0
    assert places.max() <= 10_000

    # The same embeddings give the same page, a part of it, and duplicates.
    before = page.read_bytes()
    zoo("map", photos, "--model", MODEL, "--out", page.parent, status=3)
    assert page.read_bytes() == before
    result = zoo("map", photos, "--model", MODEL, "--out", page.parent, "--most", 7, status=3)
    assert "7 of 64 images" in result.stdout
    assert len(content_of(page)["ids"]) == 7
    result = zoo("duplicates", photos, "--model", MODEL, "--out", page.parent, status=3)
    assert "4 groups" in result.stdout


@pytest.mark.skipif(
    CHROMIUM is None and "REPZOO_REQUIRE_BROWSER" not in os.environ,
    reason="NO BROWSER: the map is not tested; Debian has it as chromium",
)
def test_the_page_works_in_a_browser(page: Path, tmp_path: Path) -> None:
    # Move, zoom, point and find, as someone would with the keyboard.
    script = """
      const key = (name) => map.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
      ["+", "+", "ArrowLeft", "ArrowRight", "-", "-"].forEach(key);
      const [x, y] = onScreen(data.ids.findIndex((id) => id.endsWith("><b>.png")));
      point(x, y);
      element("find").value = "COMPRESSED";
      find();
      element("colour").value = "uncertainty";
      legend();
      draw();
    """
    text = page.read_text()
    assert text.count("</script>\n</body>") == 1
    page.write_text(
        text.replace("</script>\n</body>", f"atlas.onload = () => {{{script}}};</script></body>")
    )
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True
    )
    assert "<title>64 images of photos</title>" in done.stdout
    assert re.search(r'id="status"[^>]*>1 found<', done.stdout)
    assert re.search(r'id="name">(&lt;/script&gt;&lt;b&gt;|0/00)\.png<', done.stdout)
    assert re.search(r'id="more"[^>]*>uncertainty 0\.\d+<', done.stdout)
    assert "</i>unsure" in done.stdout


@pytest.mark.parametrize("count", [1, 2, 5, 9, 12])
@pytest.mark.parametrize("dim", [1, 2, 40])
def test_any_number_of_images_has_places(count: int, dim: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    for each in (vectors, np.zeros_like(vectors)):
        places = plane(each)
        assert places.shape == (count, 2)
        assert places.dtype == np.float32
        assert np.isfinite(places).all()
        assert places.min() >= 0
        assert places.max() <= 1


def test_clusters_stay_apart() -> None:
    random = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 20) * 20, 20, axis=0)
    places = plane((centres + random.normal(size=(60, 20))).astype(np.float32))
    cluster = np.arange(60) // 20
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (cluster[distances.argmin(axis=1)] == cluster).all()


def test_what_has_no_map_is_refused(zoo: Run, photos: Path, tmp_path: Path) -> None:
    model = ("--model", MODEL, "--out", tmp_path / "out")
    with pytest.raises(InvalidInput, match="none of its images can be read"):
        zoo("map", photos / "bad.png", *model)
    zoo("map", photos, *model, "--most", 0, status=2)
