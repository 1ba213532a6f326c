"""A hub on 127.0.0.1 with the reading half of the Hub's API, which misbehaves on command.

Tests get `FaultyHub` as the fixture ``faulty_hub``. To run it as a process, which a test can kill:

    python tests/faulty_hub.py PACKAGE PORT [FILE STALL_AT]
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ORG = "org"


@dataclass
class Request:
    """A request as the server saw it, and the number of response bytes sent."""

    path: str
    start: int
    token: str | None
    sent: int = 0


#: What to do instead of responding well, given the handler, the file and the requested first byte.
Fault = Callable[["Handler", bytes, int], None]


@dataclass
class FaultyHub:
    """Serves every package that is published to it, with the faults given to `misbehave`."""

    port: int = 0
    token: str | None = None
    #: Files by name and commit.
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    faults: list[tuple[str, Fault, int]] = field(default_factory=list)
    #: Set once a response has stalled; it resumes when `released` is set.
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    headers: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> FaultyHub:
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self._server = Server(("127.0.0.1", self.port), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def spec(self) -> str:
        return f"{self.endpoint}/{ORG}"

    def publish(self, package: Path, *, tag: str | None = None, name: str | None = None) -> str:
        """Commit a package's files and return the commit."""
        files = {
            path.relative_to(package).as_posix(): path.read_bytes()
            for path in package.rglob("*")
            if path.is_file()
        }
        return self.commit(name or package.name, files, tag=tag)

    def commit(self, name: str, files: dict[str, bytes], *, tag: str | None = None) -> str:
        commits = self.repositories.setdefault(name, {})
        digest = hashlib.sha256(b"".join(files.values()) + bytes([len(commits)]))
        commit = digest.hexdigest()[:40]
        commits[commit] = {".gitattributes": b"*.onnx filter=lfs\n", **files}
        if tag is not None:
            self.tags.setdefault(name, {})[tag] = commit
        return commit

    def newest(self, name: str) -> str:
        return [*self.repositories[name]][-1]

    def misbehave(self, where: str, fault: Fault, times: int = 1) -> None:
        """Respond with a fault to the next ``times`` requests whose path ends with ``where``."""
        self.faults.append((where, fault, times))

    def fault_for(self, path: str) -> Fault | None:
        for place, (where, fault, times) in enumerate(self.faults):
            if path.endswith(where):
                self.faults[place : place + 1] = [(where, fault, times - 1)] if times > 1 else []
                return fault
        return None

    def sent(self, file: str) -> int:
        """Return the bytes of a file that were sent, over all requests."""
        return sum(each.sent for each in self.requests if each.path.endswith(f"/{file}"))

    def starts(self, file: str) -> list[int]:
        """Return the first bytes that were requested."""
        return [each.start for each in self.requests if each.path.endswith(f"/{file}")]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients disconnect on purpose


class Handler(BaseHTTPRequestHandler):
    hub: FaultyHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self.record = Request(
            path, int(asked[1]) if asked else 0, self.headers.get("Authorization")
        )
        self.hub.requests.append(self.record)
        fault = self.hub.fault_for(path)
        match path.strip("/").split("/"):
            case _ if self.hub.token and self.record.token != f"Bearer {self.hub.token}":
                status(401, "Unauthorized", said="Invalid credentials in Authorization header")(
                    self, b"", 0
                )
            case [org, name, "resolve", commit, *file]:
                files = self.hub.repositories.get(name, {}).get(commit)
                content = None if files is None else files.get("/".join(file))
                if fault is not None:
                    fault(self, content or b"", self.record.start)
                elif content is None:
                    self.fail(404, "RevisionNotFound" if files is None else "EntryNotFound")
                else:
                    self.answer(content, self.record.start)
            case _ if fault is not None:
                fault(self, b"", 0)
            case ["api", "models"]:
                self.answer(json.dumps([*map(self.model, self.hub.repositories)]).encode())
            case ["api", "models", org, name, *_] if (
                org != ORG or name not in self.hub.repositories
            ):
                self.fail(404, "RepoNotFound")
            case ["api", "models", _, name, "refs"]:
                tags = [
                    {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": commit}
                    for tag, commit in self.hub.tags.get(name, {}).items()
                ]
                self.answer(json.dumps({"branches": [], "tags": tags}).encode())
            case ["api", "models", _, name, "commits", "main"]:
                commits = [{"id": commit} for commit in reversed(self.hub.repositories[name])]
                self.answer(json.dumps(commits).encode())
            case ["api", "models", _, name, "revision", revision]:
                commit = self.hub.newest(name) if revision == "main" else revision
                commit = self.hub.tags.get(name, {}).get(commit, commit)
                if commit in self.hub.repositories[name]:
                    self.answer(json.dumps({"id": f"{ORG}/{name}", "sha": commit}).encode())
                else:
                    self.fail(404, "RevisionNotFound")
            case _:
                self.fail(404)

    def model(self, name: str) -> dict[str, Any]:
        files = self.hub.repositories[name][self.hub.newest(name)]
        return {"id": f"{ORG}/{name}", "siblings": [{"rfilename": file} for file in files]}

    def head(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for key, value in {**headers, **self.hub.headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.flush()

    def send(self, data: bytes) -> None:
        for at in range(0, len(data), 2**16):
            self.record.sent += len(data[at : at + 2**16])
            self.wfile.write(data[at : at + 2**16])

    def answer(self, content: bytes, start: int = 0) -> None:
        """Respond correctly."""
        self.begin(content, start)
        self.send(content[start:])

    def begin(self, content: bytes, start: int) -> None:
        size = len(content)
        if start:
            self.head(206, size - start, Content_Range=f"bytes {start}-{size - 1}/{size}")
        else:
            self.head(200, size)

    def fail(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        more = {"X_Error_Code": code} if code else {}
        more |= {"X_Error_Message": message} if message else {}
        self.head(status, 0, **more, **headers)

    def hang_up(self, *, reset: bool = False) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


def cut(at: int, *, reset: bool = False) -> Fault:
    """End the connection after the first ``at`` bytes of the file."""

    def fault(handler: Handler, content: bytes, start: int) -> None:
        handler.begin(content, start)
        handler.send(content[start:at])
        handler.hang_up(reset=reset)

    return fault


def stall(at: int) -> Fault:
    """Stop sending after the first ``at`` bytes, and resume once it is released."""

    def fault(handler: Handler, content: bytes, start: int) -> None:
        handler.begin(content, start)
        handler.send(content[start:at])
        handler.hub.stalled.set()
        handler.hub.released.wait(60)
        handler.send(content[max(at, start) :])

    return fault


def instead(change: Callable[[bytes], bytes]) -> Fault:
    """Serve other content correctly."""

    def fault(handler: Handler, content: bytes, start: int) -> None:
        handler.answer(change(content), start)

    return fault


def endless(handler: Handler, content: bytes, start: int) -> None:
    """Never stop sending."""
    handler.head(200, None, Transfer_Encoding="chunked")
    if content:
        handler.send(b"%x\r\n%b\r\n" % (len(content), content))
    while True:
        handler.send(b"10000\r\n" + bytes(2**16) + b"\r\n")


def drip(handler: Handler, content: bytes, start: int) -> None:
    """Send a byte now and then, forever."""
    handler.head(200, 10**6)
    while not handler.hub.released.wait(0.05):
        handler.send(b" ")


def claim(size: int) -> Fault:
    """Announce a wrong size, and close the connection after the real content."""

    def fault(handler: Handler, content: bytes, start: int) -> None:
        handler.head(200, size)
        handler.send(content[:size])
        handler.hang_up()

    return fault


def status(code: int, error: str = "", said: str = "", **headers: str) -> Fault:
    """Respond with an HTTP status and no body."""

    def fault(handler: Handler, content: bytes, start: int) -> None:
        handler.fail(code, error, said, **headers)

    return fault


def redirect(url: str) -> Fault:
    """Redirect the client to another URL."""
    return status(302, Location=url)


def without_ranges(handler: Handler, content: bytes, start: int) -> None:
    """Send the whole file, whatever part was requested."""
    handler.answer(content)


def serve(package: Path, port: int, file: str = "", stall_at: int = 0) -> None:
    """Serve a package until this process is killed."""
    hub = FaultyHub(port)
    hub.publish(package)
    if file:
        hub.misbehave(file, stall(stall_at))
    with hub:  # the process that waits for "ready" sends requests at once
        print("ready", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:4], *map(int, sys.argv[4:5]))
