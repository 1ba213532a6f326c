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

# Root may write where permissions say that nobody may. Without CAP_DAC_OVERRIDE it may not either,
# once it has started another program. Failing is fine: then this is not root.
_AS_ANYONE = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def _run_once(shared_admissions: None) -> None:
    """Tests load the same few packages again and again."""


class Zoo:
    """The command ``zoo`` as a process of its own, with this test's cache and hub."""

    def __init__(self, *prefix: str) -> None:
        self._command = [*prefix, str(ZOO)]

    def start(self, *args: str | Path) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*self._command, *map(str, args)], stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *args: str | Path) -> tuple[int, str, str]:
        """Exit status, stdout and stderr."""
        process = self.start(*args)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def __call__(self, *args: str | Path, status: int = 0) -> str:
        """Run to the end; the output on stdout, or on stderr if it is to fail."""
        returned, out, err = self.run(*args)
        assert returned == status, (out, err)
        assert "Traceback" not in err
        return out if status == 0 else err

    def json(self, *args: str | Path, status: int = 0) -> Any:
        """Run with ``--json``; what it printed."""
        returned, out, err = self.run(*args, "--json")
        assert returned == status, (out, err)
        return json.loads(out)


class ZooHere(Zoo):
    """The same in this process, many times faster, for what does not need one of its own."""

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
    """``zoo`` as a user to whom permissions apply, which they do not to root."""
    return Zoo(sys.executable, "-c", _AS_ANYONE)


@pytest.fixture
def zoo_short_of_space() -> Zoo:
    """``zoo`` as a process whose files may have 900 bytes, as if the disk were full then."""
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
    """The module ``tests/faulty_hub.py``: what a `FaultyHub` can be told to do."""
    path = Path(__file__).parents[1] / "faulty_hub.py"
    spec = importlib.util.spec_from_file_location("faulty_hub", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["faulty_hub"] = module  # data classes look for their module there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def faulty_hub(faults: ModuleType, no_network_settings: None) -> Iterator[Any]:
    """A running `FaultyHub` with no packages."""
    with faults.FaultyHub() as hub:
        yield hub


@pytest.fixture
def no_network_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's decides how hubs are asked."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "REPZOO_OFFLINE", "REPZOO_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts are a hundredth of what they are."""
    import functools

    from repzoo.retries import Patience

    monkeypatch.setattr("repzoo.cache.cache.Patience", functools.partial(Patience, first=0.01))


@pytest.fixture(scope="session")
def other_tiny(make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package "tiny" with other weights: another revision of it."""
    return make_package(tmp_path_factory.mktemp("packages"), "tiny", seed=1)


@pytest.fixture(scope="session")
def heavy_package(
    make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The package "heavy": long enough to copy that it can be interrupted."""
    path = make_package(tmp_path_factory.mktemp("packages"), "heavy", probes=())
    (path / "figures").mkdir()
    noise = os.urandom(2**20) * 48
    # A chunk that programs may skip, so that it is a PNG file.
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
    """Take the permission to write away from a folder and all below, until the test is over."""
    changed: list[tuple[Path, int]] = []

    def protect(folder: Path) -> None:
        for path in [folder, *folder.rglob("*")]:
            changed.append((path, path.stat().st_mode))
            path.chmod(path.stat().st_mode & ~0o222)

    yield protect
    for path, mode in changed:
        path.chmod(mode)
