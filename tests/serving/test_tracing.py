"""OpenTelemetry spans, as a collector on a real socket receives them."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from repzoo_serving.cli import serve

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs repzoo[tracing]")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

Eventually = Callable[[Callable[[], object]], None]

GENERATE = {"model": "tiny", "latents": [[0.0] * 4] * 3}
CALLER = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def embed() -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(buffer, "PNG")
    return {"model": "tiny", "images": [base64.b64encode(buffer.getvalue()).decode()]}


def traceparent(flags: str) -> dict[str, str]:
    return {"traceparent": f"00-{CALLER}-{PARENT}-{flags}"}


class Collector(ThreadingHTTPServer):
    """Receives spans by OTLP over HTTP."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    def named(self, name: str) -> list[Span]:
        return [span for span in list(self.spans) if span.name == name]

    def below(self, parent: Span) -> dict[str, Span]:
        """Return the children of a span by name."""
        return {s.name: s for s in list(self.spans) if s.parent_span_id == parent.span_id}


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for of in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.resources.append(attributes(of.resource))
            for scope in of.scope_spans:
                self.server.spans += scope.spans
        self.server.headers.append(dict(self.headers))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def attributes(of: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in of.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def traced(live: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The application in this process, with a short export delay."""

    def start(**settings: Any) -> Any:
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        server = live(otlp=collector.url, **settings)
        server.app.trace()
        return server

    return start


def log_lines(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines() if line[:1] == "{"]
    return [line for line in lines if line.get("path") != "/models"]


def test_a_request_is_a_span_with_its_stages(
    server_process: type, tiny_package: Path, collector: Collector, tmp_path: Path
) -> None:
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-token=secret",
        "OTEL_SERVICE_NAME": "animals",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
    }
    words = ("--models", str(tiny_package), "--port", "0", "--log", "json")
    with server_process(*words, log=tmp_path / "log", env=env) as server:
        url = server.wait_until_ready()
        headers = {**traceparent("01"), "X-Request-ID": "mine"}
        answer = httpx.post(f"{url}/generate", json=GENERATE, headers=headers)
        # Remaining spans are sent before the exit.
        assert collector.spans == []
        assert server.stop(signal.SIGTERM) == 0
        (line,) = [line for line in log_lines(server.output()) if "request_id" in line]
    (span,) = collector.named("POST /generate")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (CALLER, PARENT)
    assert span.kind == Span.SPAN_KIND_SERVER
    assert span.status.code == Status.STATUS_CODE_UNSET
    found = attributes(span)
    assert found.pop("server.port") == httpx.URL(url).port
    assert found.pop("user_agent.original").startswith("python-httpx/")
    assert found == {
        "http.request.method": "POST",
        "http.route": "/generate",
        "http.response.status_code": 200,
        "url.path": "/generate",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "server.address": "127.0.0.1",
        "repzoo.request_id": "mine",
        "repzoo.operation": "generate",
        "repzoo.model": "tiny",
        "repzoo.revision": answer.json()["revision"],
        "repzoo.images": 3,
    }

    stages = collector.below(span)
    assert set(stages) == {"read", "decode", "queue", "inference", "encode"}
    times = [
        time
        for name in ("read", "decode", "queue", "inference", "encode")
        for time in (stages[name].start_time_unix_nano, stages[name].end_time_unix_nano)
    ]
    # One after another, within the request; floating point may lose a few nanoseconds.
    times = [span.start_time_unix_nano, *times, span.end_time_unix_nano]
    assert all(later - earlier > -100_000 for earlier, later in pairwise(times))
    (batch,) = collector.below(stages["inference"]).values()
    assert batch.name == "batch"
    assert attributes(batch) == {
        "repzoo.batch_size": 3,
        "repzoo.operation": "generate",
        "repzoo.model": "tiny",
        "repzoo.revision": answer.json()["revision"],
    }
    assert {each.trace_id.hex() for each in (*stages.values(), batch)} == {CALLER}

    assert collector.resources[0]["service.name"] == "animals"
    assert collector.resources[0]["service.instance.id"].endswith("-1")
    assert collector.headers[0]["x-token"] == "secret"
    # The log has the IDs.
    assert line["request_id"] == "mine"
    assert (line["trace_id"], line["span_id"]) == (CALLER, span.span_id.hex())


def test_problems_and_other_paths(
    traced: Callable[..., Any],
    collector: Collector,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    http = traced().http
    for path in ("/livez", "/readyz", "/metrics", "/models/tiny", "/nowhere"):
        http.get(path)
    http.request("PROPFIND", "/embed")
    http.post("/generate", json={**GENERATE, "model": "other"})
    eventually(lambda: len(collector.named("POST /generate")) == 1)
    spans = {span.name: attributes(span) for span in collector.spans}
    assert "http.route" not in spans["GET"]
    assert spans["GET"]["http.response.status_code"] == 404
    assert spans["GET"]["repzoo.problem"] == "not-found"
    assert spans["GET /models/{name}"]["url.path"] == "/models/tiny"
    assert spans["HTTP /embed"]["http.request.method"] == "_OTHER"
    assert spans["HTTP /embed"]["http.request.method_original"] == "PROPFIND"
    assert spans["POST /generate"]["repzoo.problem"] == "unknown-model"
    # Periodic checks are not traced.
    paths = {found["url.path"] for found in spans.values() if "url.path" in found}
    assert paths == {"/models/tiny", "/nowhere", "/embed", "/generate"}
    # A client's error is not an error of the server.
    assert {span.status.code for span in collector.spans} == {Status.STATUS_CODE_UNSET}


def test_failures_say_what_failed(
    traced: Callable[..., Any],
    collector: Collector,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = traced(deadline_seconds=1)
    server.gate.shut()
    body = json.dumps(embed()).encode()
    head = (
        "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with closing(server.connect()) as connection:
        connection.sendall(head.encode() + body)
        server.gate.wait_for_a_run()
    assert server.http.post("/embed", json=embed()).status_code == 504
    server.gate.open()
    server.app.models.get("tiny").encoder._encode = lambda *_: 1 / 0
    assert server.http.post("/embed", json=embed()).status_code == 500
    eventually(lambda: len(collector.named("POST /embed")) == 3)
    found = {attributes(span)["error.type"]: span for span in collector.named("POST /embed")}
    assert set(found) == {"hang-up", "deadline-exceeded", "internal"}
    assert {span.status.code for span in found.values()} == {Status.STATUS_CODE_ERROR}
    assert "http.response.status_code" not in attributes(found["hang-up"])
    assert attributes(found["deadline-exceeded"])["http.response.status_code"] == 504
    assert "inference" not in collector.below(found["deadline-exceeded"])
    (event,) = found["internal"].events
    assert attributes(event)["exception.type"] == "ZeroDivisionError"
    (record,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert record.__dict__["span_id"] == found["internal"].span_id.hex()


def test_requests_that_share_a_batch_link_to_it(
    traced: Callable[..., Any], collector: Collector, eventually: Eventually
) -> None:
    server = traced()
    server.gate.shut()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(httpx.post, f"{server.url}/embed", json=embed())]
        server.gate.wait_for_a_run()
        asked += [pool.submit(httpx.post, f"{server.url}/embed", json=embed()) for _ in range(2)]
        eventually(lambda: server.metric("repzoo_queued_images") == 2)
        server.gate.open()
        assert {each.result().status_code for each in asked} == {200}
    eventually(lambda: len(collector.named("encode")) == 3)

    def of_two(name: str) -> list[Span]:
        return [s for s in collector.named(name) if attributes(s)["repzoo.batch_size"] == 2]

    assert len(collector.named("batch")) == 2
    (shared,) = of_two("batch")
    owner, linked = sorted(of_two("inference"), key=lambda span: len(span.links))
    assert shared.parent_span_id == owner.span_id
    (link,) = linked.links
    assert (link.trace_id, link.span_id) == (shared.trace_id, shared.span_id)
    assert link.trace_id != linked.trace_id


def test_callers_say_what_is_sampled(
    traced: Callable[..., Any],
    collector: Collector,
    eventually: Eventually,
    capfd: pytest.CaptureFixture[str],
) -> None:
    http = traced(log="json").http
    for flags in ("00", "00", "01"):
        http.post("/generate", json=GENERATE, headers=traceparent(flags))
    eventually(lambda: collector.named("encode"))
    assert len(collector.named("POST /generate")) == 1
    # The log has the trace of the client for the other requests, too.
    written = ""

    def logged() -> list[str]:
        nonlocal written
        written += capfd.readouterr().out
        return [line["trace_id"] for line in log_lines(written)]

    eventually(lambda: logged() == [CALLER] * 3)


def test_unless_the_sampler_does_not_listen(
    traced: Callable[..., Any], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    server = traced()
    assert server.http.post("/generate", json=GENERATE, headers=traceparent("01")).is_success
    server.app.tracing.close(5)
    assert collector.spans == []


@pytest.mark.parametrize("stalls", [False, True])
def test_a_dead_collector_harms_nobody(
    live: Any, stalls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        if stalls:  # it takes connections, and never says a word
            dead.listen(100)
        server = live(otlp=f"http://127.0.0.1:{dead.getsockname()[1]}")
        server.app.trace()
        for _ in range(30):
            assert server.http.post("/generate", json=GENERATE).status_code == 200
        # The exporter would keep retrying; the exit does not wait for it.
        closing_it = threading.Thread(target=server.app.tracing.close, args=(0.2,))
        closing_it.start()
        closing_it.join(20)
        assert not closing_it.is_alive()


def script(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    start = "from repzoo_serving.api.app import App\nfrom repzoo_serving.settings import Settings\n"
    return subprocess.run(
        [sys.executable, "-c", start + code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **env},
    )


def test_off_it_is_not_even_imported() -> None:
    code = """
import sys
app = App(Settings())
app.trace()
assert app.tracing is None
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    assert script(code).stdout.strip() == "[]"
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    assert script(code, **env, OTEL_SDK_DISABLED="true").stdout.strip() == "[]"
    assert script(code, **env, OTEL_TRACES_EXPORTER="none").stdout.strip() == "[]"


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    hidden = tmp_path / "opentelemetry"
    hidden.mkdir()
    # It is found before the real one, which is a namespace package.
    (hidden / "__init__.py").write_text("")
    code = """
from repzoo.errors import MissingExtra
app = App(Settings(otlp=OTLP))
try:
    app.trace()
except MissingExtra as error:
    print(error)
"""
    path = {"PYTHONPATH": str(tmp_path)}
    said = script(code.replace("OTLP", "'http://127.0.0.1:9'"), **path).stdout
    assert "pip install 'repzoo[tracing]'" in said
    # If only the environment asks for tracing, which may be set machine-wide, the server starts.
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    done = script(code.replace("OTLP", "None"), **path, **env)
    assert done.stdout == ""
    assert "spans need repzoo[tracing]" in done.stderr


def test_an_address_that_is_none_is_refused(tiny_package: Path) -> None:
    words = ["--models", str(tiny_package), "--otlp", "localhost:4318"]
    done = CliRunner().invoke(serve, words)
    assert str(done.exception) == (
        "--otlp: expected a URL such as http://127.0.0.1:4318, got 'localhost:4318'"
    )
