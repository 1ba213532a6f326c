"""The OpenAPI document describes every response, whatever is sent.

Schemathesis generates valid and invalid requests from the document, and checks every response.
"""

from __future__ import annotations

import base64
import io
import json
import re
import struct
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import numpy as np
import pytest
import repzoo
import safetensors.numpy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from PIL import Image
from repzoo_client.retrieval import Documents, IndexInfo
from repzoo_client.retrieval.export import write_documents
from repzoo_serving.api.operations import PATHS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.negative_data_rejection,
]


def files() -> list[bytes]:
    made = []
    rng = np.random.default_rng(0)
    for kind, shape in (("PNG", (8, 8)), ("JPEG", (9, 5, 3)), ("WEBP", (3, 30, 3))):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, kind)
        made.append(buffer.getvalue())
    return made


def tensors() -> st.SearchStrategy[bytes]:
    """Safetensors bodies: valid, nearly valid, and random."""
    pixels = np.zeros((2, 8, 8, 1), np.uint8)
    arrays = st.sampled_from(
        [{"images": pixels}, {"images": pixels[:, :4]}, {"latents": np.zeros((1, 4), np.float32)}]
    )
    options = st.sampled_from(
        [{}, {"model": "tiny"}, {"model": "tiny", "task": "digit"}, {"model": "plain", "x": 1}]
    )
    made = st.builds(
        lambda arrays, options: safetensors.numpy.save(arrays, {"request": json.dumps(options)}),
        arrays,
        options,
    )
    header = st.binary(max_size=64).map(lambda data: struct.pack("<Q", len(data)) + data)
    return st.one_of(made, header, st.binary(max_size=64))


@pytest.fixture(scope="module")
def server_url(
    server_process: type,
    tiny_package: Path,
    plain_package: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The URL of a server that has everything: the models of the other tests, and an index."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "tiny").write_bytes(files()[0])
    revision = repzoo.Package.open(tiny_package).revision
    info = IndexInfo("tiny", revision, 4, 0.15, "cosine", "FLAT")
    vectors = np.ones((2, 4), np.float32)
    documents = Documents(["other", "tiny"], vectors, vectors, np.ones(2, np.float32), [{}, {}])
    index = folder / "index.npz"
    write_documents(index, [documents], asdict(info))
    limits = {"MAX_BYTES": 1000000, "MAX_IMAGES": 64, "MAX_PIXELS": 100000, "DEADLINE_SECONDS": 4}
    env = {f"REPZOO_SERVE_{name}": str(value) for name, value in limits.items()}
    models = ("--models", f"{tiny_package},{plain_package}")
    words = (*models, "--index", str(index), "--index-images", str(folder), "--port", "0")
    with server_process(*words, log=folder / "log", env=env) as server:
        yield server.wait_until_ready()


@pytest.fixture(scope="module")
def api(server_url: str) -> Any:
    # Mostly images: other files are refused before anything else can go wrong.
    images = st.one_of(*[st.sampled_from(files())] * 9, st.binary(max_size=20))
    texts = images.map(lambda data: base64.b64encode(data).decode())
    urls = texts.map(lambda text: f"data:image/png;base64,{text}")
    schemathesis.openapi.format("image", st.one_of(texts, urls))
    schemathesis.openapi.format("binary", images)
    schemathesis.openapi.media_type("application/x-safetensors", tensors())
    config = schemathesis.Config()
    # Exceeded limits count as rejections, too.
    config.projects.default.checks.negative_data_rejection.expected_statuses += ["413"]
    return schemathesis.openapi.from_url(f"{server_url}/openapi.json", config=config)


#: Values that the document cannot know: the models, and what they support.
KNOWN = {
    "model": ("tiny", "tiny", "tiny", "plain"),
    "task": ("digit", "attributes"),
    "kind": ("linear",),
    "dimensions": (4, 4, 5),
}


def run(api: Any, cases: int) -> Counter[str]:
    """Send ``cases`` requests to each operation, half of them invalid."""
    outcomes: Counter[str] = Counter()
    for found in api.get_all_operations():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            send(found.ok(), mode, cases // 2, outcomes)
    return outcomes


def send(operation: Any, mode: GenerationMode, cases: int, outcomes: Counter[str]) -> None:
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode), st.data())
    def one(case: Any, data: Any) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            for name, values in KNOWN.items():
                if name in case.body:
                    case.body[name] = data.draw(st.sampled_from(values))
        response = case.call()
        case.validate_response(response, checks=CHECKS)
        outcomes[f"{operation.label} {response.status_code}"] += 1

    # A GET without parameters cannot be invalid.
    with suppress(Unsatisfiable):
        one()


def test_a_few_hundred_requests(api: Any) -> None:
    outcomes = run(api, cases=60)
    assert sum(outcomes.values()) >= 300
    # They cover results and refusals.
    for path in PATHS:
        assert outcomes[f"POST {path} 200"], outcomes
        assert outcomes[f"POST {path} 400"], outcomes
    assert outcomes["POST /embed 422"], outcomes


@pytest.mark.slow
def test_ten_thousand_requests(api: Any) -> None:
    outcomes = run(api, cases=1700)
    print()
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:>7} {outcome}")
    assert sum(outcomes.values()) >= 10_000


def test_it_has_every_path_and_no_other(server_url: str) -> None:
    document = httpx.get(f"{server_url}/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    posts = {path for path, methods in document["paths"].items() if "post" in methods}
    assert posts == set(PATHS)
    for path, methods in document["paths"].items():
        if "get" in methods:
            response = httpx.get(server_url + re.sub(r"\{\w+\}", "tiny", path))
            assert response.status_code == 200, path
            assert (
                response.headers["content-type"].split(";")[0]
                in (methods["get"]["responses"]["200"]["content"])
            )
    ids = [operation["operationId"] for m in document["paths"].values() for operation in m.values()]
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere(server_url: str) -> None:
    text = httpx.get(f"{server_url}/openapi.json").text
    document = json.loads(text)
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', text))
    assert len(references) > 10
    for reference in references:
        there: Any = document
        for part in reference.split("/"):
            there = there[part]


def test_every_member_of_a_request_or_response_has_a_meaning(server_url: str) -> None:
    document = httpx.get(f"{server_url}/openapi.json").json()
    silent: list[str] = []

    def walk(schema: Any, where: str) -> None:
        if isinstance(schema, dict):
            for name, member in schema.get("properties", {}).items():
                if not {"description", "$ref"} & member.keys():
                    silent.append(f"{where} {name}")
            for each in schema.values():
                walk(each, where)
        elif isinstance(schema, list):
            for each in schema:
                walk(each, where)

    for path, operations in document["paths"].items():
        walk(operations, path)
    assert silent == []


def test_every_operation_has_a_description_and_valid_examples(server_url: str) -> None:
    document = httpx.get(f"{server_url}/openapi.json").json()
    count = 0
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert operation["description"].endswith("."), path
            bodies = [operation.get("requestBody", {}), operation["responses"]["200"]]
            for content in (body.get("content", {}).get("application/json", {}) for body in bodies):
                if "example" in content:
                    schema = {**content["schema"], "components": document["components"]}
                    jsonschema_rs.validate(schema, content["example"])
                    count += 1
            if "requestBody" in operation:
                assert "example" in operation["requestBody"]["content"]["application/json"], path
    assert count == 7 + 6 + 3  # requests, responses of operations, and of health checks


def test_it_says_the_limits_of_this_server(server_url: str) -> None:
    document = httpx.get(f"{server_url}/openapi.json").json()
    body = document["paths"]["/embed"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["properties"]["images"]["maxItems"] == 64


def test_the_docs_page_has_every_operation_and_loads_nothing_from_elsewhere(
    server_url: str,
) -> None:
    response = httpx.get(f"{server_url}/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for path in httpx.get(f"{server_url}/openapi.json").json()["paths"]:
        assert f" {path}</code>" in response.text
    loaded = re.findall(r"(?:src|href)=[\"']?([^\"' >]+)", response.text)
    for target in loaded:
        if not target.startswith("#"):
            assert httpx.get(f"{server_url}/{target}").status_code in (200, 404)
            assert "//" not in target
    assert re.findall("<script.*?</script>", response.text) == [
        "<script src=reference.js type=module></script>"
    ]
    assert " style=" not in response.text
