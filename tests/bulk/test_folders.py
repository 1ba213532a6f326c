"""Walking a folder: links, loops, hidden names, and what cannot be read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image
from repzoo.bulk.folders import printable_path, walk
from repzoo.bulk.formats import IMAGE_SUFFIXES, is_image_name
from repzoo.runtime.images import FORMATS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


def found(root: Path) -> list[str]:
    return [entry.path for entry in walk(root)]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_every_suffix_is_of_a_format_that_is_read() -> None:
    Image.init()
    assert {Image.EXTENSION[suffix] for suffix in IMAGE_SUFFIXES} == {*FORMATS}
    assert all(map(is_image_name, ("a.PNG", "b/c.Jfif", "x.y.webp")))
    assert not any(map(is_image_name, ("png", "a.png/notes.txt", "a.heic", "a.pn", "a.png.txt")))


def test_the_order_depends_on_names_only(root: Path) -> None:
    touch(root, "b/2", "b/1", "a.x", "a/z", "a/b/c", "c", ".hidden", ".git/x", "__MACOSX/y")
    assert found(root) == ["a/b/c", "a/z", "a.x", "b/1", "b/2", "c"]


def test_links_are_followed_and_each_folder_is_read_once(root: Path) -> None:
    other = root.parent / "other"
    touch(root, "real/one.png")
    touch(other, "two.png")
    (root / "file.png").symlink_to(other / "two.png")
    (root / "folder").symlink_to(other)
    (root / "loop").symlink_to(root)
    (root / "twin").symlink_to(root / "real")
    (other / "up").symlink_to(root)
    (root / "broken.png").symlink_to("nowhere")
    (root / "itself.png").symlink_to("itself.png")
    entries = {entry.path: entry.error and entry.error.strerror for entry in walk(root)}
    assert entries == {
        "broken.png": "No such file or directory",
        "file.png": None,
        "folder/two.png": None,
        "itself.png": "Too many levels of symbolic links",
        "real/one.png": None,
    }


def test_a_pipe_is_not_opened(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    (entry,) = walk(root)
    assert (entry.path, str(entry.error)) == ("pipe.png", "[Errno 22] not a regular file")


@pytest.mark.skipif(sys.platform == "darwin", reason="all names are UTF-8 there")
def test_names_that_are_not_utf8_can_be_shown(root: Path) -> None:
    touch(root, os.fsdecode(b"\xff.png"), "ü.png")
    assert [printable_path(path) for path in found(root)] == ["ü.png", r"\xff.png"]


def test_a_folder_that_does_not_exist(root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        found(root / "nowhere")
