"""The scripts in ``examples`` run on real images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 40 digits and 40 photographs."""
    folder = tmp_path_factory.mktemp("examples")
    for sample, name in (("mnist", "digits"), ("cifar10", "photos")):
        script = ROOT / "tests" / "data" / "unpack.py"
        subprocess.run([sys.executable, script, sample, name], cwd=folder, check=True)
        for path in sorted((folder / name).iterdir())[40:]:
            path.unlink()
    return folder


def run(place: Path, script: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *words],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested() -> None:
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert scripts == {
        "embed_locally.py",
        "embed_with_server.py",
        "search_a_folder.py",
        "train_on_a_folder.py",
    }


def test_embed_with_a_server(server_process: type, place: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with server_process("--models", "simvae-mnist", "--port", "0", log=log) as server:
        url = server.wait_until_ready()
        images = ("digits/0000.png", "digits/0001.png")
        output = run(place, "embed_with_server.py", *images, "--url", url)
    first, *rows = output.splitlines()
    assert first.startswith("2 embeddings of 10 dimensions")
    assert [row.split("  uncertainty")[0] for row in rows] == [
        "digits/0000.png  class 5",
        "digits/0001.png  class 0",
    ]


def test_embed_locally(place: Path) -> None:
    run(place, "embed_locally.py", "digits/0000.png", "digits/0001.png", "--out", "two.npz")
    with np.load(place / "two.npz") as arrays:
        assert arrays["mean"].shape == arrays["variance"].shape == (2, 10)
        assert arrays["uncertainty"].shape == (2,)


def test_search_a_folder(place: Path) -> None:
    output = run(place, "search_a_folder.py", "digits", "digits/0015.png", "--abstain", "1")
    assert "digits/0015.png  distance 0.00" in output
    refused = run(place, "search_a_folder.py", "digits", "digits/0000.png", "--abstain", "0")
    assert "too uncertain to answer" in refused


def test_train_on_a_folder(place: Path) -> None:
    output = run(place, "train_on_a_folder.py", "photos", "--out", "runs/mine", "--seconds", "1")
    assert output.strip().endswith("(10, 32)")
