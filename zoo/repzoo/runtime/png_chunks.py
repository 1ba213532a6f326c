"""Remove the metadata of PNG files, so that it cannot decide whether an image is decoded.

Pillow refuses a PNG file with a large text or colour profile, or with a wrong checksum in a chunk
that viewers ignore. Only chunks that say how pixels look or which way up they are remain.
"""

from __future__ import annotations

import zlib

__all__ = ["without_metadata"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Texts in which tools store the EXIF orientation.
_ORIENTATION = {b"Raw profile type exif", b"XML:com.adobe.xmp"}
#: Pillow's limit on a text, before and after decompression.
_MAX_TEXT = 2**20


def without_metadata(data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
    """Return a PNG file without unneeded or damaged ancillary chunks. Other data is unchanged."""
    view = memoryview(data)
    if view[:8] != _SIGNATURE or len(view) < 26:
        return data
    kept, start, at = [], 0, 8
    colour = view[25]  # the colour type in IHDR
    texts: set[bytes] = set()
    while at + 12 <= len(view):
        kind = bytes(view[at + 4 : at + 8])
        end = at + 12 + int.from_bytes(view[at : at + 4])
        if end > len(view) or kind == b"IEND":
            break
        ancillary = kind.isalpha() and kind[:1].islower()
        if ancillary and not _is_needed(kind, view[at:end], colour, texts):
            kept.append(view[start:at])
            start = end
        at = end
    return b"".join([*kept, view[start:]]) if kept else data


def _is_needed(kind: bytes, chunk: memoryview, colour: int, texts: set[bytes]) -> bool:
    content = chunk[8:-4]
    match kind:
        case b"tRNS":
            needed = len(content) == {0: 2, 2: 6}.get(colour, len(content))
        case b"eXIf":
            needed = True
        case b"tEXt" | b"zTXt" | b"iTXt":
            keyword = bytes(content[:80]).partition(b"\0")[0]
            needed = keyword in _ORIENTATION - texts and _is_small(kind, content)
            texts.add(keyword)
        case _:
            needed = False
    return needed and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])


def _is_small(kind: bytes, content: memoryview) -> bool:
    """Whether a text, once decompressed, is within Pillow's limit."""
    if len(content) > _MAX_TEXT:
        return False
    _, _, rest = bytes(content).partition(b"\0")
    if kind == b"zTXt" and rest[:1] == b"\0":
        packed = rest[1:]
    elif kind == b"iTXt" and rest[:1] == b"\1":
        packed = rest[2:].split(b"\0", 2)[-1]
    else:
        return kind != b"zTXt"
    try:
        unpacking = zlib.decompressobj()
        unpacking.decompress(packed, _MAX_TEXT)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail
