"""The first load of a package: checked, and then run in a process that can do no harm.

Every load checks the graphs by reading them (`repzoo.checks.content`). A package that this cache has not
run before is then run once in `repzoo.admission.trial`, a process with limits, on the CPU: all of its graphs,
against its golden vectors. What crashes a runtime, never ends or takes all memory does so there.
That it went well is remembered in the cache, by revision and by the versions of repzoo and the
runtime; bundled packages are trusted as the code beside them is.

    admitted/REVISION.REPZOO-RUNTIME    an empty file for each package that went well
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

#: Seconds of CPU that a first run may take; ``REPZOO_TRIAL_SECONDS`` says otherwise.
SECONDS = 120
#: By the clock it may take this many times as long: other processes want the CPU too.
_PATIENCE = 5
_MOST_OUTPUT = 2**16


def admit(package: Package) -> None:
    """Make sure that a verified package may be loaded into this process.

    Raises:
        PackageError: if its content is not what a package may hold, or it cannot be run: it
            crashes, takes too long or too much memory.
        GoldenMismatch: if it does not give its golden outputs.
        MissingExtra: if there is nothing here to run it.
    """
    check_content(package)
    if is_bundled(package):
        return
    marker = _marker(package)
    if marker.exists():
        return
    with _alone(package):
        if marker.exists():  # whoever was before us has done the work
            return
        _log.info("%s: running it for the first time, in a process of its own", package.path)
        _try(package)
        with suppress(OSError):  # a cache that this user may only read
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
            stack.enter_context(locked(lock, f"it runs {package.path} for the first time"))
        yield


def _try(package: Package) -> None:
    _require_runtime()
    seconds = _seconds()
    if not sys.executable:
        raise PackageError(
            f"{package.path} was never run here, and this program cannot start Python for that: "
            f"run zoo verify {package.path}"
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
        # As this process finds it, however that was arranged.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONDONTWRITEBYTECODE": "1",
        # It may not start threads either.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    # Into a file: once it has its limits, it can write no more to it.
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
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
        complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - 500))
        said = " ".join(complaints.read().decode(errors="replace").split())

    if overtime.is_set() or status == -signal.SIGXCPU:
        raise PackageError(
            f"{package.path} took more than {seconds} seconds to run its golden vectors; "
            "REPZOO_TRIAL_SECONDS allows for more"
        )
    if status < 0:
        raise PackageError(f"{package.path} crashed when it was run apart: {_signal_name(-status)}")
    try:
        answer = json.loads(verdict)
        kind, message = answer["type"], str(answer["message"])
    except (ValueError, KeyError, TypeError):
        raise PackageError(
            f"{package.path} ended with status {status} when it was run apart: {said}"
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
        return f"{name}, perhaps for want of memory" if number == signal.SIGKILL else name
    return f"signal {number}"
