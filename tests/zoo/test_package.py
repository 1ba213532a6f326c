"""Packages as folders: the manifest, verification and golden vectors."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import repzoo
from repzoo.packages.arrays import read_arrays, write_arrays
from repzoo.packages.package import Manifest, Package, check_file_name, write_manifest
from repzoo.runtime.golden import check_golden, write_golden


def test_the_manifest_lists_every_file(package: Path) -> None:
    opened = Package.open(package)
    opened.verify()
    below = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert set(opened.manifest.files) == below - {"manifest.json"}
    for name, entry in opened.manifest.files.items():
        data = (package / name).read_bytes()
        assert (entry.size, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    manifest = (package / "manifest.json").read_bytes()
    assert opened.revision == hashlib.sha256(manifest).hexdigest()
    assert opened.size == sum((package / name).stat().st_size for name in opened.manifest.files)


def test_the_same_content_is_the_same_revision(
    make_package: Callable[..., Path], tmp_path: Path
) -> None:
    one, two = (make_package(tmp_path / folder) for folder in ("a", "b"))
    assert Package.open(one).revision == Package.open(two).revision
    assert write_manifest(one).revision == Package.open(two).revision


def test_every_fault_is_reported(package: Path, flip: Callable[..., None]) -> None:
    flip(package / "encoder.onnx")
    (package / "decoder.onnx").write_bytes((package / "decoder.onnx").read_bytes()[:-1])
    (package / "prior.npz").unlink()
    (package / "probes" / "extra.linear.onnx").write_bytes(b"?")
    (package / "figures").symlink_to("/etc")
    with pytest.raises(repzoo.IntegrityError) as caught:
        Package.open(package).verify()
    assert set(caught.value.files) == {
        "decoder.onnx",
        "encoder.onnx",
        "figures",
        "prior.npz",
        "probes/extra.linear.onnx",
    }
    message = str(caught.value)
    assert "encoder.onnx does not have the manifest's sha256" in message
    assert "prior.npz is missing" in message
    assert "bytes instead of" in message
    with pytest.raises(repzoo.IntegrityError):
        repzoo.load(package)


def test_a_card_that_was_edited_or_is_missing_is_a_note(package: Path) -> None:
    opened = Package.open(package)
    assert opened.notes() == {}
    card = package / "README.md"
    card.write_text("Better words.\n")
    opened.verify()
    assert opened.notes()["README.md"].startswith("has 14 bytes")
    card.unlink()
    opened.verify()
    assert opened.notes() == {"README.md": "is missing"}
    repzoo.load(package)

    write_manifest(package)
    card.write_text("A hub's own words.\n")
    opened = Package.open(package)
    opened.verify()
    assert opened.notes() == {"README.md": "is not in the manifest"}


def test_a_card_is_a_small_real_file(package: Path, tmp_path: Path) -> None:
    card = package / "README.md"
    with card.open("wb") as file:
        file.truncate(2**20 + 1)
    with pytest.raises(repzoo.IntegrityError, match=r"README\.md has more than 1048576 bytes"):
        Package.open(package).verify()
    with pytest.raises(repzoo.PackageError, match=r"README\.md has more than 1048576 bytes"):
        write_manifest(package)
    (tmp_path / "aside").write_text("words")
    card.unlink()
    card.symlink_to(tmp_path / "aside")
    with pytest.raises(repzoo.IntegrityError, match=r"README\.md .* symbolic link"):
        Package.open(package).verify()


def test_signatures_and_files_of_other_tools_are_not_in_the_manifest(package: Path) -> None:
    for folder in (".git", ".cache/huggingface"):
        (package / folder).mkdir(parents=True)
    beside = (".gitattributes", "manifest.json.sig", ".DS_Store", ".git/HEAD")
    for name in (*beside, ".cache/huggingface/encoder.onnx.metadata"):
        (package / name).write_text("beside")
    Package.open(package).verify()
    assert write_manifest(package).revision == Package.open(package).revision
    Package.open(package).verify()


@pytest.mark.parametrize("name", ["encoder.onnx", "probes/digit.linear.onnx", "manifest.json"])
def test_links_are_refused_even_to_the_right_content(package: Path, name: str) -> None:
    aside = package.parent / "aside"
    (package / name).rename(aside)
    (package / name).symlink_to(aside)
    with pytest.raises(repzoo.PackageError, match="symbolic link"):
        Package.open(package).verify()


@pytest.fixture
def snapshot(package: Path, tmp_path: Path) -> Path:
    """The package as a snapshot in a Hugging Face cache, whose files are links to blobs."""
    repository = tmp_path / "models--org--tiny"
    blobs = repository / "blobs"
    blobs.mkdir(parents=True)
    folder = repository / "snapshots" / ("0123456789" * 4)
    for file in [path for path in package.rglob("*") if path.is_file()]:
        name = file.relative_to(package)
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(Path("../" * (len(name.parts) + 1), "blobs", blob.name))
    return folder


def test_snapshots_of_a_hugging_face_cache(
    snapshot: Path, zoo_here: Any, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "files verified, golden outputs verified" in zoo_here("verify", snapshot)
    assert repzoo.load(snapshot).config.name == "tiny"
    assert zoo_here.json("info", snapshot)["metrics"] == {"protocol": "none"}
    assert zoo_here.json("publish", snapshot, "--hub", store)["new"]
    zoo_here("pull", "tiny", "--hub", store)
    # The cache itself may be behind a link, and the path relative.
    (tmp_path / "link").symlink_to(snapshot.parents[1])
    monkeypatch.chdir(tmp_path)
    Package.open(Path("link", "snapshots", snapshot.name)).verify()


def test_other_links_in_a_snapshot_are_refused(snapshot: Path, tmp_path: Path) -> None:
    blob = (snapshot / "encoder.onnx").resolve()
    elsewhere = tmp_path / "models--org--other" / "blobs" / "blob"
    elsewhere.parent.mkdir(parents=True)
    shutil.copy(blob, elsewhere)
    shutil.copy(blob, snapshot.parents[1] / "aside")
    for target in (elsewhere, snapshot.parents[1] / "aside", Path("/dev/zero"), blob.parent):
        (snapshot / "encoder.onnx").unlink()
        (snapshot / "encoder.onnx").symlink_to(target)
        with pytest.raises(repzoo.IntegrityError, match=r"encoder\.onnx cannot be read: it is"):
            Package.open(snapshot).verify()
    # A blob must be a file of its own, and its folder must not be a link.
    blob.rename(tmp_path / "blob")
    blob.symlink_to(tmp_path / "blob")
    (snapshot / "encoder.onnx").unlink()
    (snapshot / "encoder.onnx").symlink_to(blob)
    with pytest.raises(repzoo.IntegrityError, match=r"encoder\.onnx cannot be read: it is"):
        Package.open(snapshot).verify()


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_a_card_is_not_read_through_links(package: Path, name: str, zoo_here: Any) -> None:
    (package / name).unlink()
    (package / name).symlink_to("/dev/zero")
    assert f"{name} cannot be read: it is a symbolic link" in zoo_here("info", package, status=1)


def test_a_linked_folder_is_refused_even_with_the_right_content(package: Path) -> None:
    aside = package.parent / "aside"
    (package / "probes").rename(aside)
    (package / "probes").symlink_to(aside)
    with pytest.raises(repzoo.IntegrityError, match="in a folder that is a symbolic link"):
        Package.open(package).verify()


def test_a_pipe_does_not_block(package: Path) -> None:
    (package / "prior.npz").unlink()
    os.mkfifo(package / "prior.npz")
    with pytest.raises(repzoo.IntegrityError, match=r"prior\.npz cannot be read: it is not a reg"):
        Package.open(package).verify()


HOSTILE = [
    "../evil",
    "..",
    ".",
    "",
    "/etc/passwd",
    "probes/../../evil.onnx",
    "probes/..",
    "probes//x.onnx",
    "probes/a/b.onnx",
    "figures/.hidden.png",
    "figures/x.png\n",
    "figures/x.exe",
    "model.pkl",
    "encoder.onnx.data",
    "manifest.json",
    "encoder.onnx\0.png",
    "C:\\evil",
    "probes\\x.onnx",
    "./encoder.onnx",
    "Encoder.onnx",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(package: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a file that a model package may contain"):
        check_file_name(name)
    manifest = json.loads((package / "manifest.json").read_text())
    manifest["files"][name] = {"size": 0, "sha256": "0" * 64}
    (package / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(repzoo.PackageError, match="not a file that a model package may contain"):
        Package.open(package)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, "format 3, but this version of repzoo reads 1 to 2: upgrade"),
        ({"files": {}}, "must be listed"),
        ({"more": 1}, "more"),
        ({"files": None}, "files"),
    ],
)
def test_manifests_that_are_not_valid(
    package: Path, changes: dict[str, object], message: str
) -> None:
    manifest = json.loads((package / "manifest.json").read_text()) | changes
    (package / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(repzoo.PackageError, match=message):
        Package.open(package)


@pytest.mark.parametrize(
    ("key", "value"),
    [("size", -1), ("size", "many"), ("sha256", "abc"), ("sha256", "../" * 21 + "x"), ("mode", 1)],
)
def test_entries_that_are_not_valid(package: Path, key: str, value: object) -> None:
    manifest = json.loads((package / "manifest.json").read_text())
    manifest["files"]["encoder.onnx"][key] = value
    with pytest.raises(repzoo.PackageError, match=r"encoder\.onnx"):
        Manifest.parse(json.dumps(manifest).encode())


def test_folders_that_are_not_packages(tmp_path: Path, package: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", package / "config.json"):
        with pytest.raises(repzoo.PackageError, match="not a model package"):
            Package.open(path)
    (package / "manifest.json").write_bytes(b"{" * 2**21)
    with pytest.raises(repzoo.PackageError, match="more than"):
        Package.open(package)
    (package / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(repzoo.PackageError, match="manifest"):
        Package.open(package)


def test_a_manifest_is_only_written_for_a_complete_package(package: Path) -> None:
    (package / "weights.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.raises(repzoo.PackageError, match=r"weights\.pkl"):
        write_manifest(package)
    (package / "weights.pkl").unlink()
    (package / "decoder.onnx").unlink()
    with pytest.raises(repzoo.PackageError, match=r"disagree on decoder\.onnx"):
        write_manifest(package)
    (package / "golden.npz").unlink()
    with pytest.raises(repzoo.PackageError, match=r"golden\.npz must be listed"):
        write_manifest(package)


def test_golden_vectors_cover_preprocessing_and_every_output(package: Path) -> None:
    encoder = repzoo.load(package, provider="cpu")
    arrays = read_arrays(package / "golden.npz")
    assert set(arrays) == {
        "inputs",
        "files.0",
        "files.0.pixels",
        "files.1",
        "files.1.pixels",
        "latents",
        "outputs.embedding",
        "outputs.images",
        "outputs.log_variance",
    }
    assert arrays["outputs.embedding"].shape == (len(arrays["inputs"]) + 2, 4)
    by_file = encoder.embed([arrays["files.0"].tobytes(), arrays["files.1"].tobytes()])
    assert np.allclose(by_file, arrays["outputs.embedding"][-2:], atol=1e-6)
    deviations = check_golden(encoder)
    assert [each.output for each in deviations] == ["embedding", "log_variance", "images"]
    assert all(each.largest <= each.tolerance == 1e-4 for each in deviations)


@pytest.mark.parametrize(
    ("array", "change", "message"),
    [
        ("outputs.embedding", lambda a: a + 2e-4, "embedding is off by 0.0002"),
        ("outputs.log_variance", lambda a: a * np.float32(np.nan), "log_variance is off by"),
        ("outputs.images", lambda a: a[:1], "images has shape"),
        ("files.1.pixels", lambda a: a ^ 1, "preprocessing files.1"),
        ("files.0", lambda a: a[:20], "files.0"),
    ],
)
def test_a_golden_mismatch_is_reported(
    package: Path, array: str, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    arrays = read_arrays(package / "golden.npz")
    arrays[array] = change(arrays[array])
    write_arrays(package / "golden.npz", arrays)
    write_manifest(package)
    with pytest.raises(repzoo.GoldenMismatch, match=message):
        check_golden(repzoo.load(package, provider="cpu"))


@pytest.mark.parametrize("array", ["inputs", "latents", "outputs.embedding", "files.0.pixels"])
def test_golden_vectors_must_be_complete(package: Path, array: str) -> None:
    arrays = read_arrays(package / "golden.npz")
    del arrays[array]
    write_arrays(package / "golden.npz", arrays)
    write_manifest(package)
    with pytest.raises(repzoo.PackageError, match=array):
        check_golden(repzoo.load(package, provider="cpu"))


def archive(content: bytes, method: int = zipfile.ZIP_STORED, encrypted: bool = False) -> bytes:
    """An ``.npz`` file with one array."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("inputs.npy", content)
    data = bytearray(buffer.getvalue())
    if encrypted:
        data[6] |= 1
        data[data.index(b"PK\1\2") + 8] |= 1
    return bytes(data)


def array_header(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0\x76\0" + header.encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-30],
        lambda _: b"",
        lambda _: b"PK\3\4no",
        lambda _: archive(array_header("(4,)") + bytes(4), encrypted=True),
        lambda _: archive(array_header("(1152921504606846976,)")),
        lambda _: archive(array_header("(1,)") + bytes(9), zipfile.ZIP_LZMA)[:-70] + bytes(70),
    ],
)
def test_golden_vectors_that_cannot_be_read(
    package: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = package / "golden.npz"
    path.write_bytes(damage(path.read_bytes()))
    write_manifest(package)
    with pytest.raises(repzoo.PackageError, match=r"golden\.npz"):
        check_golden(repzoo.load(package, provider="cpu"))


def test_golden_vectors_that_could_not_be_checked_are_not_written(package: Path) -> None:
    pixels = np.zeros((1, 8, 8, 1), np.uint8)
    latents = np.zeros((1, 4), np.float32)
    for wrong in (pixels[:0], pixels[:, :4], pixels.astype(np.float32)):
        with pytest.raises(repzoo.PackageError, match="golden inputs"):
            write_golden(package, wrong, [], latents)
    with pytest.raises(repzoo.PackageError, match="latents"):
        write_golden(package, pixels)
    with pytest.raises(repzoo.InvalidImage):
        write_golden(package, pixels, [b"not an image"], latents)
    record = json.loads((package / "config.json").read_text())
    record["tolerances"] = {"embedding": {"cpu": 1e-4}}
    (package / "config.json").write_text(json.dumps(record))
    with pytest.raises(repzoo.PackageError, match="no tolerance for log_variance on cpu"):
        write_golden(package, pixels, [], latents)
