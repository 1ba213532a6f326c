"""``run_pending.sh`` as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "data"
PENDING = """
[machine]
python = "3.12"
platforms = []
[data.mnist]
folder = "mnist"
[[run]]
name = "digits"
recipe = "simvae-mnist"
data = "mnist"
priority = 1
minutes = 7
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "pending.toml").write_text(PENDING)
    (tmp_path / "runs" / "gpu" / "wheels").mkdir(parents=True)  # nothing to fetch
    return tmp_path


def run(
    command: Path, folder: Path, *words: str, data: Path | None = DATA
) -> subprocess.CompletedProcess[str]:
    variables = {"PYTHON": sys.executable} | ({"REPZOO_TRIPS_DATA": str(data)} if data else {})
    return subprocess.run(
        [command, "--pending", "pending.toml", *words],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_trip_by_hand(run_pending: Path, here: Path) -> None:
    packed = run(run_pending, here, "pack", "--fetch")
    assert packed.returncode == 0, packed.stderr
    assert "trip 1: " in packed.stdout
    there = {"LUGGAGE": "runs/gpu/luggage", "OUT": "out", "TRIPS_WORK": "work"}
    command = packed.stdout.splitlines()[-1].partition(": ")[2]
    subprocess.run(
        ["sh", "-c", command],
        cwd=here,
        env={**os.environ, **there, "PYTHON": sys.executable},
        check=True,
        capture_output=True,
    )
    unpacked = run(run_pending, here, "unpack", "out")
    assert unpacked.returncode == 0, unpacked.stderr
    assert unpacked.stdout.splitlines()[-2].split() == ["1", "digits", "nothing", "open", "7.0"]
    assert "on trip 1; 1 trips packed; 7 minutes left" in unpacked.stdout
    assert run(run_pending, here, "status").stdout in unpacked.stdout


def test_trips_by_a_local_transport(run_pending: Path, here: Path) -> None:
    went = run(run_pending, here, "go", "--transport", "local:far", "--fetch", "--trips", "2")
    assert went.returncode == 0, went.stderr
    assert "on trip 2; 2 trips packed" in went.stdout
    assert (here / "far" / "work" / "data").exists() is False  # nothing was trained


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pack"], "--data is needed"),
        (["unpack", "nowhere"], "error: nowhere/report.json is not there"),
        (["retry", "digits"], "digits has not failed"),
        (["--pending", "other.toml", "status"], "error: other.toml is not there"),
        (["go", "--transport", "./none"], "./none cannot be run"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    run_pending: Path, here: Path, words: list[str], said: str
) -> None:
    done = run(run_pending, here, *words, data=None if words == ["pack"] else DATA)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
