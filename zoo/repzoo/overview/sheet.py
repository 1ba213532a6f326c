"""A picture of groups of images, one per row."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from repzoo.overview.embedded import Embedded
from repzoo.overview.groups import Group

__all__ = ["contact_sheet"]

#: Groups that are drawn, images per group, and the width of the sheet in images.
_GROUPS, _MOST, _COLUMNS = 50, 8, 9
_SIDE, _GAP, _PAD, _TEXT = 112, 14, 5, 12
_INK, _FAINT, _PAPER, _FRAME = "#1a1a1a", "#777777", "#ffffff", "#c8c8c8"
_CELL = _SIDE + 2 * (_TEXT + 3)  # the height of an image and its text


def contact_sheet(embedded: Embedded, groups: Sequence[Group]) -> bytes:
    """Draw the first groups as a PNG file, each image with its name and distance below."""
    shown = groups[:_GROUPS]
    places, width, left, top = [], 0, _GAP, _GAP
    for group in shown:  # one after the other, like words in lines
        room = min(len(group.members), _MOST) * (_SIDE + _PAD) + _PAD
        if left > _GAP and left + room > _COLUMNS * (_SIDE + _PAD):
            left, top = _GAP, top + _CELL + 2 * _PAD + _GAP
        places.append((left, top, room))
        left += room + _GAP
        width = max(width, left)
    sheet = Image.new("RGB", (width, top + _CELL + 2 * _PAD + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for group, (left, top, room) in zip(shown, places, strict=True):
        draw.rectangle((left, top, left + room - 1, top + _CELL + 2 * _PAD - 1), outline=_FRAME)
        _draw_group(sheet, draw, embedded, group, left + _PAD, top + _PAD)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _draw_group(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    embedded: Embedded,
    group: Group,
    left: int,
    top: int,
) -> None:
    font = ImageFont.load_default(_TEXT)
    hidden = len(group.members) - _MOST
    for column, number in enumerate(group.members[:_MOST]):
        x = left + column * (_SIDE + _PAD)
        image = embedded.image(number, _SIDE)
        if image is not None:
            scale = _SIDE / max(image.size)
            size = tuple(max(1, round(side * scale)) for side in image.size)
            sheet.paste(image.convert("RGB").resize((size[0], size[1])), (x, top))
        below = f"{group.distances[column]:.3g}"
        if hidden > 0 and column == _MOST - 1:
            below += f", and {hidden:,} more"
        draw.text((x, top + _SIDE + 1), _fitted(draw, embedded.ids[number], font), _INK, font)
        draw.text((x, top + _SIDE + _TEXT + 3), below, _FAINT, font)


def _fitted(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    """Return the end of a path that fits below an image."""
    if draw.textlength(text, font) <= _SIDE:
        return text
    while text and draw.textlength(f"…{text}", font) > _SIDE:
        text = text[1:]
    return f"…{text}"
