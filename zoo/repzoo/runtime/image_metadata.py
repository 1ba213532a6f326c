"""Find the orientation of an image file, and remove the metadata that Pillow would parse.

Metadata must not decide whether an image is decoded or how long that takes. Pillow refuses PNG
files with a large text or colour profile, or with a wrong checksum in a chunk that viewers ignore.
It parses all EXIF tags, and warns about each damaged one.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal, NamedTuple

from repzoo.errors import InvalidImage

__all__ = ["Stripped", "strip_metadata"]

#: Limit on chunks or segments. Pillow takes microseconds for each.
_MAX_PARTS = 2**16
#: Limit on a compressed text in bytes.
_MAX_TEXT = 2**20

_PNG = b"\x89PNG\r\n\x1a\n"
_XMP_IN_PNG = b"XML:com.adobe.xmp"
_EXIF_IN_PNG = b"Raw profile type exif"
_XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_EXIF = b"Exif\0\0"
#: The only JPEG application segments that affect decoding: JFIF and Adobe.
_APP0, _APP14 = 0xE0, 0xEE
_COMMENT, _START_OF_SCAN, _END_OF_IMAGE = 0xFE, 0xDA, 0xD9
#: Markers without a segment: restarts, and one for temporary use in arithmetic coding.
_BARE = (*range(0xD0, 0xD8), 0x01)
#: Start of a frame, by its coding: Huffman or arithmetic, in one pass or progressive.
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA)

_ORIENTATION_TAG = 0x0112
_ORIENTATION_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


class Stripped(NamedTuple):
    """A file without metadata."""

    data: bytes | bytearray | memoryview
    #: The EXIF orientation, 1 if the file does not state it, or None for formats not handled here.
    orientation: int | None
    #: Whether the file is a JPEG file whose only scan holds all components, so that decoding needs
    #: a few rows at a time. Otherwise libjpeg keeps the coefficients of the whole image.
    one_scan: bool = False


class _Metadata:
    """The metadata that may state the orientation, and how a JPEG file is coded."""

    exif = b""
    xmp = b""
    #: Components of a JPEG file that is not progressive, or 0.
    components = 0
    one_scan = False


def strip_metadata(data: bytes | bytearray | memoryview) -> Stripped:
    """Strip a PNG, JPEG or WebP file. Files of other formats are returned unchanged.

    Raises:
        InvalidImage: If the file has far more chunks or segments than any real image.
    """
    view = memoryview(data)
    found = _Metadata()
    magic = bytes(view[:12])
    if magic.startswith(_PNG) and len(view) > 25:
        dropped = list(_png_metadata(view, found))
    elif magic.startswith(b"\xff\xd8\xff"):
        dropped = list(_jpeg_metadata(view, found))
    elif magic[:4] == b"RIFF" and magic[8:] == b"WEBP":
        _read_webp_metadata(view, found)
        dropped = []
    else:
        return Stripped(data, None)
    if dropped:
        starts, ends = [0, *(end for _, end in dropped)], [*(at for at, _ in dropped), len(view)]
        data = b"".join(view[at:end] for at, end in zip(starts, ends, strict=True) if at < end)
    orientation = _orientation_in_exif(found.exif.removeprefix(_EXIF))
    in_xmp = _ORIENTATION_IN_XMP.search(found.xmp)
    if orientation is None and in_xmp is not None:
        orientation = int(in_xmp[1])
    return Stripped(data, orientation or 1, found.one_scan)


def _png_metadata(view: memoryview, found: _Metadata) -> Iterator[tuple[int, int]]:
    """Yield the chunks to drop: all ancillary ones except a valid transparency."""
    colour = view[25]  # the colour type in IHDR
    at = 8
    for _ in range(_MAX_PARTS):
        kind = bytes(view[at + 4 : at + 8])
        end = at + 12 + int.from_bytes(view[at : at + 4])
        if end > len(view) or kind == b"IEND":
            return
        if kind.isalpha() and kind[:1].islower():
            content = view[at + 8 : end - 4]
            valid = zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(view[end - 4 : end])
            if valid and kind == b"eXIf":
                found.exif = bytes(content)
            elif valid and kind in (b"tEXt", b"zTXt", b"iTXt"):
                _read_png_text(kind, content, found)
            size = {0: 2, 2: 6}.get(colour, len(content))
            if not (valid and kind == b"tRNS" and len(content) == size):
                yield at, end
        at = end
    raise InvalidImage(f"the file has more than {_MAX_PARTS} chunks")


def _read_png_text(kind: bytes, content: memoryview, found: _Metadata) -> None:
    if bytes(content[:22]).partition(b"\0")[0] not in (_XMP_IN_PNG, _EXIF_IN_PNG):
        return
    keyword, _, text = bytes(content).partition(b"\0")
    if kind == b"zTXt":
        text = _unpacked(text[1:])
    elif kind == b"iTXt":  # flag, method, language, translated keyword, text
        packed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[-1]
        text = _unpacked(text) if packed else text
    if keyword == _XMP_IN_PNG:
        found.xmp = text
    elif not found.exif:
        with suppress(ValueError):
            found.exif = bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode())


def _jpeg_metadata(view: memoryview, found: _Metadata) -> Iterator[tuple[int, int]]:
    """Yield the segments to drop: comments, and application segments except JFIF and Adobe."""
    at = 2
    for _ in range(_MAX_PARTS):
        if at + 4 > len(view):
            return
        marker = view[at + 1]
        if view[at] != 0xFF or marker in (0x00, 0xFF):
            at += 1  # padding
            continue
        if marker in _BARE:
            at += 2
            continue
        if marker == _START_OF_SCAN:
            found.one_scan = 0 < found.components == view[at + 4]
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            return
        end = at + 2 + int.from_bytes(view[at + 2 : at + 4])
        if (_APP0 < marker <= 0xEF and marker != _APP14) or marker == _COMMENT:
            content = view[at + 4 : end]
            if content[:6] == _EXIF:
                found.exif += bytes(content[6:])
            elif content[: len(_XMP_IN_JPEG)] == _XMP_IN_JPEG:
                found.xmp = bytes(content)
            yield at, min(end, len(view))
        elif marker in _SEQUENTIAL and at + 9 < len(view):
            found.components = view[at + 9]
        elif marker in _PROGRESSIVE:
            found.components = 0
        at = end
    raise InvalidImage(f"the file has more than {_MAX_PARTS} segments")


def _read_webp_metadata(view: memoryview, found: _Metadata) -> None:
    at = 12
    for _ in range(_MAX_PARTS):
        kind, size = bytes(view[at : at + 4]), int.from_bytes(view[at + 4 : at + 8], "little")
        if kind == b"EXIF":
            found.exif = bytes(view[at + 8 : at + 8 + size])
        elif kind == b"XMP ":
            found.xmp = bytes(view[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
        if at >= len(view):
            return


def _orientation_in_exif(exif: bytes) -> int | None:
    order: Literal["big", "little"] = "big" if exif[:2] == b"MM" else "little"
    start = int.from_bytes(exif[4:8], order)
    count = int.from_bytes(exif[start : start + 2], order)
    for at in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        if int.from_bytes(exif[at : at + 2], order) == _ORIENTATION_TAG:
            return int.from_bytes(exif[at + 8 : at + 10], order)
    return None


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MAX_TEXT)
    except zlib.error:
        return b""
