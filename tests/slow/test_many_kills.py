"""kill -9 at many random moments: nothing acknowledged is lost, nothing incomplete is visible."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Self

import pytest
import torch
from repzoo.packages.package import Package, write_manifest
from repzoo.store.fsck import check
from repzoo.store.store import Store
from repzoo_training.run import Run

ZOO = Path(sys.executable).with_name("zoo")
DATA = Path(__file__).parents[1] / "data" / "mnist"

pytestmark = pytest.mark.slow


def killed_after(seconds: float, *words: object) -> bool:
    """Run a command, kill it after a while, and return whether it had succeeded by then."""
    process = subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return process.returncode == 0


def zoo(*words: object) -> str:
    done = subprocess.run(
        [str(ZOO), *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_killed_at_random_moments(tmp_path: Path) -> None:
    settings = ("network.widths=[256,64]", "images_per_step=16", "precision=float32")
    words = [ZOO, "train", "simvae-mnist", "--data", DATA, "--views", 160_000, "--threads", 1]
    words += [word for setting in settings for word in ("--set", setting)]
    zoo(*words[1:], "--out", tmp_path / "undisturbed")
    clock = random.Random(0)
    kills = 0
    while not killed_after(
        clock.uniform(2, 12), *words, "--out", tmp_path / "killed", "--checkpoint", "0.5s"
    ):
        kills += 1
        assert kills < 60
    print(f"training: killed {kills} times")
    assert kills >= 3
    states = []
    for name in ("undisturbed", "killed"):
        checkpoint = Run(tmp_path / name).read_checkpoint()
        assert checkpoint is not None
        states.append(checkpoint.objective)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def make_versions(make_package: Callable[..., Path], folder: Path, number: int) -> list[Path]:
    """Revisions of "tiny" with a file that takes a while to send and needs several requests."""
    versions = []
    for seed in range(number):
        version = make_package(folder / f"v{seed}", "tiny", seed=seed)
        (version / "figures").mkdir()
        noise = random.Random(seed).randbytes(11 * 2**20)
        picture = b"\xff\xd8\xff" + noise + b"\xff\xd9"  # enough to look like a JPEG file
        (version / "figures" / "noise.jpg").write_bytes(picture)
        write_manifest(version)
        versions.append(version)
    return versions


class Server:
    """``zoo hub serve --open`` on a store, which tests can kill and restart."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._port = "0"
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        words = [ZOO, "hub", "serve", self._store, "--open", "--port", self._port]
        self._process = subprocess.Popen(
            [str(word) for word in words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[-1]
        self._port = self.url.rpartition(":")[2].partition("/")[0]

    @property
    def exited(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.mark.parametrize("way", ["folder", "http"])
def test_publish_killed_at_random_moments(
    way: str, make_package: Callable[..., Path], tmp_path: Path
) -> None:
    """Check that the hub has the previous or the new revision, and all acknowledged ones."""
    store = Path(Store.create(tmp_path / "store").spec)
    versions = make_versions(make_package, tmp_path, 5)
    with Server(store) if way == "http" else nullcontext() as server:
        interrupt_publish(way, store, versions, server)


def interrupt_publish(way: str, store: Path, versions: list[Path], server: Server | None) -> None:
    hub = server.url if server is not None else str(store)
    revisions = [Package.open(version).revision for version in versions]

    def newest() -> str:
        hub = Store(store)
        return hashlib.sha256(hub.manifest("tiny", hub.resolve("tiny"))).hexdigest()

    begin = time.monotonic()
    zoo("publish", versions[0], "--hub", hub, "--files-only")
    undisturbed = time.monotonic() - begin
    clock = random.Random(way)
    before = revisions[0]
    ended = servers = 0
    for attempt in range(1, 101):
        number = attempt % len(versions)
        words = [ZOO, "publish", versions[number], "--hub", hub, "--files-only"]
        process = subprocess.Popen(
            [str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(clock.uniform(0, 1.2 * undisturbed))
        except subprocess.TimeoutExpired:
            if server is not None and attempt % 4 == 0:
                server.kill()
                servers += 1
            process.kill()
        status = process.wait()
        ended += status == 0
        assert check(Store(store)).faults == [], f"after attempt {attempt}"
        assert newest() in ([revisions[number]] if status == 0 else [before, revisions[number]])
        if server is not None and server.exited:
            server.start()
        if clock.random() < 0.3:
            # Content that arrived is not sent again, unless it was pruned.
            assert check(Store(store), prune=True, grace=0).faults == []
        before = newest()
    print(f"{way}: 100 interruptions, {ended} ended before theirs, {servers} of the server")
    assert ended < 60
    if server is not None:
        assert servers > 10
    zoo("publish", versions[0], "--hub", hub, "--files-only")
    assert newest() == revisions[0]
    findings = check(Store(store), prune=True, grace=0)
    assert (findings.faults, list((store / "incoming").iterdir())) == ([], [])


def test_pull_killed_at_random_moments(make_package: Callable[..., Path], tmp_path: Path) -> None:
    """After any kill, a pull gets a package that verifies."""
    store = Store.create(tmp_path / "store")
    versions = make_versions(make_package, tmp_path, 4)
    clock = random.Random(0)
    finished = 0
    for attempt in range(100):
        store.publish(Package.open(versions[attempt % 4]))
        finished += killed_after(clock.uniform(0.1, 1.0), ZOO, "pull", "tiny", "--hub", store.spec)
        if attempt % 10 == 9:
            zoo("pull", "tiny", "--hub", store.spec)
            zoo("verify", "tiny")
    print(f"of 100 pulls, ended before their kill: {finished}")
    assert 0 < finished < 100
    shutil.rmtree(store.path)
    zoo("verify", "tiny")  # without the hub
