"""Splitting any number of images into chunks that fit into one request each.

Everything is lazy: an iterable is only advanced as far as the next chunk needs, and files are read
when their turn comes, so memory never holds all images.
"""

from __future__ import annotations

import io
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from repzoo_client._conversion import as_png, is_pillow_image, sendable
from repzoo_client.errors import InvalidImage, RequestTooLarge

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Chunk",
    "Chunker",
    "DoNotFit",
    "ImageLike",
    "Images",
    "Limits",
    "as_list",
    "chunks",
    "count",
    "together",
    "whole_groups",
]

#: One image: a uint8 array ``[H, W]`` or ``[H, W, C]``, a Pillow image, or a file: its path, its
#: bytes or an open binary file. Arrays of other sizes than the model's, AVIF files, and files that
#: exceed the server's limits, need Pillow.
ImageLike: TypeAlias = (
    "NDArray[np.uint8] | Image.Image | str | os.PathLike[str] | bytes | bytearray | memoryview"
    " | BinaryIO"
)

#: One image, an iterable of images, or a uint8 array ``[N, H, W, C]``.
Images: TypeAlias = "ImageLike | Iterable[ImageLike]"

# Room for a request's options, and for the lines around each file of a multipart form.
_BYTES_OF_REQUEST = 4096
_BYTES_OF_FILE = 160


class Limits(NamedTuple):
    """Limits of one request."""

    images: int
    bytes: int
    #: Pixels of one image.
    pixels: int
    #: ``(H, W, C)``, the shape of arrays that are sent as they are.
    shape: tuple[int, ...]
    #: The model's input, which is ``input`` in its record.
    input: Mapping[str, Any]


@dataclass
class Chunk:
    """Images ``first`` to ``first + size`` of a call.

    ``items`` are the images at the positions ``places`` of the call. The other images cannot be
    sent, and ``errors`` says why, by position.
    """

    first: int
    size: int = 0
    #: Files, or uint8 ``[H, W, C]`` of one shape, or one array ``[n, H, W, C]``.
    items: list[bytes] | list[NDArray[np.uint8]] | NDArray[np.uint8] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    #: The paths of images that are files, by position in the call.
    paths: dict[int, str] = field(default_factory=dict)
    errors: dict[int, Exception] = field(default_factory=dict)

    def pick(self, numbers: Sequence[int]) -> Chunk:
        """Return a chunk with some of the items, given their positions in ``items``."""
        items: Any = (
            self.items[list(numbers)]
            if isinstance(self.items, np.ndarray)
            else [self.items[number] for number in numbers]
        )
        places = [self.places[number] for number in numbers]
        return Chunk(self.first, self.size, items, places, self.paths)

    def label(self, place: int) -> str:
        """Return what messages call an image: "image 3 (photos/cat.jpg)"."""
        return _label(place, self.paths.get(place))


class Chunker:
    """Takes images one by one, and returns a chunk whenever it is full.

    Args:
        limits: Limits of one request.
        collect: Keep the error of an image that cannot be sent in its chunk, instead of raising it.
        files: Send arrays as files too, so that they can be in one request with files.
    """

    def __init__(self, limits: Limits, *, collect: bool, files: bool = False) -> None:
        self._limits = limits
        self._collect = collect
        self._files = files
        self._chunk = Chunk(0)
        self._kind: object = None
        self._bytes = 0

    def add(self, item: Any, place: int | None = None) -> Chunk | None:
        """Add one image; return the chunk before it if the image did not fit into that chunk.

        Args:
            item: The image.
            place: Its position in the call. By default it follows the image before it.

        Raises:
            TypeError, ValueError: If it is not an image, or not a uint8 array of an image's shape.
            InvalidImage: If it must be converted and cannot be.
            RequestTooLarge: If it is too large for any request.
            OSError: If a file cannot be read.
        """
        place = self._chunk.first + self._chunk.size if place is None else place
        path = os.fsdecode(item) if isinstance(item, (str, os.PathLike)) else None
        try:
            image = self._load(item, place, _label(place, path))
        except (TypeError, ValueError, OSError) as error:
            if not self._collect:
                raise
            full = self.end() if self._chunk.size == self._limits.images else None
            self._chunk.errors[place] = error
            self._chunk.size += 1
            return full
        kind: object = bytes if isinstance(image, bytes) else image.shape
        size = _size(image)
        fits = self._kind in (None, kind) and self._bytes + size <= self._room
        full = None if fits and self._chunk.size < self._limits.images else self.end()
        items: list[Any] = self._chunk.items  # type: ignore[assignment]
        items.append(image)
        self._chunk.places.append(place)
        if path is not None:
            self._chunk.paths[place] = path
        self._chunk.size += 1
        self._kind = kind
        self._bytes += size
        return full

    def end(self) -> Chunk | None:
        """Return the last chunk, or None if it would be empty."""
        chunk = self._chunk
        self._chunk = Chunk(chunk.first + chunk.size)
        self._kind, self._bytes = None, 0
        return chunk if chunk.size else None

    @property
    def _room(self) -> int:
        return self._limits.bytes - _BYTES_OF_REQUEST

    def _load(self, item: Any, place: int, label: str) -> bytes | NDArray[np.uint8]:
        """Return an image as it is sent: a file's bytes, or uint8 ``[H, W, C]``."""
        if isinstance(item, (str, os.PathLike)):
            item = Path(item).read_bytes()
        elif isinstance(item, io.IOBase):
            item = item.read()
        if isinstance(item, np.ndarray):
            item = _pixels(item, label)
        elif isinstance(item, (bytes, bytearray, memoryview)):
            item = bytes(item)
        elif not is_pillow_image(item):
            raise TypeError(
                f"{label}: {type(item).__name__} is not an image: expected a path, the bytes "
                f"of a file, an open binary file, a NumPy array or a Pillow image"
            )
        limits = self._limits
        try:
            if isinstance(item, bytes):
                most = self._room - _BYTES_OF_FILE
                item = sendable(item, limits.input, max_pixels=limits.pixels, max_bytes=most)
            elif self._files or is_pillow_image(item) or item.shape != limits.shape:
                item = as_png(item, limits.input)
        except ValueError as error:
            kind = "urn:repzoo:problem:invalid-image"
            raise InvalidImage(422, kind, f"{label}: {error}", index=place) from error
        size = _size(item)
        if size > self._room:
            raise RequestTooLarge(
                413,
                "urn:repzoo:problem:too-many-bytes",
                f"{label} has {size:,} bytes: more than a request to this server may carry "
                f"({self._limits.bytes:,})",
                index=place,
            )
        image: bytes | NDArray[np.uint8] = item
        return image


def chunks(images: Images, limits: Limits, *, collect: bool) -> Iterator[Chunk]:
    """Yield the chunks of ``images`` in order, making each one on demand.

    Raises:
        TypeError, ValueError, OSError: See `Chunker.add`; also ValueError if there are no images.
    """
    rows = images if isinstance(images, np.ndarray) and images.ndim == 4 and len(images) else None
    if rows is not None and rows.dtype == np.uint8 and rows.shape[1:] == limits.shape:
        yield from _slices(rows, limits)
        return
    chunker = Chunker(limits, collect=collect)
    chunk = None
    items: Iterable[Any] = [images] if _is_one(images) else images  # type: ignore[assignment]
    for item in items:
        if chunk := chunker.add(item):
            yield chunk
    if last := chunker.end():
        yield last
    elif chunk is None:
        raise ValueError("there are no images")


def as_list(images: Images) -> list[ImageLike]:
    """Return all images in a list, which holds paths rather than the bytes of files."""
    return [images] if _is_one(images) else list(images)  # type: ignore[list-item, arg-type]


def whole_groups(group: Iterable[Hashable], total: int, most: int) -> list[list[list[int]]]:
    """Plan requests that each hold all images of some groups.

    Args:
        group: The group of each image.
        total: The number of images.
        most: The largest number of images per request, unless a group has more.

    Returns:
        The positions of each group's images, for each request. Groups are in the order in which
        they first appear.

    Raises:
        ValueError: If there is not one group per image, or an id is a list or the like.
    """
    if not isinstance(group, Iterable):
        raise ValueError(f"group is {group!r}: expected one id per image")
    ids = list(group)
    if len(ids) != total:
        raise ValueError(f"group has {len(ids)} ids for {total} images: expected one per image")
    members: dict[Hashable, list[int]] = {}
    for place, each in enumerate(ids):
        if not isinstance(each, Hashable):
            raise ValueError(
                f"group[{place}] is {each!r}: expected an id, such as a number or text"
            )
        members.setdefault(each, []).append(place)
    requests: list[list[list[int]]] = []
    room = 0
    for places in members.values():
        if len(places) > room:
            requests.append([])
            room = most
        requests[-1].append(places)
        room -= len(places)
    return requests


class DoNotFit(ValueError):
    """Images that belong together do not fit into one request."""


def together(images: Sequence[ImageLike], places: Sequence[int], limits: Limits) -> Chunk:
    """Return one chunk with the images at ``places``.

    Raises:
        DoNotFit: If they do not fit into one request.
        TypeError, ValueError, OSError: See `Chunker.add`; also ValueError if there are no images.
    """
    if len(places) > limits.images:
        raise DoNotFit(
            f"{len(places)} images belong together, but a request to this server may have at most "
            f"{limits.images}"
        )
    files = not all(_has_shape(images[place], limits.shape) for place in places)
    chunker = Chunker(limits, collect=False, files=files)
    for place in places:
        if chunker.add(images[place], place) is not None:
            raise DoNotFit(
                f"image {place} does not fit into one request with the others that belong to it, "
                f"which may have {limits.bytes:,} bytes"
            )
    chunk = chunker.end()
    if chunk is None:
        raise ValueError("there are no images")
    return chunk


def count(images: Any) -> int | None:
    """Return the number of images, or None if it is only known at the end."""
    if _is_one(images):
        return 1
    return len(images) if hasattr(images, "__len__") else None


def _slices(images: NDArray[np.uint8], limits: Limits) -> Iterator[Chunk]:
    """Yield the chunks of an array ``[N, H, W, C]`` of the model's size without copying any row."""
    step = min(limits.images, max(1, (limits.bytes - _BYTES_OF_REQUEST) // images[0].nbytes))
    for start in range(0, len(images), step):
        rows = images[start : start + step]
        yield Chunk(start, len(rows), rows, list(range(start, start + len(rows))))


def _label(place: int, path: str | None) -> str:
    return f"image {place}" if path is None else f"image {place} ({path})"


def _is_one(images: Any) -> bool:
    if isinstance(images, np.ndarray):
        return images.ndim != 4
    # An open file can be iterated, too: by its lines.
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, io.IOBase)
    return isinstance(images, kinds) or is_pillow_image(images)


def _has_shape(image: Any, shape: tuple[int, ...]) -> bool:
    """Return whether an image is an array ``[H, W, C]`` of a shape, or ``[H, W]`` with C = 1."""
    return isinstance(image, np.ndarray) and (*image.shape, 1)[:3] == shape


def _size(image: bytes | NDArray[Any]) -> int:
    return len(image) + _BYTES_OF_FILE if isinstance(image, bytes) else image.nbytes


def _pixels(image: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if image.dtype != np.uint8:
        raise ValueError(f"{name} is {image.dtype}: expected uint8, 0 to 255")
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))):
        raise ValueError(
            f"{name} has shape {list(image.shape)}: expected [H, W], or [H, W, C] with 1, 3 or 4 "
            f"channels"
        )
    return image[:, :, None] if image.ndim == 2 else image
