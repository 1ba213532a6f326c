"""The output of `zoo index search` and `zoo index outliers`: tables and contact sheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from repzoo.errors import InvalidInput
from repzoo.files import write_atomically
from repzoo.report import format_table
from repzoo_client.retrieval import Answer

from repzoo_index.contact_sheet import Tile, contact_sheet, read_image

__all__ = [
    "answer_text",
    "outliers_table",
    "write_outliers_sheet",
    "write_outliers_table",
    "write_sheet",
]


def answer_text(image: Path, answer: Answer, metric: str) -> str:
    """Return a line about the query, and a table of its hits."""
    head = str(image)
    if answer.probability is not None:
        head += f": uncertainty {answer.uncertainty:.3f}"
    if answer.abstained:
        return f"{head}\ntoo uncertain: no answer"
    if not answer.hits:
        return f"{head}\nnothing found"
    rows = [
        (str(rank), f"{hit.distance:.4g}", _number(hit.uncertainty), hit.id)
        for rank, hit in enumerate(answer.hits, 1)
    ]
    header = ("RANK", f"DISTANCE ({metric})", "UNCERTAINTY", "ID")
    return f"{head}\n{format_table(rows, header)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def write_sheet(
    out: Path, query: Path, answer: Answer, metric: str, images: Path | None, model: str
) -> list[Path]:
    """Draw the query and its hits into a PNG file; return the images that cannot be read.

    Raises:
        InvalidInput: If it is not known where the images are, or none of them can be read.
    """
    pictures, missing = _pictures([hit.id for hit in answer.hits], images)
    tiles = [
        Tile(
            picture,
            (f"{rank}.  d = {hit.distance:.3g}", f"u = {_number(hit.uncertainty)}", hit.id),
            hit.uncertainty,
        )
        for rank, (hit, picture) in enumerate(zip(answer.hits, pictures, strict=True), 1)
    ]
    lines = (f"query  u = {_number(answer.uncertainty)}", query.name)
    first = Tile(read_image(query), lines, answer.uncertainty)
    note = "too uncertain: no answer" if answer.abstained else "nothing found"
    title = f"{model}, nearest by {metric}: d is the distance, u the uncertainty"
    write_atomically(out, contact_sheet(first, tiles, title, note))
    return missing


def outliers_table(outliers: Sequence[tuple[str, float]]) -> str:
    """Return a table of images and their uncertainties, which are pairs of an ID and a number."""
    rows = [(str(rank), _number(value), name) for rank, (name, value) in enumerate(outliers, 1)]
    return format_table(rows, ("RANK", "UNCERTAINTY", "ID"))


def write_outliers_table(out: Path, outliers: Sequence[tuple[str, float]]) -> None:
    """Write images and their uncertainties to a CSV file with the columns id and uncertainty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("id", "uncertainty"), *((name, f"{value:.6g}") for name, value in outliers)])
    write_atomically(out, text.getvalue().encode())


def write_outliers_sheet(
    out: Path, outliers: Sequence[tuple[str, float]], images: Path | None, model: str
) -> list[Path]:
    """Draw images with their uncertainties into a PNG file; return those that cannot be read.

    Raises:
        InvalidInput: If it is not known where the images are, or none of them can be read.
    """
    pictures, missing = _pictures([name for name, _ in outliers], images)
    tiles = [
        Tile(picture, (f"{rank}.  u = {_number(value)}", name), value)
        for rank, ((name, value), picture) in enumerate(zip(outliers, pictures, strict=True), 1)
    ]
    write_atomically(out, contact_sheet(None, tiles, f"{model}, most uncertain first"))
    return missing


def _pictures(
    names: Sequence[str], images: Path | None
) -> tuple[list[Image.Image | None], list[Path]]:
    """Return the images of an index, None for each that cannot be read, and the paths of those.

    Raises:
        InvalidInput: If it is not known where the images are, or none of them can be read.
    """
    if images is None and names:
        raise InvalidInput("the index does not know the folder of its images; use --images DIR")
    paths = [(images or Path()) / name for name in names]
    pictures = [read_image(path) for path in paths]
    missing = [path for path, picture in zip(paths, pictures, strict=True) if picture is None]
    if paths and len(missing) == len(paths):
        raise InvalidInput(
            f"{missing[0]} cannot be read, and no other image can; if the images have moved, use "
            "--images DIR"
        )
    return pictures, missing
