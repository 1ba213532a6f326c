"""Fixtures for tests of ``zoo hub serve``: real servers, the real client, and bare HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest
from repzoo.secrets_file import add_secret
from repzoo.store.fsck import check
from repzoo.store.store import Store

SCRIPTS = Path(sysconfig.get_path("scripts"))


class HubServer:
    """A running ``zoo hub serve`` on its own port, to be used in a ``with``."""

    def __init__(self, folder: Path, log: Path, *options: str | Path) -> None:
        self.folder = folder
        self.log = log
        words = [SCRIPTS / "zoo", "hub", "serve", folder, *options]
        if "--port" not in options:
            words += ["--port", "0"]
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [str(word) for word in words], stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"Serving at ((http://\S+):(\d+))/(\S+)\n", line)
        assert found is not None, (line, log.read_text())
        #: The endpoint in huggingface_hub's terms.
        self.url = found[1]
        self.port = found[3]
        self.rules = self.process.stdout.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(signal.SIGKILL)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Stop the server and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        status = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def http(self, token: str | None = None) -> httpx.Client:
        """Return a plain HTTP client, for requests that no Hub client sends."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)


class Tokens:
    """A token file with one token of each role."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tokens.json"
        self.write = add_secret(self.file, "writer", prefix="zoo_", role="write")
        self.read = add_secret(self.file, "reader", prefix="zoo_", role="read")


class Shared:
    """The server that most tests share. Each test uses different repository names."""

    def __init__(self, server: HubServer, tokens: Tokens) -> None:
        self.server = server
        self.url = server.url
        self.tokens = tokens
        self.store = server.folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """A store with tokens and public reading."""
    folder = tmp_path_factory.mktemp("shared")
    Store.create(folder / "store")
    tokens = Tokens(folder)
    with HubServer(folder / "store", folder / "log", "--tokens", tokens.file) as server:
        yield Shared(server, tokens)
        log = (folder / "log").read_text()
        assert check(Store(folder / "store")).faults == []
    assert "Traceback" not in log, log


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., HubServer]]:
    """``serve(FOLDER, *OPTIONS)``: a server for one test."""
    started: list[HubServer] = []

    def start(folder: Path, *options: str | Path) -> HubServer:
        server = HubServer(folder, tmp_path / "hub.log", *options)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop(signal.SIGKILL)


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty store."""
    return Path(Store.create(tmp_path / "store").spec)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``client(URL, TOKEN)``: huggingface_hub's `HfApi`, which does not use Xet."""
    from huggingface_hub import HfApi, constants

    for name in ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        monkeypatch.setattr(constants, name, True)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    def make(url: str, token: str | bool | None = False) -> HfApi:
        return HfApi(endpoint=url, token=token)

    return make


@pytest.fixture
def hf(tmp_path: Path) -> Callable[..., str]:
    """``hf(URL, TOKEN, *WORDS)``: the command ``hf``; returns everything that it printed."""

    def run(
        url: str, token: str | None, *words: str | Path, status: int = 0, **environment: str
    ) -> str:
        process = subprocess.run(
            [str(SCRIPTS / "hf"), *map(str, words)],
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
                "HF_ENDPOINT": url,
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_DISABLE_TELEMETRY": "1",
                **({"HF_TOKEN": token} if token is not None else {}),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert process.returncode == status, process.stdout
        return process.stdout

    return run


@pytest.fixture
def zoo_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """``zoo_here(*WORDS)``: the command ``zoo`` in this process; returns what it printed."""
    from repzoo.cli import main

    def run(*words: str | Path, status: int = 0) -> str:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["zoo", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert (caught.value.code or 0) == status, (out, err)
        return out if status == 0 else err

    return run


@pytest.fixture(scope="session")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 30 MB of noise, so large that only LFS can upload it."""
    path = tmp_path_factory.mktemp("large") / "large.bin"
    path.write_bytes(os.urandom(30_000_000))
    return path
