"""100,000 posteriors in an index: loading, searching and recall, compared with NumPy brute force.

    python clients/python/benchmarks/index.py --source mnist=FOLDER --source fashion-mnist=FOLDER

The documents are posteriors of MNIST and FashionMNIST images by `simvae-mnist`; 256 other images
are the queries. Brute force is a matrix product and a partial sort over the same vectors. Recall is
the share of its ten nearest documents that the index finds. Everything runs in one thread; set
OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import repzoo
from numpy.typing import NDArray
from repzoo.runtime.encoder import Posterior
from repzoo_client.retrieval import PosteriorIndex, distances
from repzoo_client.retrieval.layout import IndexType
from repzoo_client.retrieval.ranking import CANDIDATES, TRUST_WEIGHT, Metric
from repzoo_training.data import load
from threadpoolctl import threadpool_limits

DOCUMENTS, QUERIES, K = 100_000, 256, 10

Floats = NDArray[np.float64]


def posteriors(sources: dict[str, str]) -> Posterior:
    """Return the posteriors of all images of both data sets, in random order."""
    encoder = repzoo.load("simvae-mnist", threads=1)
    parts = [
        encoder.posterior(load(sources.get(name, name), split, progress=False).images)
        for name in ("mnist", "fashion-mnist")
        for split in ("train", "test")
    ]
    order = np.random.default_rng(0).permutation(sum(len(part.mean) for part in parts))
    whole = (np.concatenate(each)[order] for each in zip(*parts, strict=True))  # type: ignore[type-var]
    return Posterior(*whole)


class BruteForce:
    """Finds the ten nearest documents of one query at a time, with NumPy."""

    def __init__(self, documents: Posterior, scatter: float) -> None:
        self.documents, self.scatter = documents, scatter
        mean, variance, _ = documents
        radius = np.sqrt(variance.sum(1, keepdims=True))
        self.vectors = {
            "mean": mean,
            "w2": np.concatenate([mean, np.sqrt(variance)], axis=1),
            "csd": np.concatenate([mean, radius], axis=1),
        }
        self.squares = {name: np.square(v).sum(1) for name, v in self.vectors.items()}

    def __call__(self, query: Posterior, metric: Metric) -> NDArray[np.int64]:
        mean, variance = query.mean[0], query.variance[0]
        reranked = metric in ("content", "trusted")
        space = "mean" if reranked else metric
        vector = {
            "mean": mean,
            "w2": np.concatenate([mean, np.sqrt(variance)]),
            "csd": np.append(mean, np.float32(0)),
        }[space]
        near = self.squares[space] - 2 * self.vectors[space] @ vector
        count = K * CANDIDATES if reranked else K
        rows = np.argpartition(near, count)[:count]
        scores: Floats = near[rows].astype(np.float64)
        if reranked:
            mean_d, variance_d, doubt = (each[rows] for each in self.documents if each is not None)
            if metric == "trusted":
                scores = distances.trusted(distances.euclidean(mean, mean_d), doubt, TRUST_WEIGHT)
            else:
                scores = -distances.mutual_log_likelihood(
                    mean, variance + self.scatter, mean_d, variance_d + self.scatter
                )
        return rows[np.argsort(scores)[:K]]


def timed(what: Callable[[], object]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def rows(posterior: Posterior, part: slice) -> Posterior:
    return Posterior(*(each[part] for each in posterior))  # type: ignore[index]


def measure(
    index_type: IndexType, documents: Posterior, queries: Posterior, folder: Path
) -> list[str]:
    """Return the lines of the table for one index type."""
    ids = [f"{number:06d}" for number in range(len(documents.mean))]
    index = PosteriorIndex.create(folder, model="simvae-mnist", dim=10, index_type=index_type)
    load_seconds = timed(lambda: index.add(ids, *documents))
    flush_seconds = timed(index.close)
    index = PosteriorIndex.open(folder)
    first = timed(lambda: index.search(*rows(queries, slice(0, 1))))
    brute = BruteForce(documents, index.info.scatter)
    lines = []
    loading = f"{load_seconds:.1f} + {flush_seconds:.1f} s"
    for metric in get_args(Metric):
        found: list[list[str]] = []

        def search(metric: Metric = metric, found: list[list[str]] = found) -> None:
            answers = index.search(*queries, k=K, metric=metric)
            found += [[hit.id for hit in answer.hits] for answer in answers]

        ours = timed(search) / QUERIES
        single = min(
            timed(lambda i=i, m=metric: index.search(*rows(queries, slice(i, i + 1)), metric=m))
            for i in range(5)
        )
        expected: list[list[str]] = []

        def brute_force(metric: Metric = metric, expected: list[list[str]] = expected) -> None:
            for i in range(QUERIES):
                best = brute(rows(queries, slice(i, i + 1)), metric)
                expected.append([ids[row] for row in best])

        theirs = timed(brute_force) / QUERIES
        recall = np.mean([len({*a} & {*b}) / K for a, b in zip(found, expected, strict=True)])
        lines.append(
            f"| {index_type} | {loading} | {first:.2f} s | {metric} | {1e3 * single:.0f} | "
            f"{1e3 * ours:.1f} | {1e3 * theirs:.2f} | {ours / theirs:.1f} | {recall:.4f} |"
        )
        loading = ""
    index.close()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", action="append", default=[], metavar="DATASET=FOLDER")
    parser.add_argument("--index-type", choices=get_args(IndexType), action="append")
    arguments = parser.parse_args()
    with threadpool_limits(1):
        everything = posteriors(dict(source.split("=", 1) for source in arguments.source))
        documents = rows(everything, slice(0, DOCUMENTS))
        queries = rows(everything, slice(DOCUMENTS, DOCUMENTS + QUERIES))
        print(
            "| index | load + flush | first search | metric | ms, one query | ms per query, "
            f"{QUERIES:,} at once | numpy | ratio | recall@{K} |"
        )
        print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
        for index_type in arguments.index_type or ("IVF_FLAT", "FLAT", "HNSW"):
            with tempfile.TemporaryDirectory() as folder:
                for line in measure(index_type, documents, queries, Path(folder) / "index"):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
