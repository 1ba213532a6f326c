"""The OpenAPI 3.1 document: every path, request, response and error of the server, exactly.

Request schemas come from the models that parse requests, limits from the settings, and errors from
the table of problems; `repzoo_serving.wire.schemas` has the rest. Tests generate thousands of
requests from the document and check every response against it.
"""

from __future__ import annotations

from typing import Any

from repzoo_serving.http.problems import KINDS, PROBLEM_TYPE
from repzoo_serving.settings import Limits
from repzoo_serving.wire.request_bodies import (
    EmbedOptions,
    GenerateOptions,
    Options,
    PosteriorOptions,
    ProbeOptions,
    SearchOptions,
)
from repzoo_serving.wire.schemas import (
    SAFETENSORS,
    UNCERTAINTY,
    embeddings_response,
    form,
    generate_body,
    images,
    labels,
    models_response,
    openai_model,
    openai_models_response,
    options_schema,
    problem,
    ref,
    schemas,
    vectors,
)

__all__ = ["document"]

#: Statuses of problems: of every path, and of paths that take a body.
_ALWAYS = (400, 401, 408, 429, 431, 500, 503)
_OF_BODIES = (404, 406, 413, 415, 422, 504)
_STATUSES = sorted({kind.status for kind in KINDS.values()})


#: The meaning of members of requests and responses that no other place describes.
_MEANINGS = {
    "abstained": "Whether each image is more uncertain than `abstain`, and got no neighbours.",
    "classes": "The names of the classes, in the order of the probabilities.",
    "content_mean": "The expected embedding of the undegraded picture, per image or group.",
    "content_variance": "How far off the content mean may be: a variance per dimension.",
    "created": "Always 0.",
    "data": "One entry per input, in their order.",
    "dimensions": "Must be the model's own, if given.",
    "distances": "The distance of each neighbour by the metric, per image. `mean` is the squared "
    "Euclidean distance, or the cosine distance 1 - cos if the model recommends it.",
    "embeddings": "One vector per image, or base64 of little-endian float32 values.",
    "encoding_format": "How vectors are written: numbers, or base64 of little-endian float32.",
    "error": "The mean squared error of each reconstruction, of pixel values in [0, 1].",
    "id": "The name under which the model is served.",
    "ids": "The neighbours of each image, nearest first: paths in the folder that was indexed.",
    "images": "Base64 of encoded image files, such as PNG or JPEG.",
    "index": "The position of the input.",
    "kind": "Which of the task's probes answers: linear or mlp.",
    "labels": "The most likely class of each image, or all likely labels of a multi-label task.",
    "latents": "Latent vectors, as lists of numbers or base64 of little-endian float32 values.",
    "mean": "The mean of each image's posterior, which is its embedding.",
    "model": "The name of a served model.",
    "models": "All models that are served.",
    "n": "The number of images.",
    "object": "A constant of OpenAI's API.",
    "owned_by": "A constant of OpenAI's API.",
    "probabilities": "The probability of each class, per image.",
    "prompt_tokens": "Always 0.",
    "reason": "Why it could not be loaded.",
    "reference": "The model as it was asked for.",
    "request_id": "Also in the X-Request-ID header and in the server's log.",
    "seed": "The same seed draws the same images.",
    "status": "What the server does.",
    "task": "The name of a probe's task; see /models.",
    "total_tokens": "Always 0.",
    "usage": "A constant of OpenAI's API: no tokens are counted.",
    "variance": "The variance of each image's posterior, per dimension.",
}

#: A digit of 8×8 pixels.
_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAGUlEQVR42mNgQAL///+H0FDMgI/+D1MNBgCsqQz0"
    "KcjTpQAAAABJRU5ErkJggg=="
)

#: Values of members in examples of requests and responses.
_EXAMPLES: dict[str, Any] = {
    "abstained": [False],
    "classes": ["0", "1", "2"],
    "content_mean": [[0.21, -1.4, 0.88]],
    "content_variance": [[0.05, 0.11, 0.07]],
    "distances": [[0.12, 0.31]],
    "embeddings": [[0.18, -1.52, 0.93]],
    "error": [0.0121],
    "ids": [["holiday/12.jpg", "garden/7.jpg"]],
    "images": [_PNG],
    "input": [f"data:image/png;base64,{_PNG}"],
    "labels": ["2"],
    "latents": [[0.18, -1.52, 0.93]],
    "mean": [[0.18, -1.52, 0.93]],
    "model": "simvae-mnist",
    "n": 4,
    "probabilities": [[0.01, 0.02, 0.97]],
    "request_id": "62cacddd1310-00000043",
    "revision": "e44e97cfe110fbdf88eb43d72dbf13c881a5842699ba9cadff8e480cd1e586a1",
    "seed": 1,
    "task": "class",
    "uncertainty": [0.02],
    "variance": [[0.02, 0.03, 0.02]],
}


def document(limits: Limits, *, index: bool = True) -> dict[str, Any]:
    """Return the document of a server with these limits, and with an index of images or without."""
    made = _document(limits)
    if not index:
        for path in ("/search", *_index()):
            del made["paths"][path]
    _describe(made["paths"])
    for methods in made["paths"].values():
        for operation in methods.values():
            _exemplify(operation, made["components"]["schemas"])
    return made


def _exemplify(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Add an example to the JSON request and response of an operation, if `_EXAMPLES` has one."""
    request = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if request is not None:
        schema = request["schema"]
        if "$ref" in schema:
            schema = schemas[schema["$ref"].rsplit("/", 1)[1]]
        schema = schema.get("anyOf", [schema])[0]
        optional = [name for name in ("input", "n", "seed") if name in schema["properties"]]
        request["example"] = {name: _EXAMPLES[name] for name in schema["required"] + optional}
    response = operation["responses"]["200"]["content"].get("application/json", {})
    members = response.get("schema", {}).get("properties", {})
    if members and members.keys() <= _EXAMPLES.keys():
        response["example"] = {name: _EXAMPLES[name] for name in members}


def _describe(schema: Any) -> None:
    """Add the meaning of all properties that have none."""
    if isinstance(schema, list):
        for each in schema:
            _describe(each)
    elif isinstance(schema, dict):
        for name, member in schema.get("properties", {}).items():
            if name in _MEANINGS and not {"description", "$ref"} & member.keys():
                member["description"] = _MEANINGS[name]
        for each in schema.values():
            _describe(each)


def _document(limits: Limits) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "repzoo",
            "version": "1",
            "summary": "Representations of images, with their posterior.",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        # Relative to the document, so that it is right behind any prefix.
        "servers": [{"url": "."}],
        "security": [{}, {"key": []}],
        "tags": [
            {"name": "operations", "description": "Operations of the models."},
            {"name": "models", "description": "The models that are served."},
            {"name": "openai", "description": "For clients of OpenAI's API."},
            {"name": "server", "description": "For operators of the server."},
        ],
        "paths": _operations(limits) | _index() | _openai() | _models() | _server(),
        "components": {
            "schemas": schemas(),
            "responses": {str(status): _error(status) for status in _STATUSES},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


_DESCRIPTION = """\
Images are sent as JSON (base64 of encoded files, or `data:` URLs), as a multipart form (files) or
as safetensors (pixels in the model's own size, `images` uint8 [N, H, W, C]; the options are a JSON
object in the metadata's `request`). `Accept` chooses between JSON and safetensors for the response.
In safetensors, every array is a tensor, and everything else is a JSON object in the metadata's
`response`.

`/embed` returns embeddings as the model computes them, unless `normalize` is true. `/v1/embeddings`
follows OpenAI's API and scales embeddings to length 1, unless `normalize` is false.

Every error is `application/problem+json` (RFC 9457) with a stable `type`. `X-Request-ID` is taken
from the request if it is valid; every response and the server's log have it."""


def _operations(limits: Limits) -> dict[str, Any]:
    def post(
        name: str,
        summary: str,
        description: str,
        options: type[Options],
        members: dict[str, Any],
        *,
        optional: tuple[str, ...] = (),
        more: tuple[int, ...] = (),
    ) -> dict[str, Any]:
        if name != "generate":
            schema = options_schema(options, images=images(limits))
            in_form = form(options_schema(options, images=images(limits)))
        else:
            schema = generate_body(options, limits)
            in_form = {"anyOf": [form(each) for each in schema["anyOf"][:2]]}
        statuses = (*_ALWAYS, *_OF_BODIES, *more)
        response = {
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
            "description": description,
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": schema},
                    "multipart/form-data": {"schema": in_form},
                    "application/x-safetensors": {"schema": SAFETENSORS},
                },
            },
            "responses": {
                "200": _good(response, "application/x-safetensors"),
                **_errors(statuses),
            },
        }
        return {f"/{name}": {"post": operation}}

    uncertainty = {
        "uncertainty": {
            "type": "array",
            "items": UNCERTAINTY,
            "description": "The probability that the model's config states in `uncertainty`. It is "
            "about the neighbour of the plain embedding, even if robust embeddings are returned.",
        }
    }
    pngs = {"type": "array", "items": ref("Png")}
    strings = {"type": "array", "items": {"type": "string"}}
    found = {"type": "array", "items": strings}
    flags = {"type": "array", "items": {"type": "boolean"}}
    return {
        **post(
            "embed",
            "Embed images",
            "Returns a vector per image. If the model has a posterior, the vector is its mean. If "
            "the model estimates how uncertain it is, the response has the `uncertainty` of each "
            "image.",
            EmbedOptions,
            {"embeddings": vectors(), **uncertainty},
            optional=("uncertainty",),
            more=(409,),
        ),
        **post(
            "posterior",
            "Return the posterior of each image",
            "Returns mean and variance of the latents. If the model has a content posterior, "
            "`content_mean` and `content_variance` say where the embedding of the undegraded "
            "picture lies. With `group`, images that share an id are views of one thing, and there "
            "is one posterior per thing.",
            PosteriorOptions,
            {
                "mean": vectors(),
                "variance": vectors(),
                "content_mean": vectors(),
                "content_variance": vectors(),
                **uncertainty,
            },
            optional=("variance", "content_mean", "content_variance", "uncertainty"),
            more=(409,),
        ),
        **post(
            "reconstruct",
            "Encode images and decode them again",
            "Returns PNG files at the model's size, and how far each is from what was sent. The "
            "model needs a decoder.",
            Options,
            {"images": pngs, "error": ref("Numbers")},
            more=(409,),
        ),
        **post(
            "generate",
            "Generate images",
            "There are three kinds of requests. `n` and `seed` sample from the model's prior. "
            "`images`, with `vary`, `n` and `seed`, draw new views of what the images show "
            "together. `latents`, sent alone, are decoded. The model needs a decoder.",
            GenerateOptions,
            {"images": pngs, "latents": vectors()},
            more=(409,),
        ),
        **post(
            "probe",
            "Classify images",
            "A probe is a small classifier of embeddings. `/models` lists the tasks, kinds and "
            "classes of each model's probes.",
            ProbeOptions,
            {
                "classes": {"type": "array", "items": {"type": "string"}},
                "labels": labels(),
                "probabilities": vectors(),
            },
        ),
        **post(
            "search",
            "Find the nearest images of the server's index",
            "The index is the one that `zoo serve --index` names. `/index/images/{id}` returns "
            "small pictures of the neighbours.",
            SearchOptions,
            {"ids": found, "distances": vectors(), "abstained": flags, **uncertainty},
            optional=("uncertainty",),
            more=(409,),
        ),
    }


def _index() -> dict[str, Any]:
    picture = {"schema": {"type": "string", "format": "binary"}}
    return {
        "/index/images/{id}": {
            "get": {
                "operationId": "index_image",
                "tags": ["operations"],
                "summary": "Return a picture of an image of the index",
                "description": "At most 256 pixels wide and high. The image is decoded and encoded "
                "again; files are never sent as they are.",
                "parameters": [
                    {
                        "name": "id",
                        "in": "path",
                        "required": True,
                        "description": "One of the `ids` of `/search`. It may contain slashes.",
                        "example": "holiday/12.jpg",
                        "schema": {"type": "string"},
                    }
                ],
                "responses": {
                    "200": {
                        "description": "Success.",
                        "headers": _HEADERS,
                        "content": {"image/png": picture, "image/jpeg": picture},
                    },
                    **_errors((*_ALWAYS, 404)),
                },
            }
        }
    }


def _openai() -> dict[str, Any]:
    statuses = (*_ALWAYS, *_OF_BODIES)
    return {
        "/v1/embeddings": {
            "post": {
                "operationId": "openai_embeddings",
                "tags": ["openai"],
                "summary": "Embed images, for clients of OpenAI's API",
                "description": "Images are `data:` URLs or plain base64. Embeddings have length 1 "
                "unless `normalize` is false; `/embed` only normalizes on request. Items have "
                "`uncertainty` if the model estimates it. Problems have OpenAI's `error` object "
                "as an additional member.",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": ref("EmbeddingsRequest")}},
                },
                "responses": {"200": _good(embeddings_response()), **_errors(statuses)},
            }
        },
        "/v1/models": {
            "get": {
                "operationId": "openai_models",
                "tags": ["openai"],
                "summary": "List the models, for clients of OpenAI's API",
                "description": "A model with a content posterior is also listed as `NAME:robust`, "
                "which embeds images by their content mean.",
                "responses": {"200": _good(openai_models_response()), **_errors(_ALWAYS)},
            }
        },
        "/v1/models/{name}": {
            "get": {
                "operationId": "openai_model",
                "tags": ["openai"],
                "summary": "Return one model, for clients of OpenAI's API",
                "description": "An entry of `/v1/models`.",
                "parameters": [_name_parameter()],
                "responses": {"200": _good(openai_model()), **_errors((*_ALWAYS, 404))},
            }
        },
    }


def _name_parameter() -> dict[str, Any]:
    return {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "The name of a served model.",
        "example": _EXAMPLES["model"],
        "schema": {"type": "string"},
    }


def _models() -> dict[str, Any]:
    return {
        "/models": {
            "get": {
                "operationId": "models",
                "tags": ["models"],
                "summary": "List the models that are served",
                "description": "Each has its revision, capabilities, limits and `config.json`. "
                "Models that could not be loaded are in `failed`.",
                "responses": {"200": _good(models_response()), **_errors((*_ALWAYS, 406))},
            }
        },
        "/models/{name}": {
            "get": {
                "operationId": "model",
                "tags": ["models"],
                "summary": "Return one model",
                "description": "An entry of `/models`.",
                "parameters": [_name_parameter()],
                "responses": {"200": _good(ref("Model")), **_errors((*_ALWAYS, 404, 406))},
            }
        },
    }


def _server() -> dict[str, Any]:
    def get(name: str, summary: str, description: str, content: dict[str, Any]) -> dict[str, Any]:
        response = {"description": "Success.", "headers": _HEADERS, "content": content}
        return {
            "get": {
                "operationId": name,
                "tags": ["server"],
                "summary": summary,
                "description": description,
                "responses": {"200": response, **_errors(_ALWAYS)},
            }
        }

    def status(value: str) -> dict[str, Any]:
        properties = {"status": {"const": value}}
        schema = {"type": "object", "required": ["status"], "properties": properties}
        return {"application/json": {"schema": schema, "example": {"status": value}}}

    text = {"schema": {"type": "string"}}
    return {
        "/livez": get(
            "livez",
            "Check that the process is alive",
            "Fails if a model hangs for good. Restart the process then.",
            status("alive"),
        ),
        "/healthz": get(
            "healthz",
            "The same as /livez",
            "For monitors that expect this path.",
            status("alive"),
        ),
        "/readyz": get(
            "readyz",
            "Check that the server is ready",
            "Runs every model. Fails while models are loaded, and while the server shuts down.",
            status("ready"),
        ),
        "/metrics": get(
            "metrics",
            "Return metrics for Prometheus",
            "The metrics of the worker that answers.",
            {"text/plain": text},
        ),
        "/": get(
            "explorer",
            "The explorer",
            "A web page that shows what the models say about an image.",
            {"text/html": text},
        ),
        "/openapi.json": get(
            "openapi",
            "This document",
            "OpenAPI 3.1, with the limits of this server.",
            {"application/json": {"schema": {"type": "object"}}},
        ),
        "/docs": get(
            "docs",
            "This document as a web page",
            "Each operation has a form that sends it.",
            {"text/html": text},
        ),
    }


_HEADERS = {"X-Request-ID": {"required": True, "schema": {"type": "string"}}}


def _good(schema: dict[str, Any], *more_types: str) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    content |= {media_type: {"schema": SAFETENSORS} for media_type in more_types}
    return {"description": "Success.", "headers": _HEADERS, "content": content}


def _errors(statuses: tuple[int, ...]) -> dict[str, Any]:
    return {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)
    }


def _error(status: int) -> dict[str, Any]:
    matching = {name: kind for name, kind in KINDS.items() if kind.status == status}
    headers: dict[str, Any] = dict(_HEADERS)
    if status in (429, 503):
        headers["Retry-After"] = {
            "required": True,
            "schema": {"type": "string", "pattern": "^[0-9]+$"},
        }
    return {
        "description": " ".join(
            f"`{name}`: {kind.title}. {kind.action}" for name, kind in matching.items()
        ),
        "headers": headers,
        "content": {PROBLEM_TYPE: {"schema": problem(status, list(matching))}},
    }
