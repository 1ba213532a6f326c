"""Models that change while the server runs: the watched file, hot swaps, failures."""

from __future__ import annotations

import base64
import gc
import io
import logging
import shutil
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import repzoo
from PIL import Image
from repzoo_serving.models.loading import Loader
from repzoo_serving.models.references import read_references
from repzoo_serving.models.watch import Watcher

Eventually = Callable[[Callable[[], object]], None]


def good(model: str = "tiny") -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(buffer, "PNG")
    return {"model": model, "images": [base64.b64encode(buffer.getvalue()).decode()]}


def ask(url: str, model: str = "tiny") -> httpx.Response:
    return httpx.post(f"{url}/embed", json=good(model), timeout=30)


@pytest.fixture(scope="module")
def other_tiny(make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another revision of "tiny"."""
    return make_package(tmp_path_factory.mktemp("other"), "tiny", seed=1)


class Watched:
    """A live application that watches a file, and checks it when the test says so."""

    def __init__(self, live: Callable[..., Any], hub: Path, folder: Path) -> None:
        self.server = live()
        self.file = folder / "wanted"
        self.loader = Loader(self.server.app.served, hub=str(hub), provider="cpu")
        self.watcher = Watcher(self.file, self.server.app.models, self.loader)

    def want(self, *references: object) -> None:
        self.file.write_text("".join(f"{reference}\n" for reference in references))
        self.server.run(self.watcher.converge())

    def revisions(self) -> dict[str, str]:
        models = self.server.http.get("/models").json()["models"]
        return {model["name"]: model["revision"] for model in models}

    def failed(self) -> dict[str, str]:
        failed = self.server.http.get("/models").json()["failed"]
        return {each["reference"]: each["reason"] for each in failed}


@pytest.fixture
def watched(live: Callable[..., Any], tiny_package: Path, tmp_path: Path) -> Any:
    made = Watched(live, tiny_package.parent, tmp_path)
    yield made
    made.watcher.close()


def revision(package: Path) -> str:
    return repzoo.Package.open(package).revision


def test_what_the_file_says_is_served_and_nothing_else(
    watched: Watched, tiny_package: Path, plain_package: Path
) -> None:
    watched.want(tiny_package, plain_package)
    assert watched.revisions() == {
        "tiny": revision(tiny_package),
        "plain": revision(plain_package),
    }
    url = watched.server.url
    assert ask(url, "plain").status_code == 200
    loaded = watched.server.app.models.get("tiny")
    watched.want(tiny_package)
    assert watched.revisions().keys() == {"tiny"}
    assert ask(url, "plain").status_code == 404
    # A model that stays is not loaded again.
    assert watched.server.app.models.get("tiny") is loaded


def test_a_canary_and_its_rollback_are_one_line_each(
    watched: Watched, tiny_package: Path, other_tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "repzoo_serving")
    old, new = revision(tiny_package), revision(other_tiny)
    watched.want("tiny", f"canary={other_tiny}")
    assert watched.revisions() == {"tiny": old, "canary": new}
    response = ask(watched.server.url, "canary").json()
    assert (response["model"], response["revision"]) == ("canary", new)
    caplog.clear()
    watched.want("tiny", "canary=tiny")
    assert watched.revisions() == {"tiny": old, "canary": old}
    watched.want("tiny", "canary=nope")
    assert watched.revisions() == {"tiny": old, "canary": old}
    assert watched.failed() == {"canary=nope": "ModelNotFound"}
    watched.want("tiny", "tiny=tiny", "Canary=tiny")
    assert watched.revisions() == {"tiny": old}
    assert watched.failed() == {"tiny=tiny": "InvalidInput", "Canary=tiny": "InvalidInput"}
    failed, *_ = [each for each in caplog.records if each.levelno == logging.ERROR]
    said = failed.getMessage()
    assert said.startswith("canary=nope cannot be served: ")
    assert f"; canary keeps revision {old[:12]}, after 0." in said
    assert (failed.model, failed.old_revision) == ("canary", old)  # type: ignore[attr-defined]
    assert failed.seconds >= 0  # type: ignore[attr-defined]
    changes = [each for each in caplog.records if each.levelno == logging.INFO]
    assert [each.getMessage().partition(", in ")[0] for each in changes] == [
        f"replaced canary, revision {new[:12]} by {old[:12]}",
        f"unloaded canary, revision {old[:12]}",
    ]
    assert (changes[0].old_revision, changes[0].revision) == (new, old)  # type: ignore[attr-defined]


def test_a_swap_loses_no_request_and_ends_each_with_the_model_it_found(
    watched: Watched, other_tiny: Path, eventually: Eventually
) -> None:
    server = watched.server
    (old,) = watched.revisions().values()
    model = server.app.models.get("tiny")
    server.gate.shut()
    with ThreadPoolExecutor(2) as pool:
        early = [pool.submit(ask, server.url)]
        server.gate.wait_for_a_run()
        early.append(pool.submit(ask, server.url))
        eventually(lambda m=model: sum(m.queued().values()) == 1)  # type: ignore[misc]
        watched.want(other_tiny)
        # The new model responds while the old one is still running.
        assert ask(server.url).json()["revision"] == revision(other_tiny)
        assert not any(request.done() for request in early)
        server.gate.open()
        for request in early:
            assert request.result().status_code == 200
            assert request.result().json()["revision"] == old
    # The old model accepts no more runs and is garbage.
    with pytest.raises(RuntimeError):
        model.runner.submit(print)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_swaps_under_load(
    watched: Watched, tiny_package: Path, other_tiny: Path, eventually: Eventually
) -> None:
    server = watched.server
    stop = threading.Event()
    answers: list[tuple[int, str, float]] = []

    def call() -> None:
        with httpx.Client(base_url=server.url, timeout=30) as http:
            while not stop.is_set():
                response = http.post("/embed", json=good())
                document = response.json()
                number = document["embeddings"][0][0] if response.status_code == 200 else 0
                answers.append((response.status_code, document.get("revision"), number))

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(call) for _ in range(4)]
        for package in (other_tiny, tiny_package) * 3:
            watched.want(package)
            start, expected = len(answers), revision(package)
            eventually(lambda s=start, e=expected: any(a[1] == e for a in answers[s:]))  # type: ignore[misc]
        stop.set()
        for caller in callers:
            caller.result()
    assert {status for status, _, _ in answers} == {200}
    # Every response comes from the revision that it names.
    by_revision: dict[str, set[float]] = {}
    for _, its, number in answers:
        by_revision.setdefault(its, set()).add(round(number, 4))
    assert set(by_revision) == {revision(tiny_package), revision(other_tiny)}
    assert all(len(numbers) == 1 for numbers in by_revision.values())


def test_what_cannot_be_loaded_takes_nothing_down(
    watched: Watched,
    tiny_package: Path,
    plain_package: Path,
    other_tiny: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(plain_package, broken)
    (broken / "encoder.onnx").write_bytes(b"no graph")
    watched.want("no-such-model", broken, tiny_package, other_tiny, tmp_path / "nowhere")
    assert watched.revisions() == {"tiny": revision(tiny_package)}
    assert watched.failed() == {
        "no-such-model": "ModelNotFound",
        str(broken): "IntegrityError",
        str(other_tiny): "InvalidInput",  # of the same name
        str(tmp_path / "nowhere"): "PackageError",
    }
    assert ask(watched.server.url).status_code == 200
    assert watched.server.http.get("/readyz").status_code == 200
    assert watched.server.metric("repzoo_models_failed") == 4
    assert "encoder.onnx" in caplog.text


def test_a_new_revision_that_is_broken_leaves_the_old_one(
    watched: Watched, tiny_package: Path, other_tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    shutil.copytree(tiny_package, folder)
    watched.want(folder)
    shutil.rmtree(folder)
    shutil.copytree(other_tiny, folder)
    graph = (folder / "encoder.onnx").read_bytes()
    (folder / "encoder.onnx").write_bytes(graph[:-1])
    watched.want(folder)
    assert watched.revisions() == {"tiny": revision(tiny_package)}
    assert watched.failed().keys() == {str(folder)}
    assert ask(watched.server.url).status_code == 200
    (folder / "encoder.onnx").write_bytes(graph)
    watched.want(folder)
    assert watched.revisions() == {"tiny": revision(other_tiny)}
    assert watched.failed() == {}


def test_a_file_that_is_gone_changes_nothing(watched: Watched, tiny_package: Path) -> None:
    watched.want(tiny_package)
    watched.file.unlink()
    watched.server.run(watched.watcher.converge())
    assert watched.revisions().keys() == {"tiny"}


def test_models_say_what_they_take(watched: Watched, tiny_package: Path) -> None:
    watched.want(tiny_package)
    model = watched.server.http.get("/models/tiny").json()
    assert model["memory_bytes"] >= repzoo.Package.open(tiny_package).size
    assert model["provider"] == "CPUExecutionProvider"
    assert (
        watched.server.metric("repzoo_model_memory_bytes", model="tiny") == (model["memory_bytes"])
    )


def test_the_file_has_comments_and_folders_as_seen_from_it(tmp_path: Path) -> None:
    file = tmp_path / "wanted"
    file.write_text("# models\n\n  simvae-mnist  \nvae@0123 # pinned\n./photos\n/a/b\nvae@0123\n")
    with file.open("a") as more:
        more.write("new=vae@v2\nnew=./photos\n/a=b/c\n")
    expected = ["simvae-mnist", "vae@0123", str(tmp_path / "photos"), "/a/b"]
    expected += ["new=vae@v2", f"new={tmp_path / 'photos'}", "/a=b/c"]
    assert read_references(file) == (expected, True)


def test_every_worker_converges(
    server_process: Any,
    tiny_package: Path,
    plain_package: Path,
    other_tiny: Path,
    tmp_path: Path,
    eventually: Eventually,
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(tiny_package, folder / "mine")
    file = folder / "wanted"
    file.write_text("./mine\n")
    arguments = ("--watch", str(file), "--port", "0", "--hub", str(tiny_package.parent))
    env = {"REPZOO_SERVE_WORKERS": "2"}
    with server_process(*arguments, log=tmp_path / "log", env=env) as server:
        url = server.wait_until_ready()

        def converged(expected: dict[str, str]) -> bool:
            """Return whether both workers, known by the prefix of request IDs, serve this."""
            found = {}
            for _ in range(8):
                response = httpx.get(f"{url}/models")
                worker = response.headers["x-request-id"].split("-")[0]
                models = response.json()["models"]
                found[worker] = {model["name"]: model["revision"] for model in models}
            return len(found) == 2 and all(each == expected for each in found.values())

        eventually(lambda: converged({"tiny": revision(tiny_package)}))
        file.write_text(f"./mine\n{plain_package}\nno-such-model\n")
        both = {"tiny": revision(tiny_package), "plain": revision(plain_package)}
        eventually(lambda: converged(both))
        # Another revision takes the folder's place.
        (folder / "mine").rename(tmp_path / "aside")
        shutil.copytree(other_tiny, folder / "mine")
        eventually(lambda: converged({**both, "tiny": revision(other_tiny)}))
        assert server.stop() == 0
