"""The process in which `repzoo.admission.first_load` runs a package for the first time.

It gives up everything that a model does not need: the network, writing files, starting processes,
and memory and CPU time beyond limits. Then it loads and runs every graph. The result is one line of
JSON on stdout, unless the process crashes.

    python -m repzoo.admission.trial PATH SECONDS
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repzoo.packages.package import Package

__all__ = ["main"]

#: Bytes of memory beyond what the libraries use: a minimum, plus an amount per byte of the package.
MEMORY = 2**31
MEMORY_PER_BYTE = 16
_OPEN_FILES = 64

# linux/sched.h and linux/prctl.h
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def main() -> None:
    """Run the package in the folder ``argv[1]`` with a limit of ``argv[2]`` seconds of CPU time."""
    path, seconds = Path(sys.argv[1]), int(sys.argv[2])
    _leave_the_network()
    # Only the result goes to the pipe. The output of libraries is discarded.
    pipe = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    from repzoo.errors import RepzooError
    from repzoo.packages.package import Package
    from repzoo.runtime.encoder import Encoder
    from repzoo.runtime.golden import check_golden

    try:
        package = Package.open(path)
        _limit(package, seconds)
        encoder = Encoder(
            path, package.config, revision=package.revision, provider="cpu", threads=1
        )
        check_golden(encoder)
        _run_the_rest(encoder)
        result: dict[str, str | None] = {"type": None, "message": ""}
    except RepzooError as error:
        result = {"type": type(error).__name__, "message": str(error)[:4096]}
    except Exception as error:
        message = f"{path}: {type(error).__name__}: {error}"
        result = {"type": "PackageError", "message": message[:4096]}
    os.write(pipe, json.dumps(result).encode())


def _run_the_rest(encoder: Any) -> None:
    """Run the probes, which golden vectors do not cover."""
    from repzoo.packages.arrays import read_arrays
    from repzoo.runtime.golden import GOLDEN

    pixels = read_arrays(encoder.path / GOLDEN)["inputs"][:1]
    for probe in encoder.config.probes:
        encoder.probe(pixels, probe.task, probe.kind)


def _leave_the_network() -> None:
    """Enter a network namespace without interfaces, if the system allows it.

    The process must still be single-threaded.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Unprivileged users need a new user namespace. In it, privileged users would lose the
    # capabilities with which they read files.
    if libc.unshare(_CLONE_NEWNET) != 0 and not _has_capabilities():
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def _has_capabilities() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    return any(line.startswith("CapEff:") and int(line.split()[1], 16) for line in lines)


def _limit(package: Package, seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    # The soft limit sends SIGXCPU, the hard limit SIGKILL.
    _set(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds, grace=5)
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_FSIZE, 0)
    _set(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _set(resource.RLIMIT_NPROC, 0)
    with suppress(OSError):  # /proc does not exist
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        taken = pages * resource.getpagesize()
        _set(resource.RLIMIT_AS, taken + MEMORY + MEMORY_PER_BYTE * package.size)


def _set(limit: int, value: int, grace: int = 0) -> None:
    """Lower a limit as far as the system allows. A lower limit stays."""
    _, most = resource.getrlimit(limit)
    hard = value + grace if most == resource.RLIM_INFINITY else min(value + grace, most)
    with suppress(OSError, ValueError):
        resource.setrlimit(limit, (min(value, hard), hard))


if __name__ == "__main__":
    main()
