"""``zoo serve`` as a real process, for tests over a real socket."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil


class ServerProcess:
    """A running ``zoo serve``, whose output goes to the file ``log``.

    Use it in a ``with``, which ends all of its processes.
    """

    def __init__(self, *arguments: str, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        command = [sys.executable, "-c", "from repzoo.cli import main; main()", "serve"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                # One thread per model: test machines have few cores, and batches are small.
                env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
            )
        self._started: list[psutil.Process] = []

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self._started += self.workers()
            # SIGTERM first: a killed server leaves its temporary folders behind.
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.process.kill()
        self.process.wait()
        for worker in self._started:
            with suppress(psutil.NoSuchProcess):
                worker.kill()

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_ready(self, seconds: float = 90) -> str:
        """Return the URL that the server prints."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ready = r"^Serving at (\S+)$(?s:.*)Press Ctrl-C"
            if found := re.search(ready, self.output(), re.MULTILINE):
                self._started = self.workers()
                return found[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(f"the server is not ready:\n{self.output()}")

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, signal_number: int = signal.SIGINT, seconds: float = 30) -> int:
        """Send a signal, wait for the exit, and return its status."""
        self.process.send_signal(signal_number)
        return self.process.wait(seconds)
