"""What abstaining by the uncertainty does to searches by embeddings and by content means.

    python training/benchmarks/robust_abstaining.py zoo/bundled/simvae-mnist --data mnist \
        --csv docs/results/robust-abstaining.csv

The uncertainty of a query is about its nearest neighbour by the embedding. Here, the neighbour is
also the nearest one by the content mean, as in an index built with ``--robust``. Queries are 500
test images, undegraded or with the four corruptions at levels 1 to 5, and documents are 20,000
training images. A neighbour with another label is wrong. Intervals resample images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from abstaining import interval, main
from numpy.typing import NDArray
from repzoo.runtime.encoder import Encoder, unit_length
from repzoo_training.data import ImageDataset
from repzoo_training.uncertainty.corruptions import CORRUPTIONS, LEVELS, corrupt

QUERIES, DOCUMENTS = 500, 20_000
ABSTAIN = 0.5
FIELDS = ("model", "revision", "dataset", "queries", "measure", "value", "low", "high")


def measure(
    encoder: Encoder, train: ImageDataset, test: ImageDataset
) -> Iterator[tuple[object, ...]]:
    """Yield one row per queries and measure."""
    assert train.labels is not None
    assert test.labels is not None
    chosen = np.random.default_rng(1).permutation(len(train))[:DOCUMENTS]
    *documents, _ = _vectors(encoder, train.images[chosen])
    labels = np.asarray(train.labels)[chosen]
    sample = np.random.default_rng(0).permutation(len(test))[:QUERIES]
    images, truth = test.images[sample], np.asarray(test.labels)[sample]
    corrupted = [
        corrupt(images, kind, level) for kind in CORRUPTIONS for level in range(1, LEVELS + 1)
    ]
    for title, queries in (("undegraded", [images]), ("corrupted", corrupted)):
        wrong: list[list[NDArray[np.bool_]]] = [[], []]
        scores = []
        for each in queries:
            *vectors, uncertainty = _vectors(encoder, each)
            scores.append(uncertainty)
            for found, asked, stored in zip(wrong, vectors, documents, strict=True):
                apart = np.square(stored).sum(1) - 2 * asked @ stored.T
                found.append(labels[apart.argmin(1)] != truth)
        plain, robust = (np.column_stack(each) for each in wrong)  # [N, versions of an image]
        score = np.column_stack(scores)
        answered = score <= ABSTAIN
        about = (encoder.config.name, encoder.revision[:12], test.name, title)
        for measured, value in (
            ("wrong by embedding, %", plain.mean()),
            ("wrong by content mean, %", robust.mean()),
            ("mean uncertainty, %", score.mean()),
            (f"answered with abstain {ABSTAIN}, %", answered.mean()),
            ("wrong by content mean among them, %", robust[answered].mean()),
            ("wrong by content mean among the others, %", robust[~answered].mean()),
        ):
            yield *about, measured, f"{100 * value:.1f}", "", ""
        for name, event in (("embedding", plain), ("content mean", robust)):
            yield *about, f"R-AUROC by {name}", *interval(score, event)


def _vectors(encoder: Encoder, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
    """Return embeddings as they are compared, content means, and uncertainties."""
    made = encoder.outputs(images, uncertainty=True, content=True)
    embedding = made["embedding"]
    if encoder.config.metric == "cosine":
        embedding = unit_length(embedding)
    return embedding, made["content_mean"], made["uncertainty"]


if __name__ == "__main__":
    main(__doc__, FIELDS, measure)
