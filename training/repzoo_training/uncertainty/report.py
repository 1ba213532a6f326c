"""The numbers of one encoder's uncertainty, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from repzoo_training.uncertainty.scores import Interval

__all__ = ["ABSTAIN", "BASELINES", "NEIGHBOURS", "Curve", "Record", "Score", "UncertaintyReport"]

#: Neighbours that vote, and of precision@k.
NEIGHBOURS = 10
#: Share of the queries that is not answered.
ABSTAIN = 0.2

#: Each score, what it is, and whether it needs the gallery when it is asked. Of labels there is a
#: vote; of views, each of another image, there is none, but a ratio.
BASELINES: Mapping[str, tuple[str, bool]] = {
    "uncertainty": ("the package's", False),
    "variance": ("mean log σ² of the posterior", False),
    "norm": ("−‖μ‖: near the origin is unsure", False),
    "reconstruction": ("squared error of the decoder", False),
    "distance": ("to the nearest neighbour", True),
    "vote": (f"share of {NEIGHBOURS} neighbours that disagree with the nearest", True),
    "ratio": ("of the distances to the nearest and to the second nearest", True),
}


class Record(BaseModel):
    """Numbers that a package keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(Record):
    """How well one score tells which queries are wrong.

    Attributes:
        name: one of ``BASELINES``.
        r_auroc: that a wrong query scores above a right one.
        aurc: mean risk over all coverages.
        gain: of an oracle's gain in precision@10 (@1 where one answer is right) when a fifth of
            the queries is not answered.
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


class Curve(Record):
    """A corruption, from none to the worst of its levels.

    Attributes:
        uncertainty: mean, if the package has one.
        wrong: share of wrong queries.
    """

    uncertainty: tuple[float, ...] | None
    wrong: tuple[float, ...]


class UncertaintyReport(Record):
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
                    short(score.r_auroc),
                    f"{score.aurc.value:.4f}",
                    short(score.gain, 2),
                    short(score.gain_corrupted, 2),
                    *(f"{score.outside[name].value:.3f}" for name in outside),
                )
            )
        return "\n".join([self._headline(), "", *aligned(rows), "", *self._notes()])

    def _headline(self) -> str:
        return (
            f"{self.model} on {self.dataset}: {100 * self.wrong:.2f} % of {self.n_test:,} test "
            f"images have a nearest neighbour of another class among {self.n_train:,}"
        )

    def _notes(self, precision_at: int = NEIGHBOURS) -> list[str]:
        notes = [
            "R-AUROC: that a wrong query scores above a right one [95 % interval].  gain: of what "
            f"an oracle gains in precision@{precision_at} by not answering {100 * ABSTAIN:.0f} % "
            "of the queries.",
            f"AURC: mean risk over all coverages, at best {self.oracle_aurc:.4f}.  * needs the "
            f"gallery.  Shuffled answers: {short(self.permuted)}.",
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
        return notes


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of as many cells each as lines, cells of a column equally wide."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]


def short(interval: Interval, digits: int = 3) -> str:
    """``value [low, high]``."""
    value, low, high = interval
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
