"""Fixtures for all tests."""

from __future__ import annotations

import importlib.util
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Before torch or NumPy is imported, here and in processes that tests start. On shared cores, two
# threads that wait for each other at every layer are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _import_beside(name: str) -> ModuleType:
    # Not through sys.path, which would make the folders tests/zoo, tests/data, ... importable.
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_xdist_auto_num_workers() -> int:
    """Two workers per core, because tests often wait for processes that they started."""
    return 2 * (os.cpu_count() or 1)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_this_session(
    tmp_path_factory: pytest.TempPathFactory, _admitted: Path
) -> Iterator[None]:
    """A cache for fixtures that tests share, such as a server."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "admitted").symlink_to(_admitted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPZOO_CACHE", str(cache))
        patch.delenv("REPZOO_HUB", raising=False)
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the user's cache and hub from each test and the processes that it starts."""
    monkeypatch.setenv("REPZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REPZOO_HUB", raising=False)


@pytest.fixture(scope="session")
def unused_port() -> Callable[[], int]:
    """``unused_port() -> int``, for a server that cannot report its own port."""

    def find() -> int:
        # Below the ephemeral ports of Linux (32768 to 60999), which a connection of another test
        # could take before the server binds the port.
        for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
            with socket.socket() as probe, suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
        raise AssertionError("no port is free")

    return find


@pytest.fixture(scope="module")
def browser(
    unused_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A `Browser` of ``tests/browser.py``. Without Chromium, the test is skipped."""
    profile = tmp_path_factory.mktemp("profile")
    with _import_beside("browser").opened(unused_port(), profile) as browser:
        yield browser


@pytest.fixture(scope="session")
def _admitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("admitted")


@pytest.fixture
def shared_admissions(_own_cache: None, _admitted: Path, tmp_path: Path) -> None:
    """Share the list of admitted packages between the caches of all tests."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "admitted").symlink_to(_admitted)


@pytest.fixture(scope="session")
def package_factory() -> ModuleType:
    """The module ``tests/package_factory.py``."""
    return _import_beside("package_factory")


@pytest.fixture(scope="session")
def make_package(package_factory: ModuleType) -> Callable[..., Path]:
    """``make_package(directory, name="tiny", *, posterior, decoder, probes, ...) -> Path``."""
    factory: Callable[..., Path] = package_factory.make_package
    return factory


@pytest.fixture(scope="session")
def tiny_package(
    make_package: Callable[..., Path],
    package_factory: ModuleType,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The package "tiny" with a posterior, a decoder, and the probes digit and attributes.

    It is shared by all tests, so copy it before changing it.
    """
    probes = [package_factory.DIGITS, package_factory.ATTRIBUTES]
    return make_package(tmp_path_factory.mktemp("packages"), "tiny", probes=probes)


@pytest.fixture(scope="session")
def plain_package(
    make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The package "plain" with only an encoder. Shared by all tests."""
    folder = tmp_path_factory.mktemp("packages")
    return make_package(folder, "plain", posterior=False, decoder=False, probes=())


@pytest.fixture(scope="session")
def zoo_processes_module() -> ModuleType:
    """The module ``tests/zoo_processes.py``."""
    return _import_beside("zoo_processes")


@pytest.fixture(scope="session")
def zoo_processes(zoo_processes_module: ModuleType) -> Iterator[Any]:
    """A running `ZooProcesses`."""
    with zoo_processes_module.ZooProcesses() as processes:
        yield processes


@pytest.fixture(scope="session")
def zoo_process(zoo_processes: Any) -> Callable[..., tuple[int, str, str]]:
    """``zoo_process(words, folder, environment, script)`` runs a command; see `ZooProcesses`."""
    run: Callable[..., tuple[int, str, str]] = zoo_processes.run
    return run


@pytest.fixture(scope="session")
def server_process() -> type:
    """The class `ServerProcess` of ``tests/server_process.py``."""
    kind: type = _import_beside("server_process").ServerProcess
    return kind


@pytest.fixture(scope="session")
def server_url(
    server_process: type,
    tiny_package: Path,
    plain_package: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The URL of a server of "tiny" and "plain", with small limits. Shared by all tests."""
    log = tmp_path_factory.mktemp("server") / "log"
    limits = {
        "REPZOO_SERVE_MAX_BYTES": "1000000",
        "REPZOO_SERVE_MAX_IMAGES": "64",
        "REPZOO_SERVE_MAX_PIXELS": "100000",
        "REPZOO_SERVE_MAX_BATCH": "16",
        "REPZOO_SERVE_MAX_QUEUED": "64",
        "REPZOO_SERVE_DEADLINE_SECONDS": "4",
    }
    models = f"{tiny_package},{plain_package}"
    with server_process("--models", models, "--port", "0", log=log, env=limits) as server:
        yield server.wait_until_ready()


@pytest.fixture(scope="session")
def content_packages(
    make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Models with both posteriors, with a content posterior alone, and without one."""
    folder = tmp_path_factory.mktemp("packages")
    return {
        "robust": make_package(folder, "robust", content=True, uncertainty=True),
        "point": make_package(folder, "point", content=True, posterior=False, decoder=False),
        "plain": make_package(folder, "plain"),
    }


@pytest.fixture(scope="module")
def content_url(
    content_packages: dict[str, Path],
    server_process: type,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The URL of a server of `content_packages`."""
    log = tmp_path_factory.mktemp("server") / "log"
    models = ",".join(map(str, content_packages.values()))
    with server_process("--models", models, "--port", "0", log=log) as server:
        yield server.wait_until_ready()


@pytest.fixture(scope="session")
def views_packages(
    make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A model trained with SimVAE, one with a content posterior alone, and one with neither."""
    folder = tmp_path_factory.mktemp("packages")
    return {
        "views": make_package(folder, "views", simvae={"scatter": 0.5}, uncertainty=True),
        "point": make_package(folder, "point", content=True, posterior=False, decoder=False),
        "plain": make_package(folder, "plain"),
    }


@pytest.fixture(scope="module")
def views_url(
    views_packages: dict[str, Path],
    server_process: type,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The URL of a server of `views_packages` that takes 8 images per request."""
    log = tmp_path_factory.mktemp("server") / "log"
    models = ",".join(map(str, views_packages.values()))
    limits = {"REPZOO_SERVE_MAX_IMAGES": "8"}
    with server_process("--models", models, "--port", "0", log=log, env=limits) as server:
        yield server.wait_until_ready()
