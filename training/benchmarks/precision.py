"""Compare the accuracy, size and speed of a run's packages in each precision.

    python training/benchmarks/precision.py runs/simvae-mnist runs/simclr-cifar10 --rounds 5

Exports every run in float32, float16 and int8, and measures k-NN and probes on the embeddings of
each package. images/s is the throughput of `Encoder.embed` on batches of 64: the precisions take
turns, and the median of the rounds counts. The output is a markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import get_args

import numpy as np
import repzoo
from numpy.typing import NDArray
from repzoo.packages.config import Precision
from repzoo_training.data import load
from repzoo_training.evaluation import EvaluationReport
from repzoo_training.export import export_run
from repzoo_training.run import Run

MEASURES = ("knn_euclidean", "knn_cosine", "linear", "mlp")
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=1, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("| run | weights | encoder | images/s | task | k-NN euc | k-NN cos | linear | MLP |")
    print("| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for run in arguments.runs:
        with tempfile.TemporaryDirectory() as folder:
            for line in rows(run, Path(folder), arguments.seconds, arguments.rounds):
                print(line, flush=True)


def rows(run: Path, folder: Path, seconds: float, rounds: int) -> list[str]:
    """Export and measure one run; return a markdown row per precision and task."""
    record = Run(run).read_record()
    if record is None:
        raise SystemExit(f"{run} is not a run: it has no run.json")
    train, test = (
        load(record.source, split, size=record.recipe.input) for split in ("train", "test")
    )
    encoders: dict[Precision, repzoo.Encoder] = {}
    reports: dict[Precision, EvaluationReport] = {}
    for precision in get_args(Precision):
        out = folder / precision
        export_run(run, out, train, test, precision=precision, measures=("knn", "linear", "mlp"))
        encoders[precision] = repzoo.load(out)
        metrics = json.loads((out / "metrics.json").read_bytes())
        reports[precision] = EvaluationReport.model_validate(metrics["evaluation"])
    rates: dict[Precision, list[float]] = {precision: [] for precision in encoders}
    for _ in range(rounds):
        for precision, encoder in encoders.items():
            rates[precision].append(images_per_second(encoder, test.images[:BATCH], seconds))
    lines = []
    for precision, report in reports.items():
        size = (folder / precision / "encoder.onnx").stat().st_size
        rate = statistics.median(rates[precision])
        first = f"`{run.name}` | {precision} | {size / 1e6:.1f} MB | {rate:,.0f}"
        for task in tasks(report):
            found = (report.measure(name, task) for name in MEASURES)
            cells = (f"{100 * m.value:.1f} ± {100 * m.standard_error:.1f}" for m in found if m)
            lines.append(f"| {first} | {task} | {' | '.join(cells)} |")
            first = " | | | "
    return lines


def tasks(report: EvaluationReport) -> list[str]:
    """Return the tasks that have every measure, in the order of the report."""
    found = [{each.task for each in report.measures if each.name == name} for name in MEASURES]
    common = set.intersection(*found)
    return [task for task in dict.fromkeys(each.task for each in report.measures) if task in common]


def images_per_second(encoder: repzoo.Encoder, images: NDArray[np.uint8], seconds: float) -> float:
    count, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds:
        encoder.embed(images)
        count += BATCH
    return count / taken


if __name__ == "__main__":
    main()
