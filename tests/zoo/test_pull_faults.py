"""Pulls over HTTP from a hub that is killed, disconnects, stalls, lies or fills the disk.

After each fault, the cache holds either nothing or a verified package.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import repzoo
from repzoo.cache.cache import Cache
from repzoo.hubs import transport
from repzoo.packages.package import Package
from repzoo.packages.reference import Reference
from repzoo.retries import Patience

TINY = Reference("tiny")
MEBIBYTE = 2**20


@pytest.fixture(autouse=True)
def _quick(impatient: None) -> None:
    pass


@pytest.fixture(scope="session")
def large_package(
    make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The package "large", which has 4 MiB in figures/noise.png."""
    import os
    import struct

    from repzoo.packages.package import write_manifest

    path = make_package(tmp_path_factory.mktemp("packages"), "large", probes=())
    (path / "figures").mkdir()
    chunks = [(b"noIs", os.urandom(4 * MEBIBYTE)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + b"\0\0\0\0" for kind, content in chunks
    )
    (path / "figures" / "noise.png").write_bytes(png)
    write_manifest(path)
    return path


NOISE = "figures/noise.png"


def assert_nothing_or_verified(cache: Path) -> None:
    for name in Cache(cache).names():
        for revision in Cache(cache).revisions(name):
            Package.open(cache / "packages" / name / revision).verify()
    assert not list(cache.rglob("packages/**/*.part"))


def part_of(cache: Path, package: Path, file: str) -> Path:
    revision = Package.open(package).revision
    return cache / "staging" / package.name / revision / f"{file}.part"


def wait_for_part(part: Path, size: int, going_on: Callable[[], bool]) -> None:
    while going_on() and (not part.exists() or part.stat().st_size < size):
        time.sleep(0.001)


def test_a_package_is_pulled_over_http(
    zoo_here: Any, faulty_hub: Any, cache: Path, tiny_package: Path
) -> None:
    faulty_hub.publish(tiny_package)
    pulled = Cache().pull(TINY, faulty_hub.spec)
    assert pulled.package.revision == Package.open(tiny_package).revision
    assert set(pulled.fetched) == set(pulled.package.manifest.files)
    asked = len(faulty_hub.requests)
    assert Cache().pull(TINY, faulty_hub.spec).fetched == ()
    # The content of the commit is known already: only main had to be resolved.
    assert len(faulty_hub.requests) == asked + 1
    assert (
        repzoo.load(f"{faulty_hub.spec}/tiny", provider="cpu").revision == pulled.package.revision
    )
    assert "already in the cache" in zoo_here("pull", f"{faulty_hub.spec}/tiny@main")


def test_a_killed_client_resumes(
    zoo: Any, faulty_hub: Any, faults: ModuleType, cache: Path, large_package: Path
) -> None:
    faulty_hub.publish(large_package)
    size = (large_package / NOISE).stat().st_size
    half = size // 2
    faulty_hub.misbehave(NOISE, faults.stall(half))
    process = zoo.start("pull", "large", "--hub", faulty_hub.spec)
    assert faulty_hub.stalled.wait(30)
    part = part_of(cache, large_package, NOISE)
    wait_for_part(part, half, lambda: process.poll() is None)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert Cache().names() == []
    assert part.stat().st_size == half

    pulled = zoo.json("pull", "large", "--hub", faulty_hub.spec)
    assert NOISE in pulled["fetched"]
    Cache().find(Reference("large")).verify()
    assert faulty_hub.starts(NOISE) == [0, half]
    assert faulty_hub.sent(NOISE) == size


def test_a_damaged_part_is_detected(
    faulty_hub: Any, faults: ModuleType, cache: Path, large_package: Path
) -> None:
    faulty_hub.publish(large_package)
    part = part_of(cache, large_package, NOISE)
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(MEBIBYTE))
    Cache().pull(Reference("large"), faulty_hub.spec).package.verify()
    assert faulty_hub.starts(NOISE) == [MEBIBYTE, 0]


def test_ctrl_c_keeps_what_was_fetched(
    zoo: Any, faulty_hub: Any, faults: ModuleType, cache: Path, large_package: Path
) -> None:
    faulty_hub.publish(large_package)
    faulty_hub.misbehave(NOISE, faults.stall(MEBIBYTE))
    process = zoo.start("pull", "large", "--hub", faulty_hub.spec)
    assert faulty_hub.stalled.wait(30)
    part = part_of(cache, large_package, NOISE)
    wait_for_part(part, MEBIBYTE, lambda: process.poll() is None)
    process.send_signal(signal.SIGINT)
    # It does not wait for the hub, which is silent during the whole test.
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == "zoo: interrupted"
    assert part.stat().st_size == MEBIBYTE
    assert_nothing_or_verified(cache)


def test_a_killed_server_is_waited_for(
    cache: Path,
    large_package: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_network_settings: None,
    unused_port: Callable[[], int],
) -> None:
    from repzoo.retries import Patience

    monkeypatch.setattr("repzoo.cache.cache.Patience", lambda **_: Patience(first=0.2, attempts=9))
    script = Path(__file__).parents[1] / "faulty_hub.py"
    port = unused_port()

    def serve(*more: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), str(large_package), str(port), *more]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        return server

    server = serve(NOISE, str(2 * MEBIBYTE))
    pulls: list[Any] = []

    def pull() -> None:
        pulls.append(Cache(cache).pull(Reference("large"), f"http://127.0.0.1:{port}/org"))

    puller = threading.Thread(target=pull)
    puller.start()
    part = part_of(cache, large_package, NOISE)
    wait_for_part(part, 2 * MEBIBYTE, puller.is_alive)
    server.kill()
    server.communicate()
    assert_nothing_or_verified(cache)
    server = serve()
    puller.join(30)
    server.kill()
    server.communicate()
    assert len(pulls) == 1
    pulls[0].package.verify()


@pytest.mark.parametrize("kind", ["cut", "reset", "stall", "claim", "several"])
def test_a_cut_connection_is_resumed(
    kind: str,
    faulty_hub: Any,
    faults: ModuleType,
    cache: Path,
    large_package: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import huggingface_hub.constants

    if kind == "stall":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    faulty_hub.publish(large_package)
    size = (large_package / NOISE).stat().st_size
    whole = {
        "cut": [faults.cut(MEBIBYTE)],
        "reset": [faults.cut(MEBIBYTE, reset=True)],
        "stall": [faults.stall(MEBIBYTE)],
        # The file is shorter than its header says.
        "claim": [faults.claim(size + 1)],
        # More faults than attempts: whenever some bytes arrive, the attempts start again.
        "several": [faults.cut(step * MEBIBYTE // 4) for step in range(1, 12)],
    }[kind]
    for fault in whole:
        faulty_hub.misbehave(NOISE, fault)
    Cache().pull(Reference("large"), faulty_hub.spec).package.verify()
    if kind != "claim":
        assert "waiting" in caplog.text
    assert faulty_hub.endpoint in caplog.text or kind == "claim"
    starts = faulty_hub.starts(NOISE)
    assert starts[0] == 0
    assert len(starts) == len(whole) + (kind != "claim")
    if kind != "reset":  # a reset loses bytes in transit
        assert starts == sorted(starts)
        assert faulty_hub.sent(NOISE) <= size
    assert_nothing_or_verified(cache)


def test_a_server_without_ranges_starts_over(
    faulty_hub: Any, faults: ModuleType, large_package: Path
) -> None:
    faulty_hub.publish(large_package)
    faulty_hub.misbehave(NOISE, faults.cut(MEBIBYTE))
    faulty_hub.misbehave(NOISE, faults.without_ranges)
    Cache().pull(Reference("large"), faulty_hub.spec).package.verify()
    assert faulty_hub.starts(NOISE) == [0, MEBIBYTE]


@pytest.mark.parametrize("code", [429, 500, 503])
@pytest.mark.parametrize("where", ["revision/main", "manifest.json", "encoder.onnx"])
def test_retry_after_is_respected(
    code: int,
    where: str,
    faulty_hub: Any,
    faults: ModuleType,
    tiny_package: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    faulty_hub.publish(tiny_package)
    faulty_hub.misbehave(where, faults.status(code, Retry_After="0"), times=2)
    Cache().pull(TINY, faulty_hub.spec).package.verify()
    waits = [each.getMessage() for each in caplog.records if "waiting" in each.getMessage()]
    assert len(waits) == 2
    assert all(f"HTTP {code} from {faulty_hub.endpoint}" in each for each in waits)


def test_delays() -> None:
    from datetime import UTC, datetime, timedelta
    from email.utils import format_datetime

    from repzoo.hubs.transport import _retry_after
    from repzoo.retries import Patience

    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            waits.append(timeout)
            return False

    patience = Patience(attempts=7, first=1, longest=10, stop=Stop())

    def busy(retry_after: float | None = None) -> None:
        raise repzoo.HubUnavailable("busy", retry_after)

    with pytest.raises(repzoo.HubUnavailable, match="busy"):
        patience(busy)
    for wait, expected in zip(waits, [1, 2, 4, 8, 10, 10], strict=True):
        assert 0.75 * expected <= wait <= 1.25 * expected
    waits.clear()
    with pytest.raises(repzoo.HubUnavailable):
        patience(lambda: busy(100))
    assert waits == [100] * 6
    waits.clear()
    with pytest.raises(repzoo.HubUnavailable, match="try again in 4000 s"):
        patience(lambda: busy(4000))
    assert waits == []

    later = format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)
    assert _retry_after({"retry-after": "7"}) == 7
    assert 40 < (_retry_after({"retry-after": later}) or 0) <= 50
    assert _retry_after({"ratelimit": '"api";r=0;t=55'}) == 55
    assert _retry_after({"ratelimit": '"api";r=3;t=55'}) is None
    assert _retry_after({"retry-after": "soon"}) is _retry_after({}) is None


def test_a_hub_that_stays_away_is_given_up(
    zoo_here: Any,
    faulty_hub: Any,
    faults: ModuleType,
    cache: Path,
    tiny_package: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    faulty_hub.publish(tiny_package)
    faulty_hub.misbehave("encoder.onnx", faults.status(503, said="come\x1b[2Jback"), times=100)
    message = zoo_here("pull", "tiny", "--hub", faulty_hub.spec, status=1)
    assert caplog.text.count("waiting") == 5
    assert message.startswith(f"zoo: HTTP 503 from {faulty_hub.endpoint}/org/tiny/resolve/")
    assert message.endswith("encoder.onnx: come[2Jback\n")
    assert_nothing_or_verified(cache)
    assert Cache().names() == []


def flip(content: bytes) -> bytes:
    return content[:300] + bytes([content[300] ^ 1]) + content[301:]


LIES = {
    "flipped": lambda faults: faults.instead(flip),
    "truncated": lambda faults: faults.instead(lambda content: content[:-1]),
    "empty": lambda faults: faults.instead(lambda content: b""),
    "longer": lambda faults: faults.instead(lambda content: content + b"\0"),
    "endless": lambda faults: faults.endless,
    "wrong size": lambda faults: faults.claim(100),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_bad_file_is_fetched_once_more_and_only_that(
    lie: str, faulty_hub: Any, faults: ModuleType, cache: Path, tiny_package: Path
) -> None:
    faulty_hub.publish(tiny_package)
    faulty_hub.misbehave("encoder.onnx", LIES[lie](faults))
    Cache().pull(TINY, faulty_hub.spec).package.verify()
    assert faulty_hub.starts("encoder.onnx") == [0, 0]
    assert faulty_hub.starts("golden.npz") == [0]
    assert len(list((cache / "quarantine" / "tiny").iterdir())) == 1
    assert_nothing_or_verified(cache)


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_stays_bad_is_refused(
    lie: str, zoo_here: Any, faulty_hub: Any, faults: ModuleType, cache: Path, tiny_package: Path
) -> None:
    faulty_hub.publish(tiny_package)
    faulty_hub.misbehave("encoder.onnx", LIES[lie](faults), times=2)
    message = zoo_here("pull", "tiny", "--hub", faulty_hub.spec, status=1)
    assert "encoder.onnx of tiny" in message
    assert Cache().names() == []
    assert sum(each.stat().st_size for each in cache.rglob("quarantine/**/*")) < 100_000
    # The rest is kept: only the bad file is requested once the hub works again.
    pulled = Cache().pull(TINY, faulty_hub.spec)
    assert pulled.fetched == ("encoder.onnx",)
    pulled.package.verify()


def test_an_endless_response_is_cut(
    faulty_hub: Any, faults: ModuleType, tiny_package: Path
) -> None:
    faulty_hub.publish(tiny_package)
    for where in ("manifest.json", "revision/main", "refs"):
        faulty_hub.misbehave(where, faults.endless)
        with pytest.raises(repzoo.RepzooError, match="bytes"):
            Cache().pull(Reference("tiny", "v1" if where == "refs" else None), faulty_hub.spec)


@pytest.mark.parametrize("where", ["revision/main", "manifest.json"])
def test_a_short_response_that_drips_is_given_up(
    where: str,
    faulty_hub: Any,
    faults: ModuleType,
    tiny_package: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "_SHORT_SECONDS", 0.3)
    faulty_hub.publish(tiny_package)
    faulty_hub.misbehave(where, faults.drip, times=100)
    with pytest.raises(repzoo.HubUnavailable, match="no complete response in"):
        Cache().pull(TINY, faulty_hub.spec, asking=Patience(attempts=1))


def test_a_branch_that_moves_during_a_pull_mixes_nothing(
    faulty_hub: Any, faults: ModuleType, cache: Path, tiny_package: Path, other_tiny: Path
) -> None:
    first = faulty_hub.publish(tiny_package)

    def move(handler: Any, content: bytes, start: int) -> None:
        faulty_hub.publish(other_tiny)
        handler.answer(content, start)

    faulty_hub.misbehave("decoder.onnx", move)
    package = Cache().pull(TINY, faulty_hub.spec).package
    assert package.revision == Package.open(tiny_package).revision
    assert faulty_hub.newest("tiny") != first
    files = [each.path for each in faulty_hub.requests if "/resolve/" in each.path]
    assert all(f"/resolve/{first}/" in path for path in files)
    assert Cache().pull(TINY, faulty_hub.spec).package.revision == Package.open(other_tiny).revision
    assert_nothing_or_verified(cache)


@pytest.mark.parametrize("commit", ["../../../../tmp/evil-repzoo", "", "main", "A" * 40, "0" * 64])
def test_a_hostile_commit_is_refused(
    commit: str, faulty_hub: Any, faults: ModuleType, tmp_path: Path, tiny_package: Path
) -> None:
    faulty_hub.publish(tiny_package)
    before = {*tmp_path.rglob("*")}
    evil = json.dumps({"id": "org/tiny", "sha": commit}).encode()
    faulty_hub.misbehave("revision/main", lambda handler, *_: handler.answer(evil))
    with pytest.raises(repzoo.HubError, match="cannot be understood"):
        Cache().pull(TINY, faulty_hub.spec)
    refs = json.dumps({"tags": [{"name": "v1", "targetCommit": commit}]}).encode()
    faulty_hub.misbehave("refs", lambda handler, *_: handler.answer(refs))
    with pytest.raises(repzoo.HubError, match="cannot be understood"):
        Cache().pull(Reference("tiny", "v1"), faulty_hub.spec)
    assert {*tmp_path.rglob("*")} == before
    assert not Path("/tmp/evil-repzoo").exists()


def test_hostile_headers_name_no_files(
    faulty_hub: Any, cache: Path, tmp_path: Path, tiny_package: Path
) -> None:
    faulty_hub.publish(tiny_package)
    faulty_hub.headers = {
        "ETag": '"../../../../evil-repzoo"',
        "X_Repo_Commit": "../../../../evil-repzoo",
        "X_Linked_Etag": '"/tmp/evil-repzoo"',
        "Content_Disposition": 'attachment; filename="../../evil-repzoo"',
    }
    Cache().pull(TINY, faulty_hub.spec).package.verify()
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]
    assert not Path("/tmp/evil-repzoo").exists()


@pytest.mark.parametrize("answer", [b"", b"[", b"{}", b"null", b'"', b"[" * 100_000, b"\xff\xfe"])
def test_garbage_raises_a_hub_error(
    answer: bytes, faulty_hub: Any, faults: ModuleType, tiny_package: Path
) -> None:
    faulty_hub.publish(tiny_package)
    for where, revision in (("revision/main", None), ("refs", "v1"), ("commits/main", "abcdef0")):
        faulty_hub.misbehave(where, lambda handler, *_: handler.answer(answer))
        with pytest.raises((repzoo.HubError, repzoo.ModelNotFound)):
            Cache().pull(Reference("tiny", revision), faulty_hub.spec)
    faulty_hub.misbehave("manifest.json", lambda handler, *_: handler.answer(answer))
    with pytest.raises(repzoo.PackageError):
        Cache().pull(TINY, faulty_hub.spec)


def test_many_processes_make_one_download(
    zoo: Any, faulty_hub: Any, cache: Path, tiny_package: Path
) -> None:
    faulty_hub.publish(tiny_package)
    processes = [zoo.start("pull", "tiny", "--hub", faulty_hub.spec, "--json") for _ in range(8)]
    fetched = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        fetched.append(len(json.loads(out)["fetched"]))
    files = Package.open(tiny_package).manifest.files
    assert sorted(fetched) == [0] * 7 + [len(files)]
    for file in files:
        assert faulty_hub.starts(file) == [0]
    assert_nothing_or_verified(cache)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_is_too_small_is_reported_before_downloading(
    zoo_here: Any,
    faulty_hub: Any,
    large_package: Path,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faulty_hub.publish(large_package)
    monkeypatch.setenv("REPZOO_CACHE", str(small_disk))
    message = zoo_here("pull", "large", "--hub", faulty_hub.spec, status=1)
    assert "large needs 4.0 MiB more, and 3.0 MiB are free" in message
    assert faulty_hub.sent(NOISE) == 0


def test_a_disk_that_fills_up_keeps_what_was_fetched(
    faulty_hub: Any, large_package: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty_hub.publish(large_package)
    # As if other processes had filled the disk after the check.
    plenty = shutil._ntuple_diskusage(2**40, 0, 2**40)
    monkeypatch.setattr("repzoo.cache.installation.shutil.disk_usage", lambda path: plenty)
    with pytest.raises(repzoo.NoSpace, match="No space left on device"):
        Cache(small_disk).pull(Reference("large"), faulty_hub.spec)
    kept = part_of(small_disk, large_package, NOISE).stat().st_size
    assert kept > 2 * MEBIBYTE
    assert_nothing_or_verified(small_disk)

    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    Cache(small_disk).pull(Reference("large"), faulty_hub.spec).package.verify()
    assert kept in faulty_hub.starts(NOISE)


def test_a_file_size_limit_is_reported(
    zoo: Any, faulty_hub: Any, cache: Path, large_package: Path
) -> None:
    faulty_hub.publish(large_package)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEBIBYTE, limits[1]))
    try:
        process = zoo.start("pull", "large", "--hub", faulty_hub.spec)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "File too large" in err
    assert "what was fetched is kept" in err
    assert part_of(cache, large_package, NOISE).stat().st_size == MEBIBYTE
    zoo("pull", "large", "--hub", faulty_hub.spec)
    assert faulty_hub.starts(NOISE) == [0, MEBIBYTE]
    assert_nothing_or_verified(cache)
