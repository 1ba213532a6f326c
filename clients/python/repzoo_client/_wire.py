"""Version 1 of the wire, seen from the client: calls -> requests, and answers -> arrays or errors.

Nothing here sends anything. Arrays travel as safetensors, files as multipart forms, and results as
safetensors, or as JSON with base64 vectors where that is asked for.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeAlias

import httpx
import numpy as np
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray

from repzoo_client import errors

__all__ = ["Answer", "Answers", "Payload", "generation", "images_payload", "read"]

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


def images_payload(items: list[bytes] | list[NDArray[np.uint8]] | NDArray[np.uint8]) -> Payload:
    """The payload for files, or for uint8 ``[n, H, W, C]`` in one array or one by one."""
    if len(items) and isinstance(items[0], bytes):
        return Payload(files=tuple(items))  # type: ignore[arg-type]
    return Payload({"images": np.asarray(items)})


def generation(
    model: str, n: int, seed: int | None, latents: ArrayLike | None
) -> tuple[Payload, dict[str, Any]]:
    """The payload and the options of ``/generate``; latents are float ``[N, D]``, or ``[D]``."""
    if latents is None:
        return Payload(), {"model": model, "n": n, "seed": seed}
    array = np.atleast_2d(np.asarray(latents, dtype=np.float32))
    if array.ndim != 2:
        raise ValueError(f"latents have shape {list(array.shape)}: expected [N, D]")
    return Payload({"latents": array}), {"model": model}


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


def read(response: httpx.Response, places: Sequence[int] = ()) -> Answer:
    """Read a response that is complete.

    Args:
        response: the response, of JSON or safetensors if it is a good one.
        places: of the images of this request among those of the call.

    Raises:
        APIError: if it is a problem.
        UnexpectedAnswer: if it is nothing that the API answers.
    """
    if response.is_error:
        raise _error(response, places)
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


def _error(response: httpx.Response, places: Sequence[int]) -> errors.APIError:
    status = response.status_code
    problem = _problem(response)
    kind = str(problem.get("type", "about:blank"))
    index = problem.get("index")
    detail = str(problem.get("detail") or f"{response.url}: {response.reason_phrase}")
    if not isinstance(index, int):
        index = None
    elif 0 <= index < len(places):
        # The server counts within one request, the caller within all that the call has sent.
        detail = detail.replace(f"image {index}:", f"image {places[index]}:", 1)
        index = places[index]
    default = errors.ServerError if status >= 500 else errors.InvalidRequest
    return _BY_TYPE.get(kind, _BY_STATUS.get(status, default))(
        status,
        kind,
        detail,
        request_id=problem.get("request_id") or response.headers.get("x-request-id"),
        index=index,
        retry_after=_retry_after(response.headers.get("retry-after", "")),
    )


def _retry_after(text: str) -> float | None:
    """Seconds from now, of either form that the header may have."""
    if text.isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        return max(0.0, (when - datetime.now(when.tzinfo)).total_seconds())
    except (ValueError, TypeError):
        return None
