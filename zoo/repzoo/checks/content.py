"""Check that the files of a package contain what their names say."""

from __future__ import annotations

from pathlib import Path

from repzoo.checks.graphs import check_graph
from repzoo.errors import PackageError
from repzoo.files import open_regular
from repzoo.packages.package import Package

__all__ = ["check_content"]


def check_content(package: Package) -> None:
    """Check the graphs and figures of a package. Nothing is run.

    `Package.verify` compares the files with the manifest, which anyone can write. This function
    checks that their content is allowed.

    Raises:
        PackageError: If a graph is not allowed, see `repzoo.checks.graphs`, or a figure is not an
            image.
    """
    for name in package.manifest.files:
        path = package.path / name
        if name.endswith(".onnx"):
            check_graph(path)
        elif name.startswith("figures/"):
            _check_figure(path)


def _check_figure(path: Path) -> None:
    """Check that a figure has its format's signature and that no data is hidden after its end."""
    with open_regular(path) as file:
        data = file.read()
    match path.suffix:
        case ".png":
            valid = data.startswith(b"\x89PNG\r\n\x1a\n") and _png_end(data) == len(data)
        case ".jpg":
            valid = data.startswith(b"\xff\xd8\xff") and data.rstrip(b"\0").endswith(b"\xff\xd9")
        case _:
            # Text, so not an archive or a program. Pages that show it control its scripts.
            valid = b"<svg" in data[:4096] and b"\0" not in data and data.rstrip().endswith(b">")
    if not valid:
        raise PackageError(f"{path} is not a valid {path.suffix.removeprefix('.').upper()} image")


def _png_end(data: bytes) -> int:
    """Return where the IEND chunk of a PNG file ends, or -1 if the file does not have one."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        kind = data[at + 4 : at + 8]
        at += 12 + length
        if kind == b"IEND":
            return at
    return -1
