"""Preprocessing: from an image of any kind to the pixels that an encoder takes.

Training, evaluation, the local runtime and serving all use these functions. Golden vectors check
that their results never change.

    bytes ──decode──> upright L or RGB image ──preprocess──> uint8 [height, width, channels]
    anything ─────────────────as_pixels, batches───────────> uint8 [N, height, width, channels]
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from repzoo.errors import ImageTooLarge, InvalidImage, InvalidInput, MissingExtra
from repzoo.packages.config import InputSpec, ResizePolicy
from repzoo.runtime.image_metadata import strip_metadata

try:
    from PIL import ExifTags, Image, UnidentifiedImageError
    from PIL.ImageFile import ImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.TiffImagePlugin import TiffImageFile
except ImportError as error:
    raise MissingExtra("reading images", "runtime", error) from error

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "ImageLike",
    "Images",
    "Pixels",
    "as_pixels",
    "batches",
    "decode",
    "preprocess",
]

#: uint8 ``[N, height, width, channels]``, or ``[height, width, channels]`` for one image.
Pixels: TypeAlias = NDArray[np.uint8]

#: One image: uint8 ``[H, W]`` or ``[H, W, C]``, a Pillow image, or a file: its path, its bytes
#: or an open binary file.
ImageLike: TypeAlias = (
    NDArray[np.uint8]
    | Image.Image
    | str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
)

#: One image, an iterable of images, or a uint8 array ``[N, H, W, C]``.
Images: TypeAlias = ImageLike | Iterable[ImageLike]

#: Limit on the pixels of an encoded image, checked before decoding. 64 Mi pixels are 192 MiB as RGB
#: and below the size at which Pillow itself warns.
MAX_PIXELS = 2**26

#: The supported formats, by Pillow's names. Pillow's other formats run programs (EPS), are
#: containers, or have decoders that are rarely exercised.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# A JPEG file that is decoded at a smaller size may have this many times more pixels than the limit.
# That takes little memory, but time.
_MAX_REDUCTION = 4

# Larger JPEG files are decoded at a smaller size, whatever the resize policy: photos of 24 or 48
# megapixels would take a lot of memory, and their full size makes no visible difference.
_MAX_FULL = 2**24

# BMP files with run lengths and PPM files with unusual levels are decoded in Python, at a few MB/s.
_PIXELS_PER_PYTHON_BYTE = 16

_TILE_WIDTH, _TILE_LENGTH = 322, 323

# Pillow decodes PPM files in plain text in Python, and takes quadratic time for comments.
_MAX_PLAIN = 2**18

# EXIF orientation -> the transposition that makes the image upright. 1 is already upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# PNG files state the transparent level in the file's own bits; Pillow scales the pixels to 8 bits.
_LEVEL_SCALE = {"L;2": 85, "L;4": 17}

_FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def decode(
    data: bytes | bytearray | memoryview,
    spec: InputSpec | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Collection[str] = FORMATS,
) -> Image.Image:
    """Decode an image file into an upright image of mode ``L`` or ``RGB``.

    If the file has several frames, the first one is used. The EXIF orientation is applied. Other
    metadata is ignored, even if it is damaged. Colours are converted to grey or RGB as follows:

    - Transparent pixels are composited over white, as a viewer shows them on a page. Dropping the
      alpha channel would reveal arbitrary colours in invisible areas.
    - 16-bit samples are scaled by keeping the high byte, not clipped.
    - Palettes are looked up. CMYK and YCbCr are converted with Pillow's formulas. Colour profiles
      are not applied.
    - 32-bit integers must be within 16 bits and floats within [0, 1], because the range of other
      values is unknown.

    Args:
        data: The bytes of a file. They determine its format.
        spec: The input that the image is decoded for. If its resize policy allows that, or the
            file has more than 16 Mi pixels, a JPEG file is decoded at a half, a quarter or an
            eighth of its size, with both sides at least twice as long as the target's.
        max_pixels: The largest number of pixels to hold in memory. Larger images are refused before
            decoding. A JPEG file that is decoded at a smaller size may itself have four times as
            many pixels, up to `MAX_PIXELS`, unless it is progressive: then decoding holds the
            coefficients of the whole image. Files that Pillow decodes in Python, which are slow,
            may have a byte per 16 pixels of the limit.
        formats: The subset of `FORMATS` to accept.

    Raises:
        InvalidImage: If the data is not an image in one of these formats, or is damaged.
        ImageTooLarge: If the image exceeds ``max_pixels``. It is an `InvalidImage` too.
    """
    if len(data) == 0:
        raise InvalidImage("the file is empty")
    if len(data) > _MAX_PLAIN and bytes(data[:2]) in (b"P1", b"P2", b"P3"):
        raise InvalidImage(f"PPM files in plain text are limited to {_MAX_PLAIN} bytes")
    data, orientation, one_scan = strip_metadata(data)
    limit = _largest(max_pixels) if spec is not None and one_scan else max_pixels
    with (
        _as_invalid_image(formats, limit),
        Image.open(io.BytesIO(data), formats=_readable(formats)) as image,
    ):
        size = image.size
        large = size[0] * size[1] > _MAX_FULL
        if spec and image.format == "JPEG" and (large or spec.resize.jpeg == "scaled"):
            # The orientation is applied later, so either side may become the width.
            side = 2 * max(spec.scaled)
            image.draft(None, (side, side))
        _check_size(size, image.size, max_pixels, one_scan)
        _check_cost(image, len(data), max_pixels)
        return _canonical(image, orientation)


def preprocess(image: Image.Image, spec: InputSpec) -> Pixels:
    """Convert one image of any size and mode to the pixels that an encoder takes.

    The image is made upright and converted to grey or RGB as in `decode`. It is then scaled with
    antialiasing according to ``spec.resize``: ``crop`` scales it to cover the target and keeps the
    centre, with an odd pixel on the right or bottom; ``squash`` ignores the aspect ratio. With a
    ``size``, it is scaled to that, and the centre is kept. An image of the target's size is not
    resampled.

    Args:
        image: A Pillow image.
        spec: The encoder's input.

    Returns:
        uint8 ``[spec.height, spec.width, spec.channels]``, contiguous.

    Raises:
        InvalidImage: If the image cannot be read or its mode cannot be converted to grey or RGB.
    """
    with _as_invalid_image():
        image = _canonical(image)
        if image.mode != spec.mode:
            image = image.convert(spec.mode)
        if image.size != (spec.width, spec.height):
            image = _resize(image, spec)
        return np.array(image, dtype=np.uint8).reshape(spec.shape)


def as_pixels(
    images: Images,
    spec: InputSpec,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Collection[str] = FORMATS,
) -> Pixels:
    """Convert one or many images of any kind to the pixels that an encoder takes.

    Args:
        images: One image or an iterable of images. Each is a uint8 array ``[H, W]`` or
            ``[H, W, C]`` (C is 1, 3, or 4 with alpha), a Pillow image, a path, or the bytes of an
            encoded file. Also accepted is a uint8 array ``[N, H, W, C]``. Arrays of the encoder's
            size are returned unchanged, and whole batches without a copy.
        spec: The encoder's input.
        max_pixels: The limit for each encoded file, see `decode`.
        formats: The accepted formats of encoded files, see `decode`.

    Returns:
        uint8 ``[N, spec.height, spec.width, spec.channels]``. N is 1 for one image.

    Raises:
        InvalidImage: If an image cannot be used. Its ``index`` is its position in ``images``, and
            ``path`` its file, if it is a path.
        InvalidInput: If ``images`` is neither an image nor an iterable of images, or is an array
            of another type.
    """
    chunks = list(batches(images, spec, size=None, max_pixels=max_pixels, formats=formats))
    return chunks[0] if chunks else np.empty((0, *spec.shape), np.uint8)


def batches(
    images: Images,
    spec: InputSpec,
    size: int | None,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Collection[str] = FORMATS,
) -> Iterator[Pixels]:
    """Yield the result of `as_pixels` in chunks of ``size`` images, or in one chunk if it is None.

    Chunks are created on demand, so a long list of files is never decoded as a whole.
    """
    if isinstance(images, np.ndarray) and images.ndim == 4:
        if images.dtype != np.uint8:
            raise InvalidInput(f"images are {images.dtype}; expected uint8 pixels, 0 to 255")
        if images.shape[1:] == spec.shape:
            step = max(1, size or len(images))
            yield from (images[start : start + step] for start in range(0, len(images), step))
            return

    chunk: list[Pixels] = []
    for index, image in enumerate(_each(images)):
        try:
            chunk.append(_one(image, spec, max_pixels, formats))
        except InvalidImage as error:
            path = os.fsdecode(image) if isinstance(image, (str, os.PathLike)) else None
            raise error.at(index, path) from error.__cause__
        if len(chunk) == size:
            yield np.stack(chunk)
            chunk = []
    if chunk:
        yield np.stack(chunk)


def _each(images: Images) -> Iterable[Any]:
    if isinstance(images, np.ndarray):
        return images if images.ndim == 4 else (images,)
    if _is_one(images):
        return (images,)
    if isinstance(images, Iterable):
        return images
    raise InvalidInput(
        f"images are {type(images).__name__}; expected arrays, Pillow images, paths or bytes"
    )


def _is_one(image: object) -> TypeGuard[ImageLike]:
    # An open file can be iterated, too: by its lines.
    kinds = (np.ndarray, Image.Image, str, os.PathLike, bytes, bytearray, memoryview, io.IOBase)
    return isinstance(image, kinds)


def _one(image: object, spec: InputSpec, max_pixels: int, formats: Collection[str]) -> Pixels:
    if isinstance(image, np.ndarray):
        return _from_array(image, spec)
    if isinstance(image, Image.Image):
        return preprocess(image, spec)
    if isinstance(image, (str, os.PathLike)):
        try:
            image = Path(image).read_bytes()
        except (OSError, ValueError) as error:
            raise InvalidImage(getattr(error, "strerror", None) or str(error)) from error
    if isinstance(image, io.IOBase):
        image = image.read()
    if isinstance(image, (bytes, bytearray, memoryview)):
        return preprocess(decode(image, spec, max_pixels=max_pixels, formats=formats), spec)
    raise InvalidImage(
        f"got {type(image).__name__}; expected an array, a Pillow image, a path, bytes or a binary "
        "file"
    )


def _from_array(array: NDArray[Any], spec: InputSpec) -> Pixels:
    if array.dtype != np.uint8:
        raise InvalidImage(f"the array is {array.dtype}; expected uint8 pixels, 0 to 255")
    if array.shape == spec.shape:
        return array
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or not array.size:
        raise InvalidImage(
            f"the array has shape {list(array.shape)}; expected [H, W], or [H, W, C] with 1, 3 or "
            "4 channels. A batch is [N, H, W, C], with C = 1 for grey images"
        )
    return preprocess(Image.fromarray(np.ascontiguousarray(array)), spec)


def _resize(image: Image.Image, spec: InputSpec) -> Image.Image:
    """Scale the part of the image that is kept: rows first, then columns.

    In a single call Pillow chooses the order, and versions 12 and 13 choose differently. Values are
    rounded and clipped between the steps, so the pixels would differ too.
    """
    resampling = _FILTERS[spec.resize.filter]
    left, top, right, bottom = _source_box(image.size, spec)
    # Keep only the rows that the second step reads. The widest filter spans 3 pixels of the target
    # or of the source, whichever are larger.
    reach = 3 * max(1, (bottom - top) / spec.height) + 1
    first, last = max(0, int(top - reach)), min(image.height, int(bottom + reach) + 1)
    rows = image.crop((0, first, image.width, last))
    rows = rows.resize((spec.width, rows.height), resampling, box=(left, 0, right, rows.height))
    box = (0, top - first, spec.width, bottom - first)
    return rows.resize((spec.width, spec.height), resampling, box=box)


def _source_box(size: tuple[int, int], spec: InputSpec) -> tuple[float, float, float, float]:
    """Return the part of the source that is kept.

    The result is the same as scaling the whole image and cropping the centre, but the cost depends
    only on the target's size, even if the source is long and thin.
    """
    width, height = size
    rows, columns = spec.scaled
    x_scale, y_scale = columns / width, rows / height
    if spec.resize.fit == "crop":
        x_scale = y_scale = max(x_scale, y_scale)
    left, right = _kept(width, spec.width, columns, x_scale, spec.resize)
    top, bottom = _kept(height, spec.height, rows, y_scale, spec.resize)
    return left, top, right, bottom


def _kept(
    source: int, target: int, covered: int, scale: float, policy: ResizePolicy
) -> tuple[float, float]:
    # `scaled` is the length of this side if the whole image were resized. One of the two sides is
    # exactly `covered`, and rounding errors in `scale` must not make it a pixel shorter.
    exact = source * scale
    scaled = max(covered, int(exact + (0.5 if policy.rounding == "nearest" else 1e-6)))
    start = (scaled - target) // 2
    return start * source / scaled, (start + target) * source / scaled


def _canonical(image: Image.Image, orientation: int | None = None) -> Image.Image:
    """Return the image upright, in mode L or RGB, and without metadata.

    Args:
        image: A Pillow image.
        orientation: The EXIF orientation. By default it is read from the image.
    """
    clear = _clear_pixels(image)
    image.load()
    if orientation is None:
        orientation = _orientation(image)  # conversions may drop the EXIF data
    image = _grey_or_rgb(image)
    if clear is not None:
        pixels = np.array(image)
        pixels[clear] = 255
        image = Image.fromarray(pixels)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    if image.info:
        image = image.copy()
        image.info = {}
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # Pillow raises many kinds of errors for damaged EXIF data, which does not affect pixels.
        return 1


def _clear_pixels(image: Image.Image) -> NDArray[np.bool_] | None:
    """Correct what Pillow gets wrong about PNG files with one transparent level or colour.

    Such a file states the level with its own number of bits, but Pillow compares it with 8-bit
    pixels. The number of bits is known only until the image is loaded.

    Returns:
        For 16-bit files, where the image is transparent: bool ``[H, W]``. None for others, in which
        Pillow applies the level.
    """
    clear = image.info.get("transparency")
    mask: NDArray[np.bool_] | None = None
    if image.mode == "I;16" and isinstance(clear, int):
        mask = np.asarray(image) == clear
    elif isinstance(image, PngImageFile) and image.tile and image.fp is not None:
        layout = image.tile[0].args
        if isinstance(clear, int) and layout in _LEVEL_SCALE:
            image.info["transparency"] = clear * _LEVEL_SCALE[layout]
        elif isinstance(clear, tuple) and layout == "RGB;16B":
            del image.info["transparency"]
            place = image.fp.tell()
            image.fp.seek(0)
            low = Image.open(io.BytesIO(image.fp.read()))
            image.fp.seek(place)
            # Samples are big-endian, so their low bytes are the high bytes of this layout.
            low.tile = [low.tile[0]._replace(args="RGB;16L")]
            samples = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
            mask = (samples == clear).all(axis=2)
    return mask


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I":
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 65535:
            raise InvalidImage("32-bit integer pixels must lie in 0..65535")
        return Image.fromarray((wide >> 8).astype(np.uint8))
    if image.mode == "F":
        real = np.asarray(image)
        if not (real.min() >= 0 and real.max() <= 1):  # not: NaN compares false
            raise InvalidImage("float pixels must lie in [0, 1]")
        return Image.fromarray(np.rint(real * 255).astype(np.uint8))
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), shown).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _check_size(
    size: tuple[int, int], decoded: tuple[int, int], max_pixels: int, one_scan: bool
) -> None:
    """Refuse an image of ``size`` that is decoded at the size ``decoded``, if it is too large."""
    reason = ""
    if decoded != size and one_scan:
        most = _largest(max_pixels)
        fits = decoded[0] * decoded[1] <= max_pixels
    else:
        most, fits = max_pixels, True
        if decoded != size:
            reason = "; a progressive JPEG file is held in memory as a whole"
    if size[0] * size[1] > most or not fits:
        limit = most if fits else max_pixels
        raise _too_large(f"{size[0]} x {size[1]}", limit, reason)


def _check_cost(image: ImageFile, length: int, max_pixels: int) -> None:
    """Refuse a file of ``length`` bytes whose decoding costs more than the image's size says."""
    if isinstance(image, TiffImageFile):
        # A tile is decoded as a whole, and may be larger than the image.
        width, height = (image.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH))
        if width * height > max_pixels:
            raise _too_large(f"tiles of {width} x {height}", max_pixels)
    if image.tile and image.tile[0].codec_name in Image.DECODERS:
        most = max_pixels // _PIXELS_PER_PYTHON_BYTE
        if length > most:
            raise ImageTooLarge(
                f"a file of {length} bytes exceeds the limit of {most} for this variant of "
                f"{image.format}. Save it as PNG"
            )


def _too_large(size: str, limit: int, reason: str = "") -> ImageTooLarge:
    return ImageTooLarge(
        f"{size} pixels exceed the limit of {limit}{reason}. Scale the image down", limit=limit
    )


def _largest(max_pixels: int) -> int:
    """Return how many pixels a JPEG file may have that is decoded at a smaller size."""
    return max(max_pixels, min(_MAX_REDUCTION * max_pixels, MAX_PIXELS))


def _readable(formats: Collection[str]) -> list[str]:
    # Pillow knows which formats it was built with once its plugins are loaded.
    Image.init()
    return [name for name in formats if name in Image.OPEN]


@contextmanager
def _as_invalid_image(
    formats: Collection[str] = FORMATS, max_pixels: int = MAX_PIXELS
) -> Iterator[None]:
    try:
        yield
    except (InvalidImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        known = "a known format" if formats is FORMATS else f"one of {', '.join(formats)}"
        raise InvalidImage(f"not an image in {known}") from error
    except Image.DecompressionBombError as error:
        # Pillow checks its own, much higher limit first, and only its message has the size.
        pixels = re.search(r"\d+", str(error))
        raise _too_large(pixels[0] if pixels else "its", max_pixels) from error
    except Exception as error:
        # Pillow's decoders raise nearly every builtin error for damaged data.
        raise InvalidImage(f"cannot be read as an image: {error}") from error
