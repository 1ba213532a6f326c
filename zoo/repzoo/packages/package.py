"""A model package: a folder of weights, metadata and golden vectors, described by its manifest.

``manifest.json`` holds the size and sha256 of every file. The sha256 of the manifest itself is the
package's *revision*. It identifies the content wherever the package is stored.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from repzoo.errors import IntegrityError, PackageError
from repzoo.files import open_regular, write_atomically
from repzoo.packages.config import ModelConfig
from repzoo.packages.records import parse_record, read_file

__all__ = [
    "ADVISORY",
    "FORMAT_VERSION",
    "MANIFEST",
    "MAX_ADVISORY_BYTES",
    "MAX_MANIFEST_BYTES",
    "SIGNATURE",
    "FileEntry",
    "Manifest",
    "Package",
    "check_file_name",
    "file_fault",
    "is_package",
    "write_manifest",
]

#: Version 2 adds ``content.onnx`` and version 2 of ``config.json``. A package that uses neither is
#: written as version 1, so that older installations can read it.
FORMAT_VERSION = 2
MANIFEST = "manifest.json"

#: The signature of a package in the OpenSSF model-signing format. The manifest does not list it.
SIGNATURE = "manifest.json.sig"

#: Files for people. A package stays valid if they are edited or missing: hubs let writers edit the
#: card, and some hubs write one themselves.
ADVISORY = frozenset({"README.md"})
MAX_ADVISORY_BYTES = 2**20

#: Limit on the size of a manifest. A larger one comes from a malicious hub.
MAX_MANIFEST_BYTES = 2**20

_REQUIRED = ("config.json", "encoder.onnx", "golden.npz")
_TOP_LEVEL = frozenset(
    {
        *_REQUIRED,
        "LICENSE",
        "README.md",
        "content.onnx",
        "decoder.onnx",
        "metrics.json",
        "prior.npz",
        "uncertainty.onnx",
    }
)
# Only files of the layout are allowed. A package cannot contain code, pickles or external tensor
# data, and no name leads out of the folder.
_IN_FOLDERS = re.compile(
    r"probes/[a-z0-9][a-z0-9._-]*\.onnx|figures/[A-Za-z0-9][A-Za-z0-9._-]*\.(?:png|jpg|svg)"
)


def check_file_name(name: str) -> str:
    """Return ``name`` if it is a path that a package may contain.

    Raises:
        ValueError: If the path is not part of the layout, for example absolute or with ``..``.
    """
    if name in _TOP_LEVEL or _IN_FOLDERS.fullmatch(name):
        return name
    raise ValueError(f"{name!r} is not a file that a model package may contain")


def _is_ignored(name: str) -> bool:
    # Signatures are named manifest.json.SOMETHING. The others come from git, macOS and
    # `hf download --local-dir`.
    return name in (MANIFEST, ".gitattributes", ".DS_Store") or name.startswith(
        (MANIFEST + ".", ".git/", ".cache/")
    )


class FileEntry(BaseModel):
    """The manifest's entry for one file: its size in bytes and its sha256 in hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """``manifest.json``: the files of a package by their relative path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    files: dict[str, FileEntry]

    @field_validator("format_version")
    @classmethod
    def _known_version(cls, version: int) -> int:
        if not 1 <= version <= FORMAT_VERSION:
            raise ValueError(
                f"the package has format {version}, but this version of repzoo reads 1 to "
                f"{FORMAT_VERSION}: upgrade repzoo"
            )
        return version

    @field_validator("files")
    @classmethod
    def _known_names(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            check_file_name(name)
        missing = [name for name in _REQUIRED if name not in files]
        if missing:
            raise ValueError(f"{', '.join(missing)} must be listed")
        for name in ADVISORY & files.keys():
            if files[name].size > MAX_ADVISORY_BYTES:
                raise ValueError(f"{name} has more than {MAX_ADVISORY_BYTES} bytes")
        if len({name.casefold() for name in files}) != len(files):
            raise ValueError("two file names differ only in case")
        return files

    @property
    def size(self) -> int:
        """Total size of the files in bytes."""
        return sum(entry.size for entry in self.files.values())

    @classmethod
    def parse(cls, data: bytes, source: str = MANIFEST) -> Manifest:
        """Parse and validate a manifest's bytes.

        Args:
            data: The bytes of a ``manifest.json``.
            source: What to call the manifest in an error.

        Raises:
            PackageError: If the manifest is not valid or lists a file that is not allowed.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise PackageError(f"{source} has more than {MAX_MANIFEST_BYTES} bytes")
        return parse_record(cls, data, source)


@dataclass(frozen=True)
class Package:
    """A model package in a folder.

    `open` reads only the manifest. `verify` checks the files against it.

        >>> package = Package.open("zoo/bundled/simvae-mnist")
        >>> package.verify()
        >>> package.config.latent_dim
        10
    """

    path: Path
    manifest: Manifest
    #: sha256 of ``manifest.json`` in hex.
    revision: str

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Package:
        """Open the package in the folder ``path``.

        Raises:
            PackageError: If the folder is not a package or its manifest is not valid.
        """
        path = Path(path)
        if not os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, it never raises
            state = "is not a folder" if os.path.lexists(path) else "does not exist"
            raise PackageError(f"{path} is not a model package: it {state}")
        try:
            data = read_file(path / MANIFEST, MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            raise PackageError(f"{path} is not a model package: it has no {MANIFEST}") from None
        manifest = Manifest.parse(data, str(path / MANIFEST))
        return cls(path, manifest, hashlib.sha256(data).hexdigest())

    @cached_property
    def config(self) -> ModelConfig:
        """The model's record, checked against the manifest.

        Raises:
            PackageError: If ``config.json`` is not valid or disagrees with the manifest about the
                package's graphs.
        """
        config = ModelConfig.read(self.path / "config.json")
        promised = {probe.file for probe in config.probes}
        if config.has_decoder:
            promised.add("decoder.onnx")
        if config.uncertainty is not None:
            promised.add("uncertainty.onnx")
        if config.content is not None:
            promised.add("content.onnx")
        graphs = {name for name in self.manifest.files if name.endswith(".onnx")}
        if promised != graphs - {"encoder.onnx"}:
            wrong = ", ".join(sorted(promised ^ (graphs - {"encoder.onnx"})))
            raise PackageError(f"{self.path}: config.json and manifest.json disagree on {wrong}")
        return config

    @property
    def size(self) -> int:
        """Total size in bytes of the files in the manifest."""
        return self.manifest.size

    def faults(self) -> dict[str, str]:
        """Return the fault of each bad file by name. The result is empty if all files are good.

        An edited or missing card is not a fault, see `notes`.
        """
        files = self.manifest.files.items()
        faults = {
            **{name: file_fault(self.path, name, e) for name, e in files if name not in ADVISORY},
            **{name: _advisory_fault(self.path / name) for name in ADVISORY},
            **dict.fromkeys(self.extra_files(), "is not in the manifest"),
        }
        return {name: fault for name, fault in faults.items() if fault is not None}

    def notes(self) -> dict[str, str]:
        """Return how advisory files differ from the manifest, by name."""
        notes = {}
        for name in ADVISORY:
            if (entry := self.manifest.files.get(name)) is not None:
                notes[name] = file_fault(self.path, name, entry)
            elif os.path.lexists(self.path / name):
                notes[name] = "is not in the manifest"
        return {name: note for name, note in notes.items() if note is not None}

    def extra_files(self) -> list[str]:
        """Return the files in the folder that do not belong to the package."""
        below = _files_below(self.path) - self.manifest.files.keys() - ADVISORY
        return sorted(name for name in below if not _is_ignored(name))

    def verify(self) -> None:
        """Check the size and sha256 of every file except the card, and that no others exist.

        Raises:
            IntegrityError: If files are bad, missing or extra. The error names all of them.
            PackageError: If the files are good but ``config.json`` is not a valid record.
        """
        faults = self.faults()
        if faults:
            listing = "; ".join(f"{name} {fault}" for name, fault in faults.items())
            raise IntegrityError(f"{self.path}: {listing}", tuple(faults))
        _ = self.config


def is_package(path: str | os.PathLike[str]) -> bool:
    """Whether the folder ``path`` has a manifest."""
    return os.path.isfile(Path(path) / MANIFEST)  # noqa: PTH113 - no OSError on odd names


def write_manifest(path: str | os.PathLike[str]) -> Package:
    """Write the ``manifest.json`` of the files in a folder. This is the last step of an export.

    Raises:
        PackageError: If a file does not belong in a package, a required file is missing, or
            ``config.json`` is not valid.
    """
    path = Path(path)
    files = {}
    for name in sorted(_files_below(path)):
        if _is_ignored(name):
            continue
        with open_regular(path / name) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[name] = {"size": file.tell(), "sha256": digest}
    version = ModelConfig.read(path / "config.json").required_version
    data = json.dumps({"format_version": version, "files": files}, indent=2) + "\n"
    Manifest.parse(data.encode(), str(path))
    write_atomically(path / MANIFEST, data.encode())
    package = Package.open(path)
    _ = package.config
    return package


def file_fault(folder: Path, name: str, entry: FileEntry) -> str | None:
    """Return what is wrong with one file of a package folder, or None if it is good."""
    # A name has at most one folder. If that folder is a link, the file is stored elsewhere.
    if "/" in name and (folder / name).parent.is_symlink():
        return "is in a folder that is a symbolic link"
    try:
        with open_regular(folder / name) as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.size:
                return f"has {size} bytes instead of {entry.size}"
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                return "does not have the manifest's sha256"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _advisory_fault(path: Path) -> str | None:
    """Return why an advisory file is unsafe to open, or None. The file may be missing."""
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_ADVISORY_BYTES:
                return f"has more than {MAX_ADVISORY_BYTES} bytes"
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _files_below(path: Path) -> set[str]:
    """Return everything below ``path`` except real folders, by relative name. Links count."""
    found = set()
    for folder, folders, files in os.walk(path):
        for name in [*files, *folders]:
            full = Path(folder, name)
            if not stat.S_ISDIR(full.lstat().st_mode):
                found.add(full.relative_to(path).as_posix())
    return found
