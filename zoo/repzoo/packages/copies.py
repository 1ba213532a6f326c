"""Copy packages out of the cache."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from repzoo.errors import IntegrityError, PackageError
from repzoo.files import (
    copy_checked,
    fsync_folder,
    no_space_at,
    open_regular,
    temporary_folder,
    write_atomically,
)
from repzoo.packages.package import (
    ADVISORY,
    MANIFEST,
    MAX_ADVISORY_BYTES,
    SIGNATURE,
    Package,
    is_package,
)

__all__ = ["copy_out"]


def copy_out(package: Package, directory: Path) -> Package:
    """Copy a verified package to ``directory/NAME`` and verify the copy.

    An existing package in that folder is replaced, unless it holds files that are not in its
    manifest.

    Raises:
        PackageError: If something other than a replaceable package exists in that place.
        IntegrityError: If the package changes while it is copied.
        OSError: If the copy cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / package.config.name
    if os.path.lexists(target):
        _check_replaceable(target)
    with (
        no_space_at(target),
        temporary_folder(directory, f".{package.config.name}.") as scratch,
    ):
        copy = scratch / "new"
        copy.mkdir()
        for file, entry in package.manifest.files.items():
            if file in ADVISORY:
                continue
            (copy / file).parent.mkdir(exist_ok=True)
            with open_regular(package.path / file) as source:
                fault = copy_checked(source, copy / file, entry.size, entry.sha256)
            if fault is not None:
                raise IntegrityError(f"{package.path / file} {fault}", (file,))
        # The manifest does not list a sha256 for these; its own sha256 is the revision.
        for file in (*ADVISORY, SIGNATURE, MANIFEST):
            with suppress(FileNotFoundError), open_regular(package.path / file) as source:
                write_atomically(copy / file, source.read(MAX_ADVISORY_BYTES))
        if Package.open(copy).revision != package.revision:
            raise IntegrityError(
                f"{package.path / MANIFEST} changed while it was copied", (MANIFEST,)
            )
        if target.exists():
            target.rename(scratch / "old")
        try:
            copy.rename(target)
        except OSError:
            with suppress(FileNotFoundError):
                (scratch / "old").rename(target)
            raise
        fsync_folder(directory)
    return Package.open(target)


def _check_replaceable(target: Path) -> None:
    if target.is_symlink() or not is_package(target):
        raise PackageError(f"{target} exists and is not a model package: move it away")
    extra = Package.open(target).extra_files()
    if extra:
        raise PackageError(
            f"{target} holds files that are not in its manifest ({', '.join(extra)}): move it away"
        )
