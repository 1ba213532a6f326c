"""Measure the server under overload.

    python serving/benchmarks/overload.py --model simvae-mnist --seconds 8

Starts ``zoo serve`` with one worker and measures its capacity with clients that wait for their
responses. Then sends requests at 1, 2 and 4 times that rate, without waiting for responses. Each
request has 64 images, as safetensors. For each load, it prints the offered rate, the rate answered
with 200 (goodput) and its latency, and the share refused by status.

The clients run in this process, on the same machine: give them a core of their own. Capacity is
measured again before each load. If other work shares the machine, compare the goodput per second
of the server's CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import psutil
import repzoo
import safetensors.numpy

IMAGES = 64
TENSORS = "application/x-safetensors"
ZOO = [sys.executable, "-c", "from repzoo.cli import main; main()"]


@dataclass
class Client:
    """Sends the same request over as many keep-alive connections as needed."""

    port: int
    request: bytes
    statuses: Counter[int] = field(default_factory=Counter)
    #: Seconds of requests answered with 200.
    seconds: list[float] = field(default_factory=list)
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def ask(self) -> None:
        start = time.perf_counter()
        reader, writer = await self._connection()
        writer.write(self.request)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        length = next(line for line in lines if line.startswith("content-length:"))
        await reader.readexactly(int(length.partition(":")[2]))
        status = int(head.split(b" ", 2)[1])
        self.statuses[status] += 1
        if status == 200:
            self.seconds.append(time.perf_counter() - start)
        if "connection: close" in lines:
            writer.close()
        else:
            self._idle.append((reader, writer))

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():  # the server closes idle connections
                return reader, writer
        return await asyncio.open_connection("127.0.0.1", self.port)

    def forget(self) -> None:
        self.statuses, self.seconds = Counter(), []


async def measure(port: int, worker: psutil.Process, request: bytes, seconds: float) -> None:
    client = Client(port, request)
    print(f"{'':>8}{'offered/s':>10}{'good/s':>8}{'a CPU s':>9}{'refused':>9}", end="")
    print(f"{'p50 ms':>8}{'p99 ms':>8}  statuses")
    for factor in (1, 2, 4):
        used = _cpu(worker)
        capacity = await _capacity(client, seconds / 2)
        _report("waiting", client, seconds / 2, client.statuses.total(), _cpu(worker) - used)
        client.forget()
        used = _cpu(worker)
        offered = await _offer(client, factor * capacity, seconds)
        _report(f"{factor}x", client, seconds, offered, _cpu(worker) - used)


def _report(load: str, client: Client, seconds: float, offered: int, used: float) -> None:
    good, statuses = client.statuses[200], dict(sorted(client.statuses.items()))
    p50, p99 = (1e3 * np.percentile(client.seconds, share) for share in (50, 99))
    print(
        f"{load:8}{offered / seconds:>10.0f}{good / seconds:>8.0f}{good / used:>9.0f}"
        f"{1 - good / offered:>9.1%}{p50:>8.0f}{p99:>8.0f}  {statuses}",
        flush=True,
    )


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _capacity(client: Client, seconds: float) -> float:
    """Return the responses per second to 16 clients that wait for each response."""

    async def keep_sending(end: float) -> None:
        while time.perf_counter() < end:
            await client.ask()

    async def send_all(seconds: float) -> None:
        end = time.perf_counter() + seconds
        await asyncio.gather(*(keep_sending(end) for _ in range(16)))

    client.forget()
    start = time.perf_counter()
    await send_all(seconds)
    return client.statuses[200] / (time.perf_counter() - start)


async def _offer(client: Client, rate: float, seconds: float) -> int:
    """Send requests at random times, ``rate`` per second on average; return their number."""
    loop = asyncio.get_running_loop()
    noise = random.Random(0)
    moment, end = loop.time(), loop.time() + seconds
    asked: list[asyncio.Task[None]] = []
    while (moment := moment + noise.expovariate(rate)) < end:
        await asyncio.sleep(max(0.0, moment - loop.time()))
        asked.append(asyncio.create_task(client.ask()))
    await asyncio.gather(*asked)
    return len(asked)


@contextlib.contextmanager
def server(model: str, max_queued: int) -> Iterator[tuple[int, psutil.Process]]:
    """Start a server; give its port and its worker."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    env = {**os.environ, "REPZOO_SERVE_MAX_QUEUED": str(max_queued)}
    command = [*ZOO, "serve", "--models", model, "--port", str(port)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not any(line.startswith("Press Ctrl-C") for line in process.stdout):
                sys.exit("the server did not start")
            workers = psutil.Process(process.pid).children(recursive=True)
            yield port, max(workers, key=lambda worker: worker.memory_info().rss)
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="simvae-mnist")
    parser.add_argument("--seconds", type=float, default=8, help="duration of each measurement")
    parser.add_argument("--max-queued", type=int, nargs="+", default=[4096, 1024])
    arguments = parser.parse_args()
    encoder = repzoo.load(arguments.model)
    pixels = np.random.default_rng(0).integers(
        0, 256, (IMAGES, *encoder.config.input.shape), dtype=np.uint8
    )
    about = {"request": json.dumps({"model": encoder.config.name})}
    body = safetensors.numpy.save({"images": pixels}, about)
    head = (
        "POST /embed HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: {TENSORS}\r\nAccept: {TENSORS}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = platform.python_version()
    print(f"{arguments.model}, {platform.machine()}, cores: {cores}, Python {python}")
    for max_queued in arguments.max_queued:
        print(f"\nat most {max_queued} images wait")
        with server(arguments.model, max_queued) as (port, worker):
            asyncio.run(measure(port, worker, head.encode() + body, arguments.seconds))


if __name__ == "__main__":
    main()
