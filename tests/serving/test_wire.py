"""Version 1 of the wire, over real sockets against a real server: good requests."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import repzoo
import safetensors.numpy
from PIL import Image

SAFETENSORS = "application/x-safetensors"
FORMATS = ("json", "multipart", "safetensors")


@pytest.fixture(scope="module")
def http(server_url: str) -> Any:
    with httpx.Client(base_url=server_url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def encoder(tiny_package: Path) -> repzoo.Encoder:
    return repzoo.load(tiny_package, provider="cpu")


@pytest.fixture(scope="module")
def pixels() -> Any:
    """Images as uint8 [5, 8, 8, 1], the input size of the model."""
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)


def png(image: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


def from_png(text: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def body(kind: str, options: dict[str, Any], images: Any) -> dict[str, Any]:
    """Return the request in one of the formats, as keyword arguments for httpx."""
    files = [png(image) for image in images]
    match kind:
        case "json":
            return {
                "json": {**options, "images": [base64.b64encode(file).decode() for file in files]}
            }
        case "multipart":
            texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in options.items()}
            return {"data": texts, "files": [("images", ("x.jpg", file)) for file in files]}
        case _:
            return {
                "content": safetensors.numpy.save(
                    {"images": images}, {"request": json.dumps(options)}
                ),
                "headers": {"Content-Type": SAFETENSORS},
            }


def post(http: httpx.Client, path: str, request: dict[str, Any], accept: str) -> dict[str, Any]:
    """Return the response's members in any format; tensors as arrays."""
    request = {**request, "headers": {**request.get("headers", {}), "Accept": accept}}
    response = http.post(path, **request)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == accept
    if accept == "application/json":
        answer: dict[str, Any] = response.json()
    else:
        data = response.content
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        answer = json.loads(header["__metadata__"]["response"]) | safetensors.numpy.load(data)
    assert answer["request_id"] == response.headers["x-request-id"]
    return answer


@pytest.mark.parametrize("accept", ["application/json", SAFETENSORS])
@pytest.mark.parametrize("kind", FORMATS)
class TestEveryFormat:
    """Each operation agrees with the local runtime, in every format."""

    def test_embed(
        self, http: httpx.Client, encoder: repzoo.Encoder, pixels: Any, kind: str, accept: str
    ) -> None:
        answer = post(http, "/embed", body(kind, {"model": "tiny"}, pixels), accept)
        np.testing.assert_allclose(answer["embeddings"], encoder.embed(pixels), atol=1e-6)
        assert answer["model"] == "tiny"
        assert answer["revision"] == encoder.revision
        assert "uncertainty" not in answer

    def test_embed_normalized(
        self, http: httpx.Client, encoder: repzoo.Encoder, pixels: Any, kind: str, accept: str
    ) -> None:
        request = body(kind, {"model": "tiny", "normalize": True}, pixels)
        answer = post(http, "/embed", request, accept)
        expected = encoder.embed(pixels, normalize=True)
        np.testing.assert_allclose(answer["embeddings"], expected, atol=1e-6)

    def test_posterior(
        self, http: httpx.Client, encoder: repzoo.Encoder, pixels: Any, kind: str, accept: str
    ) -> None:
        answer = post(http, "/posterior", body(kind, {"model": "tiny"}, pixels), accept)
        expected = encoder.posterior(pixels)
        np.testing.assert_allclose(answer["mean"], expected.mean, atol=1e-6)
        np.testing.assert_allclose(answer["variance"], expected.variance, atol=1e-6)

    def test_reconstruct(
        self, http: httpx.Client, encoder: repzoo.Encoder, pixels: Any, kind: str, accept: str
    ) -> None:
        answer = post(http, "/reconstruct", body(kind, {"model": "tiny"}, pixels), accept)
        expected = encoder.reconstruct(pixels)
        images = answer["images"]
        if accept == "application/json":
            images = np.stack([from_png(image) for image in images])[..., None]
        assert images.dtype == np.uint8
        assert images.shape == pixels.shape
        np.testing.assert_allclose(images / 255, expected.images, atol=0.51 / 255)
        np.testing.assert_allclose(answer["error"], expected.error, atol=1e-6)

    def test_probe(
        self, http: httpx.Client, encoder: repzoo.Encoder, pixels: Any, kind: str, accept: str
    ) -> None:
        request = body(kind, {"model": "tiny", "task": "digit"}, pixels)
        answer = post(http, "/probe", request, accept)
        expected = encoder.probe(pixels, "digit")
        np.testing.assert_allclose(answer["probabilities"], expected.probabilities, atol=1e-6)
        assert answer["classes"] == list(expected.classes)
        assert answer["labels"] == expected.labels

    def test_probe_with_many_labels(
        self, http: httpx.Client, encoder: repzoo.Encoder, pixels: Any, kind: str, accept: str
    ) -> None:
        request = body(kind, {"model": "tiny", "task": "attributes", "kind": "linear"}, pixels)
        answer = post(http, "/probe", request, accept)
        assert answer["labels"] == encoder.probe(pixels, "attributes").labels


@pytest.mark.parametrize("accept", ["application/json", SAFETENSORS])
class TestGenerate:
    def test_the_same_seed_gives_the_same_images(
        self, http: httpx.Client, encoder: repzoo.Encoder, accept: str
    ) -> None:
        request = {"json": {"model": "tiny", "n": 20, "seed": 7}}
        one, two = (post(http, "/generate", request, accept) for _ in range(2))
        assert np.array_equal(one["images"], two["images"])
        assert np.array_equal(one["latents"], two["latents"])
        np.testing.assert_allclose(one["latents"], encoder.sample(20, seed=7))

    def test_without_a_seed_every_request_draws_anew(self, http: httpx.Client, accept: str) -> None:
        one, two = (post(http, "/generate", {"json": {"model": "tiny"}}, accept) for _ in range(2))
        assert len(one["images"]) == 1
        assert not np.array_equal(one["latents"], two["latents"])

    def test_a_form_has_the_same_options(self, http: httpx.Client, accept: str) -> None:
        # A form without files, which httpx would not write as multipart.
        form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n'
        form += b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n3\r\n--b--\r\n'
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = post(http, "/generate", {"content": form, "headers": headers}, accept)
        assert len(answer["images"]) == 3

    def test_latents_are_decoded(
        self, http: httpx.Client, encoder: repzoo.Encoder, accept: str
    ) -> None:
        latents = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
        in_json = {"json": {"model": "tiny", "latents": latents.tolist()}}
        in_tensors = {
            "content": safetensors.numpy.save(
                {"latents": latents}, {"request": '{"model":"tiny"}'}
            ),
            "headers": {"Content-Type": SAFETENSORS},
        }
        for request in (in_json, in_tensors):
            answer = post(http, "/generate", request, accept)
            images = answer["images"]
            if accept == "application/json":
                images = np.stack([from_png(image) for image in images])[..., None]
            expected = encoder.generate(latents=latents).images
            np.testing.assert_allclose(images / 255, expected, atol=0.51 / 255)
            assert np.array_equal(np.float32(answer["latents"]), latents)


def test_files_of_any_size_and_format_are_preprocessed(
    http: httpx.Client, encoder: repzoo.Encoder
) -> None:
    rng = np.random.default_rng(3)
    files = []
    for kind, shape in (("PNG", (30, 17, 3)), ("JPEG", (9, 40, 3)), ("WEBP", (64, 64, 3))):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, kind)
        files.append(buffer.getvalue())
    # The media type of a part is ignored.
    parts = [("images", ("a.txt", file, "text/plain")) for file in files]
    response = http.post("/embed", data={"model": "tiny"}, files=parts)
    np.testing.assert_allclose(response.json()["embeddings"], encoder.embed(files), atol=1e-6)


def test_json_is_the_default_and_accept_chooses(http: httpx.Client, pixels: Any) -> None:
    def media_type(accept: str | None) -> str:
        headers = {"Accept": accept} if accept is not None else {}
        request = http.build_request("POST", "/embed", **body("json", {"model": "tiny"}, pixels))
        del request.headers["Accept"]
        request.headers.update(headers)
        response = http.send(request)
        assert response.status_code == 200
        return str(response.headers["content-type"])

    for accept in (None, "*/*", "application/*", "application/json", f"{SAFETENSORS};q=0.5, */*"):
        assert media_type(accept) == "application/json"
    for accept in (
        SAFETENSORS,
        f"application/json;q=0.5, {SAFETENSORS}",
        f"text/html,{SAFETENSORS}",
    ):
        assert media_type(accept) == SAFETENSORS


def test_numbers_in_json_are_exactly_the_float32_ones(http: httpx.Client, pixels: Any) -> None:
    request = body("safetensors", {"model": "tiny"}, pixels)
    in_json = post(http, "/embed", request, "application/json")["embeddings"]
    in_tensors = post(http, "/embed", request, SAFETENSORS)["embeddings"]
    assert np.array_equal(np.float32(in_json), in_tensors)


def test_base64_vectors_are_the_same_numbers(http: httpx.Client, pixels: Any) -> None:
    """Only rows of [N, D] become strings, in every format of the request."""
    vectors = {
        "embed": ["embeddings"],
        "posterior": ["mean", "variance"],
        "reconstruct": [],
        "probe": ["probabilities"],
    }
    for operation, names in vectors.items():
        options = {"model": "tiny", **({"task": "digit"} if operation == "probe" else {})}
        floats = post(http, f"/{operation}", body("json", options, pixels), "application/json")
        options["encoding_format"] = "base64"
        for kind in FORMATS:
            texts = post(http, f"/{operation}", body(kind, options, pixels), "application/json")
            assert texts.keys() == floats.keys()
            for name in names:
                rows = [base64.b64decode(row, validate=True) for row in texts[name]]
                found = np.stack([np.frombuffer(row, "<f4") for row in rows])
                np.testing.assert_allclose(found, floats[name], atol=1e-6)
        in_tensors = post(http, f"/{operation}", body("json", options, pixels), SAFETENSORS)
        for name in names:
            assert in_tensors[name].dtype == np.float32
    generate = {"json": {"model": "tiny", "n": 2, "seed": 1, "encoding_format": "base64"}}
    answer = post(http, "/generate", generate, "application/json")
    assert [len(base64.b64decode(row)) for row in answer["latents"]] == [16, 16]
    assert from_png(answer["images"][0]).shape == (8, 8)


def test_models_are_described(http: httpx.Client, tiny_package: Path, plain_package: Path) -> None:
    tiny, plain = http.get("/models").json()["models"]
    assert tiny["name"] == "tiny"
    assert tiny["revision"] == repzoo.Package.open(tiny_package).revision
    assert tiny["provider"] == "CPUExecutionProvider"
    assert tiny["capabilities"] == ["embed", "posterior", "reconstruct", "generate", "probe"]
    assert tiny["limits"]["max_images"] == 64
    assert repzoo.ModelConfig.model_validate(tiny["config"]) == (
        repzoo.Package.open(tiny_package).config
    )
    assert plain["capabilities"] == ["embed"]
    assert http.get("/models/plain").json() == plain


def test_head_is_get_without_a_body(http: httpx.Client) -> None:
    response = http.head("/models")
    assert response.status_code == 200
    assert response.content == b""
    assert int(response.headers["content-length"]) == len(http.get("/models").content)


def test_health(http: httpx.Client) -> None:
    for path, status in (("/livez", "alive"), ("/healthz", "alive"), ("/readyz", "ready")):
        assert http.get(path).json() == {"status": status}
        assert http.head(path).content == b""


@pytest.mark.parametrize("path", ["/schema.json", "/static_content/x", "/docs.json", "/status"])
def test_nothing_of_bentoml_answers(http: httpx.Client, path: str) -> None:
    response = http.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_a_model_without_more_embeds(http: httpx.Client, plain_package: Path, pixels: Any) -> None:
    answer = post(http, "/embed", body("json", {"model": "plain"}, pixels), SAFETENSORS)
    expected = repzoo.load(plain_package, provider="cpu").embed(pixels)
    np.testing.assert_allclose(answer["embeddings"], expected, atol=1e-6)
