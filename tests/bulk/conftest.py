"""Images, and runs of ``zoo embed``."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import repzoo
from PIL import Image

ZOO = [sys.executable, "-c", "from repzoo.cli import main; main()"]


@pytest.fixture(autouse=True)
def _admissions(shared_admissions: None) -> None:
    """Check a package once, not in every test."""


@pytest.fixture(scope="session")
def encoder(tiny_package: Path) -> repzoo.Encoder:
    return repzoo.load(tiny_package, provider="cpu", threads=1)


@pytest.fixture(scope="session")
def make_png() -> Callable[..., bytes]:
    """``make_png(seed)``: a file of noise."""

    def make(seed: int = 0) -> bytes:
        buffer = io.BytesIO()
        rng = np.random.default_rng(seed)
        Image.fromarray(rng.integers(0, 256, (13, 11, 3), dtype=np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def photos(make_png: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 700 images, 3 of which cannot be decoded; shared by all tests."""
    folder = tmp_path_factory.mktemp("source") / "photos"
    for number in range(700):
        path = folder / f"{number // 100}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image" if number in (5, 300, 699) else make_png(number))
    return folder


@pytest.fixture
def start(tiny_package: Path) -> Callable[..., subprocess.Popen[str]]:
    """``start(SOURCE, OUT, *options)`` starts ``zoo embed`` with the model "tiny"."""

    def run(source: object, out: object, *options: str, **env: str) -> subprocess.Popen[str]:
        command = [*ZOO, "embed", str(source), "--out", str(out), *options]
        if "--model" not in options:
            command += ["--model", str(tiny_package)]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )

    return run


@pytest.fixture
def finish(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., Any]:
    """Like ``start``, but wait for the end and return status, stdout and stderr."""

    def run(*arguments: Any, **env: str) -> tuple[int, str, str]:
        process = start(*arguments, **env)
        stdout, stderr = process.communicate(timeout=300)
        return process.returncode, stdout, stderr

    return run
