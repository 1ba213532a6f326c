"""Hubs: flat folders, and stores under killed, rival and refused writers."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import repzoo
from repzoo.hubs import default_hub, open_hub
from repzoo.hubs.store import Store
from repzoo.package import Package


def digest(path: Path) -> str:
    return hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()


def check_store(store: Path) -> list[str]:
    """Every revision that a reader finds is complete and right; returns the names."""
    hub = open_hub(store)
    for name in hub.names():
        assert hub.resolve(name) in hub.revisions(name)
        for revision in hub.revisions(name):
            manifest = hub.manifest(name, revision)
            assert hashlib.sha256(manifest).hexdigest() == revision
            for file, entry in json.loads(manifest)["files"].items():
                with hub.open(name, revision, file) as stream:
                    assert hashlib.sha256(stream.read()).hexdigest() == entry["sha256"], file
    return hub.names()


def test_a_flat_folder(flat_hub: Path) -> None:
    (flat_hub / "not a name").mkdir()
    (flat_hub / "no-package").mkdir()
    (flat_hub / "file").write_text("")
    hub = open_hub(flat_hub)
    revision = digest(flat_hub / "tiny")
    assert hub.names() == ["plain", "tiny"]
    assert hub.revisions("tiny") == [revision]
    for wanted in (None, "main", revision, revision[:7]):
        assert hub.resolve("tiny", wanted) == revision
    assert hub.manifest("tiny", revision) == (flat_hub / "tiny" / "manifest.json").read_bytes()
    with hub.open("tiny", revision, "config.json") as stream:
        assert stream.read() == (flat_hub / "tiny" / "config.json").read_bytes()


def test_a_store(store: Path, tiny_package: Path, other_tiny: Path, plain_package: Path) -> None:
    hub = open_hub(store)
    assert isinstance(hub, Store)
    assert hub.names() == []
    first, second = digest(tiny_package), digest(other_tiny)
    assert hub.publish(Package.open(tiny_package)) == ("tiny", first, True)
    assert hub.publish(Package.open(other_tiny)) == ("tiny", second, True)
    assert hub.publish(Package.open(plain_package)).new
    assert check_store(store) == ["plain", "tiny"]
    assert hub.revisions("tiny") == [second, first]
    assert hub.resolve("tiny") == hub.resolve("tiny", "main") == second
    assert hub.resolve("tiny", first[:7]) == hub.resolve("tiny", first) == first

    # Publishing what is there makes it the newest again, and changes nothing else.
    assert not hub.publish(Package.open(tiny_package)).new
    assert hub.revisions("tiny") == [first, second]
    assert not any((store / "incoming").iterdir())


def test_what_revisions_share_is_stored_once(
    store: Path, tiny_package: Path, tmp_path: Path
) -> None:
    hub = Store(store)
    hub.publish(Package.open(tiny_package))
    blobs = len(list((store / "blobs" / "sha256").iterdir()))
    changed = shutil.copytree(tiny_package, tmp_path / "changed")
    (changed / "README.md").write_text("Another card.\n")
    hub.publish(repzoo.package.write_manifest(changed))
    assert len(list((store / "blobs" / "sha256").iterdir())) == blobs + 2  # card and manifest


@pytest.mark.parametrize("kind", ["flat", "store"])
def test_what_a_hub_does_not_have(
    kind: str, flat_hub: Path, store: Path, tiny_package: Path
) -> None:
    Store(store).publish(Package.open(tiny_package))
    hub = open_hub(flat_hub if kind == "flat" else store)
    revision = hub.resolve("tiny")
    for name in ("nothing", "../tiny", "", "/etc", "TINY"):
        with pytest.raises(repzoo.ModelNotFound):
            hub.resolve(name)
        with pytest.raises(repzoo.ModelNotFound):
            hub.manifest(name, revision)
    for wanted in ("other", "0" * 64, revision[:6], "../main", revision.upper(), ""):
        if wanted:
            with pytest.raises(repzoo.ModelNotFound):
                hub.resolve("tiny", wanted)
    with pytest.raises(repzoo.ModelNotFound):
        hub.manifest("tiny", "../../x")
    with pytest.raises((repzoo.HubError, ValueError)):
        hub.open("tiny", revision, "../../../etc/passwd")


def test_what_is_no_hub(tmp_path: Path, tiny_package: Path) -> None:
    wrong = {
        tmp_path / "nowhere": "no such folder",
        tiny_package: "is a package",
        "hf://someone": "folders only",
        "https://example.org": "folders only",
    }
    for spec, message in wrong.items():
        with pytest.raises(repzoo.HubError, match=message):
            open_hub(spec)


def test_the_default_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REPZOO_HUB", str(tmp_path))
    assert default_hub() == str(tmp_path)
    monkeypatch.delenv("REPZOO_HUB")
    bundled = Path(repzoo.__file__).parents[1] / "bundled"
    if bundled.is_dir():
        assert default_hub() == str(bundled)
    else:
        with pytest.raises(repzoo.HubError, match="bundled"):
            default_hub()


def test_a_store_needs_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(repzoo.HubError, match="not empty"):
        Store.create(tmp_path)
    with pytest.raises(repzoo.HubError, match="letters"):
        Store.create(tmp_path / "letters.txt" / "store")
    store = tmp_path / "a" / "b"
    Store.create(store)
    Store.create(store)  # is one already
    # Cut short before the marker was written:
    (store / "repzoo-store.json").unlink()
    Store.create(store)
    (store / "repzoo-store.json").write_text('{"format_version": 9}')
    with pytest.raises(repzoo.HubError, match="format 9"):
        open_hub(store)


def test_a_damaged_package_is_not_published(
    store: Path, tiny_package: Path, tmp_path: Path, flip: Callable[..., None]
) -> None:
    path = shutil.copytree(tiny_package, tmp_path / "bad")
    flip(path / "encoder.onnx")
    with pytest.raises(repzoo.IntegrityError, match=r"encoder\.onnx"):
        Store(store).publish(Package.open(path))
    assert check_store(store) == []
    assert not any((store / "blobs" / "sha256").iterdir())


def test_publishing_again_mends_a_blob_that_went_bad(
    store: Path, tiny_package: Path, flip: Callable[..., None]
) -> None:
    hub = Store(store)
    package = Package.open(tiny_package)
    hub.publish(package)
    flip(store / "blobs" / "sha256" / package.manifest.files["encoder.onnx"].sha256)
    with pytest.raises(AssertionError):
        check_store(store)
    hub.publish(package)
    assert check_store(store) == ["tiny"]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("repos/tiny/refs/main", "../../../../etc/passwd\n"),
        ("repos/tiny/refs/main", ""),
        ("repos/tiny/refs/main", b"\xff\xfe"),
        ("repos/tiny/commits/{commit}", "{}"),
        ("repos/tiny/commits/{commit}", "not json"),
        ("repzoo-store.json", "not json"),
        ("repzoo-store.json", "{}"),
    ],
)
def test_a_damaged_store_is_an_error_of_ours(
    store: Path, tiny_package: Path, path: str, content: str | bytes
) -> None:
    published = Store(store).publish(Package.open(tiny_package))
    target = store / path.format(commit=published.revision)
    target.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(repzoo.HubError):
        open_hub(store).revisions("tiny")


def test_a_killed_publish_leaves_the_store_as_it_was(
    zoo: Any, store: Path, tiny_package: Path, heavy_package: Path
) -> None:
    Store(store).publish(Package.open(tiny_package))
    incoming = store / "incoming"
    for enough in (1, 2**23, 2**24):
        process = zoo.start("publish", heavy_package, "--hub", store, "--files-only")
        while process.poll() is None:
            if size_of(incoming) >= enough:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was not interrupted"
        assert any(incoming.iterdir())
        assert check_store(store) == ["tiny"]
        if enough != 2**24:
            shutil.rmtree(incoming)
    # Its lock is gone with it, and its leftovers go with the next writer.
    zoo("publish", heavy_package, "--hub", store, "--files-only")
    assert check_store(store) == ["heavy", "tiny"]
    assert not any(incoming.iterdir())


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder in which files come and go."""
    size = 0
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            size += path.stat().st_size
    return size


def test_rival_publishers_both_get_their_revision_in(
    zoo: Any, store: Path, tiny_package: Path, other_tiny: Path, plain_package: Path
) -> None:
    packages = [tiny_package, other_tiny, plain_package, tiny_package]
    processes = [zoo.start("publish", each, "--hub", store, "--files-only") for each in packages]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert check_store(store) == ["plain", "tiny"]
    hub = open_hub(store)
    assert set(hub.revisions("tiny")) == {digest(tiny_package), digest(other_tiny)}


def test_a_read_only_store_can_be_read_and_says_why_not_written(
    zoo_as_anyone: Any,
    store: Path,
    tiny_package: Path,
    other_tiny: Path,
    read_only: Callable[[Path], None],
) -> None:
    Store(store).publish(Package.open(tiny_package))
    read_only(store)
    assert "tiny" in zoo_as_anyone("pull", "tiny", "--hub", store)
    message = zoo_as_anyone("publish", other_tiny, "--hub", store, "--files-only", status=1)
    assert message.startswith(f"zoo: {store}")
    assert "Permission denied" in message
    assert check_store(store) == ["tiny"]
