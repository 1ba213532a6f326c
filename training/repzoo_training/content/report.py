"""The numbers of one content posterior, and their table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["ContentReport", "ContentRow", "Group", "Share"]

Group = Literal["clean", "fit", "validation", "test"]


class Record(BaseModel):
    """Numbers that a package stores."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ContentRow(Record):
    """One kind of degradation at one severity.

    Attributes:
        group: The list that the kind belongs to; ``clean`` for undegraded queries.
        kind: Name of the degradation, or ``clean``.
        severity: 0 to 5.
        precision: precision@10 in per cent, by ranking: ``euclidean`` by the embedding, ``mean`` by
            the content mean, ``robust`` by the likelihood that both show the same content.
        coverage: Share of the targets inside the 50, 90 and 99 % regions, per dimension.
        joint: The same for all dimensions together.
        nll: Negative log-likelihood per dimension of the standardised target, in nats.
        sharpness: Geometric mean of the standard deviations, standardised.
        predicted_error: Mean trace of the standardised variance.
        real_error: Mean squared distance of content mean and target, standardised.
    """

    group: Group
    kind: str
    severity: int
    precision: dict[str, float]
    coverage: tuple[float, float, float]
    joint: tuple[float, float, float]
    nll: float
    sharpness: float
    predicted_error: float
    real_error: float


class Share(Record):
    """A share with its 95 % bootstrap interval over images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.0f} % [{100 * self.low:.0f}, {100 * self.high:.0f}]"


class ContentReport(Record):
    """All numbers of one content posterior.

    Attributes:
        model: Name of the model.
        dataset: Name of the query images.
        n_gallery: Number of documents, all undegraded training images.
        n_queries: Number of queries.
        labels: What counts as a right neighbour.
        rows: One per kind and severity.
        recovered: The share of the lost precision that the content mean recovers, by group.
        error_correlation: Spearman correlation of predicted and real squared error over all rows.
        wrong_auroc: Probability that a query with a wrong neighbour by the content mean has a
            larger trace of v than one with a right neighbour, over all degraded queries.
        uncertainty_auroc: The same for the neighbour by the embedding and the uncertainty.
        former_auroc: The same for the uncertainty that the package had before, if any.
    """

    model: str
    dataset: str
    n_gallery: int
    n_queries: int
    labels: str
    rows: tuple[ContentRow, ...]
    recovered: dict[str, Share]
    error_correlation: float
    wrong_auroc: float
    uncertainty_auroc: float | None = None
    former_auroc: float | None = None

    def kinds(self) -> list[tuple[Group, str, list[ContentRow]]]:
        """The rows of each kind, by severity, in the order of the lists."""
        order: dict[str, list[ContentRow]] = {}
        for row in self.rows:
            order.setdefault(row.kind, []).append(row)
        return [(rows[0].group, kind, rows) for kind, rows in order.items()]

    def table(self) -> str:
        """Return the numbers as plain text: means over the severities of each kind."""
        lines = [
            f"{self.model}: {self.n_queries:,} queries of {self.dataset}, "
            f"{self.n_gallery:,} documents, right if {self.labels}",
            "",
            f"{'kind':18s} {'list':10s} {'Euclid':>7s} {'mean':>7s} {'robust':>7s} "
            f"{'covers 90 %':>12s} {'jointly':>8s}",
        ]
        for group, kind, rows in self.kinds():
            precision = [_mean(r.precision[name] for r in rows) for name in rows[0].precision]
            lines.append(
                f"{kind:18s} {group:10s} {precision[0]:7.1f} {precision[1]:7.1f} "
                f"{precision[2]:7.1f} {_mean(r.coverage[1] for r in rows):12.2f} "
                f"{_mean(r.joint[1] for r in rows):8.2f}"
            )
        shares = ", ".join(f"{group} {share}" for group, share in self.recovered.items())
        lines += [
            "",
            f"of the precision lost to degradation, the content mean recovers: {shares}",
            f"predicted and real squared error: Spearman correlation {self.error_correlation:.2f}",
            f"wrong neighbours told by the variance: AUROC {self.wrong_auroc:.3f}",
        ]
        if self.uncertainty_auroc is not None:
            former = "" if self.former_auroc is None else f", formerly {self.former_auroc:.3f}"
            lines.append(
                "wrong neighbours of the embedding told by the uncertainty: AUROC "
                f"{self.uncertainty_auroc:.3f}{former}"
            )
        return "\n".join(lines)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
