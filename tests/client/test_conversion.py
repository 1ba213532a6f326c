"""Images that the server itself refuses: the client gives the results of the local runtime."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import repzoo
from PIL import ExifTags, Image
from repzoo.packages.config import InputSpec, ResizePolicy
from repzoo.runtime.images import as_pixels
from repzoo_client import Client, errors
from repzoo_client._conversion import as_png, sendable

POLICIES = [
    InputSpec(
        height=height,
        width=8,
        channels=channels,
        resize=ResizePolicy(fit=fit, filter=kernel, rounding=rounding, size=size, jpeg="scaled"),
    )
    for (height, size), channels, fit, kernel, rounding in product(
        [(8, None), (12, None), (8, (11, 13))],
        (1, 3),
        ("crop", "squash"),
        ("box", "bilinear", "bicubic", "lanczos"),
        ("nearest", "floor"),
    )
]
#: Limits that every file exceeds, so that it is converted.
NOTHING: Any = {"max_pixels": 1, "max_bytes": 1}


def noise(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).integers(0, 256, shape, dtype=np.uint8)


def file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def pillow_images() -> dict[str, Image.Image]:
    """One image of each mode."""
    rgb, rgba = Image.fromarray(noise(33, 21, 3)), Image.fromarray(noise(20, 31, 4))
    images = {mode: rgb.convert(mode) for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV")}
    images |= {mode: rgba.convert(mode) for mode in ("LA", "PA", "RGBA", "RGBa")}
    images["I;16"] = Image.fromarray(noise(19, 23).astype(np.uint16) * 257)
    images["I"] = Image.fromarray(noise(19, 23).astype(np.int32) * 257)
    images["F"] = Image.fromarray(noise(19, 23).astype(np.float32) / 255)
    return images


def files() -> dict[str, bytes]:
    """Files of all formats, and of the kinds that cameras write."""
    rgb, rgba = Image.fromarray(noise(90, 67, 3)), Image.fromarray(noise(40, 51, 4))
    made = {kind: file(rgb, kind) for kind in ("BMP", "GIF", "PNG", "PPM", "TIFF", "JPEG2000")}
    made["frames"] = file(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)])
    made["transparent"] = file(rgba, "TIFF")
    made["16 bit"] = file(Image.fromarray(noise(19, 23).astype(np.uint16) * 257), "TIFF")
    made["turned"] = file(rgb, "JPEG", quality=95, exif=turned(6))
    made["MPO"] = file(rgb, "MPO", save_all=True, append_images=[rgb], quality=95)
    made["CMYK"] = file(rgb.convert("CMYK"), "JPEG", quality=95)
    made["WEBP"] = file(rgba, "WEBP", lossless=True, exif=turned(8))
    if "AVIF" in Image.SAVE:
        made["AVIF"] = file(rgb, "AVIF")
    return made


def read(png: bytes, spec: InputSpec) -> Any:
    """Return a small file's pixels ``[1, H, W, C]``, which are exactly those of the model."""
    with Image.open(io.BytesIO(png)) as image:
        assert (image.width, image.height, image.mode) == (spec.width, spec.height, spec.mode)
        return np.asarray(image).reshape(1, *spec.shape)


@pytest.mark.parametrize("spec", POLICIES[:: len(POLICIES) // 12 + 1])
def test_all_kinds_become_the_models_pixels(spec: InputSpec) -> None:
    record = spec.model_dump(mode="json")
    for name, image in pillow_images().items():
        found = read(as_png(image, record), spec)
        assert np.array_equal(found, as_pixels(image, spec)), name
    for name, data in files().items():
        found = read(sendable(data, record, **NOTHING), spec)
        assert np.array_equal(found, as_pixels(data, spec)), name


def test_every_policy_scales_as_the_runtime_does() -> None:
    shapes = [(8, 8, 3), (9, 7, 1), (3, 5, 3), (64, 1, 1), (401, 9, 3), (50, 300, 4), (12, 8, 3)]
    for spec, shape in product(POLICIES, shapes):
        pixels = noise(*shape)
        found = read(as_png(pixels, spec.model_dump(mode="json", exclude_none=True)), spec)
        assert np.array_equal(found, as_pixels(pixels, spec)), (spec, shape)


def test_other_policies_are_refused() -> None:
    record = POLICIES[0].model_dump(mode="json")
    for name, value in (("fit", "pad"), ("gamma", 2)):
        later = {**record, "resize": {**record["resize"], name: value}}
        with pytest.raises(ValueError, match=rf"resize\.{name} is .*upgrade repzoo-client"):
            as_png(noise(9, 9, 3), later)


def test_only_what_exceeds_a_limit_is_converted() -> None:
    spec = POLICIES[0].model_dump(mode="json")
    for data in (file(Image.fromarray(noise(30, 40, 3)), kind) for kind in ("GIF", "JPEG", "WEBP")):
        fits: dict[str, Any] = {"max_pixels": 1200, "max_bytes": len(data)}
        assert sendable(data, spec, **fits) is data
        assert sendable(data, spec, **fits | {"max_pixels": 1199}) != data
        assert sendable(data, spec, **fits | {"max_bytes": len(data) - 1}) != data
    for data in (b"", b"no image", b"\x89PNG or not"):
        assert sendable(data, spec, **NOTHING) is data


def test_a_photo_of_48_megapixels_is_scaled_as_by_the_runtime() -> None:
    spec = InputSpec(height=8, width=8, channels=3)  # whose policy is to decode files at full size
    data = file(Image.fromarray(noise(60, 80, 3)).resize((8064, 6048)), "JPEG")
    found = read(sendable(data, spec.model_dump(mode="json"), **NOTHING), spec)
    assert np.array_equal(found, as_pixels(data, spec, max_pixels=2**24))


def test_what_cannot_be_converted() -> None:
    spec = POLICIES[0].model_dump(mode="json")
    huge = file(Image.new("1", (8193, 8192)), "PNG")
    with pytest.raises(ValueError, match="8193 x 8192 pixels exceed the limit of 67108864"):
        sendable(huge, spec, max_pixels=2**24, max_bytes=2**24)
    with pytest.raises(ValueError, match="cannot be read as an image"):
        sendable(files()["TIFF"][:2000], spec, **NOTHING)
    for wrong in (np.full((3, 3), 70_000, np.int32), np.full((3, 3), np.nan, np.float32)):
        with pytest.raises(ValueError, match="must lie in 0 to"):
            as_png(Image.fromarray(wrong), spec)


def test_a_server_with_small_limits(
    ask: Callable[..., Any], server_url: str, encoder: repzoo.Encoder, tmp_path: Path
) -> None:
    """The server takes 100,000 pixels and a million bytes."""
    path = tmp_path / "photo.bmp"
    path.write_bytes(files()["BMP"])
    images = [
        *files().values(),
        *pillow_images().values(),
        path,
        noise(8, 8, 1),
        noise(9, 9),
        noise(30, 20, 4),
        file(Image.fromarray(noise(400, 600, 3)), "JPEG"),  # too many pixels
        file(Image.fromarray(noise(310, 320, 4)), "TIFF"),
        file(Image.fromarray(noise(1000, 1000)), "PNG"),  # and bytes
    ]
    found = ask(server_url, "embed", images, model="tiny")
    np.testing.assert_allclose(found, encoder.embed(images), atol=1e-6)
    one = ask(server_url, "embed", pillow_images()["RGB"], model="tiny")
    np.testing.assert_allclose(one, encoder.embed(pillow_images()["RGB"]), atol=1e-6)
    with path.open("rb") as opened:  # such as an upload
        both = ask(server_url, "embed", [path, opened], model="tiny")
    np.testing.assert_array_equal(both[0], both[1])
    assert len(ask(server_url, "embed", io.BytesIO(files()["PNG"]), model="tiny")) == 1
    many = noise(5, 20, 30, 3)
    found = ask(server_url, "embed", many, model="tiny")
    np.testing.assert_allclose(found, encoder.embed(many), atol=1e-6)


def test_errors_name_the_file(ask: Callable[..., Any], server_url: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.tiff"
    path.write_bytes(files()["TIFF"][:2000])
    with pytest.raises(errors.InvalidImage) as caught:
        ask(server_url, "embed", [noise(8, 8), path], model="tiny")
    assert str(caught.value).startswith(f"image 1 ({path}): cannot be read as an image")
    assert caught.value.index == 1


def test_without_pillow(
    server_url: str, encoder: repzoo.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [files()["PNG"], files()["turned"], files()["BMP"], files()["GIF"], noise(8, 8, 1)]
    refused = [noise(9, 9), b"no image"]
    expected = np.concatenate([encoder.embed(image) for image in sent])
    monkeypatch.setitem(sys.modules, "PIL", None)
    found: dict[int, Exception] = {}
    with Client(server_url) as client:
        rows = client.embed([*sent, *refused], model="tiny", on_error="collect", errors=found)
    np.testing.assert_allclose(rows[:5], expected, atol=1e-6)
    assert found.keys() == {5, 6}
    assert "pip install pillow" in str(found[5])
    assert "image 6: not an image in one of BMP, GIF" in str(found[6])
