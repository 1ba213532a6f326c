"""Fixtures for tests of packages, hubs and the command ``zoo``."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ZOO = Path(sysconfig.get_path("scripts")) / "zoo"

# Root ignores permissions. A program that root starts without CAP_DAC_OVERRIDE respects them. If
# the call fails, this is not root.
_AS_ANYONE = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def _run_once(shared_admissions: None) -> None:
    """Run each package only once, because tests load the same few packages many times."""


class Zoo:
    """The command ``zoo`` in a separate process, with this test's cache and hub."""

    def __init__(self, *prefix: str) -> None:
        self._command = [*prefix, str(ZOO)]

    def start(self, *args: str | Path) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*self._command, *map(str, args)], stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *args: str | Path) -> tuple[int, str, str]:
        """Return the exit status, stdout and stderr."""
        process = self.start(*args)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def __call__(self, *args: str | Path, status: int = 0) -> str:
        """Check the exit status, and return stdout or, if the command is to fail, stderr."""
        returned, out, err = self.run(*args)
        assert returned == status, (out, err)
        assert "Traceback" not in err
        return out if status == 0 else err

    def json(self, *args: str | Path, status: int = 0) -> Any:
        """Run with ``--json`` and return the printed data."""
        returned, out, err = self.run(*args, "--json")
        assert returned == status, (out, err)
        return json.loads(out)


class ZooHere(Zoo):
    """The command ``zoo`` in this process, which is many times faster."""

    def __init__(self, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._capsys = capsys
        self._patch = patch

    def run(self, *args: str | Path) -> tuple[int, str, str]:
        from repzoo.cli import main

        self._capsys.readouterr()
        self._patch.setattr("sys.argv", ["zoo", *map(str, args)])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code is None or isinstance(caught.value.code, int)
        return (caught.value.code or 0, *self._capsys.readouterr())


@pytest.fixture
def zoo() -> Zoo:
    return Zoo()


@pytest.fixture
def zoo_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> ZooHere:
    return ZooHere(capsys, monkeypatch)


@pytest.fixture
def zoo_as_anyone() -> Zoo:
    """``zoo`` as a user whose permissions are checked, even if the tests run as root."""
    return Zoo(sys.executable, "-c", _AS_ANYONE)


@pytest.fixture
def zoo_short_of_space() -> Zoo:
    """``zoo`` with a limit of 900 bytes per file, which simulates a full disk."""
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))"
    return Zoo(
        sys.executable,
        "-c",
        f"import os, resource, sys; {limit}; os.execv(sys.argv[1], sys.argv[1:])",
    )


@pytest.fixture
def cache() -> Path:
    return Path(os.environ["REPZOO_CACHE"])


@pytest.fixture
def package(tiny_package: Path, tmp_path: Path) -> Path:
    """A copy of the package tiny that tests may change."""
    return shutil.copytree(tiny_package, tmp_path / "tiny")


@pytest.fixture
def flat_hub(
    tmp_path: Path, tiny_package: Path, plain_package: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A flat hub with copies of the packages tiny and plain, set as ``REPZOO_HUB``."""
    hub = tmp_path / "hub"
    shutil.copytree(tiny_package, hub / "tiny")
    shutil.copytree(plain_package, hub / "plain")
    monkeypatch.setenv("REPZOO_HUB", str(hub))
    return hub


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty store."""
    from repzoo.store.store import Store

    return Path(Store.create(tmp_path / "store").spec)


@pytest.fixture(scope="session")
def faults() -> ModuleType:
    """The module ``tests/faulty_hub.py``."""
    path = Path(__file__).parents[1] / "faulty_hub.py"
    spec = importlib.util.spec_from_file_location("faulty_hub", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["faulty_hub"] = module  # data classes look up their module there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def faulty_hub(faults: ModuleType, no_network_settings: None) -> Iterator[Any]:
    """A running `FaultyHub` without packages."""
    with faults.FaultyHub() as hub:
        yield hub


@pytest.fixture
def no_network_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the user's settings for hubs."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "REPZOO_OFFLINE", "REPZOO_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits between attempts to a hundredth."""
    import functools

    from repzoo.retries import Patience

    monkeypatch.setattr("repzoo.cache.cache.Patience", functools.partial(Patience, first=0.01))


@pytest.fixture(scope="session")
def other_tiny(make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another revision of the package "tiny", with different weights."""
    return make_package(tmp_path_factory.mktemp("packages"), "tiny", seed=1)


@pytest.fixture(scope="session")
def heavy_package(
    make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The package "heavy", which takes long enough to copy to be interrupted."""
    path = make_package(tmp_path_factory.mktemp("packages"), "heavy", probes=())
    (path / "figures").mkdir()
    noise = os.urandom(2**20) * 48
    # A valid PNG file, because programs skip chunks that they do not know.
    (path / "figures" / "noise.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + _png_chunk(b"noIs", noise) + _png_chunk(b"IEND", b"")
    )
    from repzoo.packages.package import write_manifest

    write_manifest(path)
    return path


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + b"\0\0\0\0"


def flip_byte(path: Path, place: int = 300) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.fixture
def flip() -> Callable[..., None]:
    return flip_byte


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Make a folder and everything in it read-only until the end of the test."""
    changed: list[tuple[Path, int]] = []

    def protect(folder: Path) -> None:
        for path in [folder, *folder.rglob("*")]:
            changed.append((path, path.stat().st_mode))
            path.chmod(path.stat().st_mode & ~0o222)

    yield protect
    for path, mode in changed:
        path.chmod(mode)
