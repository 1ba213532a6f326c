"""Measure what several views of a query are worth in retrieval, as rows of a results file.

    python training/benchmarks/several_views.py packages/simvae-mnist --data mnist

Queries are training images that the gallery does not hold; the test split is not used. Each query
is seen in 1, 2 or 4 views: crops as the recipe draws them, or copies degraded by the kinds that a
content posterior may be fitted to, a new kind and strength for each copy. The views are fused by
`Encoder.posterior(images, group=...)`, and the gallery is ranked by the Euclidean distance of the
fused mean to the embeddings of its images. Where the package has a content posterior, its fused
mean is ranked as well, and the plain average of the content means for comparison.

The 90 % intervals of a fused posterior are for the content. "Cover" is the share in which they hold
it, taken as the mean embedding of 16 mild views, over all queries and dimensions. For comparison,
the same for the embedding of one fresh mild view, whose own scatter the intervals of several views
leave out.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator

import numpy as np
import repzoo
import torch
from numpy.typing import NDArray
from repzoo_training.content.fitting import mild
from repzoo_training.data import ImageDataset, load
from repzoo_training.degradations import draw_degraded
from repzoo_training.evaluation.knn import nearest
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.uncertainty.examples import make_views

VIEWS = (1, 2, 4)
#: The 95 % quantile of the standard normal.
_Z = 1.645

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", help="the name or the folder of a package")
    parser.add_argument("--data", required=True, help="its training data, with labels")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    encoder = repzoo.load(arguments.package)
    train = load(arguments.data, "train", size=encoder.config.input.shape)
    order = np.random.default_rng(arguments.seed).permutation(len(train))
    queries, documents, _ = np.split(
        order, [arguments.queries, arguments.queries + arguments.documents]
    )
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        ["model", "queries", "documents", "command", "seen as", "views", "measure", "value"]
    )
    about = [
        encoder.config.name,
        f"{len(queries):,} training images",
        f"{len(documents):,} others",
        "python training/benchmarks/several_views.py PACKAGE --data DATA",
    ]
    for row in measure(encoder, train, queries, documents, arguments.seed):
        writer.writerow([*about, *row])
        sys.stdout.flush()


def measure(
    encoder: repzoo.Encoder,
    train: ImageDataset,
    queries: NDArray[np.int64],
    documents: NDArray[np.int64],
    seed: int,
) -> Iterator[tuple[str, int, str, str]]:
    """Yield (seen as, views, measure, value)."""
    views = find_recipe(encoder.config.facts.recipe).augmentation
    gallery = encoder.embed(train.images[documents])
    labels = train.labels
    if labels is None:
        raise SystemExit(f"{train.name} has no labels")

    def precision(mean: Floats) -> str:
        found = nearest(
            torch.from_numpy(gallery),
            torch.from_numpy(mean),
            k=10,
            distance="euclidean",
            progress=False,
        )
        right = labels[documents][torch.cat(list(found)).numpy()] == labels[queries][:, None]
        return f"{100 * right.mean():.1f}"

    def crops(view: int) -> Pixels:
        return make_views(train, queries, views, seed, view)

    def degraded(view: int) -> Pixels:
        draws = torch.Generator().manual_seed(1000 * seed + view)
        return draw_degraded(train.images[queries], draws)

    fresh = [
        encoder.embed(make_views(train, queries, mild(views), seed, 100 + number))
        for number in range(16)
    ]
    targets = {"the content": np.mean(fresh, axis=0), "a fresh view": fresh[0]}
    kinds: dict[str, Callable[[int], Pixels]] = {
        "crops of the recipe": crops,
        "degraded copies": degraded,
    }
    for name, view in kinds.items():
        seen = np.concatenate([view(number) for number in range(max(VIEWS))])
        for count in VIEWS:
            images = seen[: count * len(queries)]
            group = np.tile(np.arange(len(queries)), count)
            fused = encoder.posterior(images, group=group)
            yield name, count, "precision@10 by the posterior, %", precision(fused.mean)
            if fused.variance is not None:
                covered = _cover(fused.mean, fused.variance, targets["the content"])
                yield name, count, "90 % intervals of the posterior cover the content", covered
            if fused.content_mean is None or fused.content_variance is None:
                continue
            each = encoder.embed(images, robust=True).reshape(count, len(queries), -1)
            yield name, count, "by the average content mean, %", precision(each.mean(0))
            yield name, count, "by the content posterior, %", precision(fused.content_mean)
            for what, target in targets.items():
                covered = _cover(fused.content_mean, fused.content_variance, target)
                yield name, count, f"90 % intervals of the content posterior cover {what}", covered


def _cover(mean: Floats, variance: Floats, target: Floats) -> str:
    return f"{(np.abs(mean - target) < _Z * np.sqrt(variance)).mean():.2f}"


if __name__ == "__main__":
    main()
