"""JSON schemas of the OpenAPI document: from pydantic where it parses, by hand elsewhere."""

from __future__ import annotations

import copy
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from repzoo.packages.config import ModelConfig

from repzoo_serving.settings import Limits
from repzoo_serving.wire.bodies import OPERATIONS
from repzoo_serving.wire.openai_api import EmbeddingsRequest

__all__ = [
    "SAFETENSORS",
    "embeddings_answer",
    "form",
    "generate_body",
    "images",
    "labels",
    "latents",
    "models_answer",
    "openai_models",
    "options_schema",
    "problem",
    "ref",
    "schemas",
    "vectors",
]

#: A safetensors file.
SAFETENSORS = {"type": "string", "format": "binary"}

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
    """What is referred to by name."""
    _, made = models_json_schema(
        [
            (EmbeddingsRequest, "validation"),
            (Limits, "serialization"),
            (ModelConfig, "serialization"),
        ],
        ref_template="#/components/schemas/{model}",
    )
    strings = {"type": "array", "items": {"type": "string"}}
    model = {
        "name": {"type": "string"},
        "revision": ref("Revision"),
        "provider": {"type": "string"},
        "memory_bytes": {"type": "integer", "minimum": 0},
        "capabilities": {**strings, "items": {"enum": list(OPERATIONS)}},
        "limits": ref("Limits"),
        "config": ref("ModelConfig"),
    }
    return {
        **made["$defs"],
        "Model": _object(model),
        "Revision": {
            "description": "sha256 of the package's manifest.",
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
        },
        "Image": {
            "description": "A PNG, JPEG or WebP file; which, its bytes tell.",
            "type": "string",
            "format": "byte",
            "contentEncoding": "base64",
            "contentMediaType": "image/*",
        },
        "Png": {
            "type": "string",
            "pattern": "^iVBORw0KGgo[A-Za-z0-9+/]*={0,2}$",
            "contentEncoding": "base64",
            "contentMediaType": "image/png",
        },
        "Numbers": {
            "description": "One for each image.",
            "type": "array",
            "items": {"type": "number"},
        },
        "Vector": {
            "description": "Float32 numbers; with encoding_format base64 their bytes, "
            "little-endian, as base64.",
            "anyOf": [
                {"type": "array", "items": {"type": "number"}},
                {"type": "string", "pattern": "^[A-Za-z0-9+/]+={0,2}$"},
            ],
        },
    }


def vectors() -> dict[str, Any]:
    """``[N, D]`` in an answer."""
    return {"type": "array", "items": ref("Vector")}


def labels() -> dict[str, Any]:
    """One for each image, or several of a multi-label probe."""
    strings = {"type": "array", "items": {"type": "string"}}
    return {"type": "array", "items": {"anyOf": [{"type": "string"}, strings]}}


def images(limits: Limits) -> dict[str, Any]:
    """The payload of most operations, in JSON."""
    return {
        "type": "array",
        "items": ref("Image"),
        "minItems": 1,
        "maxItems": limits.max_images,
    }


def latents(limits: Limits) -> dict[str, Any]:
    """The payload of ``/generate``, in JSON."""
    number = {"type": "number", "minimum": -_FLOAT32_MAX, "maximum": _FLOAT32_MAX}
    row = {"type": "array", "items": number, "minItems": 1}
    return {"type": "array", "items": row, "minItems": 1, "maxItems": limits.max_images}


def options_schema(options: type[BaseModel], **payload: dict[str, Any]) -> dict[str, Any]:
    """The schema of a JSON body: options and what else it must have."""
    schema = options.model_json_schema()
    schema.pop("title")
    schema.pop("description")
    schema["properties"] |= payload
    schema["required"] += list(payload)
    return schema


def generate_body(
    options: dict[str, Any], payload: dict[str, Any], limits: Limits
) -> dict[str, Any]:
    """``n`` and ``seed``, or latents, but not both."""
    drawn = copy.deepcopy(options)
    drawn["properties"]["n"]["maximum"] = limits.max_images
    decoded = copy.deepcopy(options)
    del decoded["properties"]["n"], decoded["properties"]["seed"]
    decoded["properties"]["latents"] = payload
    decoded["required"] = [*decoded["required"], "latents"]
    return {"anyOf": [drawn, decoded]}


def form(schema: dict[str, Any]) -> dict[str, Any]:
    """The same body as a form: files as they are, and no null."""
    schema = copy.deepcopy(schema)
    for name, member in schema["properties"].items():
        if "anyOf" in member:
            there = [each for each in member.pop("anyOf") if each != {"type": "null"}]
            member |= there[0]
        if member.get("default", 0) is None:
            del member["default"]
        if name == "images":
            member["items"] = {"type": "string", "format": "binary"}
    return schema


def embeddings_answer() -> dict[str, Any]:
    """Of ``/v1/embeddings``."""
    integer = {"type": "integer", "minimum": 0}
    item = _object({"object": {"const": "embedding"}, "index": integer, "embedding": ref("Vector")})
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


def models_answer() -> dict[str, Any]:
    """Of ``/models``."""
    text = {"type": "string"}
    failed = {
        "description": "What is wanted and could not be loaded.",
        "type": "array",
        "items": _object({"reference": text, "reason": text}),
    }
    return _object({"models": {"type": "array", "items": ref("Model")}, "failed": failed})


def openai_models() -> dict[str, Any]:
    """Of ``/v1/models``."""
    model = _object(
        {
            "id": {"type": "string"},
            "object": {"const": "model"},
            "created": {"type": "integer"},
            "owned_by": {"const": "repzoo"},
        }
    )
    return _object({"object": {"const": "list"}, "data": {"type": "array", "items": model}})


def problem(status: int, kinds: list[str]) -> dict[str, Any]:
    """The document of a status."""
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
        more["index"] = {"type": "integer", "minimum": 0, "description": "Of the image at fault."}
    if status == 413:
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
