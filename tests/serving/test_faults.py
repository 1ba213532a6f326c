"""Faults reported for other servers, each reproduced with a small input over real sockets."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import repzoo
from PIL import Image
from repzoo.secrets_file import add_secret

BUNDLED = Path(__file__).parents[2] / "zoo" / "bundled"

Connect = Callable[[], socket.socket]
Eventually = Callable[..., None]


@pytest.fixture(scope="module")
def http(server_url: str) -> Any:
    with httpx.Client(base_url=server_url, timeout=60) as client:
        yield client


@pytest.fixture
def connect(server_url: str) -> Connect:
    address = urlsplit(server_url)
    assert address.hostname is not None
    return lambda: socket.create_connection((address.hostname, address.port), timeout=60)


def image() -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


GOOD = {"model": "tiny", "images": [image()]}
BODY = json.dumps(GOOD).encode()


def head(*lines: str, length: int = len(BODY), path: str = "/embed") -> bytes:
    fields = ["Host: x", "Content-Type: application/json", f"Content-Length: {length}", *lines]
    return "\r\n".join([f"POST {path} HTTP/1.1", *fields, "", ""]).encode()


def receive_all(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    data = b""
    with suppress(ConnectionResetError):
        while more := connection.recv(65536):
            data += more
    return data


def receive(connection: socket.socket) -> tuple[int, Any]:
    """The next response: its status and JSON."""
    data = b""
    while b"\r\n\r\n" not in data or data.startswith(b"HTTP/1.1 100"):
        if data.startswith(b"HTTP/1.1 100") and b"\r\n\r\n" in data:
            data = data.partition(b"\r\n\r\n")[2]
            continue
        data += (more := connection.recv(65536))
        assert more, data
    start, _, body = data.partition(b"\r\n\r\n")
    length = int(start.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += (more := connection.recv(65536))
        assert more
    return int(start.split()[1]), json.loads(body[:length])


class TestUpgrade:
    """A request to upgrade the connection is ignored (uvicorn#2722, httptools#124)."""

    # What a JDK HttpClient sends by default over plain HTTP.
    H2C = (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
    )

    def test_the_body_of_a_java_client_is_read(self, connect: Connect) -> None:
        with connect() as connection:
            for _ in range(2):  # and the connection is kept
                connection.sendall(head(*self.H2C) + BODY)
                status, document = receive(connection)
                assert status == 200, document
                assert document["model"] == "tiny"

    def test_in_pieces(self, connect: Connect) -> None:
        with connect() as connection:
            for byte in head(*self.H2C):
                connection.sendall(bytes([byte]))
            connection.sendall(BODY[:50])
            time.sleep(0.05)
            connection.sendall(BODY[50:])
            assert receive(connection)[0] == 200

    def test_with_a_chunked_body(self, connect: Connect) -> None:
        start = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        start += "\r\n".join(self.H2C).encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        with connect() as connection:
            connection.sendall(start + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
            assert receive(connection)[0] == 200

    def test_pipelined(self, connect: Connect) -> None:
        with connect() as connection:
            connection.sendall((head(*self.H2C) + BODY) * 3)
            data = b""
            while data.count(b'"embeddings"') < 3:
                data += (more := connection.recv(65536))
                assert more, data

    def test_connect_is_refused(self, connect: Connect) -> None:
        with connect() as connection:
            connection.sendall(b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"urn:repzoo:problem:" in receive_all(connection)


class TestSmallBodiesThatCostMuch:
    """Values are counted before they are looked at (vllm#49239, pydantic#8242)."""

    ZEROS = "[" + ",".join(["0"] * 400_000) + "]"
    EMPTY = "[" + ",".join(["[]"] * 300_000) + "]"

    @pytest.mark.parametrize(
        ("path", "body", "status"),
        [
            ("/v1/embeddings", '{"model":"tiny","input":%s}', 413),
            ("/v1/embeddings", '{"model":"tiny","messages":%s}', 413),
            ("/v1/embeddings", '{"model":%s,"input":"x"}', 413),
            (
                "/v1/embeddings",
                '{"model":"tiny","messages":[{"role":"user","content":%s}]}',
                413,
            ),
            ("/embed", '{"model":"tiny","images":%s}', 413),
            ("/embed", '{"model":"tiny","images":["x"],"dimensions":%s}', 413),
            ("/posterior", '{"model":"tiny","images":%s}', 413),
            ("/reconstruct", '{"model":"tiny","images":%s}', 413),
            ("/probe", '{"model":"tiny","task":"digit","images":%s}', 413),
            ("/probe", '{"model":"tiny","task":%s,"images":["x"]}', 413),
            ("/generate", '{"model":"tiny","latents":%s}', 413),
            ("/generate", '{"model":"tiny","latents":[%s]}', 413),
            ("/generate", '{"model":"tiny","seed":%s}', 413),
        ],
    )
    @pytest.mark.parametrize("values", [ZEROS, EMPTY], ids=["zeros", "lists"])
    def test_lists(
        self, http: httpx.Client, path: str, body: str, status: int, values: str
    ) -> None:
        start = time.monotonic()
        headers = {"Content-Type": "application/json"}
        response = http.post(path, content=body % values, headers=headers)
        assert response.status_code == status, response.text
        assert time.monotonic() - start < 3
        assert len(response.content) < 2000

    def test_many_members(self, http: httpx.Client) -> None:
        many = {f"member{index}": 0 for index in range(1000)}
        for path in ("/embed", "/generate", "/v1/embeddings"):
            response = http.post(path, json={**GOOD, **many})
            assert response.status_code == 400
            assert "members" in response.json()["detail"]

    def test_a_list_is_checked_up_to_its_first_error(self, http: httpx.Client) -> None:
        response = http.post("/embed", json={"model": "tiny", "images": [0] * 64})
        assert response.json()["detail"] == "images[0]: expected text, got 0"
        response = http.post("/generate", json={"model": "tiny", "latents": [["x"] * 4] * 64})
        assert response.json()["detail"].startswith("latents[0][0]: ")
        assert "more" not in response.json()["detail"]

    def test_safetensors_headers(self, http: httpx.Client) -> None:
        tensor = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
        header = json.dumps({f"t{index}": tensor for index in range(10_000)}).encode()
        response = http.post(
            "/embed",
            content=struct.pack("<Q", len(header)) + header,
            headers={"Content-Type": "application/x-safetensors"},
        )
        assert response.status_code == 400
        assert "header" in response.json()["detail"]

    def test_headers_of_parts(self, http: httpx.Client) -> None:
        part = b'--b\r\nContent-Disposition: form-data; name="images"; x="%b"\r\n\r\n1\r\n'
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        start = time.monotonic()
        content = part % (b";" * 900_000) + b"--b--\r\n"
        response = http.post("/embed", content=content, headers=headers)
        assert response.status_code == 400
        assert time.monotonic() - start < 3


class TestHeads:
    """Heads are limited in size and time, before any key is checked (uvicorn#157)."""

    @pytest.mark.parametrize(
        "start",
        [
            b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ",
            b"GET /",
            b"GET /livez HTTP/1.1\r\nHost: x\r\n",
            b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; x=",
        ],
        ids=["header", "path", "many-headers", "content-type"],
    )
    def test_a_large_head_is_refused(
        self, connect: Connect, http: httpx.Client, start: bytes
    ) -> None:
        more = b"a: b\r\n" * 20_000 if start.endswith(b"\n") else b";" * 100_000
        with connect() as connection:
            with suppress(ConnectionError):
                connection.sendall(start + more)
            answer = receive_all(connection)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"urn:repzoo:problem:head-too-large" in answer
        assert http.get("/livez").status_code == 200

    def test_a_complete_large_head_is_refused(self, http: httpx.Client) -> None:
        assert http.get("/livez", headers={"X": "x" * 60_000}).status_code == 200
        assert http.get("/livez", headers={"X": "x" * 66_000}).status_code == 431
        # A large body in the same packets is not a large head.
        assert http.post("/embed", json={**GOOD, "images": [image()] * 64}).status_code == 200

    def test_trailers_and_chunk_extensions_are_limited(
        self, connect: Connect, http: httpx.Client
    ) -> None:
        start = (
            b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for rest in (b"1\r\n{\r\n0\r\nX: ", b"1;x="):
            with connect() as connection:
                connection.sendall(start + rest)
                with suppress(ConnectionError):
                    for _ in range(100):
                        connection.sendall(b"x" * 10_000)
                        time.sleep(0.001)
                assert b" 431 " in receive_all(connection)
        # A trailer is legal, and not a header.
        with connect() as connection:
            body = b"%x\r\n%b\r\n0\r\nContent-Type: text/plain\r\n\r\n" % (len(BODY), BODY)
            connection.sendall(start + body)
            assert receive(connection)[0] == 200

    def test_a_content_type_is_parsed_in_linear_time(self, http: httpx.Client) -> None:
        for rest in (';x="' + ";" * 60_000, ";x=1" * 15_000, ';a="\\' * 12_000):
            start = time.monotonic()
            headers = {"Content-Type": f"multipart/form-data{rest}"}
            assert http.post("/embed", content=b"x", headers=headers).status_code == 400
            assert time.monotonic() - start < 2

    def test_a_slow_head_is_ended(self, live: Any, eventually: Eventually) -> None:
        server = live(head_seconds=0.5, idle_seconds=30)
        connections = [server.connect() for _ in range(20)]
        for connection in connections:
            connection.sendall(b"GET /livez HTTP/1.1\r\n")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            for connection in connections:
                with suppress(OSError):
                    connection.sendall(b"a")
            time.sleep(0.05)
        for connection in connections:
            connection.setblocking(False)
            with suppress(ConnectionError):
                assert receive_all(connection).startswith(b"HTTP/1.1 408 ")
            connection.close()
        assert server.http.get("/livez").status_code == 200

    def test_silent_connections_are_closed(self, live: Any) -> None:
        server = live(idle_seconds=0.5)
        start = time.monotonic()
        silent = [server.connect() for _ in range(50)]
        used = server.connect()
        used.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert receive(used)[0] == 200
        for connection in [*silent, used]:
            assert connection.recv(1) == b""
            connection.close()
        assert 0.4 < time.monotonic() - start < 10

    def test_an_unread_body_does_not_keep_a_connection(self, live: Any) -> None:
        server = live(idle_seconds=0.5)
        with server.connect() as connection:
            connection.sendall(b"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n")
            assert receive(connection)[0] == 404
            end = time.monotonic() + 20
            with suppress(ConnectionError):
                while time.monotonic() < end:
                    connection.sendall(b"x")
                    time.sleep(0.02)
            assert time.monotonic() < end

    def test_a_request_in_progress_is_not_idle(self, live: Any) -> None:
        server = live(head_seconds=0.2, idle_seconds=0.2)
        server.gate.shut()
        with server.connect() as connection:
            connection.sendall(head() + BODY)
            server.gate.wait_for_a_run()
            time.sleep(1)
            server.gate.open()
            assert receive(connection)[0] == 200


class TestPipelines:
    def test_a_bad_request_does_not_take_the_place_of_a_good_one(self, live: Any) -> None:
        chunked = b"POST /embed HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        large = b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000
        for bad in (b"\0garbage\r\n\r\n", chunked + b"zz\r\n", large):
            for good in (1, 3):
                server = live()
                server.gate.shut()
                with server.connect() as connection:
                    connection.sendall((head() + BODY) * good)
                    server.gate.wait_for_a_run()
                    with suppress(ConnectionError):
                        connection.sendall(bad)
                    time.sleep(0.1)
                    server.gate.open()
                    answer = receive_all(connection)
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert answer.count(b'"embeddings"') == good

    def test_a_client_that_leaves_ends_all_of_them(
        self, live: Any, eventually: Eventually, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = live()
        server.gate.shut()
        with server.connect() as connection:
            connection.sendall((head() + BODY) * 5)
            server.gate.wait_for_a_run()
        eventually(lambda: server.metric("repzoo_requests_in_flight") == 1)
        server.gate.open()
        assert server.http.post("/embed", json=GOOD).status_code == 200
        assert "Exception in ASGI application" not in caplog.text


@pytest.mark.parametrize("full", ["stdout", "both"])
def test_a_log_reader_that_stalls_stops_nothing(
    tiny_package: Path, full: str, eventually: Eventually, unused_port: Callable[[], int]
) -> None:
    """mcp python-sdk#2070: stdout is a pipe that nobody reads."""
    port = unused_port()
    command = [
        sys.executable,
        "-c",
        "from repzoo.cli import main; main()",
        "serve",
        "--log",
        "json",
    ]
    command += ["--models", str(tiny_package), "--port", str(port)]
    reader, writer = os.pipe()
    stderr = writer if full == "both" else subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=writer, stderr=stderr)
    os.close(writer)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:

            def up() -> bool:
                with suppress(httpx.TransportError):
                    return http.get("/readyz").status_code == 200
                return False

            eventually(up, seconds=90)
            dropped = ""
            for _ in range(12_000):
                http.get("/livez", headers={"X-Request-ID": "x" * 128})
                if _ % 500 == 0:
                    (dropped,) = [
                        line
                        for line in http.get("/metrics").text.splitlines()
                        if line.startswith("repzoo_log_lines_dropped_total")
                    ]
                    if not dropped.endswith(" 0.0"):
                        break
            assert not dropped.endswith(" 0.0")
            assert http.post("/embed", json=GOOD).status_code == 200
        process.terminate()
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        os.close(reader)


class TestHalfClosed:
    """A client may close its sending side and still gets its response (uvicorn#1264)."""

    def test_the_response_comes(self, connect: Connect) -> None:
        with connect() as connection:
            connection.sendall(head() + BODY)
            connection.shutdown(socket.SHUT_WR)
            assert receive(connection)[0] == 200
            assert connection.recv(1) == b""

    def test_to_every_pipelined_request(self, connect: Connect) -> None:
        with connect() as connection:
            connection.sendall((head() + BODY) * 3)
            connection.shutdown(socket.SHUT_WR)
            assert receive_all(connection).count(b'"embeddings"') == 3

    def test_however_long_it_takes(self, live: Any) -> None:
        server = live()
        server.gate.shut()
        with server.connect() as connection:
            connection.sendall(head() + BODY)
            connection.shutdown(socket.SHUT_WR)
            server.gate.wait_for_a_run()
            time.sleep(0.3)
            server.gate.open()
            assert receive(connection)[0] == 200
        assert server.metric("repzoo_hangups_total") == 0

    def test_an_incomplete_request_is_given_up(self, connect: Connect) -> None:
        for sent in (head()[:-4], head() + BODY[:-1]):
            with connect() as connection:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "header",
    [
        b'{"__metadata__":null}',
        b'{"__metadata__":{}}',
        b'{"__metadata__":{"request":null}}',
        b'{"__metadata__":{"request":"null"}}',
        b'{"__metadata__":{"request":"{\\"model\\":null}"}}',
        b'{"__metadata__":[]}',
        b'{"images":null}',
        b'{"images":{"dtype":"U8","shape":[0,9223372036854775807,1,1],"data_offsets":[0,0]}}',
        b'{"images":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}',
        b"null",
    ],
)
@pytest.mark.parametrize("path", ["/embed", "/generate"])
def test_odd_safetensors_are_the_clients_fault(
    http: httpx.Client, header: bytes, path: str
) -> None:
    content = struct.pack("<Q", len(header)) + header
    headers = {"Content-Type": "application/x-safetensors"}
    assert http.post(path, content=content, headers=headers).status_code == 400


class TestSmaller:
    def test_a_preflight_allows_the_headers_that_it_lists(self, live: Any) -> None:
        http = live(cors_origins="https://app.example").http
        asked = "authorization,content-type,x-stainless-arch,x-stainless-os"
        headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        response = http.options(
            "/v1/embeddings", headers={**headers, "Access-Control-Request-Headers": asked}
        )
        assert response.headers["access-control-allow-headers"] == asked
        response = http.options(
            "/embed", headers={**headers, "Access-Control-Request-Headers": "<x>"}
        )
        assert "authorization" in response.headers["access-control-allow-headers"]

    def test_one_model_in_openais_api(self, http: httpx.Client) -> None:
        listed = http.get("/v1/models").json()["data"]
        assert http.get("/v1/models/tiny").json() == listed[0]
        missing = http.get("/v1/models/nope")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "model_not_found"
        assert http.post("/v1/models/tiny").status_code == 405

    @pytest.mark.parametrize("hosts", ["", "Host: a\r\nHost: b\r\n"])
    def test_a_host_is_required_once(self, connect: Connect, hosts: str) -> None:
        with connect() as connection:
            connection.sendall(f"GET /livez HTTP/1.1\r\n{hosts}\r\n".encode())
            status, problem = receive(connection)
            assert status == 400
            assert "Host" in problem["detail"]
        with connect() as connection:
            connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            assert receive(connection)[0] == 200

    def test_unread_responses_are_in_flight_and_given_up(
        self, live: Any, eventually: Eventually
    ) -> None:
        server = live(idle_seconds=1, max_bytes=4_000_000)
        body = json.dumps({"model": "tiny", "n": 1024}).encode()
        connections = [server.connect() for _ in range(4)]
        for connection in connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            # More than the kernel buffers.
            connection.sendall((head(length=len(body), path="/generate") + body) * 40)
        eventually(lambda: server.metric("repzoo_requests_in_flight") == 5, seconds=60)
        eventually(lambda: server.metric("repzoo_requests_in_flight") == 1, seconds=60)
        for connection in connections:
            connection.close()

    def test_bodies_in_transfer_are_limited_together(self, live: Any) -> None:
        server = live(max_bytes=100_000, deadline_seconds=20)
        many = [server.connect() for _ in range(40)]
        start = head(length=99_000)
        for connection in many:
            connection.sendall(start + b" " * 90_000)
        statuses = [receive(connection)[0] for connection in many if _readable(connection)]
        assert statuses
        assert set(statuses) == {429}
        for connection in many:
            connection.close()

    @pytest.mark.parametrize("number", [1e38, -3e38])
    def test_latents_that_overflow(self, live: Any, number: float) -> None:
        server = live()
        encoder = repzoo.load(BUNDLED / "vae-fashion-mnist", provider="cpu", threads=1)
        server.app.models.serve([server.app.served(encoder)])
        rows = [[0] * 10, [number] * 10]
        request = {"model": "vae-fashion-mnist", "latents": rows}
        response = server.http.post("/generate", json=request)
        assert response.status_code == 422
        assert response.json()["type"] == "urn:repzoo:problem:invalid-latents"
        assert response.json()["index"] == 1

    def test_the_document_is_right_behind_a_prefix(
        self, http: httpx.Client, server_url: str
    ) -> None:
        (server,) = http.get("/openapi.json").json()["servers"]
        base = httpx.URL("https://example.com/prefix/openapi.json").join(f"{server['url']}/embed")
        assert str(base) == "https://example.com/prefix/embed"

    def test_an_unknown_path_lists_every_route(self, http: httpx.Client) -> None:
        detail = http.get("/nope").json()["detail"]
        for path in http.get("/openapi.json").json()["paths"]:
            assert path in detail

    @pytest.mark.parametrize("given", [[], {}, None, 1, [[]], [{"image": 1}], [{"x": "y"}]])
    def test_openai_errors_do_not_show_internals(self, http: httpx.Client, given: Any) -> None:
        response = http.post("/v1/embeddings", json={"model": "tiny", "input": given})
        assert response.status_code == 400
        detail = response.json()["detail"]
        for word in ("function", "constrained", "union", "ImageObject", "str]"):
            assert word not in detail

    @pytest.mark.parametrize("name", ["filename*=UTF-8''x.png", "filename=x.png", 'filename="x"'])
    def test_every_kind_of_file_name(self, http: httpx.Client, name: str) -> None:
        file = base64.b64decode(image())
        content = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n'
        content += f'--b\r\nContent-Disposition: form-data; name="images"; {name}\r\n\r\n'.encode()
        content += file + b"\r\n--b--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        response = http.post("/embed", content=content, headers=headers)
        assert response.status_code == 200, response.text


def _readable(connection: socket.socket) -> bool:
    connection.settimeout(1)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except (TimeoutError, ConnectionError):
        return False


def test_the_printed_curl_has_a_key(
    server_process: Any, tiny_package: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    key = add_secret(keys, "app", prefix="rz_")
    arguments = ("--models", str(tiny_package), "--port", "0", "--keys", str(keys))
    with server_process(*arguments, log=tmp_path / "log") as server:
        server.wait_until_ready()
        (line,) = [each for each in server.output().splitlines() if each.startswith("  curl ")]
        assert "$REPZOO_API_KEY" in line
        env = {**os.environ, "REPZOO_API_KEY": key}
        done = subprocess.run(line, shell=True, capture_output=True, text=True, env=env)
        assert json.loads(done.stdout)["model"] == "tiny"


def test_an_empty_watch_file_is_explained(
    server_process: Any, tiny_package: Path, tmp_path: Path, eventually: Eventually
) -> None:
    file = tmp_path / "models.txt"
    file.write_text("# none yet\n")
    with server_process("--watch", str(file), "--port", "0", log=tmp_path / "log") as server:
        url = server.wait_until_ready()
        assert f"No model is served yet: {file} lists none." in server.output()
        eventually(lambda: f"{file} lists no model" in server.output())
        file.write_text(f"{tiny_package}\n")
        eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        # Files that are empty, cut off or damaged unload nothing; other lines take effect.
        for content in (b"", b"\0" * 100, str(tiny_package).encode()[:-3], b"\xff\xfe\n"):
            file.write_bytes(content)
            time.sleep(1.5)
            assert httpx.get(f"{url}/readyz").status_code == 200, content
        bom = b"\xef\xbb\xbf" + str(tiny_package).encode() + b"\nno\0such\n" + b"x" * 5000 + b"\n"
        file.write_bytes(bom)
        eventually(lambda: len(httpx.get(f"{url}/models").json()["failed"]) == 2)
        assert [m["name"] for m in httpx.get(f"{url}/models").json()["models"]] == ["tiny"]
        assert "Traceback" not in server.output()


def test_no_stall_while_hostile_bodies_are_parsed(http: httpx.Client, server_url: str) -> None:
    """Bodies of the allowed size never hold up other requests for long."""
    stop = threading.Event()
    bodies = [
        ("application/json", b'{"model":"tiny","input":[' + b"0," * 400_000 + b"0]}"),
        ("application/json", b'{"model":"tiny","images":["' + b"A" * 900_000 + b'"]}'),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"\r" * 900_000),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n" + b"\r\n--" * 200_000),
        ("multipart/form-data; boundary=b", b"--b\r\nA: b\r\n\r\n\r\n" * 50_000),
    ]

    def attack() -> None:
        with httpx.Client(base_url=server_url, timeout=60) as client:
            while not stop.is_set():
                for kind, body in bodies:
                    client.post("/v1/embeddings", content=body, headers={"Content-Type": kind})
                    client.post("/embed", content=body, headers={"Content-Type": kind})

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        slowest = 0.0
        for _ in range(50):
            start = time.monotonic()
            assert http.get("/livez").status_code == 200
            slowest = max(slowest, time.monotonic() - start)
    finally:
        stop.set()
        thread.join()
    assert slowest < 2
