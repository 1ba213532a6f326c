"""precision@10 of the rankings of `PosteriorIndex`, with degraded queries and degraded documents.

    python clients/python/benchmarks/ranking.py packages/simvae-mnist --data mnist --out ranking.csv

Queries and documents are training images that took no part in fitting the content posterior. Every
query is asked undegraded, and degraded by every kind of the lists "fit" and "validation". The
severities 1 to 5 take turns over the queries, so that each is asked of a fifth of them. One gallery
is undegraded. In one more gallery per list, half of the documents are degraded by the kinds of
that list, at random severities. A hit is right if it has the query's label; for CelebA, the same
hair colour.

All rankings are searches of two indexes, one of the encoder's posteriors and one of content
posteriors. Their documents are written to Milvus and read from it. Candidates are found in memory,
exactly: they are those that Milvus finds, but for documents at equal distances. "robust, no log"
re-ranks the same candidates without the log term. Recall is the share of the ten nearest of all
documents, by the same distance, that a search with candidates finds; it is measured on every fifth
query.

Intervals are 95 % bootstrap intervals over queries, each with all of its degradations. Gains are
paired. The rows of this model in the CSV file are replaced; those of other models stay.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import repzoo
import torch
from numpy.typing import NDArray
from repzoo.runtime.encoder import Encoder, Posterior, unit_length
from repzoo_client.retrieval import Documents, PosteriorIndex, distances
from repzoo_client.retrieval.documents import vectors
from repzoo_client.retrieval.layout import Held
from repzoo_client.retrieval.ranking import CANDIDATES, TRUST_WEIGHT, Metric
from repzoo_client.retrieval.searching import Queries
from repzoo_training.content.fitting import MOST_IMAGES
from repzoo_training.data import load
from repzoo_training.degradations import (
    FIT,
    SEVERITIES,
    TEST,
    VALIDATION,
    Degradation,
    degrade,
    draw_degraded,
)
from repzoo_training.evaluation.tasks import tasks_of
from tqdm import tqdm

K, RESAMPLES = 10, 1000
LISTS: Mapping[str, Mapping[str, Degradation]] = {
    "fit": FIT,
    "validation": VALIDATION,
    "test": TEST,
}

Pixels = NDArray[np.uint8]
Rows = NDArray[np.int64]
Floats = NDArray[np.float64]

NoLog: TypeAlias = Literal["robust, no log"]
NO_LOG: NoLog = "robust, no log"


class Ranking(NamedTuple):
    """A metric on an index of one kind of posterior."""

    posterior: Held
    metric: Metric | NoLog


RANKINGS = (
    Ranking("encoder", "mean"),
    Ranking("encoder", "w2"),
    Ranking("encoder", "csd"),
    Ranking("encoder", "content"),
    Ranking("encoder", "trusted"),
    Ranking("content", "mean"),
    Ranking("content", "trusted"),
    Ranking("content", "robust"),
    Ranking("content", NO_LOG),
)
#: Rankings whose recall is measured.
RERANKED = (
    Ranking("encoder", "trusted"),
    Ranking("content", "trusted"),
    Ranking("content", "robust"),
)
#: Gains are differences from these.
BASELINES = {
    "gain over trusted": Ranking("encoder", "trusted"),
    "gain over content mean": Ranking("content", "mean"),
}


class ExactIndex(PosteriorIndex):
    """An index that finds candidates in memory, in a fraction of the time of Milvus Lite."""

    stored: Documents

    def keep(self, documents: Documents) -> None:
        """Set the documents to search."""
        self.stored = documents
        self._vectors = {
            field: vectors(documents.mean, documents.variance, field)
            for field in ("mean", "deviation", "radius")
        }

    def _ask(self, queries: Queries, field: str, limit: int, expression: str) -> list[Documents]:
        assert not expression
        stored = self._vectors[field]
        asked = vectors(queries.mean, queries.variance, field, query=True)
        # Squared distances, but for a constant of each query.
        apart = np.square(stored).sum(1) - 2 * asked @ stored.T
        near = np.argpartition(apart, limit, axis=1)[:, :limit]
        near = np.take_along_axis(near, np.take_along_axis(apart, near, 1).argsort(1), 1)
        return [self._take(rows) for rows in near]

    def _take(self, rows: Rows) -> Documents:
        of = self.stored
        return Documents(
            [of.ids[row] for row in rows],
            of.mean[rows],
            of.variance[rows],
            of.uncertainty[rows],
            [{}] * len(rows),
        )


class Gallery:
    """Both indexes of the same images, whose IDs are their row numbers."""

    def __init__(self, encoder: Encoder, images: Pixels, labels: Rows, place: Path) -> None:
        self.labels, self.encoder = labels, encoder
        self.indexes: dict[Held, ExactIndex] = {}
        posterior = encoder.posterior(images)
        for held in ("encoder", "content"):
            index = ExactIndex.create(
                place / held,
                model=encoder.config.name,
                dim=encoder.config.latent_dim,
                metric=encoder.config.metric,
                posterior=held,
            )
            ids = [f"{row:06d}" for row in range(len(labels))]
            index.add(ids, *gaussian(posterior, held), posterior.uncertainty)
            index.flush()
            assert isinstance(index, ExactIndex)
            self.indexes[held] = index
            index.keep(*index.documents())  # one page, sorted by ID

    def close(self) -> None:
        for index in self.indexes.values():
            index.close()

    def search(self, queries: Posterior) -> dict[Ranking, Rows]:
        """Return the ten nearest documents of each query ``[N, 10]`` by every ranking."""
        found = {}
        for ranking in RANKINGS:
            index = self.indexes[ranking.posterior]
            mean, variance = gaussian(queries, ranking.posterior)
            if ranking.metric == "robust, no log":
                near = hits(index, mean, variance, "mean", K * CANDIDATES)
                found[ranking] = self._without_log(mean, variance, near)
            elif variance is not None or ranking.metric in ("mean", "trusted"):
                found[ranking] = hits(index, mean, variance, ranking.metric, K)
        return found

    def recall(self, queries: Posterior, found: Mapping[Ranking, Rows]) -> dict[Ranking, Floats]:
        """Return the share of the ten nearest of all documents that was found, for some queries."""
        result = {}
        for ranking in RERANKED:
            all_ = self.indexes[ranking.posterior].stored
            mean, variance = gaussian(queries, ranking.posterior)
            if ranking.posterior == "encoder" and self.encoder.config.metric == "cosine":
                mean = unit_length(mean)
            shares = []
            for row in range(0, len(mean), 5):
                if ranking.metric == "trusted":
                    distance = distances.trusted(
                        distances.euclidean(mean[row], all_.mean), all_.uncertainty, TRUST_WEIGHT
                    )
                else:
                    assert variance is not None
                    distance = -distances.mutual_log_likelihood(
                        mean[row], variance[row], all_.mean, all_.variance
                    )
                best = np.argpartition(distance, K)[:K]
                shares.append(np.isin(best, found[ranking][row]).mean())
            result[ranking] = np.array(shares)
        return result

    def _without_log(
        self, mean: NDArray[np.float32], variance: NDArray[np.float32] | None, near: Rows
    ) -> Rows:
        all_ = self.indexes["content"].stored
        assert variance is not None
        total = variance[:, None] + all_.variance[near]  # [N, candidates, D]
        distance = (np.square(mean[:, None] - all_.mean[near]) / total).sum(-1)
        return np.take_along_axis(near, np.argsort(distance, 1, kind="stable")[:, :K], 1)


def gaussian(
    posterior: Posterior, held: Held
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return the mean and variance of one of the two posteriors."""
    if held == "encoder":
        return posterior.mean, posterior.variance
    assert posterior.content_mean is not None
    return posterior.content_mean, posterior.content_variance


def hits(
    index: PosteriorIndex,
    mean: NDArray[np.float32],
    variance: NDArray[np.float32] | None,
    metric: Metric,
    k: int,
) -> Rows:
    answers = index.search(mean, variance, k=k, metric=metric)
    return np.array([[int(hit.id) for hit in answer.hits] for answer in answers])


@dataclass(frozen=True, eq=False)
class Setting:
    """Images and labels of queries and documents."""

    queries: Pixels
    labels: Rows
    documents: Pixels
    document_labels: Rows
    dataset: str
    #: "training images held out from fitting" or "test images".
    source: str


def choose(arguments: argparse.Namespace, encoder: Encoder) -> Setting:
    """Choose queries, and documents that are other images."""
    size = encoder.config.input.shape
    train, test = (
        load(arguments.data, split, size=size, progress=False) for split in ("train", "test")
    )
    task = [task for task in tasks_of(train, test) if task.train.ndim == 1][-1]
    order = np.random.default_rng([0, 0]).permutation(len(train))  # as in `fit_content`
    free = order[MOST_IMAGES:] if arguments.queries == "train" else order
    free = free[task.train_rows[free]]
    answers = np.full(len(train), -1)
    answers[task.train_rows] = task.train
    if arguments.queries == "train":
        rows, free = free[: arguments.n], free[arguments.n :]
        if len(free) < arguments.n:
            raise SystemExit(
                f"{train.name}: only {len(rows) + len(free):,} training images took no part in "
                "fitting; use --queries test"
            )
        queries, labels = train.images[rows], answers[rows]
    else:
        known = np.flatnonzero(task.test_rows)
        rows = np.random.default_rng([0, 7]).permutation(len(known))[: arguments.n]
        queries, labels = test.images[known[rows]], task.test[rows]
    documents = free[: arguments.documents]
    source = "test images" if arguments.queries == "test" else "held-out training images"
    return Setting(queries, labels, train.images[documents], answers[documents], train.name, source)


def rotated(images: Pixels, number: int, kind: str) -> Pixels:
    """Degrade images by one kind; the severities take turns, from another first one per kind."""
    result = images.copy()
    for severity in range(1, SEVERITIES + 1):
        rows = (np.arange(len(images)) + number) % SEVERITIES == severity - 1
        result[rows] = degrade(images[rows], kind, severity, seed=severity)
    return result


def half_degraded(images: Pixels, kinds: Mapping[str, Degradation]) -> Pixels:
    result = images.copy()
    rows = np.random.default_rng(3).permutation(len(images))[: len(images) // 2]
    result[rows] = draw_degraded(images[rows], torch.Generator().manual_seed(3), kinds)
    return result


class Table:
    """Rows of the CSV file."""

    def __init__(self, about: Mapping[str, str]) -> None:
        self.about = about
        self.rows: list[dict[str, str]] = []

    def add(self, place: Mapping[str, str], values: Mapping[Ranking, Floats]) -> None:
        """Add the mean of every ranking's precision ``[N]``, and its gains over the baselines."""
        for ranking, each in values.items():
            self._row(place, ranking, "precision@10, %", 100 * each)
            for measure, base in BASELINES.items():
                if ranking != base and (ranking.posterior == "content" or base.metric != "mean"):
                    self._row(place, ranking, measure, 100 * (each - values[base]))

    def add_recall(self, place: Mapping[str, str], values: Mapping[Ranking, Floats]) -> None:
        for ranking, each in values.items():
            self._row(place, ranking, "recall@10, %", 100 * each)

    def _row(self, place: Mapping[str, str], by: Ranking, measure: str, values: Floats) -> None:
        draws = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
        numbers = (values.mean(), *np.quantile(values[draws].mean(1), (0.025, 0.975)))
        texts = (f"{number:.2f}".replace("-0.00", "0.00") for number in numbers)
        self.rows.append(
            {
                **self.about,
                **place,
                **by._asdict(),
                "measure": measure,
                **dict(zip(("value", "low", "high"), texts, strict=True)),
            }
        )

    def write(self, path: Path) -> None:
        """Replace the rows of this model and these lists in a CSV file."""
        kept = []
        if path.exists():
            ours = {(row["model"], row["list"]) for row in self.rows}
            with path.open(newline="") as file:
                kept = [
                    row for row in csv.DictReader(file) if (row["model"], row["list"]) not in ours
                ]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*self.rows[0]], lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted([*kept, *self.rows], key=lambda row: row["model"]))


def measure(encoder: Encoder, setting: Setting, lists: list[str]) -> Table:
    """Measure all rankings on all queries in all galleries."""
    table = Table(
        {
            "model": encoder.config.name,
            "revision": encoder.revision[:12],
            "dataset": setting.dataset,
            "queries": f"{len(setting.labels):,} {setting.source}",
            "documents": f"{len(setting.document_labels):,} training images",
        }
    )
    clean = encoder.posterior(setting.queries)
    degraded = {
        name: {
            kind: encoder.posterior(rotated(setting.queries, number, kind))
            for number, kind in enumerate(LISTS[name])
        }
        for name in lists
    }
    galleries: list[tuple[str, Pixels, list[str]]] = [("undegraded", setting.documents, lists)]
    galleries += [
        ("half degraded", half_degraded(setting.documents, LISTS[name]), [name]) for name in lists
    ]
    bar = tqdm(total=2 * sum(map(len, degraded.values())) + 1 + len(lists), disable=None)
    for state, images, asked in galleries:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
            gallery = Gallery(encoder, images, setting.document_labels, Path(folder))
            closing.callback(gallery.close)

            def ask(queries: Posterior) -> tuple[dict[Ranking, Floats], dict[Ranking, Floats]]:
                found = gallery.search(queries)  # noqa: B023 - called in this iteration only
                bar.update()
                right = {
                    ranking: (setting.document_labels[rows] == setting.labels[:, None]).mean(1)
                    for ranking, rows in found.items()
                }
                return right, gallery.recall(queries, found)  # noqa: B023

            first, recall = ask(clean)
            for name in asked:
                place = {"gallery": state, "list": name, "kind": "undegraded"}
                table.add(place, first)
                table.add_recall(place, recall)
                of_kind = {kind: ask(queries) for kind, queries in degraded[name].items()}
                place["kind"] = "mean of kinds"
                table.add(place, _mean([each for each, _ in of_kind.values()]))
                table.add_recall(place, _mean([each for _, each in of_kind.values()]))
                for kind, (each, _) in of_kind.items():
                    table.add({**place, "kind": kind}, each)
    bar.close()
    return table


def _mean(values: list[dict[Ranking, Floats]]) -> dict[Ranking, Floats]:
    return {ranking: np.mean([each[ranking] for each in values], axis=0) for ranking in values[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="name or path of a package with a content posterior")
    parser.add_argument("--data", required=True, metavar="SOURCE", help="its training data")
    parser.add_argument(
        "--list",
        dest="lists",
        choices=LISTS,
        action="append",
        help="list of degradations; can be repeated.  [default: fit and validation]",
    )
    parser.add_argument("--queries", choices=("train", "test"), default="train", help="images")
    parser.add_argument("--n", type=int, default=1000, help="number of queries")
    parser.add_argument("--documents", type=int, default=20_000, help="number of documents")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoder = repzoo.load(arguments.model, threads=1)
    if encoder.config.content is None:
        raise SystemExit(
            f"{arguments.model} has no content posterior; add one with zoo calibrate --degrade all"
        )
    table = measure(encoder, choose(arguments, encoder), arguments.lists or ["fit", "validation"])
    table.write(arguments.out)
    print("\n".join(summary(table.rows)))


def summary(rows: list[dict[str, str]]) -> Iterator[str]:
    """Yield a line per ranking, without the single kinds."""
    for row in rows:
        if row["kind"] in ("undegraded", "mean of kinds"):
            about = (row[name] for name in ("gallery", "list", "kind", "posterior", "metric"))
            value = f"{row['value']} [{row['low']}, {row['high']}]"
            yield "  ".join([*about, row["measure"], value])


if __name__ == "__main__":
    main()
