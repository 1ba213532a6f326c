"""The numbers of an evaluation, each with its protocol."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

__all__ = ["EvaluationReport", "Group", "Measure", "Protocol", "Unit"]

#: How a number was measured, in words and constants.
Protocol: TypeAlias = dict[str, str | int | float]

Unit: TypeAlias = Literal[
    "accuracy",
    "mean squared error",
    "normalised mutual information",
    "adjusted Rand index",
    "R²",
    "intraclass correlation",
    "squared Fréchet distance",
]

#: Measures that are computed and chosen together.
Group: TypeAlias = Literal[
    "knn",
    "linear",
    "mlp",
    "clustering",
    "reconstruction",
    "style",
    "invariance",
    "decoder",
    "fid",
    "inception",
]


#: Patterns of the names of measures, and their groups.
_GROUPS: Mapping[str, frozenset[Group]] = {
    "majority": frozenset({"knn", "linear", "mlp"}),
    "knn_(cosine|euclidean)": frozenset({"knn"}),
    "linear": frozenset({"linear"}),
    "mlp": frozenset({"mlp"}),
    "gmm_.*": frozenset({"clustering"}),
    "reconstruction": frozenset({"reconstruction"}),
    ".*_fit": frozenset({"style"}),
    "invariance": frozenset({"invariance"}),
    "decoder_reconstruction": frozenset({"decoder"}),
    "cnn_fid_.*": frozenset({"fid"}),
    "inception_fid_.*": frozenset({"inception"}),
}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measure(_Record):
    """One number.

    ``standard_error`` is the standard error of the mean over the test images, sqrt(p (1 - p) / n)
    for an accuracy p on n images. It describes the effect of another test set, not of another seed,
    unless the protocol says otherwise. ``by_class`` splits a multi-label accuracy by label, and an
    R² by target.
    """

    name: str
    task: str | None = None
    value: float
    standard_error: float
    n: int
    unit: Unit
    protocol: Protocol
    by_class: dict[str, float] | None = None

    @property
    def groups(self) -> frozenset[Group]:
        """The groups that have this measure: the accuracies share their baseline."""
        return next(
            (groups for form, groups in _GROUPS.items() if re.fullmatch(form, self.name)),
            frozenset(),
        )

    @classmethod
    def of_scores(
        cls,
        name: str,
        scores: NDArray[np.float64],
        *,
        unit: Unit,
        protocol: Protocol,
        task: str | None = None,
        by_class: dict[str, float] | None = None,
    ) -> Measure:
        """Return the mean of one score per test image, float64 ``[n]``."""
        return cls(
            name=name,
            task=task,
            value=float(scores.mean()),
            standard_error=float(scores.std() / math.sqrt(len(scores))),
            n=len(scores),
            unit=unit,
            protocol=protocol,
            by_class=by_class,
        )


class EvaluationReport(_Record):
    """All numbers of one representation on one data set.

    ``groups`` lists the groups that were measured, including those for which the representation has
    nothing to measure (no decoder, no labels). ``method`` and the fields after it describe a
    training run: the names of its method and recipe, its seed, the views and steps behind its
    weights, and the sha256 of its checkpoint. ``seeds`` is set if the report pools several runs.
    """

    dataset: str
    train_sha256: str | None = None
    test_sha256: str | None = None
    n_train: int
    n_test: int
    dim: int
    measures: tuple[Measure, ...]
    groups: tuple[Group, ...] = ()
    suite: int | None = None
    method: str | None = None
    recipe: str | None = None
    seed: int | None = None
    seeds: tuple[int, ...] = ()
    views: int | None = None
    steps: int | None = None
    checkpoint_sha256: str | None = None

    def measure(self, name: str, task: str | None = None) -> Measure | None:
        """Return the measure with this name, by default of the first task that has it."""
        return next(
            (m for m in self.measures if m.name == name and task in (None, m.task)),
            None,
        )

    def only(self, groups: Collection[Group]) -> EvaluationReport:
        """Return the report without the measures of other groups."""
        measures = tuple(each for each in self.measures if each.groups & {*groups})
        kept = tuple(group for group in self.groups if group in groups)
        return self.model_copy(update={"measures": measures, "groups": kept})

    def table(self, width: int | None = None) -> str:
        """Return the numbers as plain text, with accuracies in per cent.

        Args:
            width: The length of the lines. Longer protocols are cut. None: nothing is cut.
        """
        rows = [("measure", "value", "± s.e.", "protocol")]
        for m in self.measures:
            scale, digits = (100, 2) if m.unit == "accuracy" else (1, 5)
            rows.append(
                (
                    f"{m.task} {m.name}" if m.task else m.name,
                    f"{scale * m.value:.{digits}f}" + (" %" if m.unit == "accuracy" else "  "),
                    f"{scale * m.standard_error:.{digits}f}",
                    ", ".join(f"{key} {value}" for key, value in m.protocol.items()),
                )
            )
        left, value, error, _ = (max(len(row[i]) for row in rows) for i in range(4))
        lines = [f"{a:<{left}}  {b:>{value}}  {c:>{error}}  {d}" for a, b, c, d in rows]
        if width is not None:
            lines = [line if len(line) <= width else f"{line[: width - 3]}..." for line in lines]
        head = (
            f"{self.dataset}: {self.dim} dimensions, "
            f"{self.n_train:,} train and {self.n_test:,} test images"
        )
        return "\n".join([head, "", *lines])
