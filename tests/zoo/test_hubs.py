"""Hubs: flat folders, and stores with killed, concurrent and refused writers."""

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
from repzoo.errors import Conflict, EntryNotFound, UploadTooLarge
from repzoo.hubs.opening import default_hub, open_hub
from repzoo.packages.package import FileEntry, Package
from repzoo.store.commits import Add, Delete
from repzoo.store.fsck import check
from repzoo.store.paths import check_path
from repzoo.store.store import Store


def digest(path: Path) -> str:
    return hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()


def check_store(store: Path) -> list[str]:
    """Check that every visible revision is complete and right, and return the names."""
    assert check(Store(store)).faults == []
    hub = open_hub(store)
    for name in hub.names():
        assert hub.resolve(name) == hub.revisions(name)[0]
        for revision in hub.revisions(name):
            manifest = hub.manifest(name, revision)
            assert hub.resolve(name, revision) == revision
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
    first = hub.publish(Package.open(tiny_package))
    assert (first.name, first.revision, first.new) == ("tiny", digest(tiny_package), True)
    second = hub.publish(Package.open(other_tiny), message="Other weights")
    assert (second.revision, second.new) == (digest(other_tiny), True)
    assert hub.publish(Package.open(plain_package)).new
    assert check_store(store) == ["plain", "tiny"]
    assert hub.revisions("tiny") == [second.commit, first.commit]
    assert hub.resolve("tiny") == hub.resolve("tiny", "main") == second.commit
    for way in (first.commit, first.commit[:7], first.revision, first.revision[:7]):
        assert hub.resolve("tiny", way) == first.commit
    message = hub.repository("tiny").commit(second.commit).message
    assert message == "Other weights"

    # Publishing the newest revision again changes nothing; an older one becomes the newest.
    assert hub.publish(Package.open(other_tiny)) == (*second[:3], False)
    again = hub.publish(Package.open(tiny_package))
    assert again.new
    assert hub.revisions("tiny") == [again.commit, second.commit, first.commit]
    assert hub.resolve("tiny", first.revision) == again.commit
    assert hub.resolve("tiny", first.commit) == first.commit
    assert not any((store / "incoming").iterdir())


def test_tags_do_not_move(store: Path, tiny_package: Path, other_tiny: Path) -> None:
    hub = Store(store)
    first = hub.publish(Package.open(tiny_package), tag="v1")
    assert hub.publish(Package.open(tiny_package), tag="v1") == (*first[:3], False)
    blobs = set((store / "blobs" / "sha256").iterdir())
    with pytest.raises(repzoo.HubError, match="tags do not move"):
        hub.publish(Package.open(other_tiny), tag="v1")
    assert set((store / "blobs" / "sha256").iterdir()) == blobs, "it was found out too late"
    second = hub.publish(Package.open(other_tiny), tag="v2")
    assert hub.tags("tiny") == {"v1": first.commit, "v2": second.commit}
    assert hub.resolve("tiny", "v1") == first.commit

    repository = hub.repository("tiny")
    repository.create_tag("v2", second.commit)
    with pytest.raises(Conflict):
        repository.create_tag("v2", first.commit)
    repository.delete_tag("v2")
    repository.create_tag("v2", first.commit)
    for tag in ("main", "../main", "a/b", "", ".hidden", first.commit, "a" * 129, "a\nb"):
        with pytest.raises(repzoo.InvalidInput):
            repository.create_tag(tag, first.commit)
        with pytest.raises(repzoo.ModelNotFound):
            repository.delete_tag(tag)
    with pytest.raises(repzoo.ModelNotFound):
        repository.create_tag("v3", "0" * 40)
    assert check_store(store) == ["tiny"]


def test_publishing_deletes_old_package_files_and_keeps_other_files(
    store: Path, tiny_package: Path, tmp_path: Path
) -> None:
    hub = Store(store)
    package = Package.open(tiny_package)
    hub.publish(package)
    repository = hub.repository("tiny")
    with hub.blobs.receive(100) as upload:
        upload.write(b"*.onnx filter=lfs")
        entry = upload.keep()
    repository.change([Add(".gitattributes", entry), Add("notes/why.txt", entry)], "by hand")
    smaller = shutil.copytree(tiny_package, tmp_path / "smaller")
    (smaller / "metrics.json").unlink()
    (smaller / "manifest.json.sig").write_bytes(b"signed")
    smaller_package = repzoo.packages.package.write_manifest(smaller)
    published = hub.publish(smaller_package)
    files = repository.commit(published.commit).files
    others = {".gitattributes", "notes/why.txt", "manifest.json", "manifest.json.sig"}
    assert set(files) == {*smaller_package.manifest.files, *others}
    assert hub.signature("tiny", published.commit) == b"signed"
    # The signature of the smaller package is removed.
    assert hub.signature("tiny", hub.publish(package).commit) is None


def test_changes_build_on_the_revision_that_their_writer_saw(store: Path) -> None:
    hub = Store(store)
    repository = hub.new_repository("notes")
    assert repository.create()
    assert not repository.create()
    assert hub.names() == []  # not a package
    start = repository.head()
    with hub.blobs.receive(100) as upload:
        upload.write(b"text")
        entry = upload.keep()
    first, new = repository.change([Add("a/b.txt", entry)], "one", parent=start[:7])
    assert new
    assert repository.change([Add("a/b.txt", entry)], "the same") == (first, False)
    with pytest.raises(Conflict, match="is now at"):
        repository.change([Add("c.txt", entry)], "two", parent=start)
    wrong: dict[type[Exception], list[list[Add | Delete]]] = {
        repzoo.InvalidInput: [
            [Add("../up", entry)],
            [Add("a", entry)],  # is a folder
            [Add("a/b.txt/c", entry)],  # is inside a file
            [Add("c.txt", FileEntry(size=4, sha256="0" * 64))],
            [Add("c.txt", FileEntry(size=5, sha256=entry.sha256))],
        ],
        EntryNotFound: [[Delete("b.txt")], [Delete("b/")], [Delete("a")], [Delete("../up")]],
    }
    for error, several in wrong.items():
        for changes in several:
            with pytest.raises(error):
                repository.change(changes, "wrong")
    assert repository.head() == first
    gone, _ = repository.change([Delete("a/"), Add("a", entry)], "three", parent=first)
    assert set(repository.commit(gone).files) == {"a"}
    assert [commit for commit, _ in repository.history()] == [gone, first, start]
    assert check_store(store) == []


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a//b",
        "a/./b",
        "a/",
        "a\\b",
        "C:/x",
        "a\0b",
        "a\nb",
        "a\u202eb",
        "a\ud800",
        ".git/config",
        "a/.GIT/hooks",
        "a" * 201,
        "a/" * 20 + "b",
        "ab/" * 200,
    ],
)
def test_invalid_paths(path: str) -> None:
    with pytest.raises(repzoo.InvalidInput) as caught:
        check_path(path)
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()


def test_valid_paths() -> None:
    for path in (".gitattributes", "figures/a b.png", "überblick.md", "a/b/c..d", "...", "c:"[:1]):
        assert check_path(path) == path


def test_files_shared_by_revisions_are_stored_once(
    store: Path, tiny_package: Path, tmp_path: Path
) -> None:
    hub = Store(store)
    hub.publish(Package.open(tiny_package))
    blobs = len(list((store / "blobs" / "sha256").iterdir()))
    changed = shutil.copytree(tiny_package, tmp_path / "changed")
    (changed / "README.md").write_text("Another card.\n")
    hub.publish(repzoo.packages.package.write_manifest(changed))
    assert len(list((store / "blobs" / "sha256").iterdir())) == blobs + 2  # card and manifest
    (changed / "README.md").write_text("Edited by hand, which a card may be.\n")
    assert hub.publish(Package.open(changed)).new
    assert len(list((store / "blobs" / "sha256").iterdir())) == blobs + 3


@pytest.mark.parametrize("kind", ["flat", "store"])
def test_missing_packages_and_revisions(
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


def test_invalid_hubs(tmp_path: Path, tiny_package: Path) -> None:
    wrong = {
        tmp_path / "nowhere": "no such folder",
        tiny_package: "is a package",
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


def test_a_store_needs_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(repzoo.HubError, match="not empty"):
        Store.create(tmp_path)
    with pytest.raises(repzoo.HubError, match="letters"):
        Store.create(tmp_path / "letters.txt" / "store")
    store = tmp_path / "a" / "b"
    Store.create(store)
    Store.create(store)  # an existing store stays as it is
    # Creating it was interrupted before the marker was written:
    (store / "repzoo-store.json").unlink()
    Store.create(store)
    for other in (1, 9):
        (store / "repzoo-store.json").write_text(json.dumps({"format_version": other}))
        with pytest.raises(repzoo.HubError, match=f"format {other}"):
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


def test_publishing_again_repairs_a_bad_blob(
    store: Path, tiny_package: Path, flip: Callable[..., None]
) -> None:
    hub = Store(store)
    package = Package.open(tiny_package)
    hub.publish(package)
    flip(store / "blobs" / "sha256" / package.manifest.files["encoder.onnx"].sha256)
    with pytest.raises(AssertionError, match="does not have the sha256"):
        check_store(store)
    assert not hub.publish(package).new
    assert check_store(store) == ["tiny"]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("repos/tiny/refs/heads/main", "../../../../etc/passwd\n"),
        ("repos/tiny/refs/heads/main", ""),
        ("repos/tiny/refs/heads/main", b"\xff\xfe"),
        ("repos/tiny/refs/heads/main", "0" * 40),
        ("repos/tiny/commits/{commit}", "{}"),
        ("repos/tiny/commits/{commit}", "[" * 100_000),
        ("repos/tiny/commits/{commit}", "not json"),
        ("repzoo-store.json", "not json"),
        ("repzoo-store.json", "{}"),
    ],
)
def test_a_damaged_store_raises_a_hub_error(
    store: Path, tiny_package: Path, path: str, content: str | bytes
) -> None:
    published = Store(store).publish(Package.open(tiny_package))
    target = store / path.format(commit=published.commit)
    target.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((repzoo.HubError, repzoo.ModelNotFound)):
        open_hub(store).revisions("tiny")
    if path != "repzoo-store.json":
        assert open_hub(store).names() == ["tiny"]
        faults = check(Store(store), prune=True, grace=0).faults
        assert any(path.format(commit=published.commit) in fault for fault in faults)
        # Content that only seems to be unreferenced is not pruned.
        assert len(list((store / "blobs" / "sha256").iterdir())) >= 8


def test_a_killed_publish_leaves_the_store_as_it_was(
    zoo: Any, store: Path, tiny_package: Path, heavy_package: Path
) -> None:
    published = Store(store).publish(Package.open(tiny_package))
    whole = Package.open(heavy_package).size
    before = size_of(store)
    for part in range(10):
        process = zoo.start("publish", heavy_package, "--hub", store, "--files-only")
        while process.poll() is None:
            if size_of(store) - before > whole * part / 10:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.0005)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was not interrupted"
        assert check_store(store) == ["tiny"]
        assert open_hub(store).resolve("tiny") == published.commit
        # Its lock is released, and its leftovers are removed on request.
        left = json.loads(zoo("hub", "fsck", store, "--prune", "--grace", "0", "--json"))
        assert left["removed"]
        assert size_of(store) == before
    zoo("publish", heavy_package, "--hub", store, "--files-only")
    assert check_store(store) == ["heavy", "tiny"]


def test_a_writer_removes_leftovers_of_dead_writers_only(store: Path) -> None:
    blobs = Store(store).blobs
    (blobs.incoming / "dead").write_bytes(b"half")
    (blobs.incoming / "older").mkdir()
    with blobs.receive(10) as upload:
        upload.write(b"live")
        assert sorted(path.name for path in blobs.leftovers()) == ["dead", "older"]
        assert len(blobs.clear_leftovers()) == 2
        assert blobs.leftovers() == []
        entry = upload.keep()
    assert blobs.has(entry)
    assert not any(blobs.incoming.iterdir())


def test_an_upload_that_differs_from_its_announcement_is_not_kept(store: Path) -> None:
    blobs = Store(store).blobs
    expected = FileEntry(size=4, sha256=hashlib.sha256(b"text").hexdigest())
    for content in (b"tex", b"test"):
        with blobs.receive(4) as upload:
            upload.write(content)
            with pytest.raises(repzoo.IntegrityError):
                upload.keep(expected)
    with blobs.receive(4) as upload, pytest.raises(UploadTooLarge):
        upload.write(b"texts")
    assert not any(blobs.folder.iterdir())
    assert not any(blobs.incoming.iterdir())


def test_fsck_names_every_fault(
    zoo_here: Any, store: Path, tiny_package: Path, other_tiny: Path, flip: Callable[..., None]
) -> None:
    hub = Store(store)
    first = hub.publish(Package.open(tiny_package), tag="v1")
    assert "no faults" in zoo_here("hub", "fsck", store)
    second = hub.publish(Package.open(other_tiny))
    encoder = hub.repository("tiny").commit(first.commit).files["encoder.onnx"].sha256
    golden = hub.repository("tiny").commit(second.commit).files["golden.npz"].sha256
    (store / "blobs" / "sha256" / encoder).chmod(0o644)
    flip(store / "blobs" / "sha256" / encoder)
    (store / "blobs" / "sha256" / golden).unlink()
    (store / "blobs" / "sha256" / "readme.txt").write_text("hello")
    (store / "repos" / "tiny" / "refs" / "tags" / "v2").write_text("0" * 40)
    (store / "repos" / "strange").symlink_to("/etc")
    error = zoo_here.json("hub", "fsck", store, "--prune", "--grace", "0", status=1)["error"]
    assert error["type"] == "IntegrityError"
    faults = " ".join(error["files"])
    for what in (encoder, golden, "readme.txt", "v2", "strange"):
        assert what in faults
    assert len(error["files"]) == 5
    printed = zoo_here("hub", "fsck", store, status=1)
    assert printed.count("\n") == 6
    assert printed.splitlines()[-1] == f"zoo: {store} has 5 faults"


def test_fsck_prunes_unreferenced_content(
    zoo_here: Any, store: Path, tiny_package: Path, plain_package: Path
) -> None:
    hub = Store(store)
    hub.publish(Package.open(tiny_package))
    whole = size_of(store)
    hub.publish(Package.open(plain_package))
    # As if the writer had been killed before writing the ref.
    (store / "repos" / "plain" / "refs" / "heads" / "main").unlink()
    (store / "repos" / "tiny" / "refs" / "heads" / f".main.{'0' * 16}").write_text("half")
    found = zoo_here.json("hub", "fsck", store)
    assert len(found["dangling"]) >= 4
    assert len(found["leftovers"]) == 2
    assert found["removed"] == []
    # Unreferenced content is recent, so an upload may still need it.
    assert zoo_here.json("hub", "fsck", store, "--prune")["removed"] == found["leftovers"]
    assert "(removed)" in zoo_here("hub", "fsck", store, "--prune", "--grace", "0")
    assert size_of(store) == whole
    assert check_store(store) == ["tiny"]


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder while files appear and disappear."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def test_concurrent_publishers_both_succeed(
    zoo: Any, store: Path, tiny_package: Path, other_tiny: Path, plain_package: Path
) -> None:
    packages = [tiny_package, other_tiny, plain_package, tiny_package]
    processes = [zoo.start("publish", each, "--hub", store, "--files-only") for each in packages]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert check_store(store) == ["plain", "tiny"]
    hub = open_hub(store)
    manifests = [hub.manifest("tiny", commit) for commit in hub.revisions("tiny")]
    assert {hashlib.sha256(manifest).hexdigest() for manifest in manifests} == {
        digest(tiny_package),
        digest(other_tiny),
    }


def test_a_read_only_store_can_be_read_but_not_written(
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
