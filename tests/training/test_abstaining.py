"""The benchmark that compares scores of wrong answers, on the images of the tests."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_scores_are_compared_on_two_kinds_of_answers(tmp_path: Path) -> None:
    table = tmp_path / "abstaining.csv"
    script = ROOT / "training" / "benchmarks" / "abstaining.py"
    package, data = ROOT / "zoo" / "bundled" / "simvae-mnist", ROOT / "tests" / "data" / "mnist"
    command = [sys.executable, script, package, "--data", data, "--csv", table]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 2 * 2 * 3
    for row in rows:
        assert 0.5 < float(row["low"]) <= float(row["value"]) <= float(row["high"]) <= 1
    shares = {(row["images"], row["wrong answer"]): float(row["wrong, %"]) for row in rows}
    assert shares["test", "neighbour"] < 10 < shares["corrupted", "neighbour"]
    assert shares["test", "probe"] < 10 < shares["corrupted", "probe"]


@pytest.mark.slow
def test_content_means_are_wrong_less_often_on_corrupted_images(tmp_path: Path) -> None:
    table = tmp_path / "robust.csv"
    script = ROOT / "training" / "benchmarks" / "robust_abstaining.py"
    package, data = ROOT / "zoo" / "bundled" / "simvae-mnist", ROOT / "tests" / "data" / "mnist"
    command = [sys.executable, script, package, "--data", data, "--csv", table]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    rows = csv.DictReader(table.read_text().splitlines())
    values = {(row["queries"], row["measure"]): float(row["value"]) for row in rows}
    plain = values["corrupted", "wrong by embedding, %"]
    robust = values["corrupted", "wrong by content mean, %"]
    assert values["undegraded", "wrong by embedding, %"] < robust < plain
