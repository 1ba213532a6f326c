"""precision@10 of rankings with and without uncertainty, on clean and corrupted queries.

    python clients/python/benchmarks/ranking.py --source mnist=FOLDER --source fashion-mnist=FOLDER

The gallery consists of all training images. Queries are test images: clean, and corrupted in four
ways at five levels, as in `zoo evaluate --uncertainty`. A hit is right if it has the query's label.
Constants are chosen with training images and one view of each (as in the recipe) as queries; the
query's own image is removed from the gallery. Test images are not used for this choice. A second
gallery consists of 4/5 of the test images, which neither the encoder nor its uncertainty has seen;
the others are queries, with the same constants.

Every ranking orders the 200 documents with the nearest means. Intervals are paired 95 % bootstrap
intervals over the query images, each with all of its corruptions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
import repzoo
import torch
from numpy.typing import NDArray
from repzoo.runtime.encoder import Encoder, Posterior
from repzoo_client.retrieval import distances
from repzoo_training.data import ImageDataset, load
from repzoo_training.evaluation.knn import nearest
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.uncertainty.corruptions import CORRUPTIONS, LEVELS, corrupt
from repzoo_training.uncertainty.examples import make_views

MODELS = {
    "simvae-mnist": "mnist",
    "simvae-fashion-mnist": "fashion-mnist",
    "vae-mnist": "mnist",
}
K, CANDIDATES, QUERIES, CHOOSE, RESAMPLES = 10, 200, 2000, 4000, 2000

Floats: TypeAlias = NDArray[np.float64]


class Pairs(NamedTuple):
    """n queries ``[n, 1, D]``, and the documents near them ``[n, 200, D]`` and ``[n, 200]``."""

    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    other_mean: NDArray[np.float32]
    other_variance: NDArray[np.float32]
    doubt: NDArray[np.float32]


#: (pairs, constants) -> scores [n, 200]; smaller is nearer.
Ranking: TypeAlias = Callable[..., Floats]


def by_mean(p: Pairs) -> Floats:
    return distances.euclidean(p.mean, p.other_mean)


def by_w2(p: Pairs) -> Floats:
    return distances.wasserstein(*p[:4])


def by_csd(p: Pairs) -> Floats:
    return distances.closed_form_sampled(*p[:4])


def by_raw_likelihood(p: Pairs) -> Floats:
    return -distances.mutual_log_likelihood(*p[:4])


def by_content(p: Pairs, scatter: float = 0.15, inflate: float = 1) -> Floats:
    """Inflate the variances first: the posterior's own are far too small."""
    ours = distances.content_posterior(p.mean, inflate * p.variance, scatter)
    theirs = distances.content_posterior(p.other_mean, inflate * p.other_variance, scatter)
    return -distances.mutual_log_likelihood(*ours, *theirs)


def by_trust(p: Pairs, weight: float) -> Floats:
    return distances.trusted(by_mean(p), p.doubt, weight)


def by_penalty(p: Pairs, weight: float) -> Floats:
    return by_mean(p) + weight * p.doubt


def by_log_trust(p: Pairs, weight: float) -> Floats:
    return by_mean(p) - weight * np.log1p(-np.minimum(p.doubt, 0.9999))


def by_clean_gallery(p: Pairs, limit: float) -> Floats:
    return by_mean(p) + np.where(p.doubt > limit, 1e6, 0)


WEIGHTS = (0.5, 1, 2, 4, 8, 16, 32)
#: name -> (ranking, constants to choose from).
RANKINGS: Mapping[str, tuple[Ranking, tuple[dict[str, float], ...]]] = {
    "mean": (by_mean, ({},)),
    "w2": (by_w2, ({},)),
    "csd": (by_csd, ({},)),
    "raw likelihood": (by_raw_likelihood, ({},)),
    "content": (by_content, ({},)),
    "content, chosen": (
        by_content,
        tuple({"scatter": s, "inflate": a} for s in (0.02, 0.05, 0.15, 0.5) for a in (1, 30, 1000)),
    ),
    "max_uncertainty": (by_clean_gallery, tuple({"limit": u} for u in (0.05, 0.1, 0.2, 0.4, 0.7))),
    "mean + w u": (by_penalty, tuple({"weight": w} for w in WEIGHTS)),
    "mean - w log(1-u)": (by_log_trust, tuple({"weight": w} for w in WEIGHTS)),
    "trusted: mean (1 + w u)": (by_trust, tuple({"weight": w} for w in WEIGHTS)),
}


class Gallery:
    """Embedded images with labels."""

    def __init__(self, posterior: Posterior, labels: NDArray[np.int64]) -> None:
        assert posterior.uncertainty is not None
        self.posterior, self.labels = posterior, labels

    def pairs(
        self, queries: Posterior, own: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[slice, Pairs, NDArray[np.int64]]]:
        """Yield chunks of queries with their 200 nearest documents, and the documents' rows."""
        mean, variance, doubt = self.posterior
        chunks = nearest(
            torch.from_numpy(mean),
            torch.from_numpy(queries.mean),
            k=CANDIDATES + (own is not None),
            distance="euclidean",
            progress=False,
        )
        start = 0
        for chunk in chunks:
            near = chunk.numpy()
            rows = slice(start, start + len(near))
            start += len(near)
            if own is not None:  # leave out the query's own image
                is_own = near == own[rows, None]
                is_own[~is_own.any(1), -1] = True
                near = near[~is_own].reshape(len(near), CANDIDATES)
            pairs = Pairs(
                queries.mean[rows, None],
                queries.variance[rows, None],
                mean[near],
                variance[near],
                doubt[near],
            )
            yield rows, pairs, near

    def precision(
        self,
        queries: Posterior,
        labels: NDArray[np.int64],
        tried: Mapping[str, tuple[Ranking, dict[str, float]]],
        own: NDArray[np.int64] | None = None,
    ) -> dict[str, Floats]:
        """Return precision@10 of every query under every ranking, ``[N]`` each."""
        found = {name: np.empty(len(labels)) for name in tried}
        for rows, pairs, near in self.pairs(queries, own):
            right = self.labels[near] == labels[rows, None]
            for name, (ranking, constants) in tried.items():
                best = np.argsort(ranking(pairs, **constants), axis=1, kind="stable")[:, :K]
                found[name][rows] = np.take_along_axis(right, best, axis=1).mean(1)
        return found


def joined(parts: list[Posterior]) -> Posterior:
    return Posterior(*(np.concatenate(each) for each in zip(*parts, strict=True)))  # type: ignore[type-var]


def taken(posterior: Posterior, rows: NDArray[np.int64]) -> Posterior:
    return Posterior(*(each[rows] for each in posterior if each is not None))


def choose(gallery: Gallery, encoder: Encoder, train: ImageDataset) -> dict[str, dict[str, float]]:
    """Choose the best constants of each ranking, on training images and views of them."""
    rows = np.sort(np.random.default_rng(7).permutation(len(train))[:CHOOSE])
    spec = find_recipe(encoder.config.facts.recipe).augmentation
    views = encoder.posterior(make_views(train, rows, spec, 0, 100))
    queries = joined([taken(gallery.posterior, rows), views])
    tried = {
        f"{name} {constants}": (ranking, constants)
        for name, (ranking, grid) in RANKINGS.items()
        for constants in grid
        if len(grid) > 1
    }
    found = gallery.precision(queries, np.tile(gallery.labels[rows], 2), tried, np.tile(rows, 2))
    print(f"\n{encoder.config.name}, precision@10 on {2 * CHOOSE:,} training queries:")
    chosen = {}
    for name, (_, grid) in RANKINGS.items():
        scores = [100 * found[f"{name} {c}"].mean() if len(grid) > 1 else 0 for c in grid]
        chosen[name] = grid[int(np.argmax(scores))]
        if len(grid) > 1:
            listed = ", ".join(
                f"{'/'.join(f'{v:g}' for v in c.values())}: {s:.2f}"
                for c, s in zip(grid, scores, strict=True)
            )
            print(f"  {name}: {listed}")
    return chosen


def table(
    title: str,
    gallery: Gallery,
    clean: Posterior,
    corrupted: list[Posterior],
    labels: NDArray[np.int64],
    chosen: Mapping[str, dict[str, float]],
) -> None:
    """Print precision@10 of every ranking, and its difference from that of `mean`."""
    tried = {name: (ranking, chosen[name]) for name, (ranking, _) in RANKINGS.items()}
    times = len(corrupted)
    on_clean = gallery.precision(clean, labels, tried)
    worse = gallery.precision(joined(corrupted), np.tile(labels, times), tried)
    kinds = len(CORRUPTIONS)
    by_kind = {name: values.reshape(kinds, LEVELS, -1) for name, values in worse.items()}
    print(
        f"\n**{title}**, {len(gallery.labels):,} images; {len(labels):,} queries, {times} times\n"
    )
    head = f"clean | difference | {' | '.join(CORRUPTIONS)} | corrupted | difference"
    print(f"| ranking | constants | {head} |")
    print(f"| --- | --- |{' ---: |' * (kinds + 4)}")
    draws = np.random.default_rng(0).integers(0, len(labels), (RESAMPLES, len(labels)))
    for name, values in by_kind.items():
        each = " | ".join(f"{100 * kind.mean():.2f}" for kind in values)
        constants = ", ".join(f"{key} {value:g}" for key, value in chosen[name].items()) or ""
        first = difference(on_clean[name] - on_clean["mean"], draws)
        second = difference((values - by_kind["mean"]).mean((0, 1)), draws)
        print(
            f"| {name} | {constants} | {100 * on_clean[name].mean():.2f} | {first} | {each} | "
            f"{100 * values.mean():.2f} | {second} |"
        )


def difference(gained: Floats, draws: NDArray[np.int64]) -> str:
    """Format the mean over the images, in points, with its bootstrap interval."""
    if not gained.any():
        return ""
    low, high = np.percentile(100 * gained[draws].mean(1), [2.5, 97.5])
    return f"{100 * gained.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def calibration(gallery: Gallery, sets: Mapping[str, tuple[Posterior, NDArray[np.int64]]]) -> None:
    """Print how often hits are right, and how often they should be according to the uncertainty."""
    for name, (queries, labels) in sets.items():
        chunks = gallery.pairs(queries)
        right = [gallery.labels[near[:, :K]] == labels[rows, None] for rows, _, near in chunks]
        nearest_right, all_right = np.concatenate(right)[:, 0].mean(), np.concatenate(right).mean()
        said = 1 - float(np.mean(queries.uncertainty))  # type: ignore[arg-type]
        print(f"{name}: probability {said:.3f}; right: nearest {nearest_right:.3f}, ", end="")
        print(f"of ten hits {all_right:.3f}")


def measure(name: str, train: ImageDataset, test: ImageDataset) -> None:
    assert train.labels is not None
    assert test.labels is not None
    encoder = repzoo.load(name, threads=1)
    gallery = Gallery(encoder.posterior(train.images), train.labels)
    chosen = choose(gallery, encoder, train)

    sample = np.sort(np.random.default_rng([0, 1]).permutation(len(test))[:QUERIES])
    clean, labels = encoder.posterior(test.images[sample]), test.labels[sample]
    corrupted = [
        encoder.posterior(corrupt(test.images[sample], kind, level))
        for kind in CORRUPTIONS
        for level in range(1, LEVELS + 1)
    ]
    model = f"{name} {encoder.revision[:12]}"
    table(f"{model}, training images", gallery, clean, corrupted, labels, chosen)
    rest = np.setdiff1d(np.arange(len(test)), sample)
    unseen = Gallery(encoder.posterior(test.images[rest]), test.labels[rest])
    table(f"{model}, unseen images", unseen, clean, corrupted, labels, chosen)
    every = np.tile(labels, len(corrupted))
    print()
    calibration(gallery, {"clean": (clean, labels), "corrupted": (joined(corrupted), every)})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, action="append", help="default: all")
    parser.add_argument("--source", action="append", default=[], metavar="DATASET=FOLDER")
    arguments = parser.parse_args()
    sources = dict(source.split("=", 1) for source in arguments.source)
    torch.set_num_threads(1)
    for model in arguments.model or MODELS:
        source = sources.get(MODELS[model], MODELS[model])
        train, test = (load(source, split, progress=False) for split in ("train", "test"))
        measure(model, train, test)


if __name__ == "__main__":
    main()
