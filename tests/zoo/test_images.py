"""Preprocessing of every kind of image, and errors for everything else."""

from __future__ import annotations

import base64
import hashlib
import io
import pickle
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from repzoo.errors import InvalidImage, InvalidInput
from repzoo.packages.config import InputSpec, ResizePolicy
from repzoo.runtime.images import as_pixels, batches, decode, preprocess

GREY = InputSpec(height=8, width=8, channels=1)
COLOUR = InputSpec(height=8, width=8, channels=3)

rng = np.random.default_rng(0)
LEVELS = rng.integers(0, 256, (8, 8), dtype=np.uint8)
COLOURS = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
ALPHA = rng.integers(0, 256, (8, 8), dtype=np.uint8)
WIDE = rng.integers(0, 65536, (8, 8), dtype=np.uint16)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    """A chunk of a PNG file."""
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes, end: bytes = b""
) -> bytes:
    """A PNG file written by hand, which Pillow cannot write or should not hold in memory."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), end]
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts, chunk(b"IEND", b"")])


def with_exif(image: Image.Image, orientation: int, kind: str = "PNG", **options: object) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encode(image, kind, exif=exif, **options)


def over_white(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha.astype(float) / 255
    if values.ndim == 3:
        share = share[..., None]
    return values * share + 255 * (1 - share)


def luma(colours: np.ndarray) -> np.ndarray:
    return colours @ np.array([0.299, 0.587, 0.114])


def palette_image() -> tuple[Image.Image, np.ndarray]:
    indices = rng.integers(0, 4, (8, 8), dtype=np.uint8)
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 200, 0], [255, 255, 0]], np.uint8)
    image = Image.fromarray(indices, "L").convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette(colours.ravel().tolist())
    return image, colours[indices]


def wide_colour_png() -> tuple[bytes, np.ndarray]:
    values = rng.integers(0, 65536, (8, 8, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(8, 8, 16, 2, rows), values >> 8


PALETTE, PALETTE_COLOURS = palette_image()
WIDE_COLOUR, WIDE_COLOUR_HIGH = wide_colour_png()
BITS = (LEVELS > 127).astype(np.uint8) * 255
CMYK = rng.integers(0, 256, (8, 8, 4), dtype=np.uint8)
CMYK_AS_RGB = (255.0 - CMYK[..., :3]) * (255.0 - CMYK[..., 3:]) / 255
REAL = rng.random((8, 8)).astype(np.float32)
SEE_THROUGH = np.dstack([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)])

# name -> file, its expected pixels in its own mode, and the tolerance in levels.
MODES: dict[str, tuple[bytes, np.ndarray, float]] = {
    "grey": (encode(Image.fromarray(LEVELS)), LEVELS, 0),
    "colour": (encode(Image.fromarray(COLOURS)), COLOURS, 0),
    "grey with alpha": (
        encode(Image.merge("LA", [Image.fromarray(LEVELS), Image.fromarray(ALPHA)])),
        over_white(LEVELS, ALPHA),
        1,
    ),
    "colour with alpha": (
        encode(Image.fromarray(np.dstack([COLOURS, ALPHA]))),
        over_white(COLOURS, ALPHA),
        1,
    ),
    "see-through": (encode(Image.fromarray(SEE_THROUGH)), np.full((8, 8, 3), 255), 0),
    "one bit": (encode(Image.fromarray(BITS).convert("1")), BITS, 0),
    "palette": (encode(PALETTE), PALETTE_COLOURS, 0),
    "palette, one entry see-through": (
        encode(PALETTE, transparency=1),
        np.where((PALETTE_COLOURS == [200, 0, 0]).all(axis=2, keepdims=True), 255, PALETTE_COLOURS),
        0,
    ),
    "grey, one level see-through": (
        encode(Image.fromarray(BITS), transparency=0),
        np.full((8, 8), 255),
        0,
    ),
    "16-bit grey": (encode(Image.fromarray(WIDE)), WIDE >> 8, 0),
    "16-bit grey TIFF": (encode(Image.fromarray(WIDE), "TIFF"), WIDE >> 8, 0),
    "16-bit grey PGM": (
        b"P5 8 8 65535\n" + WIDE.astype(">u2").tobytes(),
        WIDE >> 8,
        0,
    ),
    "16-bit colour": (WIDE_COLOUR, WIDE_COLOUR_HIGH, 0),
    "32-bit integers": (encode(Image.fromarray(WIDE.astype(np.int32)), "TIFF"), WIDE >> 8, 0),
    "floats": (encode(Image.fromarray(REAL), "TIFF"), REAL * 255, 0.5),
    "CMYK": (encode(Image.fromarray(CMYK, "CMYK"), "TIFF"), CMYK_AS_RGB, 1),
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("spec", [GREY, COLOUR], ids=["to grey", "to colour"])
def test_colour_modes(name: str, spec: InputSpec) -> None:
    data, expected, off = MODES[name]
    if spec.channels == 1 and expected.ndim == 3:
        expected, off = luma(expected), off + 0.5
    expected = expected.reshape(8, 8, -1)  # a grey image has the same level in all channels
    (pixels,) = as_pixels(data, spec)
    assert pixels.dtype == np.uint8
    assert pixels.shape == spec.shape
    assert np.abs(pixels - expected.astype(float)).max() <= off + 1e-3


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored.swapaxes(0, 1), 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    stored = np.zeros((8, 8), np.uint8)
    stored[:3, :6] = 255
    stored[:6, :3] = 200
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    data = with_exif(Image.fromarray(stored), orientation, kind, **options)
    (pixels,) = as_pixels(data, GREY)
    difference = pixels[..., 0].astype(int) - UPRIGHT[orientation](stored)
    assert np.abs(difference).max() <= (3 if kind == "JPEG" else 0)


def test_orientation_comes_before_the_crop() -> None:
    tall = np.zeros((24, 8), np.uint8)
    tall[8:16] = 255
    assert (as_pixels(with_exif(Image.fromarray(tall), 6), GREY) == 255).all()


def test_an_opened_image_gives_the_same_as_its_bytes_and_is_not_changed() -> None:
    data = with_exif(Image.fromarray(COLOURS), 6)
    image = Image.open(io.BytesIO(data))
    once, twice = preprocess(image, COLOUR), preprocess(image, COLOUR)
    assert np.array_equal(once, as_pixels(data, COLOUR)[0])
    assert np.array_equal(once, twice)
    assert image.getexif()[ExifTags.Base.Orientation] == 6


def test_decoded_images_are_not_turned_twice() -> None:
    image = decode(with_exif(Image.fromarray(COLOURS), 6))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.rot90(COLOURS, -1))
    assert np.array_equal(preprocess(image, COLOUR), np.rot90(COLOURS, -1))


def test_damaged_exif_does_not_affect_the_pixels() -> None:
    data = encode(Image.fromarray(LEVELS), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03")
    assert np.array_equal(as_pixels(data, GREY)[0, ..., 0], LEVELS)


#: 3 MiB of zeros, compressed. Pillow allows 1 MiB.
LARGE = zlib.compress(bytes(3 * 2**20))
METADATA = {
    "a large compressed text": chunk(b"zTXt", b"Comment\0\0" + LARGE),
    "a large international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LARGE),
    "large XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
    "large raw EXIF": chunk(b"zTXt", b"Raw profile type exif\0\0" + LARGE),
    "a large colour profile": chunk(b"iCCP", b"profile\0\0" + LARGE),
    "70 texts of 1 MiB": chunk(b"tEXt", b"Comment\0" + bytes(2**20 - 8)) * 70,
    "a text with a wrong checksum": chunk(b"tEXt", b"Comment\0text", crc=1),
    "EXIF with a wrong checksum": chunk(b"eXIf", b"MM\0*", crc=1),
    "an unknown compression": chunk(b"zTXt", b"Raw profile type exif\0\x07text"),
    "a text in place of a transparency": chunk(b"tEXt", b"transparency\0text"),
    "a short transparency": chunk(b"tRNS", b"\0"),
    "a short resolution": chunk(b"pHYs", b"\0"),
    "a short gamma": chunk(b"gAMA", b""),
    "a short animation": chunk(b"acTL", b"\0") + chunk(b"fcTL", b"\0"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_never_decides_whether_a_png_is_decoded(name: str) -> None:
    samples = b"\0\x05\x07"
    for data in (
        png(2, 1, 8, 0, samples, METADATA[name]),
        png(2, 1, 8, 0, samples, end=METADATA[name]),
    ):
        assert np.asarray(decode(memoryview(data))).tolist() == [[5, 7]]


@pytest.mark.parametrize("compressed", [False, True])
def test_xmp_orientation_of_a_png_is_applied(compressed: bool) -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    text = b"\1\0\0\0" + zlib.compress(xmp) if compressed else b"\0\0\0\0" + xmp
    orientation = chunk(b"iTXt", b"XML:com.adobe.xmp\0" + text)
    data = png(2, 1, 8, 0, b"\0\x05\x07", METADATA["a large colour profile"], orientation)
    assert np.asarray(decode(data)).tolist() == [[7, 5]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_tags_cost_nothing_and_keep_the_orientation(kind: str) -> None:
    # Pillow would warn about each of these tags.
    tags = [(0x0112, 3, 1, 3), *((1000 + i, 7, 10**6, 8) for i in range(4000))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    levels = np.repeat(np.array([[50, 200]], np.uint8), 8, axis=0).repeat(4, axis=1)
    data = encode(Image.fromarray(levels), kind, exif=exif, quality=100)
    difference = np.asarray(decode(data).convert("L")).astype(int) - levels[:, ::-1]
    assert np.abs(difference).max() <= 3


def test_orientation_of_xmp_and_raw_profiles() -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="3"/>'
    segment = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
    plain = np.asarray(decode(JPEG))
    assert np.array_equal(np.asarray(decode(JPEG[:2] + segment + JPEG[2:])), plain[::-1, ::-1])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    profile = b"\nexif\n  20\n" + exif.tobytes().hex().encode()
    text = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))
    assert np.asarray(decode(png(2, 1, 8, 0, b"\0\5\7", text))).tolist() == [[7, 5]]


ISSUE_9281 = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABEAAAAABq7kcWAAAAAnRSTlMAAHaTzTgAAAALSURBVHicY2BgAAAAAwABuK06Y"
    "wAAAABJRU5ErkJggg=="
)
#: bits per sample -> samples as bytes, the transparent level, and the pixels over white.
GREY_LEVELS = {
    1: (b"\x40", 1, [0, 255]),
    2: (b"\x60", 1, [255, 170]),
    4: (b"\x56", 5, [255, 102]),
    8: (b"\x05\x06", 5, [255, 6]),
    16: (b"\x05\x01\x05\x02", 0x501, [255, 5]),
}


@pytest.mark.parametrize("bits", GREY_LEVELS)
def test_a_transparent_level_of_a_png_counts_in_the_bits_of_the_file(bits: int) -> None:
    samples, level, expected = GREY_LEVELS[bits]
    data = png(2, 1, bits, 0, b"\0" + samples, chunk(b"tRNS", struct.pack(">H", level)))
    spec = InputSpec(height=1, width=2, channels=1)
    assert as_pixels(data, spec).ravel().tolist() == expected
    image = Image.open(io.BytesIO(data))
    assert preprocess(image, spec).ravel().tolist() == expected
    assert preprocess(image, spec).ravel().tolist() == expected


def test_a_transparent_colour_of_a_16_bit_png_is_compared_exactly() -> None:
    assert np.asarray(decode(base64.b64decode(ISSUE_9281))).tolist() == [[255]]
    clear = struct.pack(">3H", 0x1234, 5, 5)
    samples = clear + struct.pack(">3H", 0x1235, 5, 5)
    data = png(2, 1, 16, 2, b"\0" + samples, chunk(b"tRNS", clear))
    assert np.asarray(decode(data)).tolist() == [[[255, 255, 255], [0x12, 0, 0]]]
    opened = preprocess(Image.open(io.BytesIO(data)), InputSpec(height=1, width=2, channels=3))
    assert opened.tolist() == [[[255, 255, 255], [0x12, 0, 0]]]


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "WEBP"])
def test_formats(kind: str) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow has no {kind}")
    smooth = np.add.outer(np.arange(8), np.arange(8)).astype(np.uint8) * 16
    (pixels,) = as_pixels(encode(Image.fromarray(smooth), kind), GREY)
    assert np.abs(pixels[..., 0].astype(int) - smooth).max() <= 12


def test_the_first_frame_is_taken() -> None:
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (10, 200)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (as_pixels(data, GREY) == 10).all()


@pytest.mark.parametrize("size", [(1, 1), (9, 8), (16, 24), (100, 30), (7, 300), (640, 480)])
@pytest.mark.parametrize("filter_name", ["box", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("rounding", ["nearest", "floor"])
def test_crop_is_scaling_the_whole_and_cutting_out_the_centre(
    size: tuple[int, int], filter_name: str, rounding: str
) -> None:
    policy = ResizePolicy.model_validate({"filter": filter_name, "rounding": rounding})
    spec = InputSpec(height=8, width=12, channels=3, resize=policy)
    width, height = size
    image = Image.fromarray(
        np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )
    if width * 8 > height * 12:  # wider than the target
        exact = width * 8 / height
        scaled = (int(exact + 0.5) if rounding == "nearest" else int(exact), 8)
    else:
        exact = height * 12 / width
        scaled = (12, int(exact + 0.5) if rounding == "nearest" else int(exact))
    left, top = (scaled[0] - 12) // 2, (scaled[1] - 8) // 2

    resampling = Image.Resampling[filter_name.upper()]
    whole = image.resize((scaled[0], height), resampling).resize(scaled, resampling)
    expected = np.asarray(whole.crop((left, top, left + 12, top + 8))).astype(int)
    difference = np.abs(preprocess(image, spec) - expected)
    if filter_name == "box":
        # For pixels on the edge of a box, the last bit decides to which side they belong.
        assert np.median(difference) == 0
    else:
        assert difference.max() <= 1


@pytest.mark.parametrize("size", [(640, 480), (300, 500), (40, 40), (1000, 31)])
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_a_size_before_the_crop(size: tuple[int, int], fit: str) -> None:
    policy = ResizePolicy.model_validate({"fit": fit, "rounding": "floor", "size": (32, 40)})
    spec = InputSpec(height=28, width=36, channels=3, resize=policy)
    assert spec.scaled == (32, 40)
    random = np.random.default_rng(2)
    image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    scale = max(40 / size[0], 32 / size[1])
    scaled = (40, 32)
    if fit == "crop":
        scaled = (max(40, int(size[0] * scale + 1e-6)), max(32, int(size[1] * scale + 1e-6)))
    resampling = Image.Resampling.BILINEAR
    whole = image.resize((scaled[0], size[1]), resampling).resize(scaled, resampling)
    left, top = (scaled[0] - 36) // 2, (scaled[1] - 28) // 2
    expected = np.asarray(whole.crop((left, top, left + 36, top + 28))).astype(int)
    assert np.abs(preprocess(image, spec) - expected).max() <= 1


def test_the_size_before_the_crop_is_not_smaller_than_the_crop() -> None:
    with pytest.raises(ValueError, match=r"resize.size is 8 x 7, smaller than the input of 8 x 8"):
        InputSpec(height=8, width=8, channels=1, resize=ResizePolicy(size=(8, 7)))


def test_resizing_gives_these_pixels_with_every_version_of_pillow() -> None:
    # Pillow 13 changed the order in which it scales rows and columns.
    noise = np.random.default_rng(3).integers(0, 256, (57, 33, 3), dtype=np.uint8)
    for name, expected in [
        ("bilinear", "a3f4a83e99ce8a81"),
        ("bicubic", "38076219700c2a2e"),
        ("lanczos", "186f87f0271f2f86"),
    ]:
        policy = ResizePolicy.model_validate({"filter": name})
        spec = InputSpec(height=28, width=28, channels=3, resize=policy)
        digest = hashlib.sha256(preprocess(Image.fromarray(noise), spec).tobytes()).hexdigest()
        assert digest[:16] == expected, name


def test_squash_keeps_the_whole_image() -> None:
    spec = GREY.model_copy(update={"resize": ResizePolicy(fit="squash")})
    wide = np.repeat(np.arange(8, dtype=np.uint8) * 30, 50)[None].repeat(8, 0)
    (pixels,) = as_pixels(wide, spec)
    assert np.abs(pixels[..., 0] - np.arange(8.0) * 30).max() <= 5


@pytest.mark.parametrize("shape", [(1, 65500), (65500, 1), (2, 30000)])
def test_a_thin_image_costs_no_more_than_its_size(shape: tuple[int, int]) -> None:
    # Scaled as a whole, the first would be 224 x 14,672,000 pixels.
    spec = InputSpec(height=224, width=224, channels=3)
    start = time.monotonic()
    pixels = as_pixels(encode(Image.fromarray(np.full(shape, 77, np.uint8))), spec)
    assert (pixels == 77).all()
    assert time.monotonic() - start < 5


PHOTO = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
JPEG = encode(Image.fromarray(PHOTO), "JPEG")
PNG = encode(Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)))

NOT_IMAGES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "a text file": (b"hello, this is not an image\n", "known format"),
    "noise": (rng.bytes(5000), "known format"),
    "a web page": (b"<!DOCTYPE html><html><body>404</body></html>", "known format"),
    "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "known format"),
    "PostScript, which runs programs": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
        "known format",
    ),
    "a JPEG cut in half": (JPEG[: len(JPEG) // 2], "truncated|cannot be read"),
    "a PNG cut in half": (PNG[: len(PNG) // 2], "truncated|cannot be read"),
    "a PNG's signature": (PNG[:8], "known format|cannot be read"),
    "a PNG with other pixels than its checksum": (
        PNG[:2000] + bytes([PNG[2000] ^ 1]) + PNG[2001:],
        "cannot be read",
    ),
    "a bomb of 3.6 gigapixels in 100 bytes": (png(60000, 60000, 8, 2, b""), "exceeds|limit"),
    "a bomb of 100 megapixels": (png(10000, 10000, 1, 0, bytes(1251 * 10000)), "exceeds|limit"),
    "68 megapixels": (png(8200, 8300, 1, 0, bytes(1026 * 8300)), "8200 x 8300 pixels"),
    "a PNG with 100,000 chunks": (
        png(1, 1, 8, 0, b"\0\0", chunk(b"IDAT", b"") * 100_000),
        "more than 65536 chunks",
    ),
    "a JPEG with 100,000 segments": (
        JPEG[:2] + b"\xff\xe1\0\2" * 100_000 + JPEG[2:],
        "more than 65536 segments",
    ),
    "a JPEG with a megabyte of padding": (
        JPEG[:2] + b"\xff" * 2**20 + JPEG[2:],
        "more than 65536 segments",
    ),
    "a large PPM in plain text": (b"P1 100 100\n" + b"#\n" * 2**18 + b"1" * 10000, "plain text"),
    "floats beyond [0, 1]": (encode(Image.fromarray(REAL * 300), "TIFF"), "lie in"),
    "not a number": (encode(Image.fromarray(REAL * np.float32(np.nan)), "TIFF"), "lie in"),
    "integers beyond 16 bits": (
        encode(Image.fromarray(np.full((8, 8), 70000, np.int32)), "TIFF"),
        "must lie in 0",
    ),
}


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_not_an_image(name: str) -> None:
    data, message = NOT_IMAGES[name]
    start = time.monotonic()
    with pytest.raises(InvalidImage, match=message) as caught:
        as_pixels([PNG, data], GREY)
    assert caught.value.index == 1
    assert "object at 0x" not in str(caught.value)
    assert time.monotonic() - start < 5


def test_the_pixel_limit_can_be_lowered() -> None:
    with pytest.raises(InvalidImage, match="limit of 4095"):
        decode(PNG, max_pixels=4095)
    assert decode(PNG, max_pixels=4096).size == (64, 64)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"])
def test_damaged_files_give_an_image_or_invalid_image(kind: str) -> None:
    good = encode(Image.fromarray(COLOURS.repeat(4, 0).repeat(4, 1)), kind)
    chance = np.random.default_rng(2)
    for _ in range(150):
        damaged = bytearray(good)
        for place in chance.integers(0, len(good), chance.integers(1, 6)):
            damaged[place] = chance.integers(0, 256)
        if chance.random() < 0.3:
            del damaged[chance.integers(0, len(good)) :]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in production, where warnings are not errors
            try:
                pixels = as_pixels(bytes(damaged), COLOUR)
            except InvalidImage:
                continue
        assert pixels.shape == (1, 8, 8, 3)


def test_every_way_to_pass_an_image(tmp_path: Path) -> None:
    data = encode(Image.fromarray(LEVELS))
    path = tmp_path / "image.png"
    path.write_bytes(data)
    ways = [
        LEVELS,
        LEVELS[..., None],
        Image.fromarray(LEVELS),
        data,
        bytearray(data),
        memoryview(data),
        path,
        str(path),
    ]
    for way in (*ways, io.BytesIO(data)):
        assert np.array_equal(as_pixels(way, GREY), LEVELS[None, ..., None])
    with path.open("rb") as opened:
        assert len(as_pixels([data, opened], GREY)) == 2
    with pytest.raises(InvalidImage, match="got str"):
        as_pixels(io.StringIO("text"), GREY)
    together = as_pixels(ways, GREY)
    assert np.array_equal(together, np.stack([LEVELS[..., None]] * len(ways)))
    assert np.array_equal(as_pixels((way for way in ways), GREY), together)


def test_pixels_of_the_models_size_pass_unchanged() -> None:
    batch = rng.integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    assert as_pixels(batch, GREY) is not None
    assert np.shares_memory(as_pixels(batch, GREY), batch)
    assert np.array_equal(as_pixels(batch, GREY), batch)
    assert np.array_equal(as_pixels(batch[:, ::-1], GREY), batch[:, ::-1])
    assert np.array_equal(as_pixels(list(batch), GREY), batch)


def test_batches_of_another_size_or_colour() -> None:
    batch = np.full((3, 20, 10, 3), 50, np.uint8)
    assert (as_pixels(batch, GREY) == 50).all()
    assert as_pixels(np.zeros((2, 8, 8, 4), np.uint8), GREY).min() == 255  # see-through
    assert as_pixels(np.zeros((0, 8, 8, 1), np.uint8), GREY).shape == (0, 8, 8, 1)
    assert as_pixels([], COLOUR).shape == (0, 8, 8, 3)


def test_chunks_are_created_on_demand() -> None:
    taken = []

    def images() -> object:
        for level in range(5):
            taken.append(level)
            yield np.full((8, 8), level, np.uint8)

    chunks = batches(images(), GREY, 2)
    assert next(chunks)[:, 0, 0, 0].tolist() == [0, 1]
    assert taken == [0, 1]
    assert [len(chunk) for chunk in chunks] == [2, 1]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8)), "float64"),
        (np.zeros((2, 8, 8, 1), np.float32), "float32"),
        (np.zeros((8, 8), bool), "bool"),
        (np.zeros((10, 8, 8), np.uint8), r"\[10, 8, 8\]"),
        (np.zeros((8, 8, 2), np.uint8), r"\[8, 8, 2\]"),
        (np.zeros((0, 8), np.uint8), r"\[0, 8\]"),
        (np.zeros(8, np.uint8), r"\[8\]"),
        (np.zeros((1, 1, 8, 8, 1), np.uint8), r"\[1, 1, 8, 8, 1\]"),
        (7, "int"),
        (None, "NoneType"),
        ([7], "int"),
        ("no/such/file.png", "No such file"),
        ("nul\0byte", "nul"),
        (Path("/"), "directory"),
    ],
)
def test_arguments_that_are_not_images(images: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        as_pixels(images, GREY)


def test_the_index_is_the_position_in_the_request() -> None:
    with pytest.raises(InvalidImage) as caught:
        list(batches([LEVELS] * 5 + [b"no"], GREY, 2))
    assert caught.value.index == 5
    assert str(caught.value) == "image 5: not an image in a known format"


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "note.png"
    path.write_bytes(b"no")
    for image in (path, str(path)):
        with pytest.raises(InvalidImage) as caught:
            as_pixels([LEVELS, image], GREY)
        assert str(caught.value) == f"image 1 ({path}): not an image in a known format"
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.index, again.path) == (str(caught.value), 1, str(path))
    path.unlink()
    with pytest.raises(InvalidImage, match=rf"^image 0 \({path}\): No such file"):
        as_pixels(path, GREY)
