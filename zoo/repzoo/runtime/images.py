"""Everything before the graph: from an image of any kind to the pixels that an encoder takes.

This is the one preprocessing of the product. Training, evaluation, the local runtime and serving
all call it, and golden vectors hold it in place.

    bytes ──decode──> upright L or RGB image ──preprocess──> uint8 [height, width, channels]
    anything ─────────────────as_pixels, batches───────────> uint8 [N, height, width, channels]
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from repzoo.errors import ImageTooLarge, InvalidImage, InvalidInput, MissingExtra
from repzoo.packages.config import InputSpec, ResizePolicy

try:
    from PIL import ExifTags, Image, UnidentifiedImageError
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

#: One image: uint8 ``[H, W]`` or ``[H, W, C]``, a Pillow image, a path, or an encoded file's bytes.
ImageLike: TypeAlias = (
    NDArray[np.uint8] | Image.Image | str | os.PathLike[str] | bytes | bytearray | memoryview
)

#: One image, an iterable of images, or a uint8 array ``[N, H, W, C]``.
Images: TypeAlias = ImageLike | Iterable[ImageLike]

#: The most pixels that an encoded image may have; checked before anything is decoded. 64 Mi pixels
#: are 192 MiB as RGB, and lie below the size at which Pillow warns on its own.
MAX_PIXELS = 2**26

#: The formats that are read, by Pillow's names. Others that Pillow knows run programs (EPS), are
#: containers of other things, or have decoders that hardly anyone exercises.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# EXIF orientation -> what turns the stored pixels upright. 1 is upright already.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def decode(
    data: bytes | bytearray | memoryview,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Collection[str] = FORMATS,
) -> Image.Image:
    """Decode an image file into an upright image of mode ``L`` or ``RGB``.

    The first frame is taken of a file that has several. EXIF orientation is applied. Colours
    become grey or RGB as follows:

    - transparency is laid over white: what a viewer shows on a page. Dropping the alpha channel
      instead would bring up whatever colour happens to be stored where nothing is visible;
    - 16-bit samples are scaled, keeping the high byte, and not clipped;
    - palettes are looked up, CMYK and YCbCr converted by Pillow's formulas; colour profiles are
      not applied;
    - 32-bit integers must be 16-bit values, floats must lie in [0, 1]: there is no knowing the
      range of others.

    Args:
        data: the bytes of a file; what it is is told by them, never by a name.
        max_pixels: refuse an image with more pixels than this, before decoding it.
        formats: those of `FORMATS` that may be decoded.

    Raises:
        InvalidImage: if the data is no image of these formats, truncated or damaged.
        ImageTooLarge: which is one too, if it has more than ``max_pixels``.
    """
    if len(data) == 0:
        raise InvalidImage("the file is empty")
    with (
        _as_invalid_image(formats),
        Image.open(io.BytesIO(data), formats=_readable(formats)) as image,
    ):
        if image.width * image.height > max_pixels:
            raise ImageTooLarge(
                f"{image.width} x {image.height} pixels are more than the limit of {max_pixels}"
            )
        image.load()
        return _canonical(image)


def preprocess(image: Image.Image, spec: InputSpec) -> Pixels:
    """Turn one image of any size and mode into the pixels that an encoder takes.

    The image is made upright and grey or RGB as `decode` says, then scaled with antialiasing by
    ``spec.resize``: ``crop`` scales it to cover the target and keeps the centre, of which an odd
    pixel goes to the right or the bottom; ``squash`` ignores its aspect ratio. An image of the
    target's size is not resampled.

    Args:
        image: a Pillow image.
        spec: the encoder's input.

    Returns:
        uint8 ``[spec.height, spec.width, spec.channels]``, contiguous.

    Raises:
        InvalidImage: if the image's data cannot be read or its mode has no meaning as grey or RGB.
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
    """Bring one image or many, of any kind, to the pixels that an encoder takes.

    Args:
        images: one image or an iterable of them, each a uint8 array ``[H, W]`` or ``[H, W, C]``
            (C is 1, 3, or 4 with alpha), a Pillow image, a path, or an encoded file's bytes; or a
            uint8 array ``[N, H, W, C]``. Arrays that have the encoder's size already are passed
            through unchanged, a whole batch of them without a copy.
        spec: the encoder's input.
        max_pixels: the limit for each encoded file, see `decode`.
        formats: of encoded files, see `decode`.

    Returns:
        uint8 ``[N, spec.height, spec.width, spec.channels]``; N is 1 for one image.

    Raises:
        InvalidImage: if an image cannot be used; its ``index`` is its place in ``images``.
        InvalidInput: if ``images`` is no image and no iterable of them, or a batch of another type.
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
    """`as_pixels` in chunks of at most ``size`` images (None: all), each made when asked for.

    A long list of files so never sits in memory decoded.
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
            raise type(error)(error.detail, index) from error.__cause__
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
    kinds = (np.ndarray, Image.Image, str, os.PathLike, bytes, bytearray, memoryview)
    return isinstance(image, kinds)


def _one(image: object, spec: InputSpec, max_pixels: int, formats: Collection[str]) -> Pixels:
    if isinstance(image, np.ndarray):
        return _from_array(image, spec)
    if isinstance(image, Image.Image):
        return preprocess(image, spec)
    if isinstance(image, (str, os.PathLike)):
        name = Path(image)
        try:
            image = name.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidImage(f"{name}: {reason}") from error
    if isinstance(image, (bytes, bytearray, memoryview)):
        return preprocess(decode(image, max_pixels=max_pixels, formats=formats), spec)
    raise InvalidImage(f"{type(image).__name__} is no array, Pillow image, path or bytes")


def _from_array(array: NDArray[Any], spec: InputSpec) -> Pixels:
    if array.dtype != np.uint8:
        raise InvalidImage(f"the array is {array.dtype}; expected uint8 pixels, 0 to 255")
    if array.shape == spec.shape:
        return array
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or not array.size:
        raise InvalidImage(
            f"the array's shape is {list(array.shape)}; expected [H, W], or [H, W, C] with 1, 3 or "
            "4 channels. A batch is [N, H, W, C], for grey images with a last axis of 1"
        )
    return preprocess(Image.fromarray(np.ascontiguousarray(array)), spec)


def _resize(image: Image.Image, spec: InputSpec) -> Image.Image:
    """Scale the part of the image that the target shows, rows first and then columns.

    In one call Pillow would choose the order, and which one depends on its version (12 and 13
    differ). Values are rounded and clipped in between, so that the pixels would differ as well.
    """
    resampling = _FILTERS[spec.resize.filter]
    left, top, right, bottom = _source_box(image.size, spec)
    # Only the rows that the second step can reach: the widest filter is 3 target pixels wide, or
    # source pixels if those are larger.
    reach = 3 * max(1, (bottom - top) / spec.height) + 1
    first, last = max(0, int(top - reach)), min(image.height, int(bottom + reach) + 1)
    rows = image.crop((0, first, image.width, last))
    rows = rows.resize((spec.width, rows.height), resampling, box=(left, 0, right, rows.height))
    box = (0, top - first, spec.width, bottom - first)
    return rows.resize((spec.width, spec.height), resampling, box=box)


def _source_box(size: tuple[int, int], spec: InputSpec) -> tuple[float, float, float, float]:
    """The part of the source that the target shows.

    It is what scaling the whole image and cutting out the centre would show, but costs no more
    than the target, however long and thin the source is.
    """
    width, height = size
    if spec.resize.fit == "squash":
        return 0, 0, width, height
    scale = max(spec.width / width, spec.height / height)
    left, right = _kept(width, spec.width, scale, spec.resize)
    top, bottom = _kept(height, spec.height, scale, spec.resize)
    return left, top, right, bottom


def _kept(source: int, target: int, scale: float, policy: ResizePolicy) -> tuple[float, float]:
    # `scaled` is the side's length if the whole image were resized; one of the two sides is the
    # target exactly, and rounding errors in `scale` must not make it a pixel shorter.
    exact = source * scale
    scaled = max(target, int(exact + (0.5 if policy.rounding == "nearest" else 1e-6)))
    start = (scaled - target) // 2
    return start * source / scaled, (start + target) * source / scaled


def _canonical(image: Image.Image) -> Image.Image:
    """Upright, of mode L or RGB, and with nothing attached that would say otherwise."""
    # EXIF first: converting may drop it.
    turn = _turn(image)
    image = _grey_or_rgb(image)
    if turn is not None:
        image = image.transpose(turn)
    if image.info:
        image = image.copy()
        image.info = {}
    return image


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # Pillow fails on damaged EXIF in many ways, and it says nothing about the pixels.
        return None


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I":
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 65535:
            raise InvalidImage("32-bit integer pixels beyond 0..65535 have no known range")
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


def _readable(formats: Collection[str]) -> list[str]:
    # Which of them this Pillow was built with is known once its plugins are loaded.
    Image.init()
    return [name for name in formats if name in Image.OPEN]


@contextmanager
def _as_invalid_image(formats: Collection[str] = FORMATS) -> Iterator[None]:
    try:
        yield
    except (InvalidImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        known = "a known format" if formats is FORMATS else f"one of {', '.join(formats)}"
        raise InvalidImage(f"not an image in {known}") from error
    except Exception as error:
        # Pillow's decoders raise nearly every builtin error on damaged data.
        raise InvalidImage(f"cannot be read as an image: {error}") from error
