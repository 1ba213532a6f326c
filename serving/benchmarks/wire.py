"""Measure the overhead of the server compared with the engine alone: ``make bench``.

    python serving/benchmarks/wire.py --model simvae-mnist --seconds 5 --rounds 5

Every server has one worker, the same model and the same images, and receives its load from ``wrk``
(the Debian package). Servers take turns. The others are stopped (SIGSTOP) meanwhile, so that noise
affects all of them and none slows another down. Numbers are medians of the rounds.

- single: one image per JSON request, 32 connections. ``zoo serve`` with its checks, limits and
  metrics; a bare Starlette application with the same engine and greedy batching; and LitServe, if
  it is installed (``--litserve PYTHON`` names the interpreter of a separate environment). Accepted
  at 0.75 of Starlette, twice LitServe, and p99 of at most 4 times p50.
- tensors: 64 images per request, as safetensors, 32 connections, in images per second compared with
  the engine alone, in its own process and in batches of 64. Accepted at 0.95.
- idle: one connection, one image, compared with the engine's own time. Accepted at 1.5 ms more.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import io
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import repzoo
import safetensors.numpy
from PIL import Image
from repzoo_training.data import load

TENSORS = "application/x-safetensors"
ZOO = [sys.executable, "-c", "from repzoo.cli import main; main()"]
PEERS = {"starlette": "bare_starlette.py", "litserve": "lit_server.py"}

#: wrk's script: the body and the media types come from the environment.
SCRIPT = """
local file = io.open(os.getenv("BENCH_BODY"), "rb")
wrk.method, wrk.body = "POST", file:read("*a")
wrk.headers["Content-Type"] = os.getenv("BENCH_TYPE")
wrk.headers["Accept"] = os.getenv("BENCH_ACCEPT")
"""


@dataclass
class Load:
    """wrk's measurements: requests per second, and milliseconds."""

    rate: float
    p50: float
    p99: float


class Server:
    """A server in its own process, which is stopped except within a ``with``."""

    def __init__(
        self, name: str, command: list[str], port: int, env: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}/embed"
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, env={**os.environ, **(env or {})}
        )

    def wait(
        self,
        body: bytes,
        expected: np.ndarray[Any, Any],
        kind: str = "application/json",
        atol: float = 1e-3,
    ) -> None:
        """Wait until it responds, and check the response."""
        end = time.monotonic() + 120
        while True:
            try:
                found = json.loads(post(self.url, body, kind))["embeddings"]
                break
            except urllib.error.HTTPError:
                raise
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise
                time.sleep(0.2)
        np.testing.assert_allclose(found, expected, atol=atol)
        self._each(psutil.Process.suspend)

    def __enter__(self) -> Server:
        self._each(psutil.Process.resume)
        return self

    def __exit__(self, *_: object) -> None:
        self._each(psutil.Process.suspend)

    @property
    def memory(self) -> int:
        """Resident bytes of all its processes."""
        return sum(each.memory_info().rss for each in self._processes())

    def end(self) -> None:
        with suppress(psutil.NoSuchProcess):
            processes = self._processes()
            for process in processes:
                process.kill()
            psutil.wait_procs(processes)

    def _processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def _each(self, what: Any) -> None:
        for process in self._processes():
            what(process)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="simvae-mnist")
    parser.add_argument("--seconds", type=float, default=5, help="duration of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--litserve", default=sys.executable, metavar="PYTHON")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is required: apt-get install wrk")

    encoder = repzoo.load(arguments.model)
    kind = "mnist" if encoder.config.input.channels == 1 else "cifar10"
    data = Path(__file__).parents[2] / "tests" / "data" / kind
    images = load(str(data), "train", progress=False).images[:64]
    pixels = encoder.preprocess(images)
    expected = encoder.embed(pixels)
    single = json.dumps({"images": [_png(pixels[0])]}).encode()
    ours = json.dumps({"model": encoder.config.name, "images": [_png(pixels[0])]}).encode()
    tensors = safetensors.numpy.save(
        {"images": pixels}, {"request": json.dumps({"model": encoder.config.name})}
    )

    port = free_port()
    serve = [*ZOO, "serve", "--models", arguments.model, "--port", str(port)]
    servers = [Server("zoo serve", serve, port)]
    bodies = {"zoo serve": ours}
    for name, python in (("starlette", sys.executable), ("litserve", arguments.litserve)):
        if name == "litserve" and not has_litserve(python):
            print("LitServe is not installed and is skipped")
            continue
        port = free_port()
        script = str(Path(__file__).with_name(PEERS[name]))
        servers.append(Server(name, [python, script, arguments.model, str(port)], port))
        bodies[name] = single
    results: dict[str, list[Load]] = defaultdict(list)
    engine: list[float] = []
    alone: list[float] = []
    try:
        for server in servers:
            server.wait(bodies[server.name], expected[:1])
        for _ in range(arguments.rounds):
            for server in servers:
                body = bodies[server.name]
                with server:
                    key = f"single, {server.name}"
                    results[key].append(wrk(server.url, body, 32, arguments.seconds))
                    key = f"idle, {server.name}"
                    results[key].append(wrk(server.url, body, 1, arguments.seconds))
            with servers[0] as server:
                load_ = wrk(server.url, tensors, 32, arguments.seconds, TENSORS)
                results["tensors, zoo serve"].append(load_)
            times = _times(encoder, pixels, arguments.seconds)
            engine.append(len(pixels) / statistics.fmean(times))
            times = _times(encoder, pixels[:1], arguments.seconds)
            alone.append(1000 * statistics.median(times))
    finally:
        for server in servers:
            server.end()
    _report(encoder.config.name, results, statistics.median(engine), statistics.median(alone))


def _report(model: str, results: dict[str, list[Load]], engine: float, alone: float) -> None:
    best = {key: median(loads) for key, loads in results.items()}
    ours = best["single, zoo serve"]
    cores = os.cpu_count()
    print(f"\n{model}, {platform.machine()}, {cores} cores, Python {platform.python_version()}")
    print(f"{'':24}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'ours is':>9}")
    for key, load_ in best.items():
        if key.startswith("single"):
            ratio = f"{ours.rate / load_.rate:.2f}"
            print(f"{key:24}{load_.rate:>12,.0f}{load_.p50:>9.2f}{load_.p99:>9.2f}{ratio:>9}")
    images = 64 * best["tensors, zoo serve"].rate
    print(f"\n{'':24}{'images/s':>12}{'':18}{'ours is':>9}")
    print(f"{'tensors, zoo serve':24}{images:>12,.0f}")
    print(f"{'the engine alone':24}{engine:>12,.0f}{'':18}{images / engine:>9.2f}")
    print(f"\n{'':24}{'p50 ms':>12}{'':18}{'above':>9}")
    for key, load_ in best.items():
        if key.startswith("idle"):
            print(f"{key:24}{load_.p50:>12.2f}{'':18}{load_.p50 - alone:>9.2f}")
    print(f"{'the engine alone':24}{alone:>12.2f}\n")
    checks = [
        ("of bare Starlette", ours.rate / best["single, starlette"].rate, 0.75, True),
        ("p99 over p50", ours.p99 / ours.p50, 4.0, False),
        ("of the engine alone", images / engine, 0.95, True),
        ("idle, ms above it", best["idle, zoo serve"].p50 - alone, 1.5, False),
    ]
    if "single, litserve" in best:
        checks.append(("of LitServe", ours.rate / best["single, litserve"].rate, 2.0, True))
    for name, value, limit, least in checks:
        good = value >= limit if least else value <= limit
        bound = "at least" if least else "at most"
        print(f"{'good' if good else 'BAD':6}{name}: {value:.2f}, {bound} {limit:g} expected")


def wrk(
    url: str, body: bytes, connections: int, seconds: float, kind: str = "application/json"
) -> Load:
    """Load a server with one body and return wrk's measurements."""
    with tempfile.TemporaryDirectory() as folder:
        script, file = Path(folder) / "script.lua", Path(folder) / "body"
        script.write_text(SCRIPT)
        file.write_bytes(body)
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds:g}s",
            "--latency",
            "--timeout=60s",
            "-s",
            script,
            url,
        ]
        accept = kind if kind == TENSORS else "application/json"
        bench = {"BENCH_BODY": str(file), "BENCH_TYPE": kind, "BENCH_ACCEPT": accept}
        env = {**os.environ, **bench}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        sys.exit(f"{url} failed some requests:\n{done.stdout}")

    def found(pattern: str) -> re.Match[str]:
        match = re.search(pattern, done.stdout)
        assert match is not None, done.stdout
        return match

    def milliseconds(share: int) -> float:
        number, unit = found(rf"{share}%\s+([\d.]+)(us|ms|s)\b").groups()
        return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]

    rate = float(found(r"Requests/sec:\s+([\d.]+)")[1])
    return Load(rate, milliseconds(50), milliseconds(99))


def _times(encoder: repzoo.Encoder, pixels: np.ndarray[Any, Any], seconds: float) -> list[float]:
    """Return the seconds of each call of the engine, alone in this process."""
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        encoder.outputs(pixels, uncertainty=True)
        times.append(time.perf_counter() - start)
    return times


def median(loads: list[Load]) -> Load:
    """Return the median of each measurement."""
    return Load(
        *(statistics.median(getattr(each, name) for each in loads) for name in vars(loads[0]))
    )


def post(url: str, body: bytes, kind: str = "application/json") -> bytes:
    """Post a body of one media type, and return the response's body."""
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as response:
        content: bytes = response.read()
    return content


def _png(pixels: np.ndarray[Any, Any]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def has_litserve(python: str) -> bool:
    """Return whether this interpreter can import LitServe."""
    if python == sys.executable:
        return importlib.util.find_spec("litserve") is not None
    return subprocess.run([python, "-c", "import litserve"], capture_output=True).returncode == 0


if __name__ == "__main__":
    main()
