"""A model package: a folder of weights, facts and golden vectors, described by its manifest.

``manifest.json`` holds size and sha256 of every file. The sha256 of its own bytes is the package's
*revision*: it names the content, wherever the package lies.
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
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from repzoo.errors import IntegrityError, PackageError
from repzoo.files import open_regular, write_atomically
from repzoo.packages.config import ModelConfig

__all__ = [
    "ADVISORY",
    "FORMAT_VERSION",
    "MANIFEST",
    "MAX_ADVISORY_BYTES",
    "SIGNATURE",
    "FileEntry",
    "Manifest",
    "Package",
    "check_file_name",
    "is_package",
    "write_manifest",
]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"

#: The signature of a package in the OpenSSF model-signing format. It stands outside the manifest.
SIGNATURE = "manifest.json.sig"

#: Files for people. Edited or missing they do not break a package: hubs let anyone who may write
#: edit a card, and some write one themselves.
ADVISORY = frozenset({"README.md"})
MAX_ADVISORY_BYTES = 2**20

#: No manifest is larger; anything that is comes from a hub that means harm.
MAX_MANIFEST_BYTES = 2**20

_REQUIRED = ("config.json", "encoder.onnx", "golden.npz")
_TOP_LEVEL = frozenset(
    {
        *_REQUIRED,
        "LICENSE",
        "README.md",
        "decoder.onnx",
        "metrics.json",
        "prior.npz",
        "uncertainty.onnx",
    }
)
# Every file is one of the layout's: weights cannot bring code, pickles or external tensor data
# along, and a name cannot lead out of the folder.
_IN_FOLDERS = re.compile(
    r"probes/[a-z0-9][a-z0-9._-]*\.onnx|figures/[A-Za-z0-9][A-Za-z0-9._-]*\.(?:png|jpg|svg)"
)


def check_file_name(name: str) -> str:
    """Return ``name`` if it is a path that a package may hold.

    Raises:
        ValueError: if it is none: absolute, with ``..``, or simply not part of the layout.
    """
    if name in _TOP_LEVEL or _IN_FOLDERS.fullmatch(name):
        return name
    raise ValueError(f"{name!r} is not a file of a model package")


def _stands_outside(name: str) -> bool:
    # Signatures are called manifest.json.SOMETHING; the others are left by git, by macOS, and by
    # `hf download --local-dir`.
    return name in (MANIFEST, ".gitattributes", ".DS_Store") or name.startswith(
        (MANIFEST + ".", ".git/", ".cache/")
    )


class FileEntry(BaseModel):
    """What the manifest says of one file: its size in bytes and its sha256 in hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """``manifest.json``: the files of a package, by their path inside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Annotated[int, Literal[1]] = FORMAT_VERSION
    files: dict[str, FileEntry]

    @field_validator("format_version")
    @classmethod
    def _known_version(cls, version: int) -> int:
        if version != FORMAT_VERSION:
            raise ValueError(f"this repzoo reads version {FORMAT_VERSION}, not {version}")
        return version

    @field_validator("files")
    @classmethod
    def _known_names(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            check_file_name(name)
        missing = [name for name in _REQUIRED if name not in files]
        if missing:
            raise ValueError(f"{', '.join(missing)} must be there")
        for name in ADVISORY & files.keys():
            if files[name].size > MAX_ADVISORY_BYTES:
                raise ValueError(f"{name} has more than {MAX_ADVISORY_BYTES} bytes")
        if len({name.casefold() for name in files}) != len(files):
            raise ValueError("two names differ only in case")
        return files

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())

    @classmethod
    def parse(cls, data: bytes, source: str = MANIFEST) -> Manifest:
        """Parse and validate a manifest's bytes.

        Args:
            data: the bytes of a ``manifest.json``.
            source: what to call it in an error.

        Raises:
            PackageError: if it is not a valid manifest, or names files that a package cannot hold.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise PackageError(f"{source}: more than {MAX_MANIFEST_BYTES} bytes")
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in error.errors()
            )
            raise PackageError(f"{source}: {problems}") from None


@dataclass(frozen=True)
class Package:
    """A model package in a folder.

    Opening reads the manifest only. `verify` says whether the files are those it lists.

        >>> package = Package.open("zoo/bundled/simvae-mnist")
        >>> package.verify()
        >>> package.config.latent_dim
        10
    """

    path: Path
    manifest: Manifest
    #: sha256 of the bytes of ``manifest.json``, in hex.
    revision: str

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Package:
        """Open the package in the folder ``path``.

        Raises:
            PackageError: if the folder is no package or its manifest is not valid.
        """
        path = Path(path)
        try:
            with open_regular(path / MANIFEST) as file:
                data = file.read(MAX_MANIFEST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise PackageError(f"{path} is not a model package: no {MANIFEST}") from None
        manifest = Manifest.parse(data, str(path / MANIFEST))
        return cls(path, manifest, hashlib.sha256(data).hexdigest())

    @cached_property
    def config(self) -> ModelConfig:
        """The model's record, checked to agree with the manifest.

        Raises:
            PackageError: if ``config.json`` is not valid, or speaks of files that are not there.
        """
        config = ModelConfig.read(self.path / "config.json")
        promised = {probe.file for probe in config.probes}
        if config.has_decoder:
            promised.add("decoder.onnx")
        if config.uncertainty is not None:
            promised.add("uncertainty.onnx")
        graphs = {name for name in self.manifest.files if name.endswith(".onnx")}
        if promised != graphs - {"encoder.onnx"}:
            wrong = ", ".join(sorted(promised ^ (graphs - {"encoder.onnx"})))
            raise PackageError(f"{self.path}: config.json and manifest.json disagree on {wrong}")
        return config

    @property
    def size(self) -> int:
        """Bytes of all files in the manifest."""
        return self.manifest.size

    def faults(self) -> dict[str, str]:
        """What is wrong with which file, by name; empty if every file is the manifest's.

        A card that was edited or is missing is no fault, see `notes`.
        """
        faults = {}
        for name, entry in self.manifest.files.items():
            fault = None if name in ADVISORY else file_fault(self.path, name, entry)
            if fault is not None:
                faults[name] = fault
        for name in ADVISORY:
            fault = _advisory_fault(self.path / name)
            if fault is not None:
                faults[name] = fault
        return faults | dict.fromkeys(self.extra_files(), "is not in the manifest")

    def notes(self) -> dict[str, str]:
        """How advisory files differ from the manifest, by name; empty if they do not."""
        notes = {}
        for name in ADVISORY:
            entry = self.manifest.files.get(name)
            if entry is not None:
                note = file_fault(self.path, name, entry)
            else:
                there = os.path.lexists(self.path / name)
                note = "is not in the manifest" if there else None
            if note is not None:
                notes[name] = note
        return notes

    def extra_files(self) -> list[str]:
        """Files in the folder that are neither in the manifest nor stand outside it."""
        below = _files_below(self.path) - self.manifest.files.keys() - ADVISORY
        return sorted(name for name in below if not _stands_outside(name))

    def verify(self) -> None:
        """Check size and sha256 of every file but the card, and that there are no others.

        Raises:
            IntegrityError: if files are bad, missing or extra; it names every one of them.
            PackageError: if the files are right but ``config.json`` is not a valid record.
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
    """Write the ``manifest.json`` of the files that lie in a folder: the last step of an export.

    Raises:
        PackageError: if a file does not belong in a package, one that must be there is missing, or
            ``config.json`` is not valid.
    """
    path = Path(path)
    files = {}
    for name in sorted(_files_below(path)):
        if _stands_outside(name):
            continue
        with open_regular(path / name) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[name] = {"size": file.tell(), "sha256": digest}
    data = json.dumps({"format_version": FORMAT_VERSION, "files": files}, indent=2) + "\n"
    Manifest.parse(data.encode(), str(path))
    write_atomically(path / MANIFEST, data.encode())
    package = Package.open(path)
    _ = package.config
    return package


def file_fault(folder: Path, name: str, entry: FileEntry) -> str | None:
    """What is wrong with one file of a package folder, or None."""
    # `name` has at most one folder in it; were that a link, the file would lie elsewhere.
    if "/" in name and (folder / name).parent.is_symlink():
        return "lies behind a symbolic link"
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
    """What makes an advisory file one that nobody should open, or None; it may be missing."""
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
    """Everything below ``path`` that is not a real folder, links included, by relative name."""
    found = set()
    for folder, folders, files in os.walk(path):
        for name in [*files, *folders]:
            full = Path(folder, name)
            if not stat.S_ISDIR(full.lstat().st_mode):
                found.add(full.relative_to(path).as_posix())
    return found
