"""Commands of ``zoo`` in processes of their own that start at once.

Importing torch takes seconds of processor time. One process imports it, and is forked for each
command. Each command then runs alone, as it would in a shell.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_SERVER = """
import json, os, sys, traceback
import numpy, torch
import repzoo_training.export.package, repzoo_training.loop.trainer, repzoo_training.probing
from repzoo.cli import main

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(job["folder"])
        os.environ.clear()
        os.environ.update(job["environment"])
        sys.path[:0] = filter(None, job["environment"].get("PYTHONPATH", "").split(os.pathsep))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in enumerate(job["outputs"], 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["zoo", *job["words"]]
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # threads that the fork left behind are not waited for
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class ZooProcesses:
    """Runs commands one after the other. Use it in a ``with``."""

    def __enter__(self) -> ZooProcesses:
        self._scratch = tempfile.TemporaryDirectory()
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()
        self._scratch.cleanup()

    def run(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Return the exit status, and what the command wrote to stdout and stderr."""
        outputs = [Path(self._scratch.name) / name for name in ("stdout", "stderr")]
        job = {
            "words": [str(word) for word in words],
            "folder": str(folder),
            "environment": {**os.environ, **(environment or {})},
            "outputs": [str(path) for path in outputs],
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        stdout, stderr = (path.read_text() for path in outputs)
        return status, stdout, stderr
