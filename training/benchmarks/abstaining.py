"""Which score knows best that an answer is wrong: the uncertainty, a vote, or the probe's softmax.

    python training/benchmarks/abstaining.py zoo/bundled/simvae-mnist --data mnist \
        --csv docs/results/abstaining.csv

Two kinds of answers may be wrong: the nearest training image may have another label, and the linear
probe may predict another one. The R-AUROC of a score is the probability that a wrong answer scores
above a right one. Queries are the test images, or 1,000 of them with the four corruptions at
levels 1 to 5; intervals resample images. A package's uncertainty is about the first kind of answer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.loading import load as load_package
from repzoo.runtime.encoder import Encoder
from repzoo_training.data import ImageDataset, load
from repzoo_training.uncertainty.corruptions import CORRUPTIONS, LEVELS, corrupt
from repzoo_training.uncertainty.metrics import auroc, auroc_interval, bootstrap
from repzoo_training.uncertainty.questions import ask_of_labels
from repzoo_training.uncertainty.scoring import Scorer
from tables import add_rows

CORRUPTED = 1000
SCORES = {
    "uncertainty": "the package's uncertainty",
    "vote": "vote of 10 neighbours",
    "softmax": "softmax of the linear probe",
}
FIELDS = (
    *("model", "revision", "dataset", "images", "wrong answer", "wrong, %"),
    *("measure", "value", "low", "high"),
)


Measure: TypeAlias = Callable[[Encoder, ImageDataset, ImageDataset], Iterator[tuple[object, ...]]]


def main(description: str | None, fields: Sequence[str], measure: Measure) -> None:
    """Measure a package as the command line says, print the rows, and add them to a table."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package")
    parser.add_argument("--data", required=True, help="labelled images, with a test split")
    parser.add_argument("--csv", type=Path, help="add the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoder = load_package(arguments.package, provider="cpu", threads=1)
    size = encoder.config.input.shape
    train, test = (load(arguments.data, split, size=size) for split in ("train", "test"))
    rows = list(measure(encoder, train, test))
    for row in rows:
        print(*row, sep="\t")
    if arguments.csv:
        add_rows(arguments.csv, fields, rows)


def measure(
    encoder: Encoder, train: ImageDataset, test: ImageDataset
) -> Iterator[tuple[object, ...]]:
    """Yield one row per images, answer and score."""
    question = ask_of_labels(train, test)
    scorer = Scorer(encoder, question)
    sample = np.sort(np.random.default_rng(0).permutation(len(test))[:CORRUPTED])
    degraded = [
        corrupt(test.images[sample], kind, level)
        for kind in CORRUPTIONS
        for level in range(1, LEVELS + 1)
    ]
    (task,) = {probe.task for probe in encoder.config.probes}
    for title, rows, queries in (
        ("test", np.arange(len(test)), [test.images]),
        ("corrupted", sample, degraded),
    ):
        found = [scorer.score(images) for images in queries]
        predicted = [encoder.probe(images, task) for images in queries]
        assert test.labels is not None
        wrong = {
            "neighbour": [~question.right(each.neighbours[:, :1], rows)[:, 0] for each in found],
            "probe": [each.probabilities.argmax(1) != test.labels[rows] for each in predicted],
        }
        scores = {
            "uncertainty": [each.scores["uncertainty"] for each in found],
            "vote": [each.scores["vote"] for each in found],
            "softmax": [1.0 - each.probabilities.max(1) for each in predicted],
        }
        for answer, events in wrong.items():
            event = np.column_stack(events)  # [N, versions of an image]
            for name, values in scores.items():
                yield (
                    *(encoder.config.name, encoder.revision[:12], test.name, title, answer),
                    f"{100 * event.mean():.1f}",
                    f"R-AUROC, {SCORES[name]}",
                    *interval(np.column_stack(values), event),
                )


def interval(score: NDArray[np.float64], wrong: NDArray[np.bool_]) -> tuple[str, str, str]:
    """Return the AUROC and its 95 % interval over images, for ``[N, versions]``."""
    if score.shape[1] == 1:
        found = auroc_interval(score[:, 0], wrong[:, 0], 0)
    else:
        found = bootstrap(lambda s, w: auroc(s.ravel(), w.ravel()), score, wrong, seed=0)
    value, low, high = (f"{each:.3f}" for each in found)
    return value, low, high


if __name__ == "__main__":
    main(__doc__, FIELDS, measure)
