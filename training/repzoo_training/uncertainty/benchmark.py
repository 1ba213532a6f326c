"""Measure an encoder's uncertainty on test images, and compare it with simpler scores.

`repzoo_training.uncertainty.questions` defines when a neighbour is wrong. Nothing is fitted here,
and no score sees the labels of the test images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from repzoo.runtime.encoder import Encoder
from tqdm import tqdm

from repzoo_training.data import ImageDataset
from repzoo_training.errors import DataError
from repzoo_training.uncertainty.corruptions import CORRUPTIONS, LEVELS, corrupt
from repzoo_training.uncertainty.metrics import (
    Interval,
    aurc,
    auroc,
    auroc_interval,
    bootstrap,
    calibration_error,
    gain,
    risk_coverage,
)
from repzoo_training.uncertainty.questions import (
    Question,
    ask_of_answers,
    ask_of_labels,
    ask_of_views,
    is_of_answers,
    is_of_views,
)
from repzoo_training.uncertainty.report import (
    ABSTAIN,
    BASELINES,
    Curve,
    Score,
    UncertaintyReport,
)
from repzoo_training.uncertainty.scoring import Scored, Scorer
from repzoo_training.uncertainty.searches import ViewsReport, chance, other_answers, search
from repzoo_training.views.views import ViewSpec

__all__ = ["BASELINES", "Curve", "Score", "UncertaintyReport", "measure_uncertainty"]

Floats: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64]

#: Number of test images that are corrupted.
CORRUPTED = 2000


def measure_uncertainty(
    encoder: Encoder,
    train: ImageDataset,
    test: ImageDataset,
    outside: Mapping[str, ImageDataset] | None = None,
    *,
    views: ViewSpec | None = None,
    seed: int = 0,
    progress: bool = True,
) -> UncertaintyReport:
    """Measure an encoder's uncertainty and simpler scores.

    Args:
        encoder: the encoder. If it has no uncertainty, only the simpler scores are measured.
        train: the gallery. It needs labels if the uncertainty is about another label.
        test: the queries, with labels under the same condition.
        outside: out-of-distribution images of the encoder's size, by name.
        views: the views that the uncertainty was calibrated with. Needed if the uncertainty is
            about another image, or about another answer.
        seed: decides views, corruptions and resamples.
        progress: show a progress bar on a terminal.

    Returns:
        The report. It is a `ViewsReport` if the uncertainty is about another image.

    Raises:
        DataError: If wrong neighbours cannot be determined, because labels or views are missing or
            every query has the right neighbour.
    """
    of_views = is_of_views(encoder, train, test)
    if of_views:
        question = ask_of_views(train, test, views, seed)
    elif is_of_answers(encoder):
        question = ask_of_answers(encoder, train, test, views, seed)
    else:
        question = ask_of_labels(train, test)
    scorer = Scorer(encoder, question)
    clean = scorer.score(question.queries)
    every = np.arange(len(question.own))
    wrong = int((~question.right(clean.neighbours[:, :1], every)).sum())
    if of_views and not 0 < wrong < len(question.own):
        raise DataError(
            f"{wrong:,} of {len(question.own):,} test images have a wrong neighbour among views, "
            "so right and wrong cannot be compared; choose the recipe whose views the package was "
            "calibrated with"
        )
    sample, worse = _corrupted(scorer, question, seed, progress)
    report = _report(encoder, test, scorer, question, clean, sample, worse, outside or {}, seed)
    if not of_views:
        return report
    assert views is not None  # ask_of_views needs them
    if encoder.config.uncertainty is None:
        return ViewsReport(**dict(report))
    embeddings = encoder.embed(train.images)
    asked = [each for levels in worse.values() for each in levels]
    return ViewsReport(
        **dict(report),
        chance=chance(clean.scores["uncertainty"], seed),
        searches=search(
            encoder, scorer, question, clean, (sample, asked), embeddings, views, test, seed
        ),
        others=other_answers(encoder, clean, train, test, embeddings, seed),
    )


def _corrupted(
    scorer: Scorer, question: Question, seed: int, progress: bool
) -> tuple[Numbers, dict[str, list[Scored]]]:
    """Return the rows of the corrupted queries, and their scores by kind at levels 1 to 5."""
    shuffled = np.random.default_rng([seed, 1]).permutation(len(question.queries))
    sample = np.sort(shuffled[:CORRUPTED])
    worse: dict[str, list[Scored]] = {kind: [] for kind in CORRUPTIONS}
    steps = [(kind, level) for kind in CORRUPTIONS for level in range(1, LEVELS + 1)]
    for kind, level in tqdm(steps, "corruptions", disable=None if progress else True):
        worse[kind].append(scorer.score(corrupt(question.queries[sample], kind, level, seed)))
    return sample, worse


def _report(
    encoder: Encoder,
    test: ImageDataset,
    scorer: Scorer,
    question: Question,
    clean: Scored,
    sample: Numbers,
    worse: Mapping[str, list[Scored]],
    outside: Mapping[str, ImageDataset],
    seed: int,
) -> UncertaintyReport:
    def agree(asked: Scored, rows: Numbers) -> NDArray[np.bool_]:
        return question.right(asked.neighbours[:, : question.precision_at], rows)  # [N, k]

    right = agree(clean, np.arange(len(question.own)))
    wrong, precision = ~right[:, 0], right.mean(1)
    of_worse = {kind: [agree(each, sample) for each in worse[kind]] for kind in worse}
    curves = {}
    for kind, levels in worse.items():
        means = None
        if "uncertainty" in clean.scores:
            start = clean.scores["uncertainty"][sample].mean()
            means = tuple(
                float(m) for m in (start, *(s.scores["uncertainty"].mean() for s in levels))
            )
        shares = (wrong[sample].mean(), *((~each[:, 0]).mean() for each in of_worse[kind]))
        curves[kind] = Curve(uncertainty=means, wrong=tuple(float(share) for share in shares))

    others = {name: scorer.score(dataset.images).scores for name, dataset in outside.items()}
    others |= {f"{kind} {LEVELS}": levels[-1].scores for kind, levels in worse.items()}
    # [N, corruptions]: those of one image are resampled together, so intervals are over images.
    all_precision = np.column_stack([a.mean(1) for levels in of_worse.values() for a in levels])
    scores = []
    for name, values in clean.scores.items():
        corrupted = np.column_stack([a.scores[name] for levels in worse.values() for a in levels])
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
    first = next(iter(clean.scores.values()))
    random = np.random.default_rng([seed, 2])
    shuffled = [auroc(first, random.permutation(wrong)) for _ in range(200)]
    low, high = np.percentile(shuffled, [2.5, 97.5])
    own = clean.scores.get("uncertainty")
    return UncertaintyReport(
        model=encoder.config.name,
        dataset=test.name,
        n_train=len(question.shows),
        n_test=len(question.own),
        wrong=float(wrong.mean()),
        oracle_aurc=aurc(wrong.astype(np.float64), wrong),
        scores=tuple(scores),
        permuted=Interval(float(np.mean(shuffled)), float(low), float(high)),
        corruptions=curves,
        risk_coverage={name: _at_percents(values, wrong) for name, values in clean.scores.items()},
        reliability=() if own is None else _reliability(own, wrong),
        event=question.event,
    )


def _gain(score: Floats, quality: Floats) -> float:
    return gain(score.ravel(), quality.ravel(), ABSTAIN)


def _outside(inside: Floats, outside: Floats, seed: int) -> Interval:
    both = np.concatenate([inside, outside])
    return auroc_interval(both, np.arange(len(both)) >= len(inside), seed)


def _at_percents(values: Floats, wrong: NDArray[np.bool_]) -> tuple[float, ...]:
    coverage, risk = risk_coverage(values, wrong)
    return tuple(np.interp(np.linspace(0, 1, 101), coverage, risk).tolist())


def _reliability(values: Floats, wrong: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    parts = np.array_split(np.argsort(values, kind="stable"), min(15, len(values)))
    return tuple((float(values[part].mean()), float(wrong[part].mean())) for part in parts)
