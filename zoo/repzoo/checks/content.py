"""Whether what a package's files hold is what their names say, before anything opens them."""

from __future__ import annotations

from pathlib import Path

from repzoo.checks.graphs import check_graph
from repzoo.errors import PackageError
from repzoo.files import open_regular
from repzoo.packages.package import Package

__all__ = ["check_content"]


def check_content(package: Package) -> None:
    """Check the graphs and the pictures of a package, whose files are taken as they are.

    `Package.verify` says that they are the manifest's; this says that they are what a package may
    hold, whoever wrote the manifest. Nothing is run.

    Raises:
        PackageError: if a graph is not one that a package may hold, see `repzoo.checks.graphs`, or a
            picture is none.
    """
    for name in package.manifest.files:
        path = package.path / name
        if name.endswith(".onnx"):
            check_graph(path)
        elif name.startswith("figures/"):
            _check_picture(path)


def _check_picture(path: Path) -> None:
    """A picture begins as its kind does and ends where it ends: nothing is hidden behind it."""
    with open_regular(path) as file:
        data = file.read()
    match path.suffix:
        case ".png":
            fine = data.startswith(b"\x89PNG\r\n\x1a\n") and _png_end(data) == len(data)
        case ".jpg":
            fine = data.startswith(b"\xff\xd8\xff") and data.rstrip(b"\0").endswith(b"\xff\xd9")
        case _:
            # Text, and so no archive or program. What a page does with its scripts is not up to us.
            fine = b"<svg" in data[:4096] and b"\0" not in data and data.rstrip().endswith(b">")
    if not fine:
        raise PackageError(f"{path} is not the picture that its name says")


def _png_end(data: bytes) -> int:
    """Where the last chunk of a PNG file ends; -1 if there is none."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        kind = data[at + 4 : at + 8]
        at += 12 + length
        if kind == b"IEND":
            return at
    return -1
