"""For operators: hang-ups, the deadline, readiness, the drain, metrics, logs and timings."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from repzoo_serving.telemetry.logs import LogWriter, RequestLog

Eventually = Callable[[Callable[[], object]], None]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


GOOD = {"model": "tiny", "images": [base64.b64encode(png()).decode()]}
BODY = json.dumps(GOOD).encode()
HEAD = (
    "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(BODY)}\r\n\r\n"
).encode()


def ask(url: str) -> httpx.Response:
    return httpx.post(f"{url}/embed", json=GOOD, timeout=30)


class TestHangups:
    def test_a_caller_who_hangs_up_leaves_the_queue_at_once(
        self, live: Any, eventually: Eventually
    ) -> None:
        server = live()
        server.gate.shut()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(ask, server.url)
            server.gate.wait_for_a_run()
            with server.connect() as connection:
                connection.sendall(HEAD + BODY)
                eventually(lambda: server.metric("repzoo_queued_images") == 1)
            # It left the queue while the model was still busy with the first.
            eventually(lambda: server.metric("repzoo_queued_images") == 0)
            assert not first.done()
            server.gate.open()
            assert first.result().status_code == 200
        assert server.metric("repzoo_hangups_total", operation="embed") == 1
        assert server.metric("repzoo_batch_images_sum") == 1

    def test_a_caller_who_stays_is_answered_however_long_it_takes(
        self, live: Any, eventually: Eventually
    ) -> None:
        server = live()
        server.gate.shut()
        address = httpx.URL(server.url)
        patient = http.client.HTTPConnection(address.host, address.port, timeout=30)
        with closing(patient), server.connect() as other:
            patient.request("POST", "/embed", BODY, {"Content-Type": "application/json"})
            server.gate.wait_for_a_run()
            # When this one has left the queue, the first is watched, too.
            other.sendall(HEAD + BODY)
            eventually(lambda: server.metric("repzoo_queued_images") == 1)
            other.close()
            eventually(lambda: server.metric("repzoo_queued_images") == 0)
            server.gate.open()
            for _ in range(2):  # and the connection goes on
                assert json.loads(patient.getresponse().read())["model"] == "tiny"
                patient.request("POST", "/embed", BODY, {"Content-Type": "application/json"})


def test_the_deadline_frees_the_work(live: Any) -> None:
    server = live(deadline_seconds=1)
    server.gate.shut()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(ask, server.url)
        server.gate.wait_for_a_run()
        waiting = pool.submit(ask, server.url)
        for late in (running, waiting):
            assert late.result().status_code == 504
            assert late.result().json()["type"] == "urn:repzoo:problem:deadline-exceeded"
    assert server.metric("repzoo_queued_images") == 0
    assert server.metric("repzoo_rejections_total", reason="deadline-exceeded") == 2
    server.gate.open()
    assert ask(server.url).status_code == 200
    assert server.metric("repzoo_batch_images_sum") == 2


def test_one_image_does_not_wait_for_a_thousand(live: Any, eventually: Eventually) -> None:
    server = live(max_batch=100)
    server.gate.shut()
    many = {**GOOD, "images": GOOD["images"] * 1000}
    with ThreadPoolExecutor(2) as pool:
        bulk = pool.submit(server.http.post, "/embed", json=many)
        server.gate.wait_for_a_run()
        single = pool.submit(ask, server.url)
        # One batch ran when it arrived. The next has it and 99 of the many images, and has been
        # submitted.
        eventually(lambda: server.metric("repzoo_queued_images") == 801)
        server.gate.let_one_through()
        server.gate.wait_for_a_run()
        server.gate.let_one_through()
        assert single.result().status_code == 200
        server.gate.wait_for_a_run()
        assert server.metric("repzoo_queued_images") > 600
        assert not bulk.done()
        server.gate.open()
        embeddings = bulk.result().json()["embeddings"]
    # Split, and joined again.
    assert len(embeddings) == 1000
    np.testing.assert_allclose(embeddings, single.result().json()["embeddings"] * 1000, atol=1e-6)


class TestReadiness:
    def test_it_runs_the_model(self, live: Any, eventually: Eventually) -> None:
        server = live(hang_seconds=0.5)
        eventually(lambda: server.http.get("/readyz").status_code == 200)
        server.gate.shut()
        # There are no requests: the canary hangs.
        for _ in range(2):
            problem = server.http.get("/readyz")
            assert problem.status_code == 503
            assert problem.headers["content-type"] == "application/problem+json"
            assert "tiny does not respond" in problem.json()["detail"]
        assert server.http.get("/livez").status_code == 200
        server.gate.open()
        eventually(lambda: server.http.get("/readyz").status_code == 200)

    def test_it_turns_red_when_a_request_hangs(self, live: Any, eventually: Eventually) -> None:
        server = live(hang_seconds=0.2)
        server.gate.shut()
        with ThreadPoolExecutor(1) as pool:
            hanging = pool.submit(ask, server.url)
            server.gate.wait_for_a_run()
            eventually(lambda: server.http.get("/readyz").status_code == 503)
            server.gate.open()
            assert hanging.result().status_code == 200
        eventually(lambda: server.http.get("/readyz").status_code == 200)

    def test_a_busy_model_is_ready(self, live: Any) -> None:
        server = live(hang_seconds=30)
        server.gate.shut()
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(ask, server.url)
            server.gate.wait_for_a_run()
            assert server.http.get("/readyz").status_code == 200
            assert not busy.done()
            server.gate.open()

    def test_a_model_that_fails_is_not_ready(
        self, live: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = live()
        runner = server.app.models.get("tiny").runner
        runner._canary = lambda: 1 / 0
        assert server.http.get("/readyz").status_code == 503
        assert "ZeroDivisionError" in caplog.text


def test_a_model_that_hangs_for_good_is_not_alive(live: Any, eventually: Eventually) -> None:
    server = live(hang_seconds=0.2, deadline_seconds=1)
    server.gate.shut()
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(ask, server.url)
        server.gate.wait_for_a_run()
        assert server.http.get("/livez").status_code == 200
        assert hanging.result().status_code == 504
        eventually(lambda: server.http.get("/livez").status_code == 503)
        assert "tiny has been hanging for" in server.http.get("/livez").json()["detail"]
    server.gate.open()
    eventually(lambda: server.http.get("/livez").status_code == 200)


def test_a_model_that_hangs_does_not_keep_the_end_waiting(live: Any) -> None:
    server = live()
    server.gate.shut()
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(ask, server.url)
        server.gate.wait_for_a_run()
        assert server.app.close(0.1) is False
        server.gate.open()
        assert server.app.close(30) is True
        assert hanging.result().status_code == 200


def test_while_it_drains_accepted_requests_finish_and_new_ones_are_refused(live: Any) -> None:
    server = live()
    server.gate.shut()
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(ask, server.url)
        server.gate.wait_for_a_run()
        server.app.drain.begun = True
        for path in ("/readyz", "/models"):
            assert server.http.get(path).status_code == 503
        refused = ask(server.url)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["connection"] == "close"
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"] == "urn:repzoo:problem:unavailable"
        assert server.http.get("/livez").status_code == 200
        assert server.metric("repzoo_draining") == 1
        server.gate.open()
        assert accepted.result().status_code == 200


def test_metrics_count_what_was_done(live: Any) -> None:
    server = live(max_batch=4)
    for count in (1, 3, 6):
        request = {**GOOD, "images": GOOD["images"] * count}
        assert server.http.post("/embed", json=request).status_code == 200
    assert server.http.post("/embed", json={**GOOD, "images": ["aGk="]}).status_code == 422
    assert server.http.post("/embed", json={**GOOD, "model": 'a"b\\\n'}).status_code == 404
    assert server.http.post("/nope").status_code == 404
    metric = server.metric
    of = {"operation": "embed", "model": "tiny", "worker": "1"}
    assert metric("repzoo_requests_total", **of, status="200") == 3
    assert metric("repzoo_requests_total", **of, status="422") == 1
    assert metric("repzoo_rejections_total", **of, reason="invalid-image") == 1
    # Names that clients invent do not become labels.
    assert metric("repzoo_rejections_total", operation="embed", model="") == 1
    assert metric("repzoo_requests_total", operation="", model="", status="404") == 1
    assert metric("repzoo_images_total", **of) == 10
    assert metric("repzoo_request_seconds_count", **of) == 4
    assert metric("repzoo_queue_seconds_count", **of) == 3
    # Batches of 1, 3, 4 and 2.
    assert metric("repzoo_batch_images_count", **of) == 4
    assert metric("repzoo_batch_images_sum", **of) == 10
    for bound, batches in (("1", 1), ("2", 2), ("4", 4), ("4096", 4), ("+Inf", 4)):
        assert metric("repzoo_batch_images_bucket", **of, le=bound) == batches
    assert metric("repzoo_inference_seconds_count", **of) == 4
    assert 0 < metric("repzoo_inference_seconds_sum", **of) < 10
    assert metric("repzoo_requests_in_flight") == 1  # the one that asks
    assert metric("repzoo_model_info", model="tiny", provider="CPUExecutionProvider") == 1
    assert metric("repzoo_process_resident_bytes") > 10**7
    response = server.http.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_server_timing_says_where_the_time_went(live: Any) -> None:
    server = live()
    response = server.http.post("/embed", json=GOOD)
    stages = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"]))
    assert list(stages) == ["read", "decode", "queue", "run", "write", "total"]
    parts = sum(float(stages[name]) for name in ("read", "decode", "queue", "run", "write"))
    assert 0 < parts <= float(stages["total"]) + 0.05
    assert "server-timing" not in server.http.get("/models").headers


def test_a_caller_may_name_its_request(live: Any) -> None:
    server = live()
    for given in ("7f3b-1", "a/b:c=d+e_f.g"):
        response = server.http.post("/embed", json=GOOD, headers={"X-Request-ID": given})
        assert response.headers["x-request-id"] == given
        assert response.json()["request_id"] == given
    for given in ("", "a b", 'a"b', "é", "x" * 129):
        headers = {"X-Request-ID": given.encode()}
        response = server.http.get("/models", headers=headers)
        assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]{8}", response.headers["x-request-id"])


def test_the_log_has_a_line_for_each_request() -> None:
    reader, writer = os.pipe()

    async def main() -> None:
        lines = LogWriter(as_json=True, descriptor=writer)
        log = RequestLog(lines)
        log.write(request_id="a", status=200, problem=None)
        log.write(request_id='b"\n', status=404, problem="not-found")
        await asyncio.sleep(0)
        lines.close(10)

    asyncio.run(main())
    os.close(writer)
    with os.fdopen(reader) as stream:
        one, two = map(json.loads, stream)
    assert one["request_id"] == "a"
    assert one["event"] == "request"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", one["time"])
    assert "problem" not in one
    assert two["request_id"] == 'b"\n'
    assert two["problem"] == "not-found"
