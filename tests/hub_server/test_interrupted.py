"""Cut connections, killed servers and concurrent writers."""

from __future__ import annotations

import hashlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError
from repzoo.packages.package import Package
from repzoo.store.fsck import check
from repzoo.store.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

# Uploads a folder without Xet, in a process that tests can kill.
UPLOAD = """
import sys
from huggingface_hub import HfApi, constants
constants.HF_HUB_DISABLE_XET = True
constants.HF_HUB_DISABLE_TELEMETRY = True
url, token, repository, folder = sys.argv[1:]
HfApi(endpoint=url, token=token or False).upload_folder(repo_id=repository, folder_path=folder)
"""


def batch_address(url: str, token: str, repository: str, content: bytes) -> str:
    """Return the path of the upload URL of an LFS file."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    wanted = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    connection.request(
        "POST",
        f"/{repository}.git/info/lfs/objects/batch",
        json.dumps({"operation": "upload", "objects": [wanted]}),
        {"Authorization": f"Bearer {token}"},
    )
    answer = json.loads(connection.getresponse().read())
    connection.close()
    href: str = answer["objects"][0]["actions"]["upload"]["href"]
    return href.removeprefix(url)


def begin_upload(server: Any, address: str, size: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(server.port)), 30)
    connection.sendall(
        f"PUT {address} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()
    )
    return connection


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.002)


def incoming(store: Path) -> int:
    """Return the bytes of all incomplete uploads."""
    size = 0
    for path in (store / "incoming").iterdir():
        try:
            size += path.stat().st_size
        except FileNotFoundError:
            continue
    return size


@pytest.fixture
def published(store: Path, tiny_package: Path) -> str:
    """Publish a package first, and return its commit."""
    return Store(store).publish(Package.open(tiny_package)).commit


def assert_as_it_was(store: Path, published: str) -> None:
    findings = check(Store(store))
    assert findings.faults == []
    assert Store(store).resolve("tiny") == published


def test_an_upload_that_is_cut_leaves_nothing(
    serve: Callable[..., Any], client: Callable[..., Any], store: Path, published: str
) -> None:
    server = serve(store, "--open")
    content = b"\x07" * 8_000_000
    address = batch_address(server.url, "", "zoo/tiny", content)
    for reset in (False, True):
        connection = begin_upload(server, address, len(content))
        connection.sendall(content[:4_000_000])
        wait_for(lambda: incoming(store) > 2_000_000, "nothing arrives")
        if reset:
            option = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # on, and no time to linger
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        connection.close()
        wait_for(lambda: not any((store / "incoming").iterdir()), "a half file stays")
    # The same holds for a commit.
    connection = socket.create_connection(("127.0.0.1", int(server.port)), 30)
    head = "POST /api/models/zoo/tiny/commit/main HTTP/1.1\r\nHost: localhost\r\n"
    connection.sendall(f"{head}Content-Length: 100000\r\n\r\n".encode())
    connection.sendall(b'{"key": "header", "value": {"summary": "x"}}\n')
    change = {"path": "cut.txt", "content": "eA==", "encoding": "base64"}
    connection.sendall(json.dumps({"key": "file", "value": change}).encode() + b"\n")
    blob = store / "blobs" / "sha256" / hashlib.sha256(b"x").hexdigest()
    wait_for(blob.exists, "the content does not arrive")
    connection.close()
    wait_for(lambda: server.log.read_text().count("  cut  ") == 3, "not noticed")
    assert_as_it_was(store, published)
    assert client(server.url).list_repo_files("zoo/tiny")


def test_a_server_that_is_killed_loses_nothing_that_it_acknowledged(
    serve: Callable[..., Any], client: Callable[..., Any], store: Path, published: str
) -> None:
    content = b"\x08" * 16_000_000
    for part in (0.1, 0.5, 0.9):
        server = serve(store, "--open")
        api = client(server.url)
        commit = api.upload_file(
            repo_id="zoo/tiny", path_or_fileobj=str(part).encode(), path_in_repo="part.txt"
        ).oid
        address = batch_address(server.url, "", "zoo/tiny", content)
        connection = begin_upload(server, address, len(content))
        sent = int(len(content) * part)
        connection.sendall(content[:sent])
        wait_for(lambda: incoming(store) > max(0, sent - 2**22), "nothing arrives")  # noqa: B023
        server.stop(signal.SIGKILL)
        connection.close()
        assert any((store / "incoming").iterdir())
        assert_as_it_was(store, commit)
    # The next server removes leftovers of the killed ones, and the upload succeeds.
    server = serve(store, "--open")
    assert not any((store / "incoming").iterdir())
    api = client(server.url)
    api.upload_file(repo_id="zoo/tiny", path_or_fileobj=content, path_in_repo="large.bin")
    assert len(api.list_repo_commits("zoo/tiny")) == 5
    assert check(Store(store)).faults == []


def test_a_second_server_leaves_the_uploads_of_the_first_alone(
    serve: Callable[..., Any], store: Path, published: str
) -> None:
    server = serve(store, "--open")
    content = b"\x09" * 8_000_000
    address = batch_address(server.url, "", "zoo/tiny", content)
    with begin_upload(server, address, len(content)) as connection:
        connection.sendall(content[:-1])
        wait_for(lambda: incoming(store) > 4_000_000, "nothing arrives")
        other = serve(store, "--open")
        with other.http() as anyone:
            assert anyone.get("/health").text == "ok\n"
        assert check(Store(store), prune=True, grace=0).removed == []
        connection.sendall(content[-1:])
        assert b" 200 " in connection.recv(1000)
    assert (store / "blobs" / "sha256" / hashlib.sha256(content).hexdigest()).is_file()


def test_a_client_that_is_killed_leaves_the_previous_revision(
    serve: Callable[..., Any], store: Path, published: str, tiny_package: Path, tmp_path: Path
) -> None:
    server = serve(store, "--open")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "large.bin").write_bytes(b"\x0a" * 200_000_000)
    words = [sys.executable, "-c", UPLOAD, server.url, "", "zoo/tiny", str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: incoming(store) > 2**20 or process.poll() is not None, "nothing arrives")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    wait_for(lambda: not any((store / "incoming").iterdir()), "a half file stays")
    assert_as_it_was(store, published)


def test_the_changes_of_concurrent_writers_are_all_kept(
    shared: Any, client: Callable[..., Any]
) -> None:
    api = client(shared.url, shared.tokens.write)
    api.create_repo("zoo/rivals")

    def write(number: int) -> str:
        changes = [
            CommitOperationAdd(f"{number}/{each}.txt", f"{number} {each}".encode())
            for each in range(5)
        ]
        commit = api.create_commit("zoo/rivals", changes, commit_message=f"by {number}")
        oid: str = commit.oid
        return oid

    with ThreadPoolExecutor(8) as pool:
        commits = list(pool.map(write, range(16)))
    assert len(set(commits)) == 16
    history = [each.commit_id for each in api.list_repo_commits("zoo/rivals")]
    assert set(commits) == set(history[:-1])
    assert len(api.list_repo_files("zoo/rivals")) == 80


def test_only_one_of_several_commits_on_the_same_parent_succeeds(
    shared: Any, client: Callable[..., Any]
) -> None:
    api = client(shared.url, shared.tokens.write)
    api.create_repo("zoo/race")
    parent = api.model_info("zoo/race").sha

    def write(number: int) -> int:
        change = CommitOperationAdd("x.txt", str(number).encode())
        try:
            api.create_commit("zoo/race", [change], commit_message="x", parent_commit=parent)
        except HfHubHTTPError as error:
            return int(error.response.status_code)
        return 200

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(write, range(8)))
    assert sorted(answers) == [200] + [412] * 7
    assert len(api.list_repo_commits("zoo/race")) == 2


def test_a_stopping_server_finishes_its_downloads(
    serve: Callable[..., Any], store: Path, published: str
) -> None:
    with Store(store).blobs.receive(2**27) as upload:
        for _ in range(64):
            upload.write(bytes(2**20))
        entry = upload.keep()
    from repzoo.store.commits import Add

    Store(store).repository("tiny").change([Add("large.bin", entry)], "large")
    server = serve(store, "--open")
    connection = http.client.HTTPConnection("127.0.0.1", int(server.port), timeout=30)
    connection.request("GET", "/zoo/tiny/resolve/main/large.bin")
    response = connection.getresponse()
    got = hashlib.sha256(response.read(2**20))
    server.process.send_signal(signal.SIGTERM)
    got.update(response.read())
    connection.close()
    assert got.hexdigest() == entry.sha256
    assert server.process.wait(30) == 0
    assert "1 requests (1 2xx)" in server.log.read_text()
