"""The OpenAPI 3.1 document: every path, body, answer and error of the server, exactly.

What requests may have comes from the models that parse them, limits from the settings, and errors
from the table of problems; `repzoo_serving.wire.schemas` has the rest. Tests send thousands of requests
made from the document and hold every answer against it.
"""

from __future__ import annotations

from typing import Any

from repzoo_serving.http.problems import PROBLEM_TYPE, kinds
from repzoo_serving.settings import Limits
from repzoo_serving.wire.bodies import (
    EmbedOptions,
    GenerateOptions,
    Options,
    ProbeOptions,
)
from repzoo_serving.wire.schemas import (
    SAFETENSORS,
    embeddings_answer,
    form,
    generate_body,
    images,
    labels,
    latents,
    models_answer,
    openai_models,
    options_schema,
    problem,
    ref,
    schemas,
    vectors,
)

__all__ = ["document"]

#: Statuses of problems that any operation can be answered with, and those of some.
_ALWAYS = (401, 429, 500, 503)
_OF_BODIES = (400, 404, 406, 413, 415, 504)
_OF_IMAGES = (422,)


def document(limits: Limits) -> dict[str, Any]:
    """The document of a server with these limits."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "repzoo",
            "version": "1",
            "summary": "Representations of images, with their posterior.",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"key": []}],
        "tags": [
            {"name": "operations", "description": "What the models do."},
            {"name": "models", "description": "Which models there are."},
            {"name": "openai", "description": "For clients of OpenAI's API."},
            {"name": "server", "description": "For who runs the server."},
        ],
        "paths": _operations(limits) | _openai() | _models() | _server(),
        "components": {
            "schemas": schemas(),
            "responses": {str(status): _error(status) for status in sorted(set(kinds().values()))},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


_DESCRIPTION = """\
Images are sent as JSON (base64 of encoded files), as a multipart form (files as they are) or as
safetensors (pixels of the model's own size, `images` uint8 [N, H, W, C]; the options as one JSON
object in the metadata's `request`). `Accept` chooses between JSON and safetensors for the answer,
in which every array is a tensor and everything else one JSON object in the metadata's `response`.

Every error is `application/problem+json` (RFC 9457); its `type` is stable. `X-Request-ID` is taken
from the request, where it has a decent one, and is in every answer and in the server's log."""


def _operations(limits: Limits) -> dict[str, Any]:
    def post(
        name: str,
        summary: str,
        options: type[Options],
        members: dict[str, Any],
        *,
        optional: tuple[str, ...] = (),
        more: tuple[int, ...] = (),
    ) -> dict[str, Any]:
        of_images = name != "generate"
        if of_images:
            schema = options_schema(options, images=images(limits))
            in_form = form(options_schema(options, images=images(limits)))
        else:
            schema = generate_body(options_schema(options), latents(limits), limits)
            in_form = form(schema["anyOf"][0])
        statuses = (*_ALWAYS, *_OF_BODIES, *(_OF_IMAGES if of_images else ()), *more)
        answer = {
            "type": "object",
            "required": [
                *("model", "revision", "request_id"),
                *(member for member in members if member not in optional),
            ],
            "properties": {
                "model": {"type": "string"},
                "revision": ref("Revision"),
                "request_id": {"type": "string"},
                **members,
            },
            "additionalProperties": False,
        }
        operation = {
            "operationId": name,
            "tags": ["operations"],
            "summary": summary,
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": schema},
                    "multipart/form-data": {"schema": in_form},
                    "application/x-safetensors": {"schema": SAFETENSORS},
                },
            },
            "responses": {
                "200": _good(answer, "application/x-safetensors"),
                **_errors(statuses),
            },
        }
        return {f"/{name}": {"post": operation}}

    uncertainty = {"uncertainty": ref("Numbers")}
    pngs = {"type": "array", "items": ref("Png")}
    return {
        **post(
            "embed",
            "Embed images; with a posterior, its mean",
            EmbedOptions,
            {"embeddings": vectors(), **uncertainty},
            optional=("uncertainty",),
        ),
        **post(
            "posterior",
            "The posterior over the latents of each image",
            Options,
            {"mean": vectors(), "variance": vectors(), **uncertainty},
            optional=("uncertainty",),
            more=(409,),
        ),
        **post(
            "reconstruct",
            "Encode images and decode them again",
            Options,
            {"images": pngs, "error": ref("Numbers")},
            more=(409,),
        ),
        **post(
            "generate",
            "Draw images from the model's prior, or decode given latents",
            GenerateOptions,
            {"images": pngs, "latents": vectors()},
            more=(409,),
        ),
        **post(
            "probe",
            "Classify images with one of the model's probes",
            ProbeOptions,
            {
                "classes": {"type": "array", "items": {"type": "string"}},
                "labels": labels(),
                "probabilities": vectors(),
            },
        ),
    }


def _openai() -> dict[str, Any]:
    statuses = (*_ALWAYS, *_OF_BODIES, *_OF_IMAGES)
    return {
        "/v1/embeddings": {
            "post": {
                "operationId": "openai_embeddings",
                "tags": ["openai"],
                "summary": "Embed images, as clients of OpenAI's API ask for it",
                "description": "Images are `data:` URLs of base64, or plain base64. Problems have "
                "OpenAI's `error` object as one more member.",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": ref("EmbeddingsRequest")}},
                },
                "responses": {"200": _good(embeddings_answer()), **_errors(statuses)},
            }
        },
        "/v1/models": {
            "get": {
                "operationId": "openai_models",
                "tags": ["openai"],
                "summary": "The models, as clients of OpenAI's API list them",
                "responses": {"200": _good(openai_models()), **_errors(_ALWAYS)},
            }
        },
    }


def _models() -> dict[str, Any]:
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/models": {
            "get": {
                "operationId": "models",
                "tags": ["models"],
                "summary": "The models that are served",
                "responses": {"200": _good(models_answer()), **_errors((*_ALWAYS, 406))},
            }
        },
        "/models/{name}": {
            "get": {
                "operationId": "model",
                "tags": ["models"],
                "summary": "One of them",
                "parameters": [name],
                "responses": {"200": _good(ref("Model")), **_errors((*_ALWAYS, 404, 406))},
            }
        },
    }


def _server() -> dict[str, Any]:
    def get(name: str, summary: str, content: dict[str, Any]) -> dict[str, Any]:
        response = {"description": "As it says.", "headers": _HEADERS, "content": content}
        return {
            "get": {
                "operationId": name,
                "tags": ["server"],
                "summary": summary,
                "responses": {"200": response, **_errors(_ALWAYS)},
            }
        }

    def status(value: str) -> dict[str, Any]:
        properties = {"status": {"const": value}}
        schema = {"type": "object", "required": ["status"], "properties": properties}
        return {"application/json": {"schema": schema}}

    text = {"schema": {"type": "string"}}
    return {
        "/livez": get(
            "livez", "Whether the process answers, and no model hangs for good", status("alive")
        ),
        "/healthz": get("healthz", "The same", status("alive")),
        "/readyz": get(
            "readyz", "Whether every model runs, and requests are taken", status("ready")
        ),
        "/metrics": get("metrics", "Numbers for Prometheus, of this worker", {"text/plain": text}),
        "/": get("explorer", "A page that shows what models say of an image", {"text/html": text}),
        "/openapi.json": get(
            "openapi", "This document", {"application/json": {"schema": {"type": "object"}}}
        ),
        "/docs": get("docs", "This document, as a page", {"text/html": text}),
    }


_HEADERS = {"X-Request-ID": {"required": True, "schema": {"type": "string"}}}


def _good(schema: dict[str, Any], *more_types: str) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    content |= {media_type: {"schema": SAFETENSORS} for media_type in more_types}
    return {"description": "The answer.", "headers": _HEADERS, "content": content}


def _errors(statuses: tuple[int, ...]) -> dict[str, Any]:
    return {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)
    }


def _error(status: int) -> dict[str, Any]:
    there = [kind for kind, its in kinds().items() if its == status]
    headers: dict[str, Any] = dict(_HEADERS)
    if status in (429, 503):
        headers["Retry-After"] = {
            "required": True,
            "schema": {"type": "string", "pattern": "^[0-9]+$"},
        }
    return {
        "description": ", ".join(there),
        "headers": headers,
        "content": {PROBLEM_TYPE: {"schema": problem(status, there)}},
    }
