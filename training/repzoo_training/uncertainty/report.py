"""The numbers of an encoder's uncertainty, and their table."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict
from repzoo.report import lay_out

from repzoo_training.uncertainty.metrics import Interval

__all__ = ["ABSTAIN", "BASELINES", "NEIGHBOURS", "Curve", "Record", "Score", "UncertaintyReport"]

#: Number of neighbours that vote, and k of precision@k.
NEIGHBOURS = 10
#: Share of the queries that are not answered.
ABSTAIN = 0.2

#: How `UncertaintyReport.event` says that a neighbour is wrong, with labels.
WITH_ANOTHER_LABEL = "has another label"

#: Description of each score, and whether computing it needs the gallery. Labels allow a vote. Views
#: do not, because each shows another image, but they allow a ratio of distances.
BASELINES: Mapping[str, tuple[str, bool]] = {
    "uncertainty": ("the package's own", False),
    "variance": ("mean log σ² of the posterior", False),
    "norm": ("−‖μ‖: near the origin is unsure", False),
    "reconstruction": ("squared error of the decoder", False),
    "distance": ("to the nearest neighbour", True),
    "vote": (f"share of {NEIGHBOURS} neighbours that disagree with the nearest", True),
    "ratio": ("of the distances to the nearest and to the second nearest", True),
}


class Record(BaseModel):
    """Numbers that a package stores."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(Record):
    """How well one score detects wrong neighbours.

    Attributes:
        name: one of ``BASELINES``.
        r_auroc: probability that a query with a wrong neighbour scores above one with a right one.
        aurc: mean risk over all coverages.
        gain: gain in precision@10 from not answering a fifth of the queries, as a share of an
            oracle's gain. Precision@1 if only one neighbour is right.
        gain_corrupted: the same on corrupted images, all kinds and levels together.
        outside: AUROC against out-of-distribution images, by their name.
        calibration_error: calibration error (ECE), if the score is a probability.
    """

    name: str
    r_auroc: Interval
    aurc: Interval
    gain: Interval
    gain_corrupted: Interval
    outside: dict[str, Interval]
    calibration_error: float | None = None


class Curve(Record):
    """The effect of a corruption, from level 0 to its worst level.

    Attributes:
        uncertainty: mean uncertainty, if the package has one.
        wrong: share of queries with a wrong neighbour.
    """

    uncertainty: tuple[float, ...] | None
    wrong: tuple[float, ...]


class UncertaintyReport(Record):
    """All numbers of one encoder.

    Attributes:
        model: name of the model.
        dataset: name of the test images.
        n_train: number of images in the gallery.
        n_test: number of queries.
        wrong: share of queries with a wrong nearest neighbour.
        oracle_aurc: the smallest area under the risk-coverage curve that any score can have.
        scores: the package's uncertainty and simpler scores.
        permuted: R-AUROC of the first score against shuffled answers, which must be chance.
        corruptions: effect of each kind of corruption.
        risk_coverage: risks at 101 coverages from 0 to 1, by score.
        reliability: (mean uncertainty, share of wrong neighbours) of bins of equal size.
        event: what a wrong neighbour is, as part of a sentence.
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
    event: str = WITH_ANOTHER_LABEL

    def score(self, name: str) -> Score | None:
        """Return the score with this name, or None."""
        return next((score for score in self.scores if score.name == name), None)

    def table(self, width: int | None = None) -> str:
        """Return the numbers as plain text, with 95 % bootstrap intervals over the test images.

        Args:
            width: The length of the lines of a table that has more columns than fit.
        """
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
        table = lay_out([*zip(*rows, strict=True)], width=width)
        return "\n".join([self._headline(), "", table, "", *self._notes()])

    def _headline(self) -> str:
        return (
            f"{self.model} on {self.dataset}: for {100 * self.wrong:.2f} % of {self.n_test:,} test "
            f"images, the nearest of {self.n_train:,} images {self.event}"
        )

    def _notes(self, precision_at: int = NEIGHBOURS) -> list[str]:
        notes = [
            "R-AUROC: probability that a query with a wrong neighbour scores higher than one with "
            "a right neighbour [95 % interval].",
            f"gain: gain in precision@{precision_at} from not answering the most uncertain "
            f"{100 * ABSTAIN:.0f} % of the queries, as a share of an oracle's gain.",
            f"AURC: mean risk over all coverages; the best possible is {self.oracle_aurc:.4f}.",
            f"* needs the gallery.  R-AUROC against shuffled answers: {short(self.permuted)}.",
        ]
        own = self.score("uncertainty")
        if own is not None:
            curves = "; ".join(
                f"{kind} {' '.join(f'{u:.2f}' for u in curve.uncertainty or ())}"
                for kind, curve in self.corruptions.items()
            )
            notes += [
                f"uncertainty: calibration error {own.calibration_error:.4f}; mean at corruption "
                f"levels 0 to 5: {curves}."
            ]
        return notes


def short(interval: Interval, digits: int = 3) -> str:
    """Format as ``value [low, high]``."""
    value, low, high = interval
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
