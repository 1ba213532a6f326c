"""A picture of images in rows, such as the hits of a query next to it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from repzoo.errors import InvalidImage
from repzoo.runtime.images import decode

__all__ = ["Tile", "contact_sheet", "read_image"]

_COLUMNS = 5
_SIDE = 120
_GAP = 14
_TEXT = 15
_INK, _FAINT, _PAPER, _FRAME = "#1a1a1a", "#666666", "#ffffff", "#d0d0d0"
#: Colours of the bar, from certain to uncertain.
_SURE, _UNSURE = (46, 125, 50), (198, 40, 40)


class Tile(NamedTuple):
    """One image and the text below it.

    Attributes:
        image: The image, or None if it cannot be read.
        lines: Up to three lines of text, shortened to the tile's width.
        uncertainty: A number in [0, 1] to draw as a bar, or None for no bar.
    """

    image: Image.Image | None
    lines: Sequence[str]
    uncertainty: float | None


def contact_sheet(query: Tile | None, hits: Sequence[Tile], title: str, note: str = "") -> bytes:
    """Draw a PNG file with the query on the left, twice as large, and its hits in rows of five.

    Args:
        query: The query, or None to draw only the other images.
        hits: The hits, nearest first, or other images.
        title: The text at the top.
        note: The text in place of the hits if there are none.
    """
    rows = max(1 if query is None else 2, -(-len(hits) // _COLUMNS))
    cell = _SIDE + 6 + 3 * (_TEXT + 4)  # the image, the bar and the text
    left = _GAP if query is None else 2 * _SIDE + 3 * _GAP
    width = left + _COLUMNS * (_SIDE + _GAP)
    height = 3 * _GAP + _TEXT + rows * (cell + _GAP)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text(
        (_GAP, _GAP // 2 + 2),
        _fitted(draw, title, width - 2 * _GAP, _TEXT + 2),
        _INK,
        _font(_TEXT + 2),
    )
    top = 2 * _GAP + _TEXT
    if query is not None:
        _paste(sheet, query, _GAP, top, 2 * _SIDE)
        draw.line([(left - _GAP, top), (left - _GAP, height - _GAP)], _FRAME)
    for place, hit in enumerate(hits):
        row, column = divmod(place, _COLUMNS)
        _paste(sheet, hit, left + column * (_SIDE + _GAP), top + row * (cell + _GAP), _SIDE)
    if note and not hits:
        room = width - left - _GAP
        draw.text((left, top + _SIDE), _fitted(draw, note, room, _TEXT + 2), _INK, _font(_TEXT + 2))
    data = io.BytesIO()
    sheet.save(data, "PNG")
    return data.getvalue()


def read_image(path: Path) -> Image.Image | None:
    """Return an image, or None if it cannot be read: it may have moved since it was indexed."""
    try:
        return decode(path.read_bytes())
    except (OSError, InvalidImage):
        return None


def _paste(sheet: Image.Image, tile: Tile, x: int, y: int, side: int) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.rectangle([x - 1, y - 1, x + side, y + side], outline=_FRAME)
    if tile.image is None:
        draw.text((x + 6, y + 4), "cannot be read", _FAINT, _font(_TEXT))
    else:
        image = _scaled(tile.image.convert("RGB"), side)
        sheet.paste(image, (x + (side - image.width) // 2, y + (side - image.height) // 2))
    if tile.uncertainty is not None:
        share = min(1.0, max(0.0, tile.uncertainty))
        red, green, blue = (round(a + share * (b - a)) for a, b in zip(_SURE, _UNSURE, strict=True))
        draw.rectangle([x, y + side + 2, x + side - 1, y + side + 5], "#eeeeee")
        end = x + max(2, round(share * side)) - 1
        draw.rectangle([x, y + side + 2, end, y + side + 5], (red, green, blue))
    for number, line in enumerate(tile.lines[:3]):
        place = (x, y + side + 8 + number * (_TEXT + 4))
        colour = _INK if number < 2 else _FAINT
        draw.text(place, _fitted(draw, line, side, _TEXT), colour, _font(_TEXT))


def _scaled(image: Image.Image, side: int) -> Image.Image:
    """Scale an image to fit: a small one by a whole factor, so that its pixels stay sharp."""
    longest = max(image.size)
    if longest <= side:
        times = side // longest
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _fitted(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> str:
    """Shorten a text in the middle if it is too wide: the end of a path matters more."""
    font = _font(size)
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if draw.textlength(text, font) <= width:
        return text
    for kept in range(len(text), 1, -1):
        short = f"{text[: kept // 3]}…{text[len(text) - kept + kept // 3 :]}"
        if draw.textlength(short, font) <= width:
            return short
    return "…"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
