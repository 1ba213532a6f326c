"""Several views of one thing over a real socket: ``group``, and ``/generate`` with images."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import repzoo
import safetensors.numpy
from PIL import Image

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
GROUP = [9, 4, 9, 9, 4]
FORMATS = ("json", "multipart", "safetensors")


@pytest.fixture(scope="module")
def http(views_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=views_url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def encoder(views_packages: dict[str, Path]) -> repzoo.Encoder:
    return repzoo.load(views_packages["views"], provider="cpu")


def png(image: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()


def post(
    http: httpx.Client, path: str, kind: str = "json", images: Any = IMAGES, **options: Any
) -> httpx.Response:
    options = {"model": "views", **options}
    if kind == "json":
        files = [base64.b64encode(png(image)).decode() for image in images]
        return http.post(path, json={**options, "images": files})
    if kind == "multipart":
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in options.items()}
        return http.post(path, data=texts, files=[("images", ("x", png(i))) for i in images])
    content = safetensors.numpy.save({"images": images}, {"request": json.dumps(options)})
    return http.post(path, content=content, headers={"Content-Type": "application/x-safetensors"})


@pytest.mark.parametrize("kind", FORMATS)
def test_groups_are_fused(http: httpx.Client, encoder: repzoo.Encoder, kind: str) -> None:
    answer = post(http, "/posterior", kind, group=GROUP).json()
    expected = encoder.posterior(IMAGES, group=GROUP)
    np.testing.assert_allclose(answer["mean"], expected.mean, atol=1e-5)
    np.testing.assert_allclose(answer["variance"], expected.variance, rtol=1e-4)
    assert len(answer["mean"]) == 2
    assert "uncertainty" not in answer  # it is calibrated for single images
    alone = post(http, "/posterior", kind).json()
    assert len(alone["uncertainty"]) == len(alone["mean"]) == 5


@pytest.mark.parametrize("kind", FORMATS)
def test_new_views_of_what_the_images_show(
    http: httpx.Client, encoder: repzoo.Encoder, kind: str
) -> None:
    for vary in ("both", "style", "content"):
        one, two = (post(http, "/generate", kind, n=3, seed=7, vary=vary).json() for _ in range(2))
        assert one["images"] == two["images"]
        expected = encoder.generate(3, content=IMAGES, seed=7, vary=vary)
        np.testing.assert_allclose(one["latents"], expected.latents, atol=1e-5)
        shown = np.stack(
            [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in one["images"]]
        )
        np.testing.assert_allclose(shown / 255, expected.images[..., 0], atol=0.51 / 255)
    assert len(post(http, "/generate", kind).json()["images"]) == 1


def test_content_posteriors_are_fused(http: httpx.Client, views_packages: dict[str, Path]) -> None:
    expected = repzoo.load(views_packages["point"], provider="cpu").posterior(IMAGES, group=GROUP)
    answer = post(http, "/posterior", model="point", content=True, group=GROUP).json()
    for name in ("mean", "content_mean", "content_variance"):
        np.testing.assert_allclose(answer[name], getattr(expected, name), atol=1e-5)
    assert "variance" not in answer


@pytest.mark.parametrize(
    ("path", "options", "named"),
    [
        ("/posterior", {"model": "plain", "group": GROUP}, "models trained with SimVAE"),
        ("/generate", {"model": "plain"}, "models trained with SimVAE"),
        ("/generate", {"model": "point"}, "point has no decoder"),
    ],
)
def test_other_models_are_a_conflict(
    http: httpx.Client, path: str, options: dict[str, Any], named: str
) -> None:
    refused = post(http, path, **options)
    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:repzoo:problem:unsupported-operation"
    assert named in refused.json()["detail"]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "group", [[0], [0] * 6, [], [0, 0, 0, 0, -1], [0, 0, 0, 0, 2**53], [0, 0, 0, 0, "a"], 3, {}]
)
def test_malformed_groups(http: httpx.Client, kind: str, group: Any) -> None:
    refused = post(http, "/posterior", kind, group=group)
    assert refused.status_code == 400, refused.text
    assert "group" in refused.json()["detail"]


def test_a_list_in_a_form_is_json_and_short(http: httpx.Client) -> None:
    for text in ("", "0,0", "[0, 0", "x", f"[{'0,' * 100}0]"):
        refused = post(http, "/posterior", "multipart", group=text)
        assert refused.status_code == 400, text
        assert "group" in refused.json()["detail"]
    # In JSON, a string is not a list.
    assert post(http, "/posterior", group="[0, 0, 0, 0, 0]").status_code == 400


def test_an_image_that_cannot_be_decoded_is_named(http: httpx.Client) -> None:
    files = [("images", ("x", png(IMAGES[0]))), ("images", ("x", b"no image"))]
    refused = http.post("/generate", data={"model": "views"}, files=files)
    assert refused.status_code == 422
    assert refused.json()["index"] == 1


def test_the_images_and_the_views_have_limits(http: httpx.Client) -> None:
    assert post(http, "/generate", n=9).status_code == 413
    assert post(http, "/generate", images=np.repeat(IMAGES, 2, axis=0)).status_code == 413


def test_models_say_whether_they_know_views(http: httpx.Client) -> None:
    capabilities = {m["name"]: m["capabilities"] for m in http.get("/models").json()["models"]}
    assert "views" in capabilities["views"]
    assert "views" not in capabilities["point"]
    assert "views" not in capabilities["plain"]
