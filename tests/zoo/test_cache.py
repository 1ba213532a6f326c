"""Pulling into the cache: damaged bytes, killed and rival processes, bad and missing hubs."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import repzoo
from repzoo.cache import upkeep
from repzoo.cache.cache import Cache
from repzoo.cache.places import default_cache
from repzoo.files import temporary_folder
from repzoo.packages.copies import copy_out
from repzoo.packages.package import Package, write_manifest
from repzoo.packages.reference import Reference
from repzoo.store.store import Store

TINY = Reference("tiny")


def files_below(path: Path) -> set[str]:
    return {each.relative_to(path).as_posix() for each in path.rglob("*") if not each.is_dir()}


def test_pull_brings_a_verified_package(flat_hub: Path, cache: Path, tiny_package: Path) -> None:
    pulled = Cache().pull(TINY)
    package = pulled.package
    package.verify()
    assert pulled.hub == str(flat_hub)
    assert set(pulled.fetched) == set(package.manifest.files)
    assert pulled.repaired == ()
    assert package.revision == Package.open(tiny_package).revision
    assert package.path == cache / "packages" / "tiny" / package.revision
    assert files_below(package.path) == files_below(tiny_package)
    assert files_below(cache / "staging") == set()

    again = Cache().pull(TINY)
    assert again.package == package
    assert again.fetched == again.repaired == ()


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def damage_grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def damage_link(path: Path) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to("aside")


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("?")


DAMAGES = [damage_flip, damage_truncate, damage_grow, damage_link, damage_folder, Path.unlink]
FILES = ["encoder.onnx", "config.json", "golden.npz", "probes/digit.linear.onnx"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_quarantined_and_replaced(
    flat_hub: Path, cache: Path, file: str, damage: Callable[[Path], None]
) -> None:
    package = Cache().pull(TINY).package
    damage(package.path / file)
    with pytest.raises(repzoo.IntegrityError) as caught:
        Cache().find(TINY).verify()
    assert file in {name.removesuffix("/inside") for name in caught.value.files}

    repaired = Cache().pull(TINY)
    repaired.package.verify()
    assert repaired.repaired == repaired.fetched == (file,)
    if damage is not Path.unlink:
        assert list((cache / "quarantine" / "tiny").glob(f"{Path(file).name}.*"))
    repzoo.load("tiny")


def test_a_changed_manifest_is_detected(flat_hub: Path) -> None:
    package = Cache().pull(TINY).package
    path = package.path / "manifest.json"
    # The package is valid, but not the revision that its folder names.
    (package.path / "README.md").write_text("Buy more!\n")
    write_manifest(package.path)
    with pytest.raises(repzoo.IntegrityError, match=r"manifest\.json does not have the SHA-256 of"):
        Cache().find(TINY)
    assert set(Cache().pull(TINY).repaired) == {"README.md", "manifest.json"}
    path.write_text("not json")
    with pytest.raises(repzoo.PackageError, match="manifest"):
        Cache().find(TINY)
    Cache().pull(TINY).package.verify()


def test_a_foreign_file_in_the_cache_is_put_aside(flat_hub: Path, cache: Path) -> None:
    package = Cache().pull(TINY).package
    (package.path / "probes" / "evil.linear.onnx").write_bytes(b"?")
    with pytest.raises(repzoo.IntegrityError, match="evil"):
        Cache().find(TINY).verify()
    assert Cache().pull(TINY).fetched == ()
    Cache().find(TINY).verify()
    assert any(path.name.startswith("evil") for path in (cache / "quarantine/tiny").iterdir())


@pytest.mark.parametrize("damage", [damage_flip, damage_truncate, damage_grow])
def test_a_bad_file_of_the_hub_never_becomes_visible(
    zoo_here: Any, flat_hub: Path, cache: Path, damage: Callable[[Path], None]
) -> None:
    good = (flat_hub / "tiny" / "encoder.onnx").read_bytes()
    damage(flat_hub / "tiny" / "encoder.onnx")
    message = zoo_here("pull", "tiny", status=1)
    assert "encoder.onnx of tiny" in message
    assert str(flat_hub) in message
    assert not (cache / "packages").exists()
    assert "is not in the cache" in zoo_here("path", "tiny", status=1)
    with pytest.raises(repzoo.IntegrityError):
        repzoo.load("tiny")
    # The same bytes are kept only once, no matter how often it is tried.
    assert len(list((cache / "quarantine" / "tiny").iterdir())) == 1

    (flat_hub / "tiny" / "encoder.onnx").write_bytes(good)
    pulled = Cache().pull(TINY)
    pulled.package.verify()
    assert "README.md" not in pulled.fetched  # was already there and right


def test_a_bad_hub_does_not_undo_a_repair_of_the_rest(flat_hub: Path) -> None:
    package = Cache().pull(TINY).package
    damage_flip(package.path / "encoder.onnx")
    damage_flip(flat_hub / "tiny" / "encoder.onnx")
    with pytest.raises(repzoo.IntegrityError, match=r"encoder\.onnx"):
        repzoo.load("tiny")
    with pytest.raises(repzoo.ModelNotFound):
        Cache().find(TINY)  # an incomplete package is not visible


@pytest.mark.parametrize(
    "name", ["../../evil", "/tmp/evil-repzoo", "probes/../../../evil", "a/../../evil"]
)
def test_hostile_names_write_nothing(
    flat_hub: Path, cache: Path, tmp_path: Path, name: str
) -> None:
    manifest = json.loads((flat_hub / "tiny" / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"]["README.md"]
    (flat_hub / "tiny" / "manifest.json").write_text(json.dumps(manifest))
    before = files_below(tmp_path)
    with pytest.raises(repzoo.PackageError, match="is not a file that a model package may"):
        Cache().pull(TINY)
    assert files_below(tmp_path) == before
    assert not Path("/tmp/evil-repzoo").exists()


def test_links_in_a_hub_are_not_followed(flat_hub: Path, tmp_path: Path) -> None:
    encoder = flat_hub / "tiny" / "encoder.onnx"
    encoder.rename(tmp_path / "aside")
    encoder.symlink_to(tmp_path / "aside")
    with pytest.raises(repzoo.HubError, match="symbolic link"):
        Cache().pull(TINY)


def test_a_package_must_have_its_own_name(flat_hub: Path, cache: Path) -> None:
    (flat_hub / "tiny").rename(flat_hub / "famous")
    with pytest.raises(repzoo.PackageError, match="calls itself tiny"):
        Cache().pull(Reference("famous"))
    assert not (cache / "packages").exists()
    assert files_below(cache / "staging") == set()


def test_revisions_of_a_store(
    store: Path, tiny_package: Path, other_tiny: Path, cache: Path
) -> None:
    hub = str(store)
    first = Store(store).publish(Package.open(tiny_package)).revision
    assert Cache().pull(TINY, hub).package.revision == first
    second = Store(store).publish(Package.open(other_tiny)).revision
    assert Cache().pull(TINY, hub).package.revision == second
    assert Cache().revisions("tiny") == sorted([first, second])
    assert Cache().find(TINY).revision == second

    # Without a revision, the last pull is meant.
    assert Cache().pull(Reference.parse(f"tiny@{first[:8]}"), hub).package.revision == first
    assert Cache().find(TINY).revision == first
    assert Cache().find(Reference("tiny", second[:8])).revision == second
    assert repzoo.load(f"tiny@{second}", hub=hub).revision == second
    assert repzoo.load("tiny", revision=first, hub=hub).revision == first

    assert Cache().remove(Reference("tiny", first)) == [first]
    assert Cache().revisions("tiny") == [second]
    with pytest.raises(repzoo.ModelNotFound):
        Cache().remove(Reference("tiny", first))
    assert Cache().remove(TINY) == [second]
    assert Cache().names() == []
    assert not (cache / "quarantine" / "tiny").exists()


def test_a_cached_digest_needs_no_hub(flat_hub: Path) -> None:
    revision = Cache().pull(TINY).package.revision
    shutil.rmtree(flat_hub)
    pulled = Cache().pull(Reference.parse(f"tiny@sha256:{revision}"))
    assert pulled.hub is None
    assert repzoo.load(f"tiny@{revision}").revision == revision
    damage_flip(pulled.package.path / "encoder.onnx")
    with pytest.raises(repzoo.HubError, match="no such folder"):
        Cache().pull(Reference("tiny", revision))


def test_a_digest_that_the_hub_does_not_have(flat_hub: Path) -> None:
    with pytest.raises(repzoo.ModelNotFound):
        Cache().pull(Reference.parse("tiny@sha256:" + "0" * 64))


def test_without_its_hub_the_cached_revision_is_loaded(
    zoo_here: Any, flat_hub: Path, caplog: pytest.LogCaptureFixture
) -> None:
    revision = repzoo.load("tiny").revision
    assert caplog.records == []
    shutil.rmtree(flat_hub)
    assert repzoo.load("tiny").revision == revision
    assert repzoo.load("tiny", hub=str(flat_hub)).revision == revision
    assert "using the cached revision" in caplog.text
    with pytest.raises(repzoo.HubError):
        repzoo.load("plain")
    with pytest.raises(repzoo.HubError):
        repzoo.load("tiny", hub=f"{flat_hub}-other")
    # A pull always asks the hub.
    assert "no such folder" in zoo_here("pull", "tiny", status=1)
    assert revision[:12] in zoo_here("info", "tiny")
    assert revision[:12] in zoo_here("verify", "tiny")

    damage_flip(Cache().find(TINY).path / "encoder.onnx")
    with pytest.raises(repzoo.IntegrityError):
        repzoo.load("tiny")


def test_a_package_from_another_hub_is_found_by_its_name(
    flat_hub: Path, store: Path, heavy_package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Store(store).publish(Package.open(heavy_package))
    with pytest.raises(repzoo.ModelNotFound):
        repzoo.load("heavy")
    Cache().pull(Reference("heavy"), str(store))
    caplog.set_level(logging.WARNING)
    assert repzoo.load("heavy").config.name == "heavy"
    assert caplog.records == []
    with pytest.raises(repzoo.ModelNotFound):
        repzoo.load("heavy", hub=str(flat_hub))


def test_a_killed_pull_shows_nothing_and_is_resumed(
    zoo: Any, store: Path, heavy_package: Path, cache: Path
) -> None:
    Store(store).publish(Package.open(heavy_package))
    for enough in (1, 2**23, 2**24):
        process = zoo.start("pull", "heavy", "--hub", store)
        while process.poll() is None:
            if part_size(cache) >= enough:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was not interrupted"
        assert not (cache / "packages" / "heavy").exists()
        assert Cache().names() == []
        for part in (cache / "staging").rglob("*.part"):
            part.unlink()

    # Only a part of the large file was there.
    pulled = zoo.json("pull", "heavy", "--hub", store)
    assert "figures/noise.png" in pulled["fetched"]
    Cache().find(Reference("heavy")).verify()
    assert files_below(cache / "staging") == set()


def part_size(cache: Path) -> int:
    size = 0
    with suppress(FileNotFoundError):
        for part in (cache / "staging").rglob("*.part"):
            size += part.stat().st_size
    return size


def test_a_killed_repair_is_resumed(
    zoo: Any, store: Path, heavy_package: Path, cache: Path
) -> None:
    Store(store).publish(Package.open(heavy_package))
    package = Cache().pull(Reference("heavy"), str(store)).package
    damage_flip(package.path / "figures" / "noise.png")
    process = zoo.start("pull", "heavy", "--hub", store)
    while process.poll() is None and part_size(cache) == 0:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert not package.path.exists()
    # Files that are right are kept and not fetched again.
    assert zoo.json("pull", "heavy", "--hub", store)["fetched"] == ["figures/noise.png"]
    Cache().find(Reference("heavy")).verify()


def test_concurrent_pulls_fetch_once(
    zoo: Any, store: Path, heavy_package: Path, cache: Path
) -> None:
    Store(store).publish(Package.open(heavy_package))
    processes = [zoo.start("pull", "heavy", "--hub", store, "--json") for _ in range(4)]
    fetched = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        fetched.append(len(json.loads(out)["fetched"]))
    assert sorted(fetched)[:3] == [0, 0, 0]
    assert sorted(fetched)[3] == len(Package.open(heavy_package).manifest.files)
    assert Cache().names() == ["heavy"]
    Cache().find(Reference("heavy")).verify()
    assert files_below(cache / "staging") == set()


def test_a_killed_removal_is_no_obstacle(flat_hub: Path, cache: Path) -> None:
    revision = Cache().pull(TINY).package.revision
    left = cache / "staging" / "tiny" / f"{revision}.old" / "encoder.onnx"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"?")
    assert Cache().remove(TINY) == [revision]
    assert not left.exists()
    Cache().pull(TINY).package.verify()


def test_a_damaged_memory_is_an_empty_one(
    flat_hub: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    revision = Cache().pull(TINY).package.revision
    record = Cache().memory("tiny").newest()
    assert record is not None
    assert (record.hub, record.revision) == (str(flat_hub), revision)
    (cache / "pulled" / "tiny.json").write_text('{"records": [{}]}')
    assert Cache().memory("tiny").newest() is None
    assert "damaged" in caplog.text
    with pytest.raises(repzoo.ModelNotFound):
        Cache().find(TINY)
    assert Cache().find(Reference("tiny", revision)).revision == revision
    Cache().pull(TINY)
    assert Cache().find(TINY).revision == revision


def test_a_read_only_cache_serves_what_is_in_it(
    zoo_as_anyone: Any, flat_hub: Path, cache: Path, read_only: Callable[[Path], None]
) -> None:
    Cache().pull(TINY)
    read_only(cache)
    assert "already in the cache" in zoo_as_anyone("pull", "tiny")
    assert "files verified" in zoo_as_anyone("verify", "tiny")
    for command in (("pull", "plain"), ("rm", "tiny")):
        message = zoo_as_anyone(*command, status=1)
        assert message.startswith(f"zoo: {cache}")
        assert "Permission denied" in message
        assert ("set REPZOO_CACHE to a folder" in message) == (command[0] == "pull")
    Cache().find(TINY).verify()


def test_a_cache_that_cannot_be_created(
    zoo_here: Any, flat_hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REPZOO_CACHE", str(tmp_path / "file" / "cache"))
    message = zoo_here("pull", "tiny", status=1)
    assert message.startswith(f"zoo: {tmp_path / 'file' / 'cache'}")
    assert "Not a directory; set REPZOO_CACHE" in message


def test_the_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REPZOO_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("REPZOO_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache() == Path("/home/someone/.cache/repzoo")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/someone")
    assert default_cache() == Path("/var/cache/someone/repzoo")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert default_cache() == Path("/home/someone/.cache/repzoo")
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_cache() == Path("/home/someone/Library/Caches/repzoo")


def test_copies_are_real_and_verified(
    flat_hub: Path, tmp_path: Path, tiny_package: Path, other_tiny: Path
) -> None:
    package = Cache().pull(TINY).package
    out = tmp_path / "new" / "out"
    copy = copy_out(package, out)
    copy.verify()
    assert copy.path == out / "tiny"
    assert files_below(out) == {f"tiny/{file}" for file in files_below(tiny_package)}
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert (copy.path / "encoder.onnx").stat().st_nlink == 1

    # A damaged copy, and another revision, are replaced.
    damage_flip(copy.path / "encoder.onnx")
    (copy.path / "README.md").unlink()
    copy_out(package, out).verify()
    assert copy_out(Package.open(other_tiny), out).revision != package.revision
    assert files_below(out) == {f"tiny/{file}" for file in files_below(other_tiny)}


def test_copies_do_not_overwrite_other_files(flat_hub: Path, tmp_path: Path) -> None:
    package = Cache().pull(TINY).package
    (tmp_path / "out" / "tiny").mkdir(parents=True)
    (tmp_path / "out" / "tiny" / "thesis.txt").write_text("years of work")
    with pytest.raises(repzoo.PackageError, match="not a model package"):
        copy_out(package, tmp_path / "out")
    assert files_below(tmp_path / "out") == {"tiny/thesis.txt"}

    copy = copy_out(package, tmp_path / "other")
    (copy.path / "notes.txt").write_text("mine")
    with pytest.raises(repzoo.PackageError, match=r"notes\.txt"):
        copy_out(package, tmp_path / "other")
    assert (copy.path / "notes.txt").read_text() == "mine"


def test_a_package_that_changes_while_it_is_copied_is_refused(
    flat_hub: Path, tmp_path: Path
) -> None:
    package = Cache().pull(TINY).package
    damage_flip(package.path / "encoder.onnx")
    with pytest.raises(repzoo.IntegrityError, match=r"encoder\.onnx"):
        copy_out(package, tmp_path / "out")
    assert files_below(tmp_path / "out") == set()


def test_only_folders_of_dead_processes_are_removed(tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / ".out.0123456789abcdef").mkdir(parents=True)
    (place / ".out.0123456789abcdef" / "file").touch()
    kept = [place / name for name in (".out.mine", ".outer.0123456789abcdef", "out")]
    for path in kept:
        path.mkdir()
    with temporary_folder(place, ".out.") as one, temporary_folder(place, ".out.") as two:
        assert {*place.iterdir()} == {*kept, one, two}
    assert {*place.iterdir()} == {*kept}


def test_a_folder_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place := tmp_path / "place").mkdir()
    lock, made = fcntl.flock, []

    def after_another_process(descriptor: int, operation: int) -> None:
        if not made:
            made.extend(place.iterdir())
            made[0].rmdir()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", after_another_process)
    with temporary_folder(place, ".out.") as folder:
        assert [*place.iterdir()] == [folder] != made
    assert not any(place.iterdir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("simvae-mnist", Reference("simvae-mnist")),
        ("a@main", Reference("a", "main")),
        ("a@0123abc", Reference("a", "0123abc")),
        ("a@sha256:" + "f" * 64, Reference("a", "f" * 64)),
    ],
)
def test_references(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "@", "a@", "A", "../a", "a/b", "a b", "a\n", "-a", "a-", "a@../x", "a@b@c", "a@x y", "é"],
)
def test_invalid_references(text: str) -> None:
    with pytest.raises(repzoo.InvalidInput):
        Reference.parse(text)


def test_two_different_revisions_are_refused(tiny_package: Path) -> None:
    with pytest.raises(repzoo.InvalidInput, match="two different revisions"):
        repzoo.load("a@0123abc", revision="main")
    with pytest.raises(repzoo.InvalidInput, match="is a path"):
        repzoo.load(tiny_package, revision="main")


def test_sizes_of_files_that_a_pull_renames_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").write_bytes(b"12345")
    monkeypatch.setattr(os, "walk", lambda folder: [(str(folder), [], ["there", "renamed.part"])])
    assert upkeep._size(tmp_path) == 5
