"""Image files of every kind over HTTP: how they are decoded, and which are refused."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import repzoo
from PIL import ExifTags, Image

RGB = np.random.default_rng(5).integers(0, 256, (16, 24, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(kind: str) -> tuple[bytes, bytes]:
    """Return a file that EXIF says to rotate, and the same image upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the stored rows run from top to bottom at the right
    upright = Image.fromarray(np.rot90(RGB, -1))
    return encoded(Image.fromarray(RGB), kind, exif=exif, lossless=True), encoded(upright)


def sixteen_bit() -> tuple[bytes, bytes]:
    deep = (GREY.astype(np.uint16) << 8) | 0x55
    return encoded(Image.fromarray(deep)), encoded(Image.fromarray(GREY))


def transparent() -> tuple[bytes, bytes]:
    alpha = np.zeros((*GREY.shape, 4), np.uint8)
    alpha[:, :, :3] = RGB
    alpha[:, 12:, 3] = 255
    shown = RGB.copy()
    shown[:, :12] = 255
    return encoded(Image.fromarray(alpha)), encoded(Image.fromarray(shown))


def palette() -> tuple[bytes, bytes]:
    image = Image.fromarray(RGB).quantize(16)
    return encoded(image), encoded(image.convert("RGB"))


def cmyk() -> tuple[bytes, bytes]:
    image = Image.fromarray(RGB).convert("CMYK")
    data = encoded(image, "JPEG", quality=95)
    return data, encoded(Image.open(io.BytesIO(data)).convert("RGB"))


def animated(kind: str) -> tuple[bytes, bytes]:
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (0, 120, 240)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    return data, encoded(frames[0])


def same_pixels(kind: str) -> tuple[bytes, bytes]:
    options = {"irreversible": False} if kind == "JPEG2000" else {}
    return encoded(Image.fromarray(RGB), kind, **options), encoded(Image.fromarray(RGB))


@pytest.mark.parametrize(
    "pair",
    [
        lambda: turned("PNG"),
        lambda: turned("WEBP"),
        sixteen_bit,
        transparent,
        palette,
        cmyk,
        lambda: animated("PNG"),
        lambda: animated("WEBP"),
        lambda: animated("GIF"),
        *(partial(same_pixels, kind) for kind in ("BMP", "PPM", "TIFF", "JPEG2000")),
        lambda: (encoded(Image.fromarray(GREY), "WEBP", lossless=True), encoded_grey()),
        lambda: (encoded(Image.fromarray(GREY > 99)), encoded_bilevel()),
    ],
    ids=[
        "exif-png", "exif-webp", "16-bit", "alpha", "palette", "cmyk", "apng",
        "animated-webp", "animated-gif", "bmp", "ppm", "tiff", "jpeg2000", "grey-webp", "bilevel",
    ],
)  # fmt: skip
def test_a_file_is_seen_as_the_plain_png_of_what_it_shows(
    server_url: str, pair: Callable[[], tuple[bytes, bytes]]
) -> None:
    given, plain = pair()
    images = [base64.b64encode(data).decode() for data in (given, plain)]
    response = httpx.post(f"{server_url}/embed", json={"model": "tiny", "images": images})
    assert response.status_code == 200, response.text
    one, other = response.json()["embeddings"]
    np.testing.assert_allclose(one, other, atol=1e-6)


def encoded_grey() -> bytes:
    return encoded(Image.fromarray(GREY))


def encoded_bilevel() -> bytes:
    return encoded(Image.fromarray(np.where(GREY > 99, 255, 0).astype(np.uint8)))


def test_a_turned_jpeg_is_turned(server_url: str, tiny_package: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    data = encoded(Image.fromarray(RGB), "JPEG", exif=exif)
    stored = np.asarray(Image.open(io.BytesIO(data)))
    response = httpx.post(
        f"{server_url}/embed", data={"model": "tiny"}, files=[("images", ("x.png", data))]
    )
    expected = repzoo.load(tiny_package, provider="cpu").embed([stored[::-1, ::-1]])
    np.testing.assert_allclose(response.json()["embeddings"], expected, atol=1e-6)


def chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def large(kind: str, **options: Any) -> bytes:
    return encoded(Image.new("L", (2000, 2000)), kind, **options)


def tiled(side: int) -> bytes:
    """A TIFF file of 8 x 8 pixels in a tile of ``side`` x ``side``."""
    tags = [(256, 8), (257, 8), (258, 8), (259, 8), (262, 1), (277, 1)]  # Deflate, one grey byte
    tags += [(322, side), (323, side), (324, 200), (325, 12)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return head.ljust(200, b"\0") + zlib.compress(bytes(2**10))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        *((encoded(Image.fromarray(RGB), kind)[:-40], 422) for kind in ("PNG", "JPEG", "WEBP")),
        (large("PNG"), 413),
        (large("JPEG"), 413),
        (large("WEBP"), 413),
        (png(2**31 - 1, 2**31 - 1), 413),
        (png(0, 8), 422),
        (png(8, 8, chunk(b"IDAT", b"not zlib")), 422),
        # A harmless image with text that inflates to 64 MB.
        (png(8, 8, chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**26), 9))), 422),
        # More pixels than the header says.
        (png(8, 8, chunk(b"IDAT", zlib.compress(bytes(2**24), 9))), 200),
        *(
            (encoded(Image.fromarray(RGB), kind)[:99], 422)
            for kind in ("BMP", "GIF", "PPM", "TIFF")
        ),
        (large("GIF"), 413),
        (large("TIFF", compression="tiff_lzw"), 413),
        (large("JPEG2000"), 413),
        # Tiles that are larger than the limit, in a small image.
        (tiled(512), 413),
        # Pillow would decode them in Python.
        (b"P6 300 300 254\n" + bytes(270_000), 413),
        (b"P6 30 30 254\n" + bytes(2700), 200),
        # The decoder of AVIF has no limit.
        *((encoded(Image.fromarray(RGB), "AVIF"), 422) for _ in range("AVIF" in Image.SAVE)),
    ],
)
def test_what_is_cut_off_or_blows_up_is_refused(server_url: str, data: bytes, status: int) -> None:
    good = encoded_grey()
    images = [base64.b64encode(each).decode() for each in (good, data)]
    response = httpx.post(f"{server_url}/embed", json={"model": "tiny", "images": images})
    assert response.status_code == status, response.text
    if status != 200:
        assert response.json()["index"] == 1
    # Other requests are not affected.
    request = {"model": "tiny", "images": images[:1]}
    assert httpx.post(f"{server_url}/embed", json=request).status_code == 200
