"""Every method on MNIST for two minutes on one core: none collapses, and all learn.

Takes about 50 minutes on one core, and prints the table. ``REPZOO_CHECK_MNIST`` is a folder with
MNIST, which is downloaded otherwise. ``REPZOO_CHECK_RUNS`` is a folder that keeps the runs, so that
an interrupted test can be resumed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from repzoo_training.evaluation import EvaluationReport
from repzoo_training.objectives import METHODS

SCRIPT = Path(__file__).parents[2] / "training" / "benchmarks" / "methods.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> dict[str, Path]:
    """Return the folder of each method's run."""
    kept = os.environ.get("REPZOO_CHECK_RUNS")
    out = Path(kept) if kept else tmp_path_factory.mktemp("methods")
    source = os.environ.get("REPZOO_CHECK_MNIST", "mnist")
    words = [sys.executable, str(SCRIPT), "--dataset", "mnist", "--budget", "2m"]
    words += ["--source", f"mnist={source}", "--out", str(out), "--jobs", str(os.cpu_count() or 1)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{done.stdout}")
    return {method: out / f"{method}-mnist-0" for method in METHODS}


def knn(run: Path) -> float:
    """Return the better accuracy of both distances, the same rule for every method, in per cent."""
    report = EvaluationReport.model_validate_json((run / "evaluation.json").read_bytes())
    measures = [report.measure(f"knn_{distance}") for distance in ("cosine", "euclidean")]
    return 100 * max(m.value for m in measures if m is not None)


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"random"}))
def test_beats_an_untrained_encoder(runs: dict[str, Path], method: str) -> None:
    assert knn(runs[method]) >= knn(runs["random"]) + 10


@pytest.mark.parametrize("method", sorted(METHODS))
def test_does_not_collapse(runs: dict[str, Path], method: str) -> None:
    metrics = (runs[method] / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in metrics.splitlines()]
    watched = [line["collapsed"] for line in lines if "collapsed" in line]
    assert watched
    assert not any(watched)
