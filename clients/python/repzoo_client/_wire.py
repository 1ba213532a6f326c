"""Version 1 of the wire, seen from the client: calls -> requests, and answers -> arrays or errors.

Nothing here sends anything. Arrays travel as safetensors, files as multipart forms, and results as
safetensors, or as JSON with base64 vectors where that is asked for.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import httpx
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from repzoo_client import errors

__all__ = [
    "Answer",
    "Answers",
    "ImageLike",
    "Images",
    "Payload",
    "batches",
    "latents_payload",
    "read",
]

#: One image: a uint8 array ``[H, W]`` or ``[H, W, C]`` of the model's size, or an image file of any
#: size, as a path or its bytes.
ImageLike: TypeAlias = NDArray[np.uint8] | str | os.PathLike[str] | bytes

#: One image, an iterable of images, or a uint8 array ``[N, H, W, C]``.
Images: TypeAlias = ImageLike | Iterable[ImageLike]

SAFETENSORS_TYPE = "application/x-safetensors"

#: The format of answers.
Answers: TypeAlias = Literal["safetensors", "json"]


@dataclass(frozen=True)
class Payload:
    """The images or latents of one request: ``tensors`` by name, or ``files``, or nothing."""

    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    files: tuple[bytes, ...] = ()

    def request(
        self, options: Mapping[str, Any], answers: Answers = "safetensors"
    ) -> dict[str, Any]:
        """Keyword arguments for httpx."""
        headers = {"Accept": SAFETENSORS_TYPE}
        if answers == "json":
            headers = {"Accept": "application/json"}
            options = {**options, "encoding_format": "base64"}
        if self.files:
            texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in options.items()}
            files = [("images", (str(i), content)) for i, content in enumerate(self.files)]
            return {"data": texts, "files": files, "headers": headers}
        content = safetensors.numpy.save(
            {name: np.ascontiguousarray(array) for name, array in self.tensors.items()},
            {"request": json.dumps(options)},
        )
        return {"content": content, "headers": headers | {"Content-Type": SAFETENSORS_TYPE}}


def batches(images: Images, size: int) -> Iterator[Payload]:
    """The payloads of the requests that ``images`` take, of at most ``size`` images each.

    Files are read when their turn comes, so that a long list of them never sits in memory.

    Raises:
        TypeError, ValueError: if there are no images, or arrays and files are mixed, or an array is
            not uint8 or has another shape.
        OSError: if a file cannot be read.
    """
    if isinstance(images, (str, os.PathLike, bytes)):
        images = [images]
    arrays: NDArray[Any] | list[Any]
    if isinstance(images, np.ndarray):
        arrays = images if images.ndim == 4 else [images]
    else:
        items = list(images)
        if not any(isinstance(item, np.ndarray) for item in items):
            yield from _file_batches(items, size)
            return
        arrays = items
    if not len(arrays):
        raise ValueError("there are no images")
    for start in range(0, len(arrays), size):
        yield Payload({"images": _stack(arrays[start : start + size], start)})


def _file_batches(items: list[Any], size: int) -> Iterator[Payload]:
    if not items:
        raise ValueError("there are no images")
    for start in range(0, len(items), size):
        yield Payload(files=tuple(_read_file(item) for item in items[start : start + size]))


def _read_file(item: Any) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, (str, os.PathLike)):
        return Path(item).read_bytes()
    raise TypeError(f"{type(item).__name__} is not an image: expected an array, a path or bytes")


def _stack(images: NDArray[Any] | list[Any], start: int) -> NDArray[np.uint8]:
    """uint8 ``[N, H, W, C]`` of a batch that is one, or of a list of images."""
    for index, image in enumerate(images, start):
        if not isinstance(image, np.ndarray):
            raise TypeError(
                f"image {index} is {type(image).__name__} among arrays: send arrays in one call "
                f"and files in another"
            )
        if image.dtype != np.uint8:
            raise ValueError(f"image {index} is {image.dtype}: expected uint8, 0 to 255")
        if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))):
            raise ValueError(
                f"image {index} has shape {list(image.shape)}: expected [H, W], or [H, W, C] with "
                f"1 or 3 channels"
            )
    if isinstance(images, np.ndarray):
        return images
    rows = [image[:, :, None] if image.ndim == 2 else image for image in images]
    if len({row.shape for row in rows}) != 1:
        raise ValueError(
            "the arrays differ in shape: a model takes arrays of its own size; send files to have "
            "them resized"
        )
    return np.stack(rows)


def latents_payload(latents: Any) -> Payload:
    """The payload for float ``[N, D]``, or ``[D]`` for one."""
    array = np.atleast_2d(np.asarray(latents, dtype=np.float32))
    if array.ndim != 2:
        raise ValueError(f"latents have shape {list(array.shape)}: expected [N, D]")
    return Payload({"latents": array})


@dataclass(frozen=True)
class Answer:
    """A good answer: its tensors, and its other members."""

    tensors: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            return self.tensors[name]
        except KeyError:
            raise errors.UnexpectedAnswer(f"the answer has no {name}") from None


def read(response: httpx.Response, first: int = 0) -> Answer:
    """Read a response that is complete.

    Args:
        response: the response, of JSON or safetensors if it is a good one.
        first: the place, among the images of the call, of the first image of this request.

    Raises:
        APIError: if it is a problem.
        UnexpectedAnswer: if it is nothing that the API answers.
    """
    if response.is_error:
        raise _error(response, first)
    media_type = response.headers.get("content-type", "").split(";")[0]
    try:
        if media_type == "application/json":
            document = response.json()
            return Answer(_from_json(document), document)
        if media_type == SAFETENSORS_TYPE:
            data = response.content
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            facts = json.loads(header["__metadata__"]["response"])
            return Answer(safetensors.numpy.load(data), facts)
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise errors.UnexpectedAnswer(f"{response.url} gave a damaged answer: {error}") from error
    raise errors.UnexpectedAnswer(
        f"{response.url} answered with {media_type or 'no type'}: is it a repzoo server?"
    )


def _from_json(document: Any) -> dict[str, NDArray[Any]]:
    """The arrays of a JSON answer, which are among its members."""
    arrays = {
        name: np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in document[name]])
        for name in ("embeddings", "mean", "variance", "latents", "probabilities")
        if name in document
    }
    for name in ("uncertainty", "error"):
        if name in document:
            arrays[name] = np.asarray(document[name], np.float32)
    if "images" in document:
        arrays["images"] = np.stack([_read_png(text) for text in document["images"]])
    return arrays


def _read_png(text: str) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "images in JSON answers are PNG files, which Pillow reads: pip install pillow, or do "
            "without answers='json'"
        ) from error
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


_BY_TYPE: dict[str, type[errors.APIError]] = {
    "urn:repzoo:problem:unknown-model": errors.ModelNotFound,
    "urn:repzoo:problem:unknown-task": errors.UnknownTask,
}
_BY_STATUS: dict[int, type[errors.APIError]] = {
    401: errors.AccessDenied,
    403: errors.AccessDenied,
    404: errors.NotFound,
    409: errors.UnsupportedOperation,
    413: errors.RequestTooLarge,
    422: errors.InvalidImage,
    429: errors.Overloaded,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
}


def _problem(response: httpx.Response) -> dict[str, Any]:
    """The problem document of a response, empty if it has none."""
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return {}
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _error(response: httpx.Response, first: int) -> errors.APIError:
    status = response.status_code
    problem = _problem(response)
    kind = str(problem.get("type", "about:blank"))
    index = problem.get("index")
    detail = str(problem.get("detail") or f"{response.url}: {response.reason_phrase}")
    if isinstance(index, int) and first:
        # The server counts within one request, the caller within all that the call has sent.
        detail = detail.replace(f"image {index}:", f"image {first + index}:", 1)
        index += first
    retry_after = response.headers.get("retry-after", "")
    default = errors.ServerError if status >= 500 else errors.InvalidRequest
    return _BY_TYPE.get(kind, _BY_STATUS.get(status, default))(
        status,
        kind,
        detail,
        request_id=problem.get("request_id") or response.headers.get("x-request-id"),
        index=index,
        retry_after=float(retry_after) if retry_after.isdecimal() else None,
    )
