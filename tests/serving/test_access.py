"""API keys, rates, public paths, and cross-origin requests, over real sockets."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import repzoo_client
from repzoo.secrets_file import add_secret, read_secrets
from repzoo_client import Client
from repzoo_serving.api.access import Bucket

POST = {"json": {"model": "tiny"}}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def new_key(path: Path, name: str, rate: float | None = None) -> str:
    return add_secret(path, name, prefix="rz_", rate=rate)


def assert_unauthorized(response: httpx.Response) -> None:
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == 'Bearer realm="repzoo"'
    assert response.json()["type"] == "urn:repzoo:problem:unauthorized"


class TestKeys:
    def test_a_key_opens_what_is_closed_without(self, live: Any, tmp_path: Path) -> None:
        key = new_key(tmp_path / "keys", "app")
        http = live(keys=str(tmp_path / "keys")).http
        for path in ("/models", "/models/tiny", "/v1/models", "/metrics", "/nope"):
            assert_unauthorized(http.get(path))
            assert http.get(path, headers=bearer(key)).status_code in (200, 404)
        for path in ("/generate", "/v1/embeddings"):
            assert_unauthorized(http.post(path, **POST))
        assert http.post("/generate", headers=bearer(key), **POST).status_code == 200
        headers = {"authorization": f"bEARER   {key}"}
        assert http.post("/generate", headers=headers, **POST).status_code == 200
        # In the form that OpenAI's clients expect.
        error = http.post("/v1/embeddings", **POST).json()["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")

    def test_what_is_not_the_key_does_not_open(self, live: Any, tmp_path: Path) -> None:
        file = tmp_path / "keys"
        key, other = new_key(file, "app"), new_key(file, "other")
        http = live(keys=str(file)).http
        mixed = key[:16] + other[16:]
        digest = hashlib.sha256(key.encode()).hexdigest()
        for bad in ("x", key[:-1], key + "x", key.upper(), mixed, digest, f"{key} {key}", "é"):
            shown = {"Authorization": f"Bearer {bad}".encode()}
            assert_unauthorized(http.get("/models", headers=shown))
        for scheme in ("Basic", "Token"):
            shown = {"Authorization": f"{scheme} {key}".encode()}
            assert_unauthorized(http.get("/models", headers=shown))
        assert_unauthorized(http.get("/models", params={"key": key}))

    def test_the_body_of_a_stranger_is_not_read(self, live: Any, tmp_path: Path) -> None:
        new_key(tmp_path / "keys", "app")
        server = live(keys=str(tmp_path / "keys"))
        with server.connect() as connection:
            connection.sendall(
                b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 1000000\r\n\r\n"
            )
            assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")

    def test_a_line_that_is_deleted_revokes_and_one_that_is_added_admits(
        self, live: Any, tmp_path: Path, eventually: Callable[..., None]
    ) -> None:
        file = tmp_path / "keys"
        old = new_key(file, "old")
        http = live(keys=str(file)).http
        assert http.get("/models", headers=bearer(old)).status_code == 200
        file.write_text("# nobody\n\n")
        new = new_key(file, "new")
        eventually(lambda: http.get("/models", headers=bearer(old)).status_code == 401)
        assert http.get("/models", headers=bearer(new)).status_code == 200

    def test_files_of_earlier_versions_still_work(self, live: Any, tmp_path: Path) -> None:
        key = f"rz_0123456789ab_{'s' * 43}"
        digest = hashlib.sha256(key.encode()).hexdigest()
        (tmp_path / "keys").write_text(f"# keys\n0123456789ab {digest} app rate=1000 burst=9\n")
        http = live(keys=str(tmp_path / "keys")).http
        assert http.get("/models", headers=bearer(key)).status_code == 200
        assert_unauthorized(http.get("/models", headers=bearer(key[:-1])))


def test_metrics_count_by_key(live: Any, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    app, slow = new_key(file, "app"), new_key(file, "slow", rate=0.001)
    server = live(keys=str(file), public=("metrics",))
    for key in (app, app, slow, slow, "nobody's"):
        server.http.post("/generate", json={"model": "tiny", "n": 3}, headers=bearer(key))
    server.http.post("/generate", json={"model": "nope"}, headers=bearer(app))
    requests = {
        (key, status): server.metric("repzoo_key_requests_total", key=key, status=status)
        for key in ("app", "slow")
        for status in ("200", "404", "429")
    }
    assert {at: count for at, count in requests.items() if count} == {
        ("app", "200"): 2,
        ("app", "404"): 1,
        ("slow", "200"): 1,
        ("slow", "429"): 1,
    }
    images = {"operation": "generate", "model": "tiny"}
    assert server.metric("repzoo_key_images_total", key="app", **images) == 6
    assert server.metric("repzoo_key_images_total") == 9
    assert server.metric("repzoo_key_requests_total") == 5


@pytest.mark.parametrize("public", [(), ("health",), ("metrics",), ("health", "metrics")])
def test_what_is_public_is_a_setting(live: Any, tmp_path: Path, public: tuple[str, ...]) -> None:
    key = new_key(tmp_path / "keys", "app")
    http = live(keys=str(tmp_path / "keys"), public=public).http
    for name, paths in (("health", ("/livez", "/healthz", "/readyz")), ("metrics", ("/metrics",))):
        for path in paths:
            assert http.get(path).status_code == (200 if name in public else 401)
            assert http.get(path, headers=bearer(key)).status_code == 200


class TestRates:
    def test_a_bucket(self) -> None:
        now = [0.0]
        bucket = Bucket(2.0, 3.0, lambda: now[0])
        assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]
        now[0] = 0.25
        assert bucket.take() == 0.25
        now[0] = 0.5
        assert [bucket.take(), bucket.take()] == [0, 0.5]
        now[0] = 1000
        assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]

    def test_each_key_has_its_own(self, live: Any, tmp_path: Path) -> None:
        file = tmp_path / "keys"
        slow, fast = new_key(file, "slow", rate=0.01), new_key(file, "fast")
        http = live(keys=str(file), rate=1000).http
        assert http.get("/models", headers=bearer(slow)).status_code == 200
        refused = http.get("/models", headers=bearer(slow))
        assert refused.status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"] == "urn:repzoo:problem:rate-limited"
        assert 90 < int(refused.headers["retry-after"]) <= 100
        for _ in range(5):
            assert http.get("/models", headers=bearer(fast)).status_code == 200
        # Public paths do not count.
        assert http.get("/livez").status_code == 200
        with Client(str(http.base_url), api_key=slow) as client:
            with pytest.raises(repzoo_client.Overloaded) as caught:
                client.models()
            assert caught.value.type == "urn:repzoo:problem:rate-limited"
            assert caught.value.retry_after is not None


class TestCors:
    def test_a_page_of_an_allowed_origin_may_ask(self, live: Any, tmp_path: Path) -> None:
        new_key(tmp_path / "keys", "app")
        origin = {"Origin": "https://app.example"}
        server = live(cors_origins="https://app.example", keys=str(tmp_path / "keys"))
        asks = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        # Browsers send preflight requests without a key.
        answer = server.http.options("/embed", headers=origin | asks)
        assert answer.status_code == 204
        assert answer.content == b""
        assert "content-length" not in answer.headers
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "authorization" in answer.headers["access-control-allow-headers"]
        # Pages can read errors, too.
        for path in ("/models", "/livez"):
            headers = server.http.get(path, headers=origin).headers
            assert headers["access-control-allow-origin"] == "https://app.example"
            assert "x-request-id" in headers["access-control-expose-headers"]
            assert headers["vary"] == "origin"
        for other in ({}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
            headers = server.http.get("/livez", headers=other).headers
            assert "access-control-allow-origin" not in headers
            assert headers["vary"] == "origin"
            assert server.http.options("/embed", headers=other | asks).status_code in (401, 405)

    def test_any_origin(self, live: Any) -> None:
        http = live(cors_origins="*").http
        headers = http.get("/models", headers={"Origin": "https://x.example"}).headers
        assert headers["access-control-allow-origin"] == "*"

    def test_by_default_none_may(self, live: Any) -> None:
        http = live().http
        asks = {"Origin": "https://x.example", "Access-Control-Request-Method": "POST"}
        assert http.options("/embed", headers=asks).status_code == 405
        headers = http.get("/models", headers=asks).headers
        assert "access-control-allow-origin" not in headers


def zoo(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = "from repzoo.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_zoo_keys_makes_lists_and_revokes_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key = zoo("keys", "add", "app", file).stdout.strip()
    made = json.loads(zoo("keys", "add", "batch", file, "--rate", 5, "--burst", 9, "--json").stdout)
    assert made["key"].startswith("rz_")
    assert key not in file.read_text()
    listed = json.loads(zoo("keys", "list", file, "--json").stdout)
    assert [(each["name"], each["rate"], each["burst"]) for each in listed] == [
        ("app", None, None),
        ("batch", 5, 9),
    ]
    header, _, row = zoo("keys", "list", file).stdout.splitlines()
    assert header.split() == ["NAME", "RATE", "BURST", "CREATED"]
    assert row.split()[:3] == ["batch", "5", "9"]
    assert zoo("keys", "revoke", "app", file).stdout == "app: revoked\n"
    assert [each.name for each in read_secrets(file)] == ["batch"]


def test_zoo_serve_asks_for_keys(
    server_process: Any,
    tiny_package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = new_key(tmp_path / "keys", "app")
    monkeypatch.chdir(tmp_path)
    arguments = ("--models", tiny_package, "--port", "0", "--keys", "keys", "--log", "json")
    with server_process(*map(str, arguments), log=tmp_path / "log") as server:
        url = server.wait_until_ready()
        assert "tiny  CPUExecutionProvider" in server.output()
        with Client(url) as client, pytest.raises(repzoo_client.AccessDenied):
            client.generate(model="tiny")
        monkeypatch.setenv("REPZOO_API_KEY", key)
        with Client(url) as client:
            assert client.generate(model="tiny").latents.shape == (1, 4)
        # The printed example sends the key of the variable.
        assert f"zoo keys add NAME {tmp_path / 'keys'}" in server.output()
        if shutil.which("curl"):
            (example,) = re.findall(r"^  (curl .*)$", server.output(), re.MULTILINE)
            done = subprocess.run(example, shell=True, capture_output=True, text=True, check=False)
            assert len(json.loads(done.stdout)["embeddings"]) == 1, done.stderr
        assert server.stop() == 0
        assert '"key": "app"' in server.output()
        assert key not in server.output()


def test_wrong_keys_are_one_line(tmp_path: Path, tiny_package: Path) -> None:
    file = tmp_path / "keys"
    new_key(file, "app")
    for arguments, said in (
        (("keys", "add", "a b", file), "cannot name a secret"),
        (("keys", "add", "app", file), "already has a secret named app"),
        (("keys", "add", "b", file, "--rate", "0"), "--rate"),
        (("keys", "revoke", "b", file), "has no secret named 'b'"),
        (("keys", "list", tmp_path / "nope"), "No such file"),
        (("keys", "list", tiny_package / "encoder.onnx"), "is not a file of secrets"),
        (("serve", "--keys", tmp_path / "nope", "--models", tiny_package, "--port", 0), "No such"),
    ):
        done = zoo(*arguments)
        assert done.returncode != 0
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
