"""Admit a package when it is loaded for the first time.

Every load checks the graphs without running them (`repzoo.checks.content`). A package that is new
to this cache is then run once in `repzoo.admission.trial`, a restricted process on the CPU, which
runs all graphs against the golden vectors. A graph that crashes the runtime, never ends or exhausts
memory does so in that process. The cache remembers a success by revision and by the versions of
repzoo and ONNX Runtime. Bundled packages are trusted like the code that they ship with.

    admitted/REVISION.REPZOO-RUNTIME    an empty file for each admitted package
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from repzoo.cache.places import admission_lock, admission_marker
from repzoo.checks.content import check_content
from repzoo.errors import GoldenMismatch, InvalidInput, MissingExtra, PackageError
from repzoo.files import locked
from repzoo.packages.bundled import is_bundled
from repzoo.packages.package import Package

__all__ = ["admit"]

_log = logging.getLogger("repzoo")

#: Default limit on the CPU time of the first run in seconds. ``REPZOO_TRIAL_SECONDS`` overrides it.
SECONDS = 120
#: The limit on the elapsed time is this many times longer, because other processes use the CPU too.
_PATIENCE = 5
_MOST_OUTPUT = 2**16


def admit(package: Package) -> None:
    """Make sure that a verified package is safe to load into this process.

    Raises:
        PackageError: If the package's content is not allowed, or running it crashes, takes too long
            or needs too much memory.
        GoldenMismatch: If the package does not reproduce its golden outputs.
        MissingExtra: If the ``runtime`` extra is not installed.
    """
    check_content(package)
    if is_bundled(package):
        return
    marker = _marker(package)
    if marker.exists():
        return
    with _alone(package):
        if marker.exists():  # another process has done the work
            return
        _log.info("%s: first run, in a separate process", package.path)
        _try(package)
        with suppress(OSError):  # the cache is read-only for this user
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()


def _marker(package: Package) -> Path:
    versions = f"{importlib.metadata.version('repzoo')}-{_runtime_version()}"
    return admission_marker(package.revision, versions)


def _runtime_version() -> str:
    for distribution in ("onnxruntime-gpu", "onnxruntime"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(distribution)
    return "unknown"


@contextmanager
def _alone(package: Package) -> Iterator[None]:
    """Let one process run a package for the first time while others that load it wait."""
    with ExitStack() as stack:
        with suppress(OSError):
            lock = admission_lock(package.revision)
            stack.enter_context(locked(lock, f"it is running {package.path} for the first time"))
        yield


def _try(package: Package) -> None:
    _require_runtime()
    seconds = _seconds()
    if not sys.executable:
        raise PackageError(
            f"{package.path} must be run once before it is loaded, but this program cannot start "
            f"Python: run zoo verify {package.path}"
        )
    command = [
        sys.executable,
        "-P",
        "-m",
        "repzoo.admission.trial",
        str(package.path),
        str(seconds),
    ]
    environment = os.environ | {
        # Import repzoo from the same place as this process.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONDONTWRITEBYTECODE": "1",
        # The process is not allowed to start threads.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    # stderr goes to a file, which the process cannot extend once its limits are set.
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )
        overtime = threading.Event()

        def stop() -> None:
            overtime.set()
            process.kill()

        clock = threading.Timer(_PATIENCE * seconds, stop)
        clock.daemon = True
        clock.start()
        try:
            assert process.stdout is not None
            verdict = process.stdout.read(_MOST_OUTPUT)
            process.stdout.close()
            status = process.wait()
        finally:
            clock.cancel()
            process.kill()
            process.wait()
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - 500))
        output = " ".join(errors.read().decode(errors="replace").split())

    if overtime.is_set() or status == -signal.SIGXCPU:
        raise PackageError(
            f"{package.path} took more than {seconds} seconds to run its golden vectors; "
            "set REPZOO_TRIAL_SECONDS to allow more"
        )
    if status < 0:
        raise PackageError(f"{package.path} crashed in its first run: {_signal_name(-status)}")
    try:
        result = json.loads(verdict)
        kind, message = result["type"], str(result["message"])
    except (ValueError, KeyError, TypeError):
        raise PackageError(
            f"{package.path} failed in its first run with exit status {status}: {output}"
        ) from None
    if kind == "GoldenMismatch":
        raise GoldenMismatch(message)
    if kind is not None:
        raise PackageError(message)


def _require_runtime() -> None:
    for module in ("onnxruntime", "PIL"):
        try:
            found = importlib.util.find_spec(module)
        except ImportError:
            found = None
        if found is None:
            missing = ModuleNotFoundError(f"No module named {module!r}", name=module)
            raise MissingExtra("running a model", "runtime", missing)


def _seconds() -> int:
    text = os.environ.get("REPZOO_TRIAL_SECONDS") or str(SECONDS)
    if not text.isdecimal() or int(text) < 1:
        raise InvalidInput(f"REPZOO_TRIAL_SECONDS is {text!r}; expected a whole number of seconds")
    return int(text)


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        name = signal.Signals(number).name
        return f"{name}, possibly out of memory" if number == signal.SIGKILL else name
    return f"signal {number}"
