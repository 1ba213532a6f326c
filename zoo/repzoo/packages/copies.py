"""Real copies of packages outside the cache."""

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
    """Write a real copy of a verified package to ``directory/NAME``, and verify the copy.

    A package that lies there already is replaced, unless it has files beside its manifest's.

    Raises:
        PackageError: if something that is not to be replaced lies there.
        IntegrityError: if the package changes while it is copied.
        OSError: if the copy cannot be written.
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
        # These are taken as they are; the manifest's sha256 is the revision.
        for file in (*ADVISORY, SIGNATURE, MANIFEST):
            with suppress(FileNotFoundError), open_regular(package.path / file) as source:
                write_atomically(copy / file, source.read(MAX_ADVISORY_BYTES))
        if Package.open(copy).revision != package.revision:
            raise IntegrityError(f"{package.path / MANIFEST} changed meanwhile", (MANIFEST,))
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
        raise PackageError(f"{target} is there and is not a model package: move it away")
    extra = Package.open(target).extra_files()
    if extra:
        raise PackageError(
            f"{target} holds files that are not the package's ({', '.join(extra)}): move it away"
        )
