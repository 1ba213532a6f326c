"""JSON schemas of the OpenAPI document, from pydantic models where they exist."""

from __future__ import annotations

import copy
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from repzoo.packages.config import ModelConfig

from repzoo_serving.settings import Limits
from repzoo_serving.wire.openai_api import EmbeddingsRequest
from repzoo_serving.wire.request_bodies import CAPABILITIES, Metric

__all__ = [
    "SAFETENSORS",
    "UNCERTAINTY",
    "embeddings_response",
    "form",
    "generate_body",
    "images",
    "labels",
    "latents",
    "models_response",
    "openai_model",
    "openai_models_response",
    "options_schema",
    "problem",
    "ref",
    "schemas",
    "vectors",
]

#: A safetensors file.
SAFETENSORS = {"type": "string", "format": "binary"}

UNCERTAINTY = {
    "description": "A probability; the model's config says of what. Present if the model has it.",
    "type": "number",
    "minimum": 0,
    "maximum": 1,
}

_FLOAT32_MAX = 3.4028234663852886e38


def ref(name: str) -> dict[str, Any]:
    """A reference to one of `schemas`."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": required | (optional or {}),
        "additionalProperties": False,
    }


def schemas() -> dict[str, Any]:
    """Return the schemas that are referred to by name."""
    _, made = models_json_schema(
        [
            (EmbeddingsRequest, "validation"),
            (Limits, "serialization"),
            (ModelConfig, "validation"),
        ],
        ref_template="#/components/schemas/{model}",
    )
    strings = {"type": "array", "items": {"type": "string"}}
    model = {
        "name": {"type": "string"},
        "revision": ref("Revision"),
        "provider": {"type": "string"},
        "memory_bytes": {"type": "integer", "minimum": 0},
        "capabilities": {**strings, "items": {"enum": list(CAPABILITIES)}},
        "limits": ref("Limits"),
        "config": ref("ModelConfig"),
    }
    index = {
        "count": {"type": "integer", "minimum": 1, "description": "The number of images."},
        "posterior": {
            "enum": ["encoder", "content"],
            "description": "Which posteriors the index holds.",
        },
        "metrics": {
            **strings,
            "items": {"enum": list(get_args(Metric))},
            "description": "The metrics of /search that the index has.",
        },
    }
    return {
        **made["$defs"],
        "Model": _object(model, {"index": _object(index)}),
        "Revision": {
            "description": "The SHA-256 of the package's manifest.",
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
        },
        "Image": {
            "description": "The base64 of an image file, plain or as a data: URL: BMP, GIF (the "
            "first frame), JPEG, JPEG 2000, PNG, PPM, TIFF or WebP. The file's bytes, not the URL, "
            "say which format it has.",
            "type": "string",
            "format": "image",
        },
        "Png": {
            "type": "string",
            "pattern": "^iVBORw0KGgo[A-Za-z0-9+/]*={0,2}$",
            "contentEncoding": "base64",
            "contentMediaType": "image/png",
        },
        "Numbers": {
            "description": "One number per image.",
            "type": "array",
            "items": {"type": "number"},
        },
        "Vector": {
            "description": "Float32 numbers. With encoding_format base64: the base64 of their "
            "little-endian bytes.",
            "anyOf": [
                {"type": "array", "items": {"type": "number"}},
                {"type": "string", "pattern": "^[A-Za-z0-9+/]*={0,2}$"},
            ],
        },
    }


def vectors() -> dict[str, Any]:
    """An array ``[N, D]`` in a response."""
    return {"type": "array", "items": ref("Vector")}


def labels() -> dict[str, Any]:
    """One label per image, or several from a multi-label probe."""
    strings = {"type": "array", "items": {"type": "string"}}
    return {"type": "array", "items": {"anyOf": [{"type": "string"}, strings]}}


def images(limits: Limits) -> dict[str, Any]:
    """The payload of most operations in JSON."""
    return {
        "type": "array",
        "items": ref("Image"),
        "minItems": 1,
        "maxItems": limits.max_images,
    }


def latents(limits: Limits) -> dict[str, Any]:
    """The payload of ``/generate`` in JSON."""
    number = {"type": "number", "minimum": -_FLOAT32_MAX, "maximum": _FLOAT32_MAX}
    row = {"type": "array", "items": number, "minItems": 1}
    return {"type": "array", "items": row, "minItems": 1, "maxItems": limits.max_images}


def options_schema(options: type[BaseModel], **payload: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a JSON body: options and a required payload."""
    schema = options.model_json_schema()
    schema.pop("title")
    schema.pop("description")
    schema["properties"] |= payload
    schema["required"] += list(payload)
    return schema


def generate_body(options: type[BaseModel], limits: Limits) -> dict[str, Any]:
    """Either ``n`` and ``seed``, or these and images of one thing, or latents."""
    drawn, decoded = options_schema(options), options_schema(options, latents=latents(limits))
    views = options_schema(options, images=images(limits))
    for schema in (drawn, views):
        schema["properties"]["n"]["maximum"] = limits.max_images
    for schema, others in ((drawn, ("vary",)), (decoded, ("n", "seed", "vary"))):
        for name in others:
            del schema["properties"][name]
    return {"anyOf": [drawn, views, decoded]}


def form(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the same body as a form: with files, and without null."""
    schema = copy.deepcopy(schema)
    for name, member in schema["properties"].items():
        if "anyOf" in member:
            there = [each for each in member.pop("anyOf") if each != {"type": "null"}]
            member |= there[0]
        if member.get("default", 0) is None:
            del member["default"]
        if name == "group":
            del member["items"]
            member |= {"type": "string", "pattern": r"^\[[0-9]+(, ?[0-9]+)*\]$"}
        if name == "images":
            member["items"] = {"type": "string", "format": "binary"}
    return schema


def embeddings_response() -> dict[str, Any]:
    """The response of ``/v1/embeddings``."""
    integer = {"type": "integer", "minimum": 0}
    item = _object(
        {"object": {"const": "embedding"}, "index": integer, "embedding": ref("Vector")},
        {"uncertainty": UNCERTAINTY},
    )
    return _object(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": item},
            "model": {"type": "string"},
            "usage": _object({"prompt_tokens": integer, "total_tokens": integer}),
            "revision": ref("Revision"),
            "request_id": {"type": "string"},
        }
    )


def models_response() -> dict[str, Any]:
    """The response of ``/models``."""
    text = {"type": "string"}
    failed = {
        "description": "Models that should be served but could not be loaded.",
        "type": "array",
        "items": _object({"reference": text, "reason": text}),
    }
    return _object({"models": {"type": "array", "items": ref("Model")}, "failed": failed})


def openai_model() -> dict[str, Any]:
    """The response of ``/v1/models/{name}``."""
    return _object(
        {
            "id": {"type": "string"},
            "object": {"const": "model"},
            "created": {"type": "integer"},
            "owned_by": {"const": "repzoo"},
        }
    )


def openai_models_response() -> dict[str, Any]:
    """The response of ``/v1/models``."""
    data = {"type": "array", "items": openai_model()}
    return _object({"object": {"const": "list"}, "data": data})


def problem(status: int, kinds: list[str]) -> dict[str, Any]:
    """Return the schema of the problem documents with a status."""
    text = {"type": "string", "minLength": 1}
    error = _object(
        {
            "message": text,
            "type": {"type": "string"},
            "param": {"type": "null"},
            "code": {"type": "string"},
        }
    )
    more: dict[str, Any] = {"error": error}
    if status in (413, 422):
        more["index"] = {
            "type": "integer",
            "minimum": 0,
            "description": "Index of the image at fault.",
        }
    if status in (413, 431):
        more["limit"] = {"type": "integer", "minimum": 1}
    return _object(
        {
            "type": {"enum": [f"urn:repzoo:problem:{kind}" for kind in kinds]},
            "title": text,
            "status": {"const": status},
            "detail": text,
            "request_id": text,
        },
        more,
    )
