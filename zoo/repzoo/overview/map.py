"""Draw a map of a source of images: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from repzoo.errors import InvalidInput
from repzoo.files import write_atomically
from repzoo.overview.embedded import Embedded
from repzoo.overview.plane import plane

__all__ = ["MOST", "Map", "draw_map"]

#: The number of images on a map by default, and the most there may be. More make a page slow.
MOST, _LIMIT = 5000, 10_000
#: The side of a small picture, and how many there are in a row of the page's picture.
_SIDE, _COLUMNS = 40, 50
#: Folders with a colour of their own; the images of others are grey.
_FOLDERS = 12


@dataclass(frozen=True)
class Map:
    """A map of a source.

    Attributes:
        page: The HTML file.
        shown: The number of images on it.
        images: The number of images of the source that can be read.
        failed: The number of those that cannot.
        unread: Those, for people.
    """

    page: Path
    shown: int
    images: int
    failed: int
    unread: str


def draw_map(
    source: str,
    out: str | Path,
    model: str,
    *,
    hub: str | None = None,
    most: int = MOST,
    seed: int = 0,
    overwrite: bool = False,
    max_skipped: float = 1.0,
) -> Map:
    """Write ``map.html`` of a source into the folder ``out``.

    Args:
        source: Like that of `repzoo.bulk.run.embed_all`.
        out: The folder. It keeps the embeddings, which `find_duplicates` uses as well.
        model: The argument of `repzoo.load`.
        hub: The hub of a model that is given by name.
        most: The number of images on the map. If the source has more, they are spread evenly over
            it.
        seed: The seed of the map.
        overwrite: Discard the embeddings of other images or of another model.
        max_skipped: The share of images that may be bad.

    Raises:
        Conflict: If ``out`` holds the embeddings of other images or of another model.
        InvalidInput: If no image can be read, too many cannot, or ``most`` is not possible.
        MissingExtra: If scikit-learn is not installed.
        RepzooError, OSError: If the model cannot be loaded, or something cannot be read.
    """
    if not 1 <= most <= _LIMIT:
        raise InvalidInput(f"most is {most}; expected 1 to {_LIMIT:,}")
    out = Path(out)
    embedded = Embedded(source, out, model, hub=hub, overwrite=overwrite, max_skipped=max_skipped)
    count = min(most, len(embedded))
    chosen = (np.arange(count) * len(embedded) // count).tolist()
    places = plane(embedded.vectors[chosen], seed)
    content = {
        # Not the whole path, which may say more than those who get the page should know.
        "title": f"{len(embedded):,} images of {embedded.source.rstrip('/').rpartition('/')[2]}",
        "model": f"{embedded.encoder.config.name} {embedded.encoder.revision[:12]}",
        "side": _SIDE,
        "columns": _COLUMNS,
        "ids": [embedded.ids[number] for number in chosen],
        "places": np.round(10_000 * places).astype(int).tolist(),
        "uncertainty": None
        if embedded.uncertainty is None
        else np.round(embedded.uncertainty[chosen].astype(float), 3).tolist(),
        **_folders([embedded.ids[number] for number in chosen]),
        "pictures": base64.b64encode(_pictures(embedded, chosen)).decode(),
    }
    page = out / "map.html"
    template = (files("repzoo.overview") / "map.html").read_text(encoding="utf-8")
    # In a script element, only "<" can end it.
    text = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
    write_atomically(page, template.replace("/*CONTENT*/", text).encode())
    summary = embedded.summary
    return Map(page, count, len(embedded), summary.failed, summary.unread())


def _folders(ids: list[str]) -> dict[str, Any]:
    """Return the names of the largest folders, and the folder of each image, or -1."""
    homes = [name.rpartition("/")[0] for name in ids]
    names, counts = np.unique(homes, return_counts=True)
    if len(names) < 2:
        return {"folders": [], "folder": []}
    largest = sorted(names[np.argsort(-counts, kind="stable")][:_FOLDERS].tolist())
    numbers = {name: number for number, name in enumerate(largest)}
    return {
        "folders": [name or "." for name in largest],
        "folder": [numbers.get(home, -1) for home in homes],
    }


def _pictures(embedded: Embedded, chosen: list[int]) -> bytes:
    """Return all images in small, in rows, as one JPEG file."""
    rows = -(-len(chosen) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _SIDE, rows * _SIDE), "#dddddd")
    for place, number in enumerate(chosen):
        image = embedded.image(number, _SIDE)
        if image is not None:
            row, column = divmod(place, _COLUMNS)
            small = ImageOps.fit(image.convert("RGB"), (_SIDE, _SIDE))
            sheet.paste(small, (column * _SIDE, row * _SIDE))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
