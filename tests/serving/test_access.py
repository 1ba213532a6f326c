"""API keys, rates, public paths, and cross-origin requests, over real sockets."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import repzoo_client
from repzoo.secrets_file import add_secret
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


def serve(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = "from repzoo.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_zoo_serve_makes_keys_and_asks_for_them(
    server_process: Any,
    tiny_package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "keys"
    made = serve("--keys", file, "--new-key", "app")
    assert made.returncode == 0
    key = made.stdout.strip()
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
        assert server.stop() == 0
        assert '"key": "app"' in server.output()
        assert key not in server.output()
    assert serve("--keys", file, "--list-keys").stdout == "app\n"
    assert serve("--keys", file, "--revoke-key", "app").returncode == 0
    assert serve("--keys", file, "--list-keys").stdout == ""


def test_zoo_serve_says_what_is_wrong_with_keys(tmp_path: Path, tiny_package: Path) -> None:
    for arguments, said in (
        (("--new-key", "app"), "--new-key, --revoke-key and --list-keys need --keys"),
        (("--keys", tmp_path / "keys", "--new-key", "a b"), "cannot name a secret"),
        (("--keys", tmp_path / "nope", "--models", tiny_package, "--port", 0), "No such file"),
    ):
        done = serve(*arguments)
        assert done.returncode != 0
        assert said in done.stderr
        assert "Traceback" not in done.stderr
