"""Commands of ``zoo`` in processes of their own that start at once.

Importing torch takes seconds of processor time. One process imports it, and is forked for each
command. Each command then runs alone, as it would in a shell.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class ZooProcesses:
    """Runs commands one after the other. Use it in a ``with``."""

    def __enter__(self) -> ZooProcesses:
        self._scratch = tempfile.TemporaryDirectory()
        self._server = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()
        self._scratch.cleanup()

    def start(
        self,
        words: Sequence[object],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        script: Path | None = None,
    ) -> int:
        """Start ``zoo WORDS`` or ``python SCRIPT WORDS`` in a folder, and return its process ID.

        Call `finish` before the next start.
        """
        job = {
            "words": [str(script or "zoo"), *map(str, words)],
            "is_script": script is not None,
            "folder": str(folder),
            "environment": {**os.environ, **(environment or {})},
            "outputs": [str(path) for path in self._outputs()],
        }
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return self._answer()

    def finish(self) -> tuple[int, str, str]:
        """Return the exit status, and what the command wrote to stdout and stderr.

        The status of a command that a signal has ended is minus the signal's number.
        """
        status = self._answer()
        stdout, stderr = (path.read_text() for path in self._outputs())
        return status, stdout, stderr

    def run(
        self,
        words: Sequence[object],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        script: Path | None = None,
    ) -> tuple[int, str, str]:
        """`start` a command and `finish` it."""
        self.start(words, folder, environment, script)
        return self.finish()

    def _outputs(self) -> list[Path]:
        return [Path(self._scratch.name) / name for name in ("stdout", "stderr")]

    def _answer(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


def export_faster() -> None:
    """Let torch read its operators for ONNX once, instead of for every graph that is exported."""
    from torch.onnx._internal.exporter import _registration

    registry: Any = _registration.ONNXRegistry
    if not hasattr(registry.from_torchlib, "cache_info"):
        registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))


_MODULES = (
    "matplotlib.pyplot",
    "torch._dynamo",  # the first optimizer imports it
    "repzoo_training.export.package",
    "repzoo_training.loop.trainer",
    "repzoo_training.probing",
)


def _import_everything() -> None:
    for name in _MODULES:
        importlib.import_module(name)
    import torch
    from repzoo_training.export.graphs import write_graph

    export_faster()
    with tempfile.TemporaryDirectory() as folder:
        write_graph(
            torch.nn.Linear(2, 2).eval(),
            Path(folder, "warm.onnx"),
            {"rows": torch.zeros(2, 2)},
            output_names=["sums"],
        )


def _become(job: dict[str, Any]) -> None:
    """Run a command in this process, which was forked for it."""
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.path[:0] = filter(None, job["environment"].get("PYTHONPATH", "").split(os.pathsep))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(job["outputs"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = job["words"]
    if job["is_script"]:
        sys.path.insert(0, str(Path(job["words"][0]).parent))
        runpy.run_path(job["words"][0], run_name="__main__")
    else:
        from repzoo.cli import main

        main()


def _serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 0
            try:
                _become(json.loads(line))
            except SystemExit as end:
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
                status = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # threads that the fork left behind are not waited for
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _import_everything()
    _serve()
