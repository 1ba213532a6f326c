"""The packages that came with this installation, which are trusted as its code is."""

from __future__ import annotations

import hashlib
from pathlib import Path

from repzoo.files import open_regular
from repzoo.packages.package import MANIFEST, MAX_MANIFEST_BYTES, Package

__all__ = ["bundled_folder", "is_bundled"]


def bundled_folder() -> Path:
    """A checkout's ``zoo/bundled``, else the folder of packages in the wheel; it may be missing."""
    package = Path(__file__).parents[1]
    area = package.parent
    if area.name == "zoo" and (area.parent / "pyproject.toml").is_file():
        return area / "bundled"
    return package / "bundled"


def is_bundled(package: Package) -> bool:
    """Whether this very revision is one of the bundled packages, wherever it lies now."""
    try:
        with open_regular(bundled_folder() / package.config.name / MANIFEST) as file:
            manifest = file.read(MAX_MANIFEST_BYTES)
    except OSError:
        return False
    return hashlib.sha256(manifest).hexdigest() == package.revision
