"""Content posteriors over a real socket: ``robust``, ``content`` and ``NAME:robust``."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import repzoo

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def http(content_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=content_url, timeout=30) as client:
        yield client


def png(pixels: np.ndarray[Any, Any]) -> str:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def post(http: httpx.Client, path: str, model: str, **options: Any) -> httpx.Response:
    body = {"model": model, "images": [png(image) for image in IMAGES], **options}
    return http.post(path, json=body)


def test_robust_embeddings_are_the_content_means(
    http: httpx.Client, content_packages: dict[str, Path]
) -> None:
    encoder = repzoo.load(content_packages["robust"], provider="cpu")
    plain, robust = (post(http, "/embed", "robust", robust=r).json() for r in (False, True))
    np.testing.assert_allclose(robust["embeddings"], encoder.embed(IMAGES, robust=True), rtol=1e-5)
    np.testing.assert_allclose(plain["embeddings"], encoder.embed(IMAGES), rtol=1e-5)
    # The uncertainty is that of the plain embedding in both.
    np.testing.assert_allclose(plain["uncertainty"], robust["uncertainty"], rtol=1e-5)
    unit = post(http, "/embed", "robust", robust=True, normalize=True).json()["embeddings"]
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)


def test_posteriors_have_both_variances(
    http: httpx.Client, content_packages: dict[str, Path]
) -> None:
    expected = repzoo.load(content_packages["robust"], provider="cpu").posterior(IMAGES)
    answer = post(http, "/posterior", "robust").json()
    for name in ("mean", "variance", "content_mean", "content_variance", "uncertainty"):
        np.testing.assert_allclose(answer[name], getattr(expected, name), rtol=1e-4)
    without = post(http, "/posterior", "plain").json()
    assert not {"content_mean", "content_variance"} & without.keys()


def test_a_content_posterior_alone_must_be_asked_for(http: httpx.Client) -> None:
    refused = post(http, "/posterior", "point")
    assert refused.status_code == 409
    assert "send content: true" in refused.json()["detail"]
    answer = post(http, "/posterior", "point", content=True).json()
    assert {"mean", "content_mean", "content_variance"} <= answer.keys()
    assert "variance" not in answer


def test_without_a_content_posterior_robust_is_a_conflict(http: httpx.Client) -> None:
    refused = post(http, "/embed", "plain", robust=True)
    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:repzoo:problem:unsupported-operation"
    assert "plain has no content posterior" in refused.json()["detail"]


def test_openai_clients_name_the_model_robust(http: httpx.Client) -> None:
    body = {"model": "robust:robust", "input": [png(image) for image in IMAGES]}
    answer = http.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    unit = post(http, "/embed", "robust", robust=True, normalize=True).json()["embeddings"]
    given = [item["embedding"] for item in answer.json()["data"]]
    assert answer.json()["model"] == "robust:robust"
    np.testing.assert_allclose(given, unit, rtol=1e-5)
    listed = [model["id"] for model in http.get("/v1/models").json()["data"]]
    assert listed == ["robust", "robust:robust", "point", "point:robust", "plain"]
    assert http.get("/v1/models/robust:robust").json()["id"] == "robust:robust"
    assert http.get("/v1/models/plain:robust").status_code == 404
    refused = http.post("/v1/embeddings", json={**body, "model": "plain:robust"})
    assert refused.status_code == 409
    assert http.post("/v1/embeddings", json={**body, "model": "none:robust"}).status_code == 404


def test_models_say_what_they_can(http: httpx.Client) -> None:
    capabilities = {m["name"]: m["capabilities"] for m in http.get("/models").json()["models"]}
    assert "content" in capabilities["robust"]
    assert capabilities["point"] == ["embed", "probe", "content"]
    assert "content" not in capabilities["plain"]
