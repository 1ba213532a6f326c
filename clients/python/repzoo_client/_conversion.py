"""Images that a server would refuse, as small PNG files with exactly the pixels of its model.

The scaling is that of `repzoo.runtime.images`, so that results do not depend on where an image is
scaled; a test compares the two. Pillow is imported on demand: without it, the client sends only
what the server itself takes.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["as_png", "is_pillow_image", "sendable"]

#: Formats that are read, by Pillow's names. The server reads all of them but AVIF.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

#: Images with more pixels are refused, as by the local runtime. As RGB they take 192 MiB.
_MAX_PIXELS = 2**26
#: JPEG files with more pixels are decoded at a smaller size, whatever the resize policy.
_MAX_FULL = 2**24

# The header of a smaller file is not read, because that takes longer than sending the file: only
# images of a single colour have more pixels per byte.
_PIXELS_PER_BYTE = 2048

#: The resize policies that this version knows. The first value of each field is its default.
_POLICIES: Mapping[str, tuple[str, ...]] = {
    "fit": ("crop", "squash"),
    "filter": ("bilinear", "box", "bicubic", "lanczos"),
    "rounding": ("nearest", "floor"),
    "jpeg": ("full", "scaled"),
}

#: The tag of EXIF metadata that says how a picture is turned.
_ORIENTATION = 0x0112


def is_pillow_image(item: object) -> TypeGuard[Image.Image]:
    """Return whether ``item`` is a Pillow image, without importing Pillow."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(item, module.Image)


def sendable(data: bytes, spec: Mapping[str, Any], *, max_pixels: int, max_bytes: int) -> bytes:
    """Return an image file that the server takes: the file itself, or a converted one.

    Files that Pillow does not know are returned as they are: the server says what it takes.

    Args:
        data: The bytes of a file.
        spec: The model's input, which is ``input`` in its record.
        max_pixels: The largest number of pixels that the server takes.
        max_bytes: The largest number of bytes that the server takes.

    Raises:
        ValueError: If the file must be converted, but cannot be read or Pillow is not installed.
    """
    is_avif = data[4:8] == b"ftyp"
    if len(data) <= min(max_bytes, max_pixels // _PIXELS_PER_BYTE) and not is_avif:
        return data
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        return data
    Image.init()  # loads the decoders of all formats that Pillow was built with
    formats = [name for name in _FORMATS if name in Image.OPEN]
    with _as_value_error():
        try:
            file = Image.open(io.BytesIO(data), formats=formats)
        except UnidentifiedImageError:
            return data
        with file:
            size = file.width * file.height
            if size <= max_pixels and len(data) <= max_bytes and not is_avif:
                return data
            if size > _MAX_PIXELS:
                raise ValueError(
                    f"{file.width} x {file.height} pixels exceed the limit of {_MAX_PIXELS}"
                )
            # MPO is a JPEG file with more pictures behind the first.
            is_jpeg = file.format in ("JPEG", "MPO")
            if is_jpeg and (size > _MAX_FULL or _policy(spec)["jpeg"] == "scaled"):
                side = 2 * max(_scaled(spec))
                file.draft(None, (side, side))
            return _as_png(file, spec)


def as_png(image: Image.Image | NDArray[np.uint8], spec: Mapping[str, Any]) -> bytes:
    """Return a PNG file of the model's size and colour mode.

    Args:
        image: A Pillow image, or uint8 ``[H, W, C]`` with 1, 3 or 4 channels, of any size.
        spec: The model's input, which is ``input`` in its record.

    Raises:
        ValueError: If the image cannot be converted, or Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("scaling it needs Pillow: pip install pillow") from None
    with _as_value_error():
        if isinstance(image, np.ndarray):
            grey = image.shape[2] == 1
            image = Image.fromarray(np.ascontiguousarray(image[:, :, 0] if grey else image))
        return _as_png(image, spec)


@contextmanager
def _as_value_error() -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # Pillow raises nearly every builtin error for damaged data
        raise ValueError(f"cannot be read as an image: {error}") from error


def _as_png(image: Image.Image, spec: Mapping[str, Any]) -> bytes:
    image = _upright(image)
    mode = "L" if spec["channels"] == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (spec["width"], spec["height"]):
        image = _resize(image, spec)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _upright(image: Image.Image) -> Image.Image:
    """Return an image in mode L or RGB, turned as its EXIF orientation says."""
    from PIL import ImageOps

    image.load()
    with suppress(Exception):  # damaged metadata do not affect pixels
        if image.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    return _grey_or_rgb(image)


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        values, largest = np.asarray(image), 65535 if image.mode == "I" else 1
        if not (values.min() >= 0 and values.max() <= largest):  # not: NaN compares false
            raise ValueError(f"pixels of mode {image.mode} must lie in 0 to {largest}")
        values = values >> 8 if image.mode == "I" else np.rint(values * 255)
        return Image.fromarray(values.astype(np.uint8))
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _resize(image: Image.Image, spec: Mapping[str, Any]) -> Image.Image:
    """Scale the part of an image that the model sees: rows first, then columns.

    Pillow rounds coordinates, so even the rows that are cropped first must be the runtime's.
    """
    from PIL import Image

    policy = _policy(spec)
    resampling = Image.Resampling[policy["filter"].upper()]
    rows, columns = _scaled(spec)
    x_scale, y_scale = columns / image.width, rows / image.height
    if policy["fit"] == "crop":
        x_scale = y_scale = max(x_scale, y_scale)
    width, height = spec["width"], spec["height"]
    left, right = _kept(image.width, width, columns, x_scale, policy["rounding"])
    top, bottom = _kept(image.height, height, rows, y_scale, policy["rounding"])
    reach = 3 * max(1, (bottom - top) / height) + 1  # the widest filter spans 3 pixels
    first, last = max(0, int(top - reach)), min(image.height, int(bottom + reach) + 1)
    image = image.crop((0, first, image.width, last))
    image = image.resize((width, image.height), resampling, box=(left, 0, right, image.height))
    return image.resize((width, height), resampling, box=(0, top - first, width, bottom - first))


def _kept(
    source: int, target: int, covered: int, scale: float, rounding: str
) -> tuple[float, float]:
    """Return where the kept part of a side begins and ends."""
    scaled = max(covered, int(source * scale + (0.5 if rounding == "nearest" else 1e-6)))
    start = (scaled - target) // 2
    return start * source / scaled, (start + target) * source / scaled


def _scaled(spec: Mapping[str, Any]) -> tuple[int, int]:
    """Return the height and width that images are scaled to before the centre is cropped."""
    return _policy(spec)["size"] or (spec["height"], spec["width"])


def _policy(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's resize policy with its defaults."""
    policy = {"size": None, **{name: values[0] for name, values in _POLICIES.items()}}
    policy |= spec.get("resize", {})
    for name, value in policy.items():
        if name != "size" and value not in _POLICIES.get(name, ()):
            raise ValueError(
                f"this version of repzoo-client cannot scale images for the model, whose "
                f"resize.{name} is {value!r}: upgrade repzoo-client"
            )
    return policy
