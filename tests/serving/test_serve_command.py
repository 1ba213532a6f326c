"""``zoo serve`` as users run it: real processes, signals and ports."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from repzoo.loading import find
from repzoo_serving.telemetry.logs import MEMBERS

Serve = Callable[..., Any]


@pytest.fixture
def serve(server_process: type, tmp_path: Path) -> Serve:
    """Start ``zoo serve`` with arguments."""

    def start(*arguments: object, env: dict[str, str] | None = None) -> Any:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        env = {"TMPDIR": str(scratch), **(env or {})}
        return server_process(*map(str, arguments), log=tmp_path / "log", env=env)

    return start


def run(*arguments: object) -> tuple[int, str]:
    """Return the exit status and stderr of a ``zoo serve`` that does not start."""
    done = subprocess.run(
        [sys.executable, "-c", "from repzoo.cli import main; main()", "serve"]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def deaths(url: httpx.URL) -> float | None:
    """Return how many workers a server says have died, or None if it does not respond."""
    try:
        text = httpx.get(url.join("/metrics"), timeout=2).text
    except httpx.TransportError:
        return None
    (number,) = re.findall(r"^repzoo_worker_deaths_total{.*} (.*)$", text, re.MULTILINE)
    return float(number)


def wait_until_gone(workers: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(workers, timeout=15)
    assert not alive


def test_it_says_where_it_serves_and_what(
    serve: Serve,
    tiny_package: Path,
    plain_package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = tmp_path / "hub"
    shutil.copytree(tiny_package, hub / "tiny")
    # The working folder has modules that must not be imported. The supervisor of these tests is a
    # `python -c`, which would import them; `zoo` itself would not.
    home = tmp_path / "home"
    home.mkdir()
    for name in ("numpy", "repzoo_serving", "bentoml", "service"):
        (home / f"{name}.py").write_text("raise SystemExit('imported from the wrong place')\n")
    monkeypatch.chdir(home)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")

    with serve("--models", f"tiny, {plain_package}", "--hub", "../hub", "--port", 0) as server:
        url = server.wait_until_ready()
        output = server.output()
        # By default, only a loopback address.
        (worker,) = server.workers()
        listening = [c for c in worker.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}

        # The line can be pasted into a shell.
        (line,) = [line for line in output.splitlines() if line.lstrip().startswith("curl ")]
        if shutil.which("curl"):
            done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=tmp_path)
            assert len(json.loads(done.stdout)["embeddings"]) == 1, done.stderr
        response = httpx.post(
            f"{url}/embed",
            content=shlex.split(line)[-1],
            headers={"Content-Type": "application/json"},
        )
        assert response.status_code == 200

        for model in httpx.get(f"{url}/models").json()["models"]:
            lines = [line for line in output.splitlines() if line.startswith(f"  {model['name']} ")]
            words = lines[0].split()
            assert words == [model["name"], "CPUExecutionProvider", model["revision"][:12]]

        assert server.stop(signal.SIGINT) == 0
        wait_until_gone([worker])
        # Requests are not logged, and no files are left behind.
        begun, ended = server.output().removeprefix(output).splitlines()
        assert begun.endswith(" INFO draining after SIGTERM; requests in flight: 0")
        assert ended.endswith(" INFO drained: all requests are answered")
        assert list((tmp_path / "scratch").iterdir()) == []
        assert len(list(home.iterdir())) == 4


def test_sigterm_drains(serve: Serve, tiny_package: Path, eventually: Any) -> None:
    with serve("--models", tiny_package, "--port", 0, "--log", "json") as server:
        url = httpx.URL(server.wait_until_ready())
        workers = server.workers()
        body = b'{"model": "tiny", "n": 3}'
        with socket.create_connection((url.host, url.port), timeout=30) as connection:
            head = "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            head += f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode())
            # The server has accepted the request, and waits for its body.
            assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
            server.process.send_signal(signal.SIGTERM)
            # The server is not ready, and refuses other requests, also on new connections.
            eventually(lambda: httpx.get(url.join("/readyz")).status_code == 503)
            refused = httpx.post(url.join("/generate"), json={"model": "tiny"})
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.headers["content-type"] == "application/problem+json"
            # The accepted request is answered.
            connection.sendall(body)
            answer = connection.recv(100)
            assert answer.startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(30) == 0
        wait_until_gone(workers)
        lines = [json.loads(line) for line in server.output().splitlines() if line[0] == "{"]
    requests = [line for line in lines if line["event"] == "request"]
    (good,) = [line for line in requests if line["path"] == "/generate" and line["status"] == 200]
    assert good["model"] == "tiny"
    assert good["images"] == 3
    assert good["client"] == "127.0.0.1"
    assert 0 < good["run_seconds"] <= good["seconds"]
    (late,) = [line for line in requests if line["request_id"] == refused.headers["x-request-id"]]
    assert late["status"] == 503
    assert late["problem"] == "unavailable"
    begun, ended = [line for line in lines if "drain" in line.get("message", "")]
    assert begun["message"] == "draining after SIGTERM; requests in flight: 1"
    assert (begun["in_flight"], ended["in_flight"]) == (1, 0)
    assert 0 < ended["seconds"] < 30
    # The supervisor's own requests, by which it learns that the server is up, are not clients'.
    assert not [line for line in requests if line["path"] == "/models"]
    known = {event: {*MEMBERS["any"], *members} for event, members in MEMBERS.items()}
    for line in lines:
        assert line.keys() <= known[line["event"]]


def test_what_takes_too_long_is_cut_off_and_logged(serve: Serve, tiny_package: Path) -> None:
    words = ("--models", tiny_package, "--port", 0, "--log", "json", "--deadline-seconds", 60)
    with serve(*words) as server:
        url = httpx.URL(server.wait_until_ready())
        (worker,) = server.workers()
        with socket.create_connection((url.host, url.port), timeout=30) as connection:
            connection.sendall(
                b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n"
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
            # As Ctrl-C twice in a terminal.
            for _ in range(2):
                worker.send_signal(signal.SIGINT)
                server.process.send_signal(signal.SIGINT)
                time.sleep(0.5)
            assert server.process.wait(30) == 0
        lines = [json.loads(x) for x in server.output().splitlines() if x.startswith("{")]
    drained = [line for line in lines if "requests" in line.get("message", "")]
    assert [(line["message"], line["in_flight"]) for line in drained] == [
        ("draining after SIGINT; requests in flight: 1", 1),
        ("cut off by a second signal; requests in flight: 1", 1),
    ]


def test_after_sigterm_it_refuses_for_as_long_as_it_is_told_to(
    serve: Serve, tiny_package: Path, eventually: Any
) -> None:
    env = {"REPZOO_SERVE_DRAIN_SECONDS": "60"}
    with serve("--models", tiny_package, "--port", 0, env=env) as server:
        url = server.wait_until_ready()
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: httpx.get(f"{url}/readyz").status_code == 503)
        # There are no accepted requests, but it still listens, until Ctrl-C reaches all processes.
        assert httpx.get(f"{url}/models").status_code == 503
        (worker,) = server.workers()
        worker.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0


def test_a_client_that_does_not_read_does_not_delay_the_exit(
    serve: Serve, tiny_package: Path, eventually: Any
) -> None:
    limits = ("--max-images", 32768, "--max-queued", 32768, "--deadline-seconds", 8)
    with serve("--models", tiny_package, "--port", 0, *limits) as server:
        url = httpx.URL(server.wait_until_ready())
        body = b'{"model": "tiny", "n": 32768}'
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            silent.connect((url.host, url.port))
            head = "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            silent.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answered = 'requests_total{model="tiny",operation="generate",status="200"'
            eventually(lambda: answered in httpx.get(url.join("/metrics")).text)
            # A connection that is idle would be closed after 75 seconds.
            assert server.stop(signal.SIGTERM, 30) == 0
        assert "cut off, out of time; requests in flight: 1" in server.output()


def test_a_signal_is_not_lost_while_a_worker_starts(
    serve: Serve, tiny_package: Path, eventually: Any
) -> None:
    find(tiny_package)  # a first run would be a process, too
    with serve("--models", tiny_package, "--port", 0) as server:
        eventually(server.workers, 60)
        assert server.stop(signal.SIGTERM) == 0, server.output()
        assert "Serving at" not in server.output()


def test_a_killed_worker_is_replaced_and_a_killed_supervisor_followed(
    serve: Serve, server_process: type, tiny_package: Path, tmp_path: Path, eventually: Any
) -> None:
    words = ("--models", str(tiny_package), "--port", "0")
    with (
        serve(*words) as server,
        server_process(*words, "--log", "json", log=tmp_path / "json") as in_json,
    ):
        urls = [httpx.URL(each.wait_until_ready()) for each in (server, in_json)]
        assert [deaths(url) for url in urls] == [0, 0]
        (worker,), (other,) = server.workers(), in_json.workers()
        worker.kill()
        other.kill()
        # BentoML checks its workers every ten seconds.
        eventually(lambda: [deaths(url) for url in urls] == [1, 1], 60)
        url = urls[0]
        assert httpx.get(url.join("/models/tiny")).status_code == 200
        (successor,) = server.workers()
        assert successor.pid != worker.pid
        said = f"ERROR worker {worker.pid} died: SIGKILL; a new one starts\n"
        assert server.output().count(said) == 1
        lines = [json.loads(line) for line in in_json.output().splitlines() if line[0] == "{"]
        (line,) = [line for line in lines if line["level"] == "ERROR"]
        assert (line["pid"], line["exit"]) == (other.pid, "SIGKILL")

        server.process.kill()
        server.process.wait()
        wait_until_gone([successor])
        # The port is free again.
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((url.host, url.port))


def test_a_worker_that_cannot_start_ends_the_server(serve: Serve, tiny_package: Path) -> None:
    # The supervisor verifies packages but does not run them: the worker notices the missing GPU.
    env = {"CUDA_VISIBLE_DEVICES": ""}
    with serve("--models", tiny_package, "--port", 0, "--provider", "cuda", env=env) as server:
        assert server.process.wait(60) == 1
        first, *_, last = server.output().splitlines()
        assert first.startswith("zoo: provider 'cuda'")
        assert last == (
            "zoo: the server did not start because its worker exited; see the lines above"
        )
        assert "Traceback" not in server.output()


def test_an_alias_and_a_line_for_each_model_loaded(
    serve: Serve, tiny_package: Path, plain_package: Path
) -> None:
    models = f"{tiny_package},canary={tiny_package},stable={plain_package}"
    with serve("--models", models, "--port", 0, "--log", "json") as server:
        url = server.wait_until_ready()
        served = {m["name"]: m for m in httpx.get(f"{url}/models").json()["models"]}
        lines = [json.loads(x) for x in server.output().splitlines() if x.startswith("{")]
    assert {name: m["config"]["name"] for name, m in served.items()} == {
        "tiny": "tiny",
        "canary": "tiny",
        "stable": "plain",
    }
    loaded = {line["model"]: line for line in lines if line.get("logger") == "repzoo_serving"}
    assert loaded.keys() == served.keys()
    for name, line in loaded.items():
        assert line["revision"] == served[name]["revision"]
        assert line["message"].startswith(f"loaded {name}, revision {line['revision'][:12]}, in ")
        assert line["level"] == "INFO"
        assert line["seconds"] > 0


def test_json_logs_have_stdout_for_themselves(tiny_package: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from repzoo.cli import main; main()", "serve"]
    command += ["--models", str(tiny_package), "--port", "0", "--log", "json"]
    with (
        (tmp_path / "logs").open("wb") as logs,
        subprocess.Popen(command, stdout=logs, stderr=subprocess.PIPE, text=True) as server,
    ):
        assert server.stderr is not None
        banner = "".join(iter(server.stderr.readline, "Press Ctrl-C to stop.\n"))
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    assert banner.startswith("Serving at http://127.0.0.1:")
    lines = [json.loads(line) for line in (tmp_path / "logs").read_text().splitlines()]
    assert any(line.get("model") == "tiny" for line in lines)


def test_a_taken_port_is_said_plainly(tiny_package: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        status, error = run("--models", tiny_package, "--port", port)
    assert status == 1
    assert error == f"zoo: --port: port {port} on 127.0.0.1 is in use; choose another\n"


@pytest.mark.parametrize(
    ("models", "status", "said"),
    [
        ("nope", 1, "'nope'"),
        ("tiny,nope", 1, "'nope'"),
        ("./nope", 1, "is not a model package"),
        ("tiny,tiny", 1, "two of the models are named tiny"),
        ("No Name", 1, "No Name"),
        ("Canary=tiny", 1, "expected ALIAS=NAME"),
        ("canary=", 1, "expected ALIAS=NAME"),
        ("canary=nope", 1, "'nope'"),
        ("canary=tiny,canary=tiny", 1, "two of the models are named canary; serve one as ALIAS="),
        (",", 2, "--models"),
    ],
)
def test_bad_models_are_said_in_one_line(
    tiny_package: Path, models: str, status: int, said: str
) -> None:
    found, error = run("--models", models, "--hub", tiny_package.parent, "--port", 0)
    assert found == status
    assert error.startswith("zoo: ")
    assert error.count("\n") == 1
    assert said in error


def test_a_damaged_package_is_not_served(tiny_package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tiny"
    shutil.copytree(tiny_package, copy)
    data = bytearray((copy / "encoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "encoder.onnx").write_bytes(data)
    status, error = run("--models", copy, "--port", 0)
    assert status == 1
    assert "encoder.onnx" in error


def test_a_bad_setting_is_named(tiny_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPZOO_SERVE_MAX_BATCH", "many")
    status, error = run("--models", tiny_package, "--port", 0)
    assert status == 1
    assert "REPZOO_SERVE_MAX_BATCH" in error
