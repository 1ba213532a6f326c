"""Fixtures for tests of the index."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ZOO = [sys.executable, "-c", "from repzoo.cli import main; main()"]


@pytest.fixture(autouse=True)
def _run_once(shared_admissions: None) -> None:
    """Tests load the same package again and again."""


def zoo(*words: object, status: int = 0) -> str:
    """Run the command ``zoo``; what it prints, with what it says on stderr if it fails."""
    done = subprocess.run(
        [*ZOO, *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stdout + done.stderr


@pytest.fixture
def index_place(tmp_path: Path) -> Path:
    return tmp_path / "index"
