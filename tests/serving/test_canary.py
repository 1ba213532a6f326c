"""A canary, its promotion and its rollback on a real server under load: no request is lost."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from repzoo.packages.package import Package
from repzoo.store.store import Store

Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture(scope="module")
def hub(
    tiny_package: Path, make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store with two revisions of "tiny", v1 and v2."""
    folder = tmp_path_factory.mktemp("canary")
    store = Store.create(folder / "hub")
    store.publish(Package.open(tiny_package), tag="v1")
    store.publish(Package.open(make_package(folder / "new", "tiny", seed=1)), tag="v2")
    return folder / "hub"


class Load:
    """Clients that send requests to one model, one after another, until told to stop."""

    def __init__(self, url: str, model: str, clients: int) -> None:
        buffer = io.BytesIO()
        Image.fromarray(np.full((8, 8), 77, np.uint8)).save(buffer, "PNG")
        self._body = {"model": model, "images": [base64.b64encode(buffer.getvalue()).decode()]}
        self._url = url
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        #: Status, revision and first number of each response.
        self.answers: list[tuple[int, str, float]] = []
        self._done = [self._pool.submit(self._call) for _ in range(clients)]

    def _call(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as http:
            while not self._stop.is_set():
                response = http.post("/embed", json=self._body)
                answer = response.json()
                first = answer["embeddings"][0][0] if response.status_code == 200 else 0.0
                self.answers.append((response.status_code, answer.get("revision", ""), first))

    def is_answered_by(self, revision: str) -> bool:
        """Whether the newest responses are of this revision."""
        newest = self.answers[-8:]
        return len(newest) == 8 and all(each[1] == revision for each in newest)

    def stop(self) -> None:
        """Wait for the last responses; raises what a client raised."""
        self._stop.set()
        for each in self._done:
            each.result(60)
        self._pool.shutdown()


def test_a_canary_and_its_rollback_lose_no_request(
    hub: Path, server_process: Any, tmp_path: Path, eventually: Eventually
) -> None:
    file = tmp_path / "models.txt"
    file.write_text("photos=tiny@v1\n")
    words = ("--watch", str(file), "--hub", str(hub), "--port", "0")
    with server_process(*words, log=tmp_path / "log") as server:
        url = server.wait_until_ready()

        def revisions() -> dict[str, str]:
            models = httpx.get(f"{url}/models").json()["models"]
            return {model["name"]: model["revision"] for model in models}

        (old,) = revisions().values()
        users = Load(url, "photos", clients=3)
        eventually(lambda: users.is_answered_by(old))

        file.write_text("photos=tiny@v1\ncanary=tiny@v2\n")
        eventually(lambda: "canary" in revisions())
        new = revisions()["canary"]
        assert new != old
        testers = Load(url, "canary", clients=1)
        eventually(lambda: testers.is_answered_by(new))

        file.write_text("photos=tiny@v2\ncanary=tiny@v2\n")
        eventually(lambda: users.is_answered_by(new))

        # The rollback is one edit, of one line.
        file.write_text("photos=tiny@v1\ncanary=tiny@v2\n")
        eventually(lambda: users.is_answered_by(old))

        users.stop()
        testers.stop()
        file.write_text("photos=tiny@v1\n")
        eventually(lambda: revisions() == {"photos": old})
        assert server.stop() == 0

    answers = users.answers + testers.answers
    assert {status for status, _, _ in answers} == {200}
    # Each response comes from the revision that it names.
    numbers = {
        revision: {round(n, 4) for _, r, n in answers if r == revision} for revision in (old, new)
    }
    assert len({each for _, each, _ in answers}) == 2
    assert all(len(each) == 1 for each in numbers.values())
    assert numbers[old] != numbers[new]
