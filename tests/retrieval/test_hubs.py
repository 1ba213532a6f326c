"""Degraded documents in a real index of content posteriors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import repzoo
import torch
from numpy.typing import NDArray
from repzoo.runtime.encoder import Encoder
from repzoo_client.retrieval import PosteriorIndex
from repzoo_client.retrieval.ranking import Metric
from repzoo_training.content import FittedContent, fit_content
from repzoo_training.data import ImageDataset, load
from repzoo_training.degradations import FIT, draw_degraded
from repzoo_training.recipes.registry import find_recipe

ROOT = Path(__file__).parents[2]
DATA = str(ROOT / "tests" / "data" / "mnist")
FITTED, DOCUMENTS, QUERIES, K = 1000, 1000, 200, 10

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return repzoo.load(ROOT / "zoo" / "bundled" / "simvae-mnist", provider="cpu", threads=1)


@pytest.fixture(scope="module")
def train() -> ImageDataset:
    return load(DATA, "train", progress=False)


@pytest.fixture(scope="module")
def fitted(encoder: Encoder, train: ImageDataset) -> FittedContent:
    first = ImageDataset(train.name, train.images[:FITTED], classes=train.classes)
    views = find_recipe("simvae-mnist").augmentation
    return fit_content(encoder, first, views, copies=15_000, progress=False)


def content(
    encoder: Encoder, fitted: FittedContent, images: NDArray[np.uint8]
) -> tuple[Floats, Floats]:
    """The content means and variances ``[N, D]`` of images."""
    inputs = [images, *encoder.outputs(images).values()]
    mean, variance = fitted.head(*map(torch.from_numpy, inputs))
    return mean.numpy(), variance.numpy()


def test_the_log_term_keeps_degraded_documents_from_being_hubs(
    encoder: Encoder, fitted: FittedContent, train: ImageDataset, index_place: Path
) -> None:
    test = load(DATA, "test", progress=False)
    assert train.labels is not None
    assert test.labels is not None
    images = train.images[FITTED : FITTED + DOCUMENTS].copy()
    labels = train.labels[FITTED : FITTED + DOCUMENTS]
    vague = np.arange(DOCUMENTS) % 2 == 0
    images[vague] = draw_degraded(images[vague], torch.Generator().manual_seed(0), FIT)
    means, variances = content(encoder, fitted, images)
    queries = content(encoder, fitted, test.images[:QUERIES])

    metrics: tuple[Metric, ...] = ("mean", "robust")
    with PosteriorIndex.create(index_place, model="m", dim=10, posterior="content") as index:
        index.add([*map(str, range(DOCUMENTS))], means, variances)
        found: dict[str, NDArray[np.int64]] = {
            metric: np.array(
                [
                    [int(hit.id) for hit in answer.hits]
                    for answer in index.search(*queries, k=K, metric=metric)
                ]
            )
            for metric in metrics
        }
    total = queries[1][:, None] + variances
    scores = (np.square(queries[0][:, None] - means) / total).sum(-1)
    found["no log"] = np.argsort(scores, 1)[:, :K]

    precision = {
        name: float((labels[rows] == test.labels[:QUERIES, None]).mean())
        for name, rows in found.items()
    }
    share = {name: float(vague[rows].mean()) for name, rows in found.items()}
    # The number of queries that the most frequent hit answers.
    largest = {
        name: Counter(rows.ravel().tolist()).most_common(1)[0][1] for name, rows in found.items()
    }
    # .870 against .875 with this head of 15,000 copies, and .354 without the logarithm.
    assert precision["robust"] > precision["mean"] - 0.01
    assert precision["robust"] > precision["no log"] + 0.1
    assert share["robust"] < 0.65 < 0.9 < share["no log"]
    assert largest["robust"] < largest["no log"] / 2
