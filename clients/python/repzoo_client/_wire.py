"""Version 1 of the wire: calls become requests, and answers become arrays or errors.

Nothing here sends anything. Arrays travel as safetensors and files as multipart forms. Results
travel as safetensors, or as JSON with base64 vectors if the client asks for it.
"""

from __future__ import annotations

import base64
import io
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeAlias

import httpx
import numpy as np
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray

from repzoo_client import errors
from repzoo_client._chunks import Chunk

__all__ = [
    "Answer",
    "AnswerFormat",
    "drawing",
    "error_type",
    "generation",
    "images_request",
    "read",
]

SAFETENSORS_TYPE = "application/x-safetensors"

#: Arrays ``[N, D]`` of answers.
_VECTORS = (
    *("embeddings", "mean", "variance", "content_mean", "content_variance"),
    *("latents", "probabilities", "distances"),
)

#: The format of answers.
AnswerFormat: TypeAlias = Literal["safetensors", "json"]


def images_request(
    items: Sequence[bytes] | Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    options: Mapping[str, Any],
    answers: AnswerFormat,
) -> dict[str, Any]:
    """Return httpx arguments for files, or for uint8 ``[n, H, W, C]`` in one array or several."""
    if len(items) and isinstance(items[0], bytes):
        options, headers = _accepting(options, answers)
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in options.items()}
        files = [("images", (str(i), content)) for i, content in enumerate(items)]
        return {"data": texts, "files": files, "headers": headers}
    return _tensor_request({"images": np.asarray(items)}, options, answers)


def generation(
    model: str, n: int, seed: int | None, latents: ArrayLike | None, answers: AnswerFormat
) -> dict[str, Any]:
    """Return httpx arguments for ``/generate``; latents are float ``[N, D]`` or ``[D]``."""
    if latents is None:
        return _tensor_request({}, {"model": model, **drawing(n, seed)}, answers)
    array = np.atleast_2d(np.asarray(latents, dtype=np.float32))
    if array.ndim != 2:
        raise ValueError(f"latents have shape {list(array.shape)}: expected [N, D]")
    return _tensor_request({"latents": array}, {"model": model}, answers)


def drawing(n: int, seed: int | None) -> dict[str, int]:
    """Return the options of ``/generate`` that say how many images to draw, and which."""
    options = {"n": operator.index(n)}
    return options if seed is None else {**options, "seed": operator.index(seed)}


def _tensor_request(
    tensors: Mapping[str, NDArray[Any]], options: Mapping[str, Any], answers: AnswerFormat
) -> dict[str, Any]:
    options, headers = _accepting(options, answers)
    content = safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in tensors.items()},
        {"request": json.dumps(options)},
    )
    return {"content": content, "headers": headers | {"Content-Type": SAFETENSORS_TYPE}}


def _accepting(
    options: Mapping[str, Any], answers: AnswerFormat
) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Return the options and headers that ask for answers in a format."""
    if answers == "json":
        return {**options, "encoding_format": "base64"}, {"Accept": "application/json"}
    return options, {"Accept": SAFETENSORS_TYPE}


@dataclass(frozen=True)
class Answer:
    """A successful answer: its tensors and its other fields."""

    tensors: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            return self.tensors[name]
        except KeyError:
            raise errors.UnexpectedAnswer(f"the answer lacks {name!r}") from None


def read(response: httpx.Response, chunk: Chunk | None = None, through: str = "") -> Answer:
    """Read a complete response.

    Args:
        response: The response; JSON or safetensors if it is successful.
        chunk: The images of the request, for errors that name one.
        through: " through the proxy ...", for errors that a proxy may have caused.

    Raises:
        APIError: If the response has an error status.
        UnexpectedAnswer: If the response does not follow the API.
    """
    if response.is_error:
        raise _error(response, chunk, through)
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
        raise errors.UnexpectedAnswer(
            f"{response.url} sent a damaged answer{through}: {error}"
        ) from error
    raise errors.UnexpectedAnswer(
        f"{response.url} answered{through} with {media_type or 'no content type'}: is it a repzoo "
        "server?"
    )


def _from_json(document: Any) -> dict[str, NDArray[Any]]:
    """Return the arrays among the fields of a JSON answer."""
    arrays = {
        name: _stacked([np.frombuffer(base64.b64decode(row), "<f4") for row in document[name]])
        for name in _VECTORS
        if name in document
    }
    for name in ("uncertainty", "error"):
        if name in document:
            arrays[name] = np.asarray(document[name], np.float32)
    if "images" in document:
        arrays["images"] = np.stack([_read_png(text) for text in document["images"]])
    return arrays


def _stacked(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the rows ``[N, D]``; a row without values is NaN."""
    widest = max(len(row) for row in rows)
    return np.stack([row if len(row) else np.full(widest, np.nan, np.float32) for row in rows])


def _read_png(text: str) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "images in JSON answers need Pillow: pip install pillow, or use answers='safetensors'"
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


def error_type(kind: str, status: int) -> type[errors.APIError]:
    """Return the exception for a problem's type and status."""
    default = errors.ServerError if status >= 500 else errors.InvalidRequest
    return _BY_TYPE.get(kind, _BY_STATUS.get(status, default))


def _problem(response: httpx.Response) -> dict[str, Any]:
    """Return the problem document of a response, or an empty one."""
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return {}
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _error(response: httpx.Response, chunk: Chunk | None, through: str) -> errors.APIError:
    status = response.status_code
    problem = _problem(response)
    kind = str(problem.get("type", "about:blank"))
    index = problem.get("index")
    detail = str(problem.get("detail") or f"{response.url}: {response.reason_phrase}{through}")
    if not isinstance(index, int):
        index = None
    elif chunk is not None and 0 <= index < len(chunk.places):
        # The server counts within one request, the caller within the whole call.
        place = chunk.places[index]
        detail = detail.replace(f"image {index}:", f"{chunk.label(place)}:", 1)
        index = place
    return error_type(kind, status)(
        status,
        kind,
        detail,
        request_id=problem.get("request_id") or response.headers.get("x-request-id"),
        index=index,
        retry_after=_retry_after(response.headers.get("retry-after", "")),
    )


def _retry_after(text: str) -> float | None:
    """Return the seconds from now that either form of the header asks for."""
    if text.isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        return max(0.0, (when - datetime.now(when.tzinfo)).total_seconds())
    except (ValueError, TypeError):
        return None
