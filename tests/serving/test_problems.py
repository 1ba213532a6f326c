"""Version 1 of the wire, over real sockets against a real server: bad requests and clients."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

SAFETENSORS = "application/x-safetensors"
IMAGE_OPERATIONS = ("embed", "posterior", "reconstruct", "probe")


@pytest.fixture(scope="module")
def http(server_url: str) -> Any:
    with httpx.Client(base_url=server_url, timeout=30) as client:
        yield client


def file(shape: tuple[int, ...] = (8, 8), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full(shape, 77, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


GOOD = {"model": "tiny", "images": [text(file())]}


def assert_problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """Check that an error is a problem document with all members."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"urn:repzoo:problem:{kind}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]
    return problem


def assert_well(http: httpx.Client) -> None:
    """Check that the server still responds."""
    assert http.post("/embed", json=GOOD).status_code == 200


# Paths, methods, media types.


@pytest.mark.parametrize("path", ["/embed/", "/Embed", "/metrics/", "/docs.json", "/v1/embed"])
def test_unknown_paths(http: httpx.Client, path: str) -> None:
    assert_problem(http.get(path), 404, "not-found")
    assert_problem(http.post(path, json=GOOD), 404, "not-found")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_methods_that_an_operation_has_not(http: httpx.Client, method: str) -> None:
    response = http.request(method, "/embed")
    assert_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


def test_methods_that_models_have_not(http: httpx.Client) -> None:
    for path in ("/models", "/models/tiny"):
        response = http.post(path, json={})
        assert_problem(response, 405, "method-not-allowed")
        assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("name", ["nope", "tiny/", "..%2Ftiny", ""])
def test_unknown_models(http: httpx.Client, name: str) -> None:
    assert_problem(http.get(f"/models/{name}"), 404, "unknown-model")
    for operation in IMAGE_OPERATIONS:
        request = {**GOOD, "model": name, **({"task": "digit"} if operation == "probe" else {})}
        assert_problem(http.post(f"/{operation}", json=request), 404, "unknown-model")
    assert_problem(http.post("/generate", json={"model": name}), 404, "unknown-model")


@pytest.mark.parametrize(("task", "kind"), [("nope", "linear"), ("digit", "mlp")])
def test_unknown_tasks(http: httpx.Client, task: str, kind: str) -> None:
    response = http.post("/probe", json={**GOOD, "task": task, "kind": kind})
    problem = assert_problem(response, 404, "unknown-task")
    assert "digit (linear)" in problem["detail"]


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "text/plain",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "application/vnd.bentoml+pickle",
        "image/png",
    ],
)
def test_unknown_media_types(http: httpx.Client, media_type: str) -> None:
    response = http.post("/embed", content=json.dumps(GOOD), headers={"Content-Type": media_type})
    assert_problem(response, 415, "unsupported-media-type")


def test_compressed_bodies(http: httpx.Client) -> None:
    response = http.post("/embed", json=GOOD, headers={"Content-Encoding": "gzip"})
    assert_problem(response, 415, "unsupported-media-type")


@pytest.mark.parametrize("accept", ["text/html", "image/png", "application/json;q=0", "garbage"])
def test_formats_that_the_answer_has_not(http: httpx.Client, accept: str) -> None:
    headers = {"Accept": accept}
    assert_problem(http.post("/embed", json=GOOD, headers=headers), 406, "not-acceptable")
    assert_problem(http.get("/models", headers=headers), 406, "not-acceptable")


# Unsupported operations.


@pytest.mark.parametrize("operation", ["posterior", "reconstruct", "generate"])
def test_what_a_model_cannot_do(http: httpx.Client, operation: str) -> None:
    request = {"model": "plain"} if operation == "generate" else {**GOOD, "model": "plain"}
    response = http.post(f"/{operation}", json=request)
    problem = assert_problem(response, 409, "unsupported-operation")
    assert "plain has no" in problem["detail"]


# Bodies.


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "JSON object"),
        ("null", "JSON object"),
        ('"text"', "JSON object"),
        ("[" * 100_000, "JSON"),
        ({}, "model"),
        ({"model": "tiny"}, "images"),
        ({"model": "tiny", "images": None}, "images"),
        ({"model": "tiny", "images": []}, "images"),
        ({"model": "tiny", "images": "iVBO"}, 'images: expected a list, got "iVBO"'),
        ({"model": "tiny", "images": [1]}, "images[0]: expected text, got 1"),
        ({"model": "tiny", "images": [None]}, "images[0]: expected text, got null"),
        ({"model": "tiny", "images": {"0": "x"}}, "images: expected a list, got an object"),
        ({"images": GOOD["images"]}, "model: required"),
        ({"model": 1, "images": GOOD["images"]}, "model: expected text, got 1"),
        ({"model": None, "images": GOOD["images"]}, "model"),
        ({**GOOD, "normalize": "true"}, 'normalize: expected true or false, got "true"'),
        ({**GOOD, "normalize": 1}, "normalize"),
        ({**GOOD, "normalise": True}, "normalise: unknown field; did you mean normalize?"),
        ({"model": "tiny", "image": [""]}, "image: unknown field; did you mean images?"),
        ({**GOOD, "top_k": 1}, "unknown field; the fields are model, encoding_format, robust, "),
        ({**GOOD, "encoding_format": "hex"}, 'expected float or base64, got "hex"'),
        ({**GOOD, "encoding_format": "bas64"}, 'got "bas64"; did you mean base64?'),
        ({**GOOD, "dimensions": 5}, "dimensions"),
        ({**GOOD, "dimensions": 0}, "dimensions: expected 1 or more, got 0"),
        ({**GOOD, "dimensions": 10**300}, "dimensions: must be 4"),
        ({**GOOD, "dimensions": -(10**300)}, "expected 1 or more, got a longer number"),
        ({**GOOD, "task": "digit"}, "task"),
        ({**GOOD, "latents": [[0, 0, 0, 0]]}, "latents"),
        ('{"model": "tiny", "images": [NaN]}', "JSON"),
    ],
)
def test_malformed_json(http: httpx.Client, document: Any, named: str) -> None:
    content = document if isinstance(document, str) else json.dumps(document)
    response = http.post("/embed", content=content, headers={"Content-Type": "application/json"})
    problem = assert_problem(response, 400, "malformed-request")
    assert named.lower() in problem["detail"].lower()
    assert len(problem["detail"]) < 500


def test_what_was_sent_is_not_quoted_at_length(http: httpx.Client) -> None:
    long = "x" * 100_000
    for request in ({**GOOD, "model": long}, {**GOOD, long: 1}, {**GOOD, "images": [long]}):
        response = http.post("/embed", json=request)
        assert 400 <= response.status_code < 500
        assert len(response.content) < 1000


def test_json_that_is_no_utf8(http: httpx.Client) -> None:
    headers = {"Content-Type": "application/json; charset=utf-16"}
    response = http.post("/embed", content=json.dumps(GOOD).encode("utf-16"), headers=headers)
    assert_problem(response, 400, "malformed-request")


@pytest.mark.parametrize(
    ("options", "status", "kind", "named"),
    [
        ({"n": 0}, 400, "malformed-request", "n"),
        ({"n": -1}, 400, "malformed-request", "n"),
        ({"n": 1.0}, 400, "malformed-request", "n"),
        ({"n": True}, 400, "malformed-request", "n"),
        ({"n": 65}, 413, "too-many-images", "64"),
        ({"n": 10**30}, 413, "too-many-images", "64"),
        ({"seed": -1}, 400, "malformed-request", "seed"),
        ({"seed": 2**64}, 400, "malformed-request", "seed"),
        ({"seed": "7"}, 400, "malformed-request", "seed"),
        ({"images": GOOD["images"]}, 409, "unsupported-operation", "tiny has no model of several"),
        ({"images": []}, 400, "malformed-request", "images"),
        ({"images": [1]}, 400, "malformed-request", "images[0]"),
        ({"images": GOOD["images"], "vary": "odd"}, 400, "malformed-request", "vary"),
        ({"images": GOOD["images"], "n": 65}, 413, "too-many-images", "64"),
        ({"images": GOOD["images"] * 65}, 413, "too-many-images", "64"),
        ({"images": GOOD["images"], "latents": [[0] * 4]}, 400, "malformed-request", "combined"),
        ({"vary": "style"}, 400, "malformed-request", "vary"),
        ({"latents": [[0] * 4], "vary": "both"}, 400, "malformed-request", "vary"),
        ({"latents": []}, 400, "malformed-request", "latents"),
        ({"latents": [1, 2, 3, 4]}, 400, "malformed-request", "latents"),
        ({"latents": [[1, 2, 3]]}, 400, "malformed-request", "[N, 4]"),
        ({"latents": [[1, 2, 3, 4], [1, 2, 3]]}, 400, "malformed-request", "length"),
        ({"latents": [[1, 2, 3, "4"]]}, 400, "malformed-request", "latents[0][3]"),
        ({"latents": [[1, 2, 3, True]]}, 400, "malformed-request", "latents[0][3]"),
        ({"latents": [[1, 2, 3, 1e39]]}, 400, "malformed-request", "finite"),
        ({"latents": [[0] * 4] * 65}, 413, "too-many-images", "64"),
        ({"latents": [[0] * 4], "seed": 1}, 400, "malformed-request", "with latents"),
    ],
)
def test_malformed_generate(
    http: httpx.Client, options: dict[str, Any], status: int, kind: str, named: str
) -> None:
    response = http.post("/generate", json={"model": "tiny", **options})
    assert named in assert_problem(response, status, kind)["detail"]


def tensors(arrays: dict[str, Any], request: Any = None, **metadata: str) -> bytes:
    request = json.dumps({"model": "tiny"}) if request is None else request
    return safetensors.numpy.save(arrays, {"request": request, **metadata})


PIXELS = np.zeros((2, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "safetensors"),
        (b"\x00" * 7, "safetensors"),
        (b"\xff" * 64, "safetensors"),
        (tensors({"images": PIXELS})[:-1], "safetensors"),
        (tensors({"images": PIXELS})[:40], "safetensors"),
        (tensors({"images": PIXELS}) + b"\0", "safetensors"),
        (struct.pack("<Q", 2) + b"{}", "model"),
        (struct.pack("<Q", 2) + b"[]", "safetensors"),
        (tensors({"images": PIXELS}, "[1]"), "JSON object"),
        (tensors({"images": PIXELS}, "{"), "JSON"),
        (tensors({"images": PIXELS}, '{"model": "tiny", "x": 1}'), "x"),
        (tensors({"images": PIXELS}, model="tiny"), "metadata model"),
        (tensors({}), "images"),
        (tensors({"images": PIXELS[:0]}), "images"),
        (tensors({"images": PIXELS.astype(np.float32)}), "uint8"),
        (tensors({"images": PIXELS.astype(np.int64)}), "I64"),
        (tensors({"images": PIXELS[..., 0]}), "[N, H, W, C]"),
        (tensors({"images": PIXELS[:, :4]}), "send files"),
        (tensors({"images": PIXELS, "more": PIXELS}), "more"),
        (tensors({"images": PIXELS, "latents": np.zeros((2, 4), np.float32)}), "latents"),
    ],
)
def test_malformed_safetensors(http: httpx.Client, content: bytes, named: str) -> None:
    response = http.post("/embed", content=content, headers={"Content-Type": SAFETENSORS})
    problem = assert_problem(response, 400, "malformed-request")
    assert named in problem["detail"]


def header(**tensor: Any) -> bytes:
    document = {"__metadata__": {"request": '{"model": "tiny"}'}, "images": tensor}
    data = json.dumps(document).encode()
    return struct.pack("<Q", len(data)) + data


@pytest.mark.parametrize(
    "content",
    [
        header(dtype="U8", shape=[1, 8, 8, 1], data_offsets=[0, 10**12]) + b"\0" * 64,
        header(dtype="U8", shape=[2**40, 8, 8, 1], data_offsets=[0, 64]) + b"\0" * 64,
        header(dtype="U8", shape=[2**62, 2**62, 8, 1], data_offsets=[0, 64]) + b"\0" * 64,
        header(dtype="U8", shape=[-1, 8, 8, 1], data_offsets=[0, 64]) + b"\0" * 64,
        header(dtype="U8", shape=[1, 8, 8, 1], data_offsets=[64, 0]) + b"\0" * 64,
        header(dtype="U8", shape=[1, 8, 8, 1], data_offsets=[8, 72]) + b"\0" * 72,
        header(dtype="U9", shape=[1, 8, 8, 1], data_offsets=[0, 64]) + b"\0" * 64,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**9) + b"{}",
    ],
)
def test_safetensors_that_lie_about_sizes(http: httpx.Client, content: bytes) -> None:
    response = http.post("/embed", content=content, headers={"Content-Type": SAFETENSORS})
    assert_problem(response, 400, "malformed-request")
    assert_well(http)


def test_latents_in_safetensors_must_be_finite(http: httpx.Client) -> None:
    for value in (np.nan, np.inf):
        content = tensors({"latents": np.full((1, 4), value, np.float32)})
        response = http.post("/generate", content=content, headers={"Content-Type": SAFETENSORS})
        assert "finite" in assert_problem(response, 400, "malformed-request")["detail"]


def part(disposition: str, content: bytes = b"tiny", more: str = "") -> bytes:
    head = f"--b\r\nContent-Disposition: {disposition}\r\n{more}\r\n".encode()
    return head + content + b"\r\n"


MODEL = part('form-data; name="model"')
IMAGE = part('form-data; name="images"; filename="x"', file())
END = b"--b--\r\n"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "cut off"),
        (b"garbage", "multipart"),
        (MODEL + IMAGE, "cut off"),
        ((MODEL + IMAGE + END)[:-20], "cut off"),
        (END, "model"),
        (MODEL + END, "images"),
        (IMAGE + END, "model"),
        (MODEL + MODEL + IMAGE + END, "twice"),
        (MODEL + part('form-data; name="images"', b"text") + END, "files"),
        (MODEL + IMAGE + part('form-data; name="other"', b"1") + END, "other"),
        (MODEL + IMAGE + part('form-data; name="other"; filename="x"', b"1") + END, "other"),
        (MODEL + IMAGE + part('form-data; name="normalize"', b"perhaps") + END, "normalize"),
        (MODEL + IMAGE + part("attachment; name=x", b"1") + END, "form-data"),
        (MODEL + IMAGE + part("form-data", b"1") + END, "name"),
        (MODEL + IMAGE + b"--b\r\n\r\nno headers\r\n" + END, "Content-Disposition"),
        (part('form-data; name="model"', b"\xff\xfe") + IMAGE + END, "UTF-8"),
        (
            MODEL
            + part(
                'form-data; name="images"; filename="x"',
                base64.b64encode(file()),
                "Content-Transfer-Encoding: base64\r\n",
            )
            + END,
            "Content-Transfer-Encoding",
        ),
        (part('form-data; name="model"', b"tiny", "X: y\r\n" * 5000) + IMAGE + END, "header"),
    ],
)
def test_malformed_forms(http: httpx.Client, content: bytes, named: str) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = http.post("/embed", content=content, headers=headers)
    assert named in assert_problem(response, 400, "malformed-request")["detail"]


@pytest.mark.parametrize("boundary", ["", "; boundary=", f"; boundary={'x' * 10_000}"])
def test_forms_without_a_boundary(http: httpx.Client, boundary: str) -> None:
    headers = {"Content-Type": f"multipart/form-data{boundary}"}
    response = http.post("/embed", content=MODEL + IMAGE + END, headers=headers)
    assert_problem(response, 400, "malformed-request")


# Images.


@pytest.mark.parametrize("operation", IMAGE_OPERATIONS)
@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"this is a text file\n",
        file()[:40],
        file((64, 64), "JPEG")[:200],
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
    ids=["empty", "text", "cut-png", "cut-jpeg", "eps", "svg"],
)
def test_what_is_no_image_is_named_by_its_index(
    http: httpx.Client, operation: str, bad: bytes
) -> None:
    options = {"model": "tiny", **({"task": "digit"} if operation == "probe" else {})}
    images = [file(), file(), bad, file()]
    in_json = http.post(f"/{operation}", json={**options, "images": [text(i) for i in images]})
    in_form = http.post(
        f"/{operation}", data=options, files=[("images", ("x.png", i)) for i in images]
    )
    for response, image in ((in_json, "image 2"), (in_form, "image 2 (x.png)")):
        problem = assert_problem(response, 422, "invalid-image")
        assert problem["index"] == 2
        assert problem["detail"].startswith(f"{image}: ")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"\xc3\xa9 1.png", "image 0 (é 1.png): "),
        (b"\xe9\x1b[2J.png", "image 0 (\ufffd\ufffd[2J.png): "),
        (b"a" * 1000, f"image 0 ({'a' * 100}...): "),
        (b"0", "image 0: "),  # as the Python client names its files
        (b"", "image 0: "),
    ],
)
def test_a_file_of_a_form_is_named(http: httpx.Client, name: bytes, shown: str) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="images"; filename="%b"\r\n\r\nnone\r\n'
    model = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = http.post("/embed", content=part % name + model, headers=headers)
    assert assert_problem(response, 422, "invalid-image")["detail"].startswith(shown)


def test_an_index_counts_over_the_whole_request(http: httpx.Client) -> None:
    for index in (0, 37, 63):
        images = [text(file())] * 64
        images[index] = text(b"no image")
        response = http.post("/embed", json={"model": "tiny", "images": images})
        problem = assert_problem(response, 422, "invalid-image")
        assert problem["index"] == index
        assert problem["detail"].startswith(f"image {index}: ")


@pytest.mark.parametrize("bad", ["?", "/etc/passwd", "http://127.0.0.1/x.png", "é", "aGk", "a\nb="])
def test_text_that_is_no_base64_is_named_by_its_index(http: httpx.Client, bad: str) -> None:
    images = [text(file()), bad]
    problem = assert_problem(
        http.post("/embed", json={"model": "tiny", "images": images}), 422, "invalid-image"
    )
    assert problem["index"] == 1


def test_images_with_too_many_pixels(http: httpx.Client) -> None:
    # 16 million black pixels in 16 kB: refused because of its header, before it is decoded.
    bomb = file((4000, 4000))
    assert len(bomb) < 100_000
    response = http.post("/embed", json={"model": "tiny", "images": [text(file()), text(bomb)]})
    problem = assert_problem(response, 413, "too-many-pixels")
    assert problem["index"] == 1
    # A header alone, with more pixels than Pillow opens.
    header = struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    response = http.post("/embed", json={"model": "tiny", "images": [text(file()), text(bomb)]})
    worse = assert_problem(response, 413, "too-many-pixels")
    limit = http.get("/models/tiny").json()["limits"]["max_pixels"]
    assert problem["limit"] == worse["limit"] == limit
    said = f"pixels exceed the limit of {limit}. Scale the image down"
    assert problem["detail"] == f"image 1: 4000 x 4000 {said}"
    assert worse["detail"] == f"image 1: 3600000000 {said}"


def test_json_with_too_many_values(http: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    response = http.post("/embed", content=b'{"images": [' + b'"",' * 20_000, headers=headers)
    problem = assert_problem(response, 413, "too-many-images")
    assert problem["limit"] == 64
    assert problem["detail"] == (
        "the body has 20001 JSON values; a request may have at most 1536, and 64 images"
    )
    # Whatever is no JSON at all gets 400, however many commas it has.
    noise = np.random.default_rng(0).bytes(2**19)
    problem = assert_problem(
        http.post("/embed", content=noise, headers=headers), 400, "malformed-request"
    )
    assert "JSON object" in problem["detail"]


def test_too_many_images(http: httpx.Client) -> None:
    many = [text(file())] * 65
    response = http.post("/embed", json={"model": "tiny", "images": many})
    assert assert_problem(response, 413, "too-many-images")["limit"] == 64
    content = tensors({"images": np.zeros((65, 8, 8, 1), np.uint8)})
    response = http.post("/embed", content=content, headers={"Content-Type": SAFETENSORS})
    assert_problem(response, 413, "too-many-images")
    for count in (65, 200):
        files = [("images", ("x.png", file()))] * count
        response = http.post("/embed", data={"model": "tiny"}, files=files)
        assert_problem(response, 413, "too-many-images")
    assert http.post("/embed", json={"model": "tiny", "images": many[:64]}).status_code == 200


def test_a_bad_image_never_harms_the_others_of_its_batch(http: httpx.Client) -> None:
    good = http.post("/embed", json=GOOD).json()["embeddings"]

    def call(index: int) -> None:
        if index % 3:
            response = http.post("/embed", json=GOOD)
            assert response.status_code == 200
            np.testing.assert_allclose(response.json()["embeddings"], good, atol=1e-6)
        else:
            images = [text(file()), text(b"no image")]
            response = http.post("/embed", json={"model": "tiny", "images": images})
            assert assert_problem(response, 422, "invalid-image")["index"] == 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(90)))


def test_an_overloaded_server_refuses_and_recovers(http: httpx.Client) -> None:
    # The queue holds 64 images, a batch 16: most of many requests with 64 images find it full.
    content = tensors({"images": np.zeros((64, 8, 8, 1), np.uint8)})

    def call(_: int) -> int:
        response = http.post("/reconstruct", content=content, headers={"Content-Type": SAFETENSORS})
        if response.status_code != 200:
            assert_problem(response, 429, "overloaded")
            assert int(response.headers["retry-after"]) >= 1
        return response.status_code

    with ThreadPoolExecutor(24) as pool:
        statuses = list(pool.map(call, range(72)))
    assert set(statuses) == {200, 429}
    assert_well(http)


# Clients that send too much, send too slowly, or hang up.


@pytest.fixture
def connect(server_url: str) -> Callable[[], socket.socket]:
    address = urlsplit(server_url)
    assert address.hostname is not None
    return lambda: socket.create_connection((address.hostname, address.port), timeout=30)


def head(length: int | None) -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return (
        f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
    ).encode()


def receive(connection: socket.socket) -> bytes:
    """Return the next response: its head, and the body with the announced length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += (more := connection.recv(65536))
        assert more, data
    start, body = data.split(b"\r\n\r\n", 1)
    length = int(start.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += (more := connection.recv(65536))
        assert more, data
    return start + b"\r\n\r\n" + body


def test_a_body_beyond_the_limit_is_refused_before_it_comes(
    connect: Callable[[], socket.socket],
) -> None:
    with connect() as connection:
        connection.sendall(head(10**12))
        answer = receive(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"urn:repzoo:problem:too-many-bytes" in answer


def test_a_body_without_a_length_is_counted(
    connect: Callable[[], socket.socket], http: httpx.Client
) -> None:
    with connect() as connection:
        connection.sendall(head(None))
        for _ in range(17):
            connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        assert b"too-many-bytes" in receive(connection)
    assert_well(http)


def test_a_connection_is_kept_after_an_error(
    connect: Callable[[], socket.socket],
) -> None:
    with connect() as connection:
        for body, status in ((b"{", b"400"), (json.dumps(GOOD).encode(), b"200")) * 2:
            connection.sendall(head(len(body)) + body)
            assert receive(connection).startswith(b"HTTP/1.1 " + status)


def test_a_caller_who_goes_away_half_way_harms_nobody(
    connect: Callable[[], socket.socket], http: httpx.Client
) -> None:
    body = json.dumps(GOOD).encode()
    for sent in (b"", body[:10], body):
        connection = connect()
        connection.sendall(head(len(body)) + sent)
        connection.close()
    with connect() as connection:
        connection.sendall(head(len(body)) + body[:10])
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert_well(http)


def test_a_body_that_comes_too_slowly_meets_the_deadline(
    connect: Callable[[], socket.socket], http: httpx.Client
) -> None:
    with connect() as connection:
        start = time.monotonic()
        connection.sendall(head(1000) + b"{")
        answer = receive(connection)
        assert 3.5 < time.monotonic() - start < 10
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"urn:repzoo:problem:deadline-exceeded" in answer
        assert b"connection: close" in answer.lower()
        assert connection.recv(100) == b""
    assert_well(http)


def test_a_slow_body_within_the_deadline_is_answered(
    connect: Callable[[], socket.socket],
) -> None:
    body = json.dumps(GOOD).encode()
    with connect() as connection:
        connection.sendall(head(len(body)))
        for start in range(0, len(body), 40):
            connection.sendall(body[start : start + 40])
            time.sleep(0.05)
        assert receive(connection).startswith(b"HTTP/1.1 200 ")


def test_what_is_no_http_is_refused(
    connect: Callable[[], socket.socket], http: httpx.Client
) -> None:
    with connect() as connection:
        connection.sendall(b"\x16\x03\x01 this is TLS, say\r\n\r\n")
        answer = b"".join(iter(partial(connection.recv, 65536), b""))  # until it is closed
    start, _, body = answer.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 400 ")
    assert b"\r\ncontent-type: application/problem+json" in start
    assert json.loads(body)["type"] == "urn:repzoo:problem:malformed-request"
    assert_well(http)


@pytest.mark.parametrize(("path", "status"), [("/embed", 405), ("/none", 404), ("/livez", 200)])
def test_a_websocket_is_answered_as_a_plain_get(
    connect: Callable[[], socket.socket], http: httpx.Client, path: str, status: int
) -> None:
    with connect() as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n".encode()
            + b"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"
        )
        answer = receive(connection)
    plain = http.get(path)
    assert plain.status_code == status
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    document = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert document | {"request_id": ""} == plain.json() | {"request_id": ""}
    assert_well(http)
