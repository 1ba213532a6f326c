"""Scaled JPEG decoding: its scale, its pixels, and the memory that it takes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import ExifTags, Image
from repzoo.errors import ImageTooLarge
from repzoo.packages.config import InputSpec, ResizePolicy
from repzoo.runtime.image_metadata import strip_metadata
from repzoo.runtime.images import as_pixels, decode

SCALED = ResizePolicy(jpeg="scaled")


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(5).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def pixels_of(
    file: bytes, height: int, width: int, channels: Literal[1, 3], fit: str = "crop"
) -> list[np.ndarray]:
    """The pixels of a file that is decoded at full size, and scaled."""
    pixels = []
    for jpeg in ("full", "scaled"):
        policy = ResizePolicy.model_validate({"fit": fit, "jpeg": jpeg})
        spec = InputSpec(height=height, width=width, channels=channels, resize=policy)
        pixels.append(as_pixels(file, spec).astype(int))
    return pixels


@pytest.mark.parametrize(
    ("size", "target", "decoded"),
    [
        ((1600, 1200), (64, 64), (200, 150)),  # 1/8 has at least twice the target in both sides
        ((1600, 1200), (224, 224), (800, 600)),
        ((1600, 447), (224, 224), (1600, 447)),  # half of 447 is shorter than it needs to be
        ((1600, 896), (224, 224), (800, 448)),
        ((1601, 1203), (64, 64), (201, 151)),
        ((100, 80), (64, 64), (100, 80)),
    ],
)
def test_the_scale_of_a_scaled_jpeg(
    size: tuple[int, int], target: tuple[int, int], decoded: tuple[int, int]
) -> None:
    spec = InputSpec(height=target[0], width=target[1], channels=3, resize=SCALED)
    for options in ({}, {"progressive": True}):
        file = encode(photo(*size), "JPEG", **options)
        assert decode(file, spec).size == decoded
        assert decode(file).size == size
    assert decode(encode(photo(*size), "PNG"), spec).size == size  # PNG has no smaller size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_scaled_jpeg_is_upright_and_close_to_the_full_one(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = encode(photo(1000, 700), quality=95, exif=exif)
    for fit in ("crop", "squash"):
        full, scaled = pixels_of(file, 48, 64, 3, fit)
        assert np.abs(full - scaled).mean() < 1
        assert np.abs(full - scaled).max() <= 12


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_scaled_jpeg_of_every_mode(mode: str, channels: Literal[1, 3]) -> None:
    file = encode(photo(640, 480).convert(mode), quality=95)
    full, scaled = pixels_of(file, 16, 16, channels)
    assert np.abs(full - scaled).mean() < 1.5


def test_the_limit_counts_what_decoding_holds() -> None:
    spec = InputSpec(height=32, width=32, channels=3, resize=SCALED)
    file = encode(photo(800, 600))
    assert decode(file, spec, max_pixels=120_000).size == (100, 75)
    with pytest.raises(ImageTooLarge, match=r"800 x 600 pixels exceed the limit of 479996\. Scale"):
        decode(file, spec, max_pixels=119_999)  # of which a file may have four times as many
    progressive = encode(photo(800, 600), progressive=True)
    with pytest.raises(ImageTooLarge, match=r"limit of 479999; a progressive JPEG file is held"):
        decode(progressive, spec, max_pixels=479_999)
    assert decode(progressive, spec, max_pixels=480_000).size == (100, 75)
    large = InputSpec(height=120, width=120, channels=3, resize=SCALED)
    with pytest.raises(ImageTooLarge, match=r"800 x 600 pixels exceed the limit of 119999\. Scale"):
        decode(file, large, max_pixels=119_999)  # 400 x 300 would be decoded
    with pytest.raises(ImageTooLarge, match=r"limit of 120000\. Scale"):
        decode(file, max_pixels=120_000)


def test_a_large_jpeg_is_scaled_whatever_the_policy() -> None:
    full = InputSpec(height=32, width=32, channels=3)
    assert decode(encode(photo(4096, 4096)), full).size == (4096, 4096)
    file = encode(photo(4097, 4096))
    assert decode(file, full, max_pixels=2**24).size == (513, 512)
    assert decode(file).size == (4097, 4096)
    with pytest.raises(ImageTooLarge, match=r"limit of 16777216; a progressive JPEG file is held"):
        decode(encode(photo(4097, 4096), progressive=True), full, max_pixels=2**24)


def test_a_file_in_several_scans_counts_as_a_whole() -> None:
    file = encode(photo(80, 60))
    assert strip_metadata(file).one_scan
    assert strip_metadata(encode(photo(80, 60).convert("L"))).one_scan
    assert not strip_metadata(encode(photo(80, 60), progressive=True)).one_scan
    assert not strip_metadata(file[:200]).one_scan
    # A scan of one of the three components, as other encoders write them.
    scan = file.index(b"\xff\xda")
    assert not strip_metadata(file[: scan + 4] + b"\1" + file[scan + 5 :]).one_scan
    # Libjpeg takes no length after a restart marker, so the next frame is the one that counts.
    frame = file.index(b"\xff\xc0")
    hidden = b"\xff\xd0\xff\xc2" + file[frame + 2 :]
    assert not strip_metadata(file[:frame] + hidden).one_scan


def test_a_48_megapixel_photo_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    photo(8064, 6048).save(path)
    program = """if True:
        import io, pathlib, resource, sys
        from PIL import Image
        from repzoo.packages.config import InputSpec, ResizePolicy
        from repzoo.runtime.images import as_pixels
        spec = InputSpec(height=224, width=224, channels=3, resize=ResizePolicy(jpeg="scaled"))
        data = pathlib.Path(sys.argv[1]).read_bytes()
        small = io.BytesIO()
        Image.new("RGB", (900, 900)).save(small, "JPEG")
        as_pixels(small.getvalue(), spec)  # imports what it needs
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert as_pixels([data] * 2, spec, max_pixels=2**24).shape == (2, 224, 224, 3)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 30  # MiB; decoded at full size, it is 140
