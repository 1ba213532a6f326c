"""``source.json`` in the folder of an index: what ``zoo index build`` remembers of its images."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ValidationError

from repzoo.files import write_atomically

__all__ = ["IndexSource", "image_folder", "warning"]

_FILE = "source.json"


class IndexSource(BaseModel):
    """Where the images of an index are, and whether it has them all.

    Attributes:
        images: The folder of the images.
        complete: False from the start of a build until its end.
    """

    images: Path
    complete: bool = True

    @classmethod
    def read(cls, index: str | os.PathLike[str]) -> IndexSource | None:
        """Return what the last build of an index has stored; None if it is not known."""
        try:
            return cls.model_validate_json((Path(index) / _FILE).read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, index: str | os.PathLike[str]) -> None:
        """Store this in an index, if the index is a folder."""
        if Path(index).is_dir():
            write_atomically(Path(index) / _FILE, self.model_dump_json().encode())


def image_folder(index: str | os.PathLike[str]) -> Path | None:
    """Return the folder of the images of an index, or None if it is not known."""
    source = IndexSource.read(index)
    return None if source is None else source.images


def warning(index: str | os.PathLike[str]) -> str | None:
    """Return what users of an index should know if its last build was interrupted, or None."""
    source = IndexSource.read(index)
    if source is None or source.complete:
        return None
    return f"{index} may lack images, because its last build was interrupted: repeat it"
