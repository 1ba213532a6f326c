"""Hostile requests are refused with a reason and leave nothing behind."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from repzoo.hub_server import protocol
from starlette.requests import Request

PATHS = [
    "../x",
    "a/../../x",
    "/etc/passwd",
    "..",
    "",
    "a//b",
    "a\\b",
    "C:/x",
    "a\x00b",
    "a\nb",
    "a\u202eb",
    ".git/hooks/x",
    "a" * 600,
    "a/" * 30 + "b",
]


@pytest.fixture
def http(shared: Any) -> Iterator[httpx.Client]:
    """A plain HTTP client with a token that may write, and the repository hostile."""
    with shared.server.http(shared.tokens.write) as client:
        assert client.post("/api/repos/create", json={"name": "hostile"}).status_code in (200, 409)
        yield client


@pytest.fixture(autouse=True)
def _nothing_stays(shared: Any) -> Iterator[None]:
    """No file is left incomplete, and nothing appears outside the store."""
    before = sorted(shared.store.parent.iterdir())
    yield
    assert not any((shared.store / "incoming").iterdir())
    assert sorted(shared.store.parent.iterdir()) == before


def commit(http: httpx.Client, *changes: Any, header: Any = None) -> httpx.Response:
    lines = [{"key": "header", "value": header or {"summary": "x"}}, *changes]
    body = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines)
    return http.post("/api/models/zoo/hostile/commit/main", content=body.encode())


def added(path: str, content: bytes = b"x") -> dict[str, Any]:
    text = base64.b64encode(content).decode()
    return {"key": "file", "value": {"path": path, "content": text, "encoding": "base64"}}


@pytest.mark.parametrize("path", PATHS)
def test_hostile_paths(http: httpx.Client, path: str) -> None:
    head = http.get("/api/models/zoo/hostile").json()["sha"]
    digest = hashlib.sha256(b"x").hexdigest()
    large = {"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": digest, "size": 1}}
    for change in (added(path), large, {"key": "deletedFile", "value": {"path": path}}):
        response = commit(http, added("fine"), change)
        assert response.status_code in (400, 404), response.text
        assert response.headers["x-error-message"].isprintable()
    files = {"files": [{"path": path, "size": 1, "sample": ""}]}
    assert http.post("/api/models/zoo/hostile/preupload/main", json=files).status_code == 400
    assert http.get("/api/models/zoo/hostile").json()["sha"] == head


def _authorization(shared: Any) -> str:
    return f"Authorization: Bearer {shared.tokens.write}\r\n"


def raw(shared: Any, target: str, headers: str = "", method: str = "GET") -> bytes:
    """Send a raw request line, which no library would send."""
    with socket.create_connection(("127.0.0.1", int(shared.server.port)), 30) as connection:
        request = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
        connection.sendall(request.encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    "target",
    [
        "/zoo/hostile/resolve/main/../../../../etc/passwd",
        "/zoo/hostile/resolve/main/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/zoo/hostile/resolve/main/..%2f..%2fsettings.json",
        "/zoo/hostile/resolve/main//etc/passwd",
        "/zoo/hostile/resolve/../main/x",
        "/zoo/hostile/resolve/..%2F..%2Fsettings.json/x",
        "/zoo/../hostile/resolve/main/x",
        "/zoo/..%2F..%2F/resolve/main/x",
        "/zoo/%00/resolve/main/%00",
        "/zoo/hostile/resolve/main/%ff%fe",
        "/api/models/zoo/..",
        "/api/models/zoo/%2e%2e%2f%2e%2e%2fetc",
        "/api/models/zoo/hostile/tree/main/..%2F..",
        "/api/models/zoo/hostile/revision/..%2F..%2Fsettings.json",
        "/%0d%0aSet-Cookie:x=1",
        "/" + "a" * 5000,
    ],
)
def test_hostile_addresses(shared: Any, http: httpx.Client, target: str) -> None:
    assert commit(http, added("x")).status_code == 200
    answer = raw(shared, target)
    status = int(answer.split()[1])
    assert status in (400, 401, 404), answer
    assert b"root:" not in answer
    assert b"Set-Cookie:x" not in answer.split(b"\r\n\r\n")[0]
    assert http.get("/health").text == "ok\n"


def test_invalid_bodies(http: httpx.Client) -> None:
    address = "/api/models/zoo/hostile/commit/main"
    header = b'{"key": "header", "value": {"summary": "x"}}'
    for body in (
        b"",
        b"\n\n",
        b"garbage",
        b"[]",
        b'{"key": "file"}',
        header[:-1],
        header + b"\n" + header,
        header + b'\n{"key": "bomb", "value": {}}',
        header + b'\n{"key": "file", "value": {"path": "x"}}',
        header + b'\n{"key": "file", "value": {"path": "x", "content": "!", "encoding": "base64"}}',
        header + b'\n{"key": "lfsFile", "value": {"path": "x", "oid": "../../x", "size": 1}}',
        header + b'\n{"key": "lfsFile", "value": {"path": "x", "oid": "' + b"0" * 64 + b'"}}',
        b'{"key": "header", "value": {"summary": "x", "parentCommit": "../x"}}',
        b"[" * 1_000_000,
        b'{"key": ' * 100_000,
        b"\xff\xfe",
    ):
        response = http.post(address, content=body)
        assert response.status_code == 400, (body[:80], response.text)
        assert response.json()["error"]
    # The content of this file was never uploaded.
    absent = {"path": "x", "algo": "sha256", "oid": "0" * 64, "size": 5}
    assert commit(http, {"key": "lfsFile", "value": absent}).status_code == 400
    for path in (
        "/api/repos/create",
        "/api/models/zoo/hostile/preupload/main",
        "/api/validate-yaml",
    ):
        for content in (b"", b"[1]", b"{", b"[" * 1_000_000, b'"x"', b'{"files": 1}'):
            assert http.post(path, content=content).status_code == 400


def test_bodies_that_are_too_large_are_cut_while_they_arrive(
    shared: Any, http: httpx.Client
) -> None:
    sent = 0

    def endless(piece: bytes) -> Iterator[bytes]:
        nonlocal sent
        for _ in range(400):
            sent += len(piece)
            yield piece

    for path, piece in (
        ("/api/repos/create", b" " * 2**20),
        ("/api/models/zoo/hostile/preupload/main", b" " * 2**20),
        ("/api/models/zoo/hostile/paths-info/main", b"paths=x&" * 2**17),
        ("/zoo/hostile.git/info/lfs/objects/batch", b" " * 2**20),
        ("/api/models/zoo/hostile/commit/main", b"x" * 2**20),  # one line of it
    ):
        sent = 0
        response = http.post(path, content=endless(piece))
        assert response.status_code == 413, path
        assert sent < 300 * 2**20, "all of it was taken"
    # An announced length is refused before the body: this sends no body.
    announced = f"Content-Length: {2**40}\r\n{_authorization(shared)}"
    assert raw(shared, "/api/repos/create", announced, "POST").split()[1] == b"413"
    assert commit(http, header={"summary": "x" * 501}).status_code == 400
    assert commit(http, added("x", b"x" * (10 * 2**20 + 1))).status_code == 413
    many = [{"key": "deletedFile", "value": {"path": "x"}}] * 10_001
    assert commit(http, *many).status_code == 400
    assert http.get("/health").text == "ok\n"


def upload_address(http: httpx.Client, content: bytes, size: int | None = None) -> str:
    digest = hashlib.sha256(content).hexdigest()
    wanted = {"oid": digest, "size": len(content) if size is None else size}
    batch = {"operation": "upload", "objects": [wanted], "hash_algo": "sha256"}
    response = http.post("/zoo/hostile.git/info/lfs/objects/batch", json=batch)
    href: str = response.json()["objects"][0]["actions"]["upload"]["href"]
    return href


def test_an_upload_is_what_was_announced_or_nothing(shared: Any, http: httpx.Client) -> None:
    content = b"announced" * 100_000
    address = upload_address(http, content)
    blob = shared.store / "blobs" / "sha256" / hashlib.sha256(content).hexdigest()
    with shared.server.http() as anyone:  # the client sends no token here
        for wrong, status in (
            (b"", 400),
            (content[:-1], 400),
            (content[:-1] + b"x", 400),
            (content + b"x", 413),
            (content * 100, 413),
        ):
            response = anyone.put(address, content=iter([wrong]))
            assert response.status_code == status, response.text
            assert not blob.exists()
        for changed in (
            address.replace("size=9", "size=8"),
            address.replace("expires=1", "expires=2"),
            address.replace("signature=", "signature=0"),
            address.partition("?")[0],
            address.replace(blob.name, "0" * 64),
            address.replace("hostile", "others"),
            address.replace("size=9", "size=x"),
        ):
            assert anyone.put(changed, content=content).status_code == 403
        assert anyone.put(address, content=content).status_code == 200
    assert blob.read_bytes() == content
    # Existing content is not uploaded again.
    batch = {"operation": "upload", "objects": [{"oid": blob.name, "size": len(content)}]}
    answer = http.post("/zoo/hostile.git/info/lfs/objects/batch", json=batch).json()
    assert "actions" not in answer["objects"][0]


def test_invalid_announcements(http: httpx.Client) -> None:
    for batch in (
        {},
        {"operation": "download", "objects": []},
        {"operation": "upload", "objects": [{"oid": "../x", "size": 1}]},
        {"operation": "upload", "objects": [{"oid": "0" * 64, "size": -1}]},
        {"operation": "upload", "objects": [{"oid": "0" * 64, "size": 1}] * 1001},
        {"operation": "upload", "objects": [], "hash_algo": "md5"},
    ):
        response = http.post("/zoo/hostile.git/info/lfs/objects/batch", json=batch)
        assert response.status_code == 400
    huge = {"operation": "upload", "objects": [{"oid": "0" * 64, "size": 2**60}]}
    answer = http.post("/zoo/hostile.git/info/lfs/objects/batch", json=huge).json()
    assert answer["objects"][0]["error"]["code"] == 422


def test_ranges(http: httpx.Client) -> None:
    content = bytes(range(256)) * 10
    assert commit(http, added("range", content)).status_code == 200
    address = "/zoo/hostile/resolve/main/range"
    whole = http.get(address)
    assert whole.content == content
    assert whole.headers["accept-ranges"] == "bytes"
    good: dict[str, tuple[int, int]] = {
        "bytes=0-0": (0, 1),
        "bytes=10-19": (10, 20),
        "bytes=2559-": (2559, 2560),
        "bytes=100-99999999999": (100, 2560),
        "bytes=-5": (2555, 2560),
        "bytes=-99999": (0, 2560),
    }
    for text, (start, stop) in good.items():
        part = http.get(address, headers={"Range": text})
        assert part.status_code == 206
        assert part.content == content[start:stop]
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/2560"
        head = http.head(address, headers={"Range": text})
        assert head.headers["content-length"] == str(stop - start)
    for text in ("bytes=2560-", "bytes=99999-100000", "bytes=-0", "bytes=" + "9" * 18 + "-"):
        none = http.get(address, headers={"Range": text})
        assert none.status_code == 416
        assert none.headers["content-range"] == "bytes */2560"
    for text in (
        "bytes=5-4",
        "bytes=-",
        "bytes=a-b",
        "bytes=0-1,5-6",
        "lines=1-2",
        "bytes=" + "9" * 5000,
    ):
        assert http.get(address, headers={"Range": text}).content == content
    etag = whole.headers["etag"]
    assert http.get(address, headers={"Range": "bytes=5-", "If-Range": etag}).status_code == 206
    assert http.get(address, headers={"Range": "bytes=5-", "If-Range": '"x"'}).content == content
    assert http.get(address, headers={"If-None-Match": etag}).status_code == 304
    empty = commit(http, added("empty", b""))
    assert empty.status_code == 200
    assert http.get("/zoo/hostile/resolve/main/empty").content == b""


def test_metadata_that_would_take_all_memory(http: httpx.Client) -> None:
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
        f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]"
        for a, b in zip("abcdefghij", "bcdefghijk", strict=False)
    )
    deep = "a: " + "[" * 50_000
    for metadata in (laughs, deep):
        card = f"---\n{metadata}\n---\n# Hello\n"
        assert http.post("/api/validate-yaml", json={"content": card}).status_code == 400
        # A card that was not validated first is shown without metadata.
        assert commit(http, added("README.md", card.encode())).status_code == 200
        assert http.get("/api/models/zoo/hostile").json()["cardData"] == {}
        assert "Hello" in http.get("/zoo/hostile").text
    assert http.get("/api/models?search=hostile").json()[0]["id"] == "zoo/hostile"


def test_invalid_http(shared: Any, http: httpx.Client) -> None:
    for garbage in (
        b"\x16\x03\x01" * 100,
        b"GET\r\n\r\n",
        b"\r\n" * 1000,
        b"POST / HTTP/9.9\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", int(shared.server.port)), 30) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    assert http.get("/health").text == "ok\n"
    assert http.patch("/zoo/hostile").status_code == 405
    nothing = http.get("/api/nothing/here").json()["error"]
    assert nothing.startswith("this hub does not support GET '/api/nothing/here': it has models")


def test_log_lines_cannot_be_forged(shared: Any, http: httpx.Client) -> None:
    raw(shared, "/zoo/x%0a10:00:00%20%20200%20forged?token=secret")
    log = shared.server.log.read_text()
    assert "\n10:00:00  200 forged" not in log
    assert "secret" not in log
    assert "signature" not in log
    assert shared.tokens.write not in log


def test_a_client_may_close_its_half_of_the_connection(shared: Any) -> None:
    body = b'{"content":""}'
    head = b"POST /api/validate-yaml HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    # Java's HttpClient also asks every plain HTTP server for an upgrade.
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    for request in (head + body, head.replace(b"Host", upgrade + b"Host") + body):
        with socket.create_connection(("127.0.0.1", int(shared.server.port)), 10) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_log_that_is_not_read_does_not_stop_the_server(store: Path) -> None:
    reader, writer = os.pipe()
    zoo = Path(sysconfig.get_path("scripts")) / "zoo"
    command = [zoo, "hub", "serve", store, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writer, text=True)
    os.close(writer)
    assert process.stdout is not None
    url = process.stdout.readline().split()[2].removesuffix("/zoo")
    with httpx.Client(base_url=url, trust_env=False, timeout=10) as http:
        for _ in range(400):  # more than the pipe holds
            assert http.get(f"/api/models/zoo/{'x' * 200}").status_code == 404
    process.terminate()
    assert process.wait(20) == 0
    process.stdout.close()
    os.close(reader)


def test_lines_that_nobody_reads_are_dropped_and_counted() -> None:
    code = """
import os
from repzoo.hub_server.access_log import LogWriter
writer = LogWriter()
for number in range(50_000):
    writer.write(f"{number} {'x' * 100}\\n")
print("done", flush=True)
input()
writer.write("the last\\n")
writer.close(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    _, log = process.communicate("\n", timeout=60)
    assert "lines were dropped: the log is not read)" in log
    assert "\n0 x" in f"\n{log}"  # the notice comes first if the writer starts late


def test_a_client_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_CHECK_SECONDS", 0.2)
    disconnected = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not await request.is_disconnected():
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
        disconnected.set()

    config = uvicorn.Config(
        app, http=protocol.ImpatientProtocol, lifespan="off", ws="none", log_level="critical"
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert disconnected.wait(20)
    finally:
        server.should_exit = True
        thread.join(20)
