"""The process in which `repzoo.admission.first_load` runs a package for the first time.

It takes from itself what a model does not need: the network, files to write, other processes, and
more memory and time than its size calls for. Then it loads every graph and runs all of them. Its
verdict is one line of JSON on stdout; how it ends says the rest. ``python -m repzoo.admission.trial PATH``
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

#: Bytes of memory beyond what the libraries have taken: a floor, and for each byte of the package.
MEMORY = 2**31
MEMORY_PER_BYTE = 16
_OPEN_FILES = 64

# linux/sched.h and linux/prctl.h
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def main() -> None:
    """Try the package in the folder ``argv[1]`` for at most ``argv[2]`` seconds of CPU."""
    path, seconds = Path(sys.argv[1]), int(sys.argv[2])
    _leave_the_network()
    # The verdict has a pipe of its own: libraries that print reach nobody.
    verdict = os.dup(1)
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
        answer = {"type": None, "message": ""}
    except RepzooError as error:
        answer = {"type": type(error).__name__, "message": str(error)}
    except Exception as error:
        answer = {"type": "PackageError", "message": f"{path}: {type(error).__name__}: {error}"}
    os.write(verdict, json.dumps(answer).encode()[: 2**15] + b"\n")


def _run_the_rest(encoder: Any) -> None:
    """What golden vectors do not run."""
    from repzoo.packages.arrays import read_arrays
    from repzoo.runtime.golden import GOLDEN

    pixels = read_arrays(encoder.path / GOLDEN)["inputs"][:1]
    for probe in encoder.config.probes:
        encoder.probe(pixels, probe.task, probe.kind)


def _leave_the_network() -> None:
    """Only where the system lets us, and while there is but one thread, as it demands."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # The way of users without privileges. Others would lose those by which they read files.
    if libc.unshare(_CLONE_NEWNET) != 0 and not _has_capabilities():
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def _has_capabilities() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    return any(line.startswith("CapEff:") and int(line.split()[1], 16) for line in lines)


def _limit(package: Package, seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    # The first limit ends it with a signal of its own, the second would with SIGKILL.
    _set(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds, grace=5)
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_FSIZE, 0)
    _set(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _set(resource.RLIMIT_NPROC, 0)
    with suppress(OSError):  # there is no /proc
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        taken = pages * resource.getpagesize()
        _set(resource.RLIMIT_AS, taken + MEMORY + MEMORY_PER_BYTE * package.size)


def _set(limit: int, value: int, grace: int = 0) -> None:
    """Lower a limit, as far as the system lets us and it is not lower already."""
    _, most = resource.getrlimit(limit)
    hard = value + grace if most == resource.RLIM_INFINITY else min(value + grace, most)
    with suppress(OSError, ValueError):
        resource.setrlimit(limit, (min(value, hard), hard))


if __name__ == "__main__":
    main()
