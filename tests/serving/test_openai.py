"""``/v1/embeddings`` over real sockets, with the requests of several APIs' clients."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import repzoo
from PIL import Image


@pytest.fixture(scope="module")
def http(server_url: str) -> Any:
    with httpx.Client(base_url=server_url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def encoder(tiny_package: Path) -> repzoo.Encoder:
    return repzoo.load(tiny_package, provider="cpu", threads=1)


def file(kind: str, seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


FILES = [file("PNG", 0), file("JPEG", 1)]
PLAIN = [base64.b64encode(data).decode() for data in FILES]
# The media type in a URL is ignored.
URLS = [f"data:image/gif;base64,{text}" for text in PLAIN]


def post(http: httpx.Client, **members: Any) -> httpx.Response:
    return http.post("/v1/embeddings", json={"model": "tiny", **members})


@pytest.mark.parametrize(
    "request_of",
    [
        {"input": PLAIN},
        {"input": URLS},
        {"input": [URLS[0], PLAIN[1]], "modality": "image", "user": "someone"},
        {"input": [f"data:;base64,{text}" for text in PLAIN]},
        {"input": [f"DATA:image/png;charset=x;BASE64,{text}" for text in PLAIN]},
        {"input": [{"image": URLS[0]}, {"image": PLAIN[1]}], "dimensions": 4},
        {"input": [{"type": "image_url", "image_url": {"url": url}} for url in URLS]},
    ],
    ids=["base64", "data-urls", "infinity", "bare-urls", "loud-urls", "jina", "parts"],
)
def test_every_way_to_put_images_in(
    http: httpx.Client, encoder: repzoo.Encoder, request_of: dict[str, Any]
) -> None:
    response = post(http, **request_of)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["object"] == "list"
    assert answer["model"] == "tiny"
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    assert answer["revision"] == encoder.revision
    assert answer["request_id"] == response.headers["x-request-id"]
    assert [(item["object"], item["index"]) for item in answer["data"]] == [
        ("embedding", 0),
        ("embedding", 1),
    ]
    found = [item["embedding"] for item in answer["data"]]
    np.testing.assert_allclose(found, encoder.embed(FILES, normalize=True), atol=1e-6)


def test_other_paths_take_data_urls_too(http: httpx.Client, encoder: repzoo.Encoder) -> None:
    for images in (PLAIN, URLS, [URLS[0], PLAIN[1]]):
        response = http.post("/embed", json={"model": "tiny", "images": images})
        assert response.status_code == 200, response.text
        np.testing.assert_allclose(response.json()["embeddings"], encoder.embed(FILES), atol=1e-6)
    response = http.post("/embed", json={"model": "tiny", "images": ["data:image/png,abc"]})
    assert response.status_code == 422
    assert "a data: URL must hold base64" in response.json()["detail"]


def test_one_image_and_the_chat_form(http: httpx.Client, encoder: repzoo.Encoder) -> None:
    part = {"type": "image_url", "image_url": {"url": URLS[1], "detail": "auto"}}
    expected = encoder.embed(FILES[1:], normalize=True)
    for request in ({"input": URLS[1]}, {"messages": [{"role": "user", "content": [part]}]}):
        (item,) = post(http, **request).json()["data"]
        np.testing.assert_allclose([item["embedding"]], expected, atol=1e-6)


def test_lengths_are_kept_when_asked_for(http: httpx.Client, encoder: repzoo.Encoder) -> None:
    data = post(http, input=PLAIN, normalize=False).json()["data"]
    found = [item["embedding"] for item in data]
    np.testing.assert_allclose(found, encoder.embed(FILES), atol=1e-6)


def test_items_have_the_uncertainty_of_embed(http: httpx.Client, live: Any) -> None:
    assert all("uncertainty" not in item for item in post(http, input=PLAIN).json()["data"])
    server = live()
    package = Path(__file__).parents[2] / "zoo" / "bundled" / "simvae-mnist"
    encoder = repzoo.load(package, provider="cpu", threads=1)
    server.app.models.serve([server.app.served(encoder)])
    request = {"model": "simvae-mnist", "images": PLAIN}
    expected = server.http.post("/embed", json=request).json()["uncertainty"]
    for encoding in ("float", "base64"):
        request = {"model": "simvae-mnist", "input": PLAIN, "encoding_format": encoding}
        data = server.http.post("/v1/embeddings", json=request).json()["data"]
        np.testing.assert_allclose([item["uncertainty"] for item in data], expected, atol=1e-6)


def test_only_openais_path_normalizes_by_default(http: httpx.Client) -> None:
    plain = http.post("/embed", json={"model": "tiny", "images": PLAIN}).json()["embeddings"]
    unit = [item["embedding"] for item in post(http, input=PLAIN).json()["data"]]
    assert not np.allclose(np.linalg.norm(plain, axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    described = http.get("/openapi.json").json()["paths"]["/v1/embeddings"]["post"]["description"]
    assert "`normalize`" in described


def test_base64_vectors_are_the_same_numbers(http: httpx.Client) -> None:
    numbers = post(http, input=PLAIN).json()["data"]
    texts = post(http, input=PLAIN, encoding_format="base64").json()["data"]
    for number, text in zip(numbers, texts, strict=True):
        vector = np.frombuffer(base64.b64decode(text["embedding"], validate=True), "<f4")
        assert np.array_equal(vector, np.float32(number["embedding"]))


def test_models_are_listed(http: httpx.Client) -> None:
    listing = http.get("/v1/models").json()
    assert listing["object"] == "list"
    assert [(m["id"], m["object"]) for m in listing["data"]] == [
        ("tiny", "model"),
        ("plain", "model"),
    ]


PART = {"type": "image_url", "image_url": {"url": URLS[0]}}


@pytest.mark.parametrize(
    ("members", "status", "kind", "code"),
    [
        ({"input": "http://127.0.0.1/x.png"}, 422, "invalid-image", "invalid_image"),
        ({"input": ["file:///etc/passwd"]}, 422, "invalid-image", "invalid_image"),
        ({"input": {"image": PLAIN[0]}}, 400, "malformed-request", "malformed_request"),
        ({"input": [{"image": "https://x/y.png"}]}, 422, "invalid-image", "invalid_image"),
        ({"input": "data:image/png,abc"}, 422, "invalid-image", "invalid_image"),
        ({"input": "data:image/png;base64"}, 422, "invalid-image", "invalid_image"),
        ({"input": "data:text/plain;base64,aGVsbG8="}, 422, "invalid-image", "invalid_image"),
        ({"input": "The quick brown fox"}, 422, "invalid-image", "invalid_image"),
        ({"input": ""}, 422, "invalid-image", "invalid_image"),
        ({"input": []}, 400, "malformed-request", "malformed_request"),
        ({"input": [1, 2, 3]}, 400, "malformed-request", "malformed_request"),
        ({"input": [[1, 2, 3]]}, 400, "malformed-request", "malformed_request"),
        ({}, 400, "malformed-request", "malformed_request"),
        (
            {"input": PLAIN, "messages": [{"role": "user", "content": [PART]}]},
            400,
            "malformed-request",
            "malformed_request",
        ),
        (
            {"messages": [{"role": "user", "content": [PART, {"type": "text", "text": "see"}]}]},
            400,
            "malformed-request",
            "malformed_request",
        ),
        ({"input": PLAIN, "modality": "text"}, 400, "malformed-request", "malformed_request"),
        ({"input": PLAIN, "dimensions": 3}, 400, "malformed-request", "malformed_request"),
        ({"input": PLAIN, "encoding_format": "x"}, 400, "malformed-request", "malformed_request"),
        ({"input": PLAIN, "more": 1}, 400, "malformed-request", "malformed_request"),
        ({"input": PLAIN * 33}, 413, "too-many-images", "too_many_images"),
        ({"input": PLAIN, "model": "gpt"}, 404, "unknown-model", "model_not_found"),
    ],
)
def test_errors_are_both_problems_and_what_openai_says(
    http: httpx.Client, members: dict[str, Any], status: int, kind: str, code: str
) -> None:
    response = post(http, **members)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == f"urn:repzoo:problem:{kind}"
    assert problem["error"] == {
        "message": problem["detail"],
        "type": "invalid_request_error",
        "param": None,
        "code": code,
    }
    if status == 422:
        assert problem["index"] == 0


def test_other_ways_in_are_closed(http: httpx.Client) -> None:
    form = http.post("/v1/embeddings", data={"model": "tiny"}, files=[("images", FILES[0])])
    assert form.status_code == 415
    assert form.json()["error"]["code"] == "unsupported_media_type"
    accept = {"Accept": "application/x-safetensors"}
    request = {"model": "tiny", "input": PLAIN}
    assert http.post("/v1/embeddings", json=request, headers=accept).status_code == 406
    assert http.get("/v1/embeddings").json()["error"]["type"] == "invalid_request_error"
    # Other paths do not have this member.
    assert "error" not in http.post("/embed", json={}).json()
