"""The packages that ship with this installation. They are trusted like its code."""

from __future__ import annotations

import hashlib
from pathlib import Path

from repzoo.files import open_regular
from repzoo.packages.package import MANIFEST, MAX_MANIFEST_BYTES, Package

__all__ = ["bundled_folder", "is_bundled"]


def bundled_folder() -> Path:
    """Return ``zoo/bundled`` of a checkout, or the wheel's folder of packages.

    The folder may be missing.
    """
    package = Path(__file__).parents[1]
    area = package.parent
    if area.name == "zoo" and (area.parent / "pyproject.toml").is_file():
        return area / "bundled"
    return package / "bundled"


def is_bundled(package: Package) -> bool:
    """Whether this exact revision is one of the bundled packages, wherever it is stored."""
    try:
        with open_regular(bundled_folder() / package.config.name / MANIFEST) as file:
            manifest = file.read(MAX_MANIFEST_BYTES)
    except OSError:
        return False
    return hashlib.sha256(manifest).hexdigest() == package.revision
