"""What an encoder's uncertainty is worth: measured on test images, beside simpler scores.

Right and wrong are said by labels: a query is wrong if its nearest neighbour among the training
images has another one. Nothing is fitted here, and no score sees the labels of the test images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from repzoo.encoder import Encoder
from tqdm import tqdm

from repzoo_training.data import ImageDataset
from repzoo_training.errors import DataError
from repzoo_training.evaluation.knn import nearest
from repzoo_training.uncertainty.corruptions import CORRUPTIONS, LEVELS, corrupt
from repzoo_training.uncertainty.scores import (
    Interval,
    aurc,
    auroc,
    auroc_interval,
    bootstrap,
    calibration_error,
    gain,
    risk_coverage,
)

__all__ = ["BASELINES", "Curve", "Score", "UncertaintyReport", "measure_uncertainty"]

Pixels: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float64]

#: Neighbours that vote, and of precision@k.
NEIGHBOURS = 10
#: Test images that are corrupted.
CORRUPTED = 2000
#: Share of the queries that is not answered.
ABSTAIN = 0.2

#: Each score, what it is, and whether it needs the gallery when it is asked.
BASELINES: Mapping[str, tuple[str, bool]] = {
    "uncertainty": ("the package's", False),
    "variance": ("mean log σ² of the posterior", False),
    "norm": ("−‖μ‖: near the origin is unsure", False),
    "reconstruction": ("squared error of the decoder", False),
    "distance": ("to the nearest neighbour", True),
    "vote": (f"share of {NEIGHBOURS} neighbours that disagree with the nearest", True),
}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_Record):
    """How well one score tells which queries are wrong.

    Attributes:
        name: one of ``BASELINES``.
        r_auroc: that a wrong query scores above a right one.
        aurc: mean risk over all coverages.
        gain: of an oracle's gain in precision@10 when a fifth of the queries is not answered.
        gain_corrupted: the same on corrupted images, all kinds and levels together.
        outside: AUROC against other images, by their name.
        calibration_error: of a probability.
    """

    name: str
    r_auroc: Interval
    aurc: Interval
    gain: Interval
    gain_corrupted: Interval
    outside: dict[str, Interval]
    calibration_error: float | None = None


class Curve(_Record):
    """A corruption, from none to the worst of its levels.

    Attributes:
        uncertainty: mean, if the package has one.
        wrong: share of wrong queries.
    """

    uncertainty: tuple[float, ...] | None
    wrong: tuple[float, ...]


class UncertaintyReport(_Record):
    """All numbers of one encoder.

    Attributes:
        model: its name.
        dataset: what was measured on.
        n_train: images in the gallery.
        n_test: queries.
        wrong: share of queries with a wrong nearest neighbour.
        oracle_aurc: the least area under the risk-coverage curve that any score can have.
        scores: of the package's uncertainty, and of simpler ones.
        permuted: R-AUROC of the first score against shuffled answers, which must be chance.
        corruptions: by kind.
        risk_coverage: by score, risks at 101 coverages from 0 to 1.
        reliability: (mean uncertainty, share of wrong queries) of bins of equal size.
    """

    model: str
    dataset: str
    n_train: int
    n_test: int
    wrong: float
    oracle_aurc: float
    scores: tuple[Score, ...]
    permuted: Interval
    corruptions: dict[str, Curve]
    risk_coverage: dict[str, tuple[float, ...]]
    reliability: tuple[tuple[float, float], ...] = ()

    def score(self, name: str) -> Score | None:
        """The score of that name."""
        return next((score for score in self.scores if score.name == name), None)

    def table(self) -> str:
        """The numbers as plain text, with 95 % bootstrap intervals over the test images."""
        outside = list(self.scores[0].outside)
        rows = [("score", "R-AUROC", "AURC", "gain", "corrupted", *outside)]
        for score in self.scores:
            rows.append(
                (
                    score.name + " *" * BASELINES[score.name][1],
                    _short(score.r_auroc),
                    f"{score.aurc.value:.4f}",
                    _short(score.gain, 2),
                    _short(score.gain_corrupted, 2),
                    *(f"{score.outside[name].value:.3f}" for name in outside),
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
        ]
        head = (
            f"{self.model} on {self.dataset}: {100 * self.wrong:.2f} % of {self.n_test:,} test "
            f"images have a nearest neighbour of another class among {self.n_train:,}"
        )
        notes = [
            "R-AUROC: that a wrong query scores above a right one [95 % interval].  gain: of what "
            f"an oracle gains in precision@{NEIGHBOURS} by not answering {100 * ABSTAIN:.0f} % of "
            "the queries.",
            f"AURC: mean risk over all coverages, at best {self.oracle_aurc:.4f}.  * needs the "
            f"gallery.  Shuffled answers: {_short(self.permuted)}.",
        ]
        own = self.score("uncertainty")
        if own is not None:
            curves = "; ".join(
                f"{kind} {' '.join(f'{u:.2f}' for u in curve.uncertainty or ())}"
                for kind, curve in self.corruptions.items()
            )
            notes += [
                f"uncertainty: calibration error {own.calibration_error:.4f}; its mean as images "
                f"get worse: {curves}."
            ]
        return "\n".join([head, "", *lines, "", *notes])


def measure_uncertainty(
    encoder: Encoder,
    train: ImageDataset,
    test: ImageDataset,
    outside: Mapping[str, ImageDataset] | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
) -> UncertaintyReport:
    """Measure an encoder's uncertainty, and what simpler scores would do in its place.

    Args:
        encoder: with an uncertainty or without; then only the others are measured.
        train: the gallery, with labels.
        test: queries, with labels.
        outside: other images of the encoder's size, by name.
        seed: of corruptions and resamples.
        progress: show a bar, on a terminal only.

    Raises:
        DataError: if there are no labels.
    """
    if train.labels is None or test.labels is None:
        raise DataError(f"{test.name} has no labels: what is wrong cannot be told")
    measured = _Measured(encoder, train, seed)
    clean = measured.scores(test.images)
    neighbours = measured.neighbours
    agree = train.labels[neighbours] == test.labels[:, None]  # [N, k]
    wrong, precision = ~agree[:, 0], agree.mean(1)

    sample = np.sort(np.random.default_rng([seed, 1]).permutation(len(test))[:CORRUPTED])
    worse: dict[str, list[dict[str, Floats]]] = {kind: [] for kind in CORRUPTIONS}
    curves, precisions = {}, []
    steps = [(kind, level) for kind in CORRUPTIONS for level in range(1, LEVELS + 1)]
    shares = {kind: [float(wrong[sample].mean())] for kind in CORRUPTIONS}
    for kind, level in tqdm(steps, "corruptions", disable=None if progress else True):
        worse[kind].append(measured.scores(corrupt(test.images[sample], kind, level, seed)))
        agree = train.labels[measured.neighbours] == test.labels[sample][:, None]
        shares[kind].append(float((~agree[:, 0]).mean()))
        precisions.append(agree.mean(1))
    for kind in CORRUPTIONS:
        means = None
        if "uncertainty" in clean:
            start = clean["uncertainty"][sample].mean()
            means = tuple(
                float(m) for m in (start, *(s["uncertainty"].mean() for s in worse[kind]))
            )
        curves[kind] = Curve(uncertainty=means, wrong=tuple(shares[kind]))

    others = {name: measured.scores(dataset.images) for name, dataset in (outside or {}).items()}
    others |= {f"{kind} {LEVELS}": levels[-1] for kind, levels in worse.items()}
    all_precision = np.concatenate(precisions)
    scores = []
    for name, values in clean.items():
        corrupted = np.concatenate([levels[name] for kind in worse.values() for levels in kind])
        scores.append(
            Score(
                name=name,
                r_auroc=auroc_interval(values, wrong, seed),
                aurc=bootstrap(aurc, values, wrong, seed=seed),
                gain=bootstrap(_gain, values, precision, seed=seed),
                gain_corrupted=bootstrap(_gain, corrupted, all_precision, seed=seed),
                outside={
                    other: _outside(values, theirs[name], seed) for other, theirs in others.items()
                },
                calibration_error=(
                    calibration_error(values, wrong) if name == "uncertainty" else None
                ),
            )
        )
    first = next(iter(clean.values()))
    random = np.random.default_rng([seed, 2])
    shuffled = [auroc(first, random.permutation(wrong)) for _ in range(200)]
    low, high = np.percentile(shuffled, [2.5, 97.5])
    return UncertaintyReport(
        model=encoder.config.name,
        dataset=test.name,
        n_train=len(train),
        n_test=len(test),
        wrong=float(wrong.mean()),
        oracle_aurc=aurc(wrong.astype(np.float64), wrong),
        scores=tuple(scores),
        permuted=Interval(float(np.mean(shuffled)), float(low), float(high)),
        corruptions=curves,
        risk_coverage={name: _at_percents(values, wrong) for name, values in clean.items()},
        reliability=_reliability(clean["uncertainty"], wrong) if "uncertainty" in clean else (),
    )


class _Measured:
    """All scores of images under one encoder, against one gallery."""

    def __init__(self, encoder: Encoder, train: ImageDataset, seed: int) -> None:
        self._encoder = encoder
        self._gallery = torch.from_numpy(encoder.embed(train.images))  # [M, D]
        assert train.labels is not None
        self._labels = train.labels
        #: of the images that were scored last, int64 ``[N, k]``.
        self.neighbours: NDArray[np.int64] = np.empty((0, NEIGHBOURS), np.int64)

    def scores(self, images: Pixels) -> dict[str, Floats]:
        """High is unsure; float64 ``[N]`` each, by name, in the order of ``BASELINES``."""
        encoder, config = self._encoder, self._encoder.config
        outputs = encoder.outputs(images)
        embedding = outputs["embedding"]
        found: dict[str, NDArray[np.floating]] = {}
        if config.uncertainty is not None:
            found["uncertainty"] = encoder.uncertainty_of(outputs, images)
        if config.has_posterior:
            found["variance"] = outputs["log_variance"].mean(1)
        found["norm"] = -np.linalg.norm(embedding, axis=1)
        if config.has_decoder:
            found["reconstruction"] = encoder.reconstruct(images).error
        query = torch.from_numpy(embedding)
        chunks = nearest(self._gallery, query, k=NEIGHBOURS, distance=config.metric, progress=False)
        self.neighbours = torch.cat(list(chunks)).numpy()
        found["distance"] = self._distance(query, config.metric)
        votes = self._labels[self.neighbours]  # [N, k]
        found["vote"] = (votes != votes[:, :1]).mean(1)
        return {name: np.asarray(values, np.float64) for name, values in found.items()}

    def _distance(self, query: torch.Tensor, metric: str) -> NDArray[np.float32]:
        other = self._gallery[torch.from_numpy(self.neighbours[:, 0])]  # [N, D]
        if metric == "cosine":
            return 1 - torch.cosine_similarity(query, other).numpy()
        distance: NDArray[np.float32] = (query - other).norm(dim=1).numpy()
        return distance


def _gain(score: Floats, quality: Floats) -> float:
    return gain(score, quality, ABSTAIN)


def _outside(inside: Floats, outside: Floats, seed: int) -> Interval:
    both = np.concatenate([inside, outside])
    return auroc_interval(both, np.arange(len(both)) >= len(inside), seed)


def _at_percents(values: Floats, wrong: NDArray[np.bool_]) -> tuple[float, ...]:
    coverage, risk = risk_coverage(values, wrong)
    return tuple(np.interp(np.linspace(0, 1, 101), coverage, risk).tolist())


def _reliability(values: Floats, wrong: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    parts = np.array_split(np.argsort(values, kind="stable"), min(15, len(values)))
    return tuple((float(values[part].mean()), float(wrong[part].mean())) for part in parts)


def _short(interval: Interval, digits: int = 3) -> str:
    value, low, high = interval
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
