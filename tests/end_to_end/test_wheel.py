"""The wheels, built from this tree and used in an environment without this source tree."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*words: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=540,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, ROOT / "clients" / "python"):
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, project, cwd=out)
    return out


@pytest.fixture(scope="module")
def python(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with both wheels and the ``runtime`` extra."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(folder)
    python = folder / "bin" / "python"
    (wheel,) = wheels.glob("repzoo-*.whl")
    (client,) = wheels.glob("repzoo_client-*.whl")
    constraints = ROOT / "constraints.txt"
    words = ("--quiet", "--disable-pip-version-check", "--no-compile", "-c", constraints)
    pip = (sys.executable, "-m", "pip", "--python", python, "install", *words)
    run(*pip, f"{wheel}[runtime]", client, cwd=wheels)
    return python


def test_wheels_hold_code_and_one_model(wheels: Path) -> None:
    (wheel,) = wheels.glob("repzoo-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"repzoo", "repzoo_index", "repzoo_training", "repzoo_serving"}
    models = {name.split("/")[2] for name in names if name.startswith("repzoo/bundled/")}
    assert models == {"simvae-mnist"}
    (client,) = wheels.glob("repzoo_client-*.whl")
    names = zipfile.ZipFile(client).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"repzoo_client"}


def test_the_source_distribution_builds_the_same_wheel(wheels: Path, tmp_path: Path) -> None:
    (sdist,) = wheels.glob("repzoo-*.tar.gz")
    run(sys.executable, "-m", "tarfile", "-e", sdist, tmp_path, cwd=tmp_path)
    (unpacked,) = tmp_path.iterdir()
    words = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path)
    run(*words, unpacked, cwd=tmp_path)
    (ours,), (theirs,) = wheels.glob("repzoo-*.whl"), tmp_path.glob("repzoo-*.whl")
    names = [sorted(zipfile.ZipFile(wheel).namelist()) for wheel in (ours, theirs)]
    assert names[0] == names[1]


def test_embedding_needs_no_torch(python: Path, tmp_path: Path) -> None:
    code = """
import importlib.util, sys
import numpy, repzoo, repzoo_client
assert importlib.util.find_spec("torch") is None
encoder = repzoo.load("simvae-mnist")
embedding = encoder.embed(numpy.zeros((2, 28, 28, 1), numpy.uint8))
print(embedding.shape, encoder.provider, encoder.generate(3, seed=0).images.shape)
"""
    output = run(python, "-c", code, cwd=tmp_path)
    assert output.split("\n")[0].startswith("(2, 10) ")
    assert output.strip().endswith("(3, 28, 28, 1)")


def test_the_zoo_command_works_from_the_wheel_alone(python: Path, tmp_path: Path) -> None:
    zoo = python.with_name("zoo")
    assert "simvae-mnist" in run(zoo, "list", cwd=tmp_path)
    run(zoo, "pull", "simvae-mnist", "--out", tmp_path / "models", cwd=tmp_path)
    run(zoo, "verify", tmp_path / "models" / "simvae-mnist", cwd=tmp_path)
    run(zoo, "verify", "simvae-mnist", cwd=tmp_path)


@pytest.mark.parametrize(("command", "extra"), [("train", "training"), ("serve", "serving")])
def test_a_subcommand_names_the_extra_that_it_needs(
    python: Path, tmp_path: Path, command: str, extra: str
) -> None:
    arguments = {
        "train": ["simvae-mnist", "--data", "mnist", "--out", "run"],
        "serve": ["--models", "simvae-mnist"],
    }
    words = [str(python.with_name("zoo")), command, *arguments[command]]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert f"pip install 'repzoo[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
