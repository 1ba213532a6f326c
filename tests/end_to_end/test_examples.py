"""The scripts in ``examples`` run on real images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


Run = Callable[..., str]


@pytest.fixture(scope="module")
def place(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 40 digits and 40 photographs."""
    folder = shutil.copytree(unpacked, tmp_path_factory.mktemp("examples"), dirs_exist_ok=True)
    for name in ("digits", "photos"):
        for path in sorted((folder / name).iterdir())[40:]:
            path.unlink()
    return folder


@pytest.fixture
def run(place: Path, zoo_process: Callable[..., tuple[int, str, str]]) -> Run:
    """``run(script, *words)`` runs an example in `place`, and returns what it prints."""

    def run_example(script: str, *words: str) -> str:
        status, stdout, stderr = zoo_process(words, place, script=ROOT / "examples" / script)
        assert status == 0, stderr
        return stdout

    return run_example


def test_every_example_is_tested() -> None:
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert scripts == {
        "embed_locally.py",
        "embed_with_server.py",
        "search_a_folder.py",
        "train_on_a_folder.py",
    }


def test_embed_with_a_server(server_process: type, run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with server_process("--models", "simvae-mnist", "--port", "0", log=log) as server:
        url = server.wait_until_ready()
        images = ("digits/0000.png", "digits/0001.png")
        output = run("embed_with_server.py", *images, "--url", url)
    first, *rows = output.splitlines()
    assert first.startswith("2 embeddings of 10 dimensions")
    assert [row.split("  uncertainty")[0] for row in rows] == [
        "digits/0000.png  class 5",
        "digits/0001.png  class 0",
    ]


def test_embed_locally(run: Run, place: Path) -> None:
    run("embed_locally.py", "digits/0000.png", "digits/0001.png", "--out", "two.npz")
    with np.load(place / "two.npz") as arrays:
        assert arrays["mean"].shape == arrays["variance"].shape == (2, 10)
        assert arrays["uncertainty"].shape == (2,)


def test_search_a_folder(run: Run) -> None:
    output = run("search_a_folder.py", "digits", "digits/0015.png", "--abstain", "1")
    assert "digits/0015.png  distance 0.00" in output
    refused = run("search_a_folder.py", "digits", "digits/0000.png", "--abstain", "0")
    assert "too uncertain to answer" in refused


def test_train_on_a_folder(run: Run) -> None:
    output = run("train_on_a_folder.py", "photos", "--out", "runs/mine", "--seconds", "1")
    assert output.strip().endswith("(10, 32)")
