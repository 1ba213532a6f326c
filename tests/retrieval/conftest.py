"""Fixtures for tests of the index."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from repzoo.cli import main

COMMAND = [sys.executable, "-c", "from repzoo.cli import main; main()", "index"]
DIGITS = Path(__file__).parents[1] / "data" / "mnist" / "train-00000-of-00001.parquet"


@pytest.fixture(autouse=True)
def _run_once(shared_admissions: None) -> None:
    """Check each package once: many tests load the same one."""


@pytest.fixture
def index_place(tmp_path: Path) -> Path:
    return tmp_path / "index"


class Printed(NamedTuple):
    """The output of a command."""

    stdout: str
    stderr: str


@pytest.fixture
def zoo_index(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Printed]:
    """Run ``zoo index`` and check its exit status.

    It runs in this process, because importing Milvus alone takes seconds.
    """

    def run(*words: object, status: int = 0) -> Printed:
        monkeypatch.setattr(sys, "argv", ["zoo", "index", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = Printed(*capsys.readouterr())
        assert (ended.value.code or 0) == status, printed
        return printed

    return run


# Permissions do not apply to root, unless it drops CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH and
# starts another program. Failing to drop them is fine: then this is not root.
_AS_ANYONE = """
import ctypes, os, sys
if sys.platform == "linux":
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def run_as_anyone() -> Callable[..., Printed]:
    """Run ``zoo index`` in a new process, as a user to whom permissions apply."""

    def run(*words: object, status: int = 0) -> Printed:
        command = [sys.executable, "-c", _AS_ANYONE, *COMMAND, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done
        return Printed(done.stdout, done.stderr)

    return run


@pytest.fixture
def digits(tmp_path: Path) -> Callable[[int], Path]:
    """Make a folder with this number of real digits, in three subfolders."""

    def make(count: int) -> Path:
        root = tmp_path / "digits"
        rows = pq.read_table(DIGITS, columns=["image"]).slice(0, count)["image"].to_pylist()
        for number, row in enumerate(rows):
            path = root / f"part {number % 3}" / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(row["bytes"])
        return root

    return make


@pytest.fixture
def build_killed() -> Callable[[Sequence[object], Path, int, int], int]:
    """Start a build several times and kill it; return how many were killed before their end.

    The last one is killed as soon as it fills the index.
    """

    def run(words: Sequence[object], place: Path, kills: int, seed: int) -> int:
        clock = random.Random(seed)
        killed = 0
        for number in range(kills):
            (place / "source.json").unlink(missing_ok=True)
            process = subprocess.Popen(
                [*COMMAND, "build", *map(str, words)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            # Kill the first two while the index is created, the others while it is filled.
            made = place / ("milvus.db" if number < 2 else "source.json")
            while process.poll() is None and not made.exists():
                time.sleep(0.002)
            if number < kills - 1:
                time.sleep(clock.uniform(0, 0.05 if number < 2 else 0.5))
            killed += process.poll() is None
            process.kill()
            process.wait()
        return killed

    return run


@pytest.fixture
def same_index(zoo_index: Callable[..., object], tmp_path: Path) -> Callable[[Path, Path], None]:
    """Check that two indexes export the same bytes."""

    def check(one: Path, other: Path) -> None:
        files = [tmp_path / "one.npz", tmp_path / "other.npz"]
        for place, file in zip((one, other), files, strict=True):
            zoo_index("export", file, "--index", place)
        first, second = (np.load(file, allow_pickle=False) for file in files)
        with first, second:
            assert first.files == second.files
            assert all(first[name].tobytes() == second[name].tobytes() for name in first.files)

    return check
