"""The numbers of a cross-validated probe."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

__all__ = ["ClassCounts", "Confused", "ProbeReport"]

#: How many pairs of classes that are confused most often a report lists.
CONFUSED = 10


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassCounts(_Record):
    """How often one class, or label, was predicted rightly and wrongly."""

    name: str
    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def count(self) -> int:
        """The number of images of the class."""
        return self.true_positives + self.false_negatives

    @property
    def precision(self) -> float | None:
        """The share of the predictions of this class that are right, or None without any."""
        predicted = self.true_positives + self.false_positives
        return self.true_positives / predicted if predicted else None

    @property
    def recall(self) -> float:
        """The share of the images of this class that are predicted to be of it."""
        return self.true_positives / self.count

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        wrong = self.false_positives + self.false_negatives
        return 2 * self.true_positives / (2 * self.true_positives + wrong)


class Confused(NamedTuple):
    """Images of one class that were predicted to be of another."""

    actual: str
    predicted: str
    images: int


class ProbeReport(_Record):
    """The accuracy of a probe on images that it was not fitted to.

    ``accuracy`` is the share of right answers; for a multi-label task, over all images and labels.
    ``standard_error`` is that of its mean over the images. ``majority`` is the accuracy of always
    giving the commonest answer. ``exact`` is the share of the images with every label right.
    ``test_accuracy`` is the accuracy on a test split, by the probe of all other images.
    """

    task: str
    kind: str
    dataset: str
    dataset_sha256: str
    images: int
    folds: int
    seed: int
    multi_label: bool
    accuracy: float
    standard_error: float
    majority: float
    exact: float | None = None
    test_accuracy: float | None = None
    test_images: int = 0
    classes: tuple[ClassCounts, ...]
    confused: tuple[Confused, ...] = ()

    @property
    def balanced(self) -> float:
        """The mean recall over classes."""
        return sum(each.recall for each in self.classes) / len(self.classes)

    def table(self) -> str:
        """Return the numbers as plain text, in per cent."""
        what = "labels" if self.multi_label else "classes"
        lines = [
            f"{self.task} ({self.kind}): {self.images:,} images of {self.dataset}, "
            f"{len(self.classes)} {what}, cross-validated in {self.folds} parts",
            "",
            f"accuracy {100 * self.accuracy:.1f} % ± {100 * self.standard_error:.1f} "
            f"(commonest answer {100 * self.majority:.1f} %, "
            f"mean recall {100 * self.balanced:.1f} %)",
        ]
        if self.exact is not None:
            lines.append(f"all labels right: {100 * self.exact:.1f} %")
        if self.test_accuracy is not None:
            lines.append(
                f"test split, {self.test_images:,} images: {100 * self.test_accuracy:.1f} %"
            )
        width = max(5, *(len(each.name) for each in self.classes))
        lines += ["", f"{'class':<{width}}  images  precision  recall     F1"]
        for each in self.classes:
            precision = "–" if each.precision is None else f"{100 * each.precision:.1f}"
            lines.append(
                f"{each.name:<{width}}  {each.count:>6}  {precision:>9}  "
                f"{100 * each.recall:>6.1f}  {100 * each.f1:>5.1f}"
            )
        if self.confused:
            lines += ["", "most confused:"]
            lines += [f"  {actual} as {said}: {n}" for actual, said, n in self.confused]
        return "\n".join(lines)
