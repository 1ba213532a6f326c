"""The labels that a probe is fitted to: class folders, columns of parquet files, or a CSV file."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repzoo_training.data import ImageDataset
from repzoo_training.errors import DataError
from repzoo_training.evaluation.inputs import Labels

__all__ = ["Answers", "answers_of", "read_labels"]

_YES, _NO = {"1", "true", "yes"}, {"0", "false", "no"}


@dataclass(frozen=True, eq=False)
class Answers:
    """What a probe is to predict for some images of a data set.

    Attributes:
        classes: the K classes, or the A labels of a multi-label task.
        values: int64 ``[M]`` in ``[0, K)``, or bool ``[M, A]``.
        rows: bool ``[N]``, true for the M images of the data set that have an answer.
    """

    classes: tuple[str, ...]
    values: Labels
    rows: NDArray[np.bool_]

    @property
    def multi_label(self) -> bool:
        return self.values.ndim == 2


def answers_of(dataset: ImageDataset, *, multi_label: bool = False) -> Answers:
    """Return the labels of a data set: its classes, or its attributes.

    Args:
        dataset: images with labels, attributes or both.
        multi_label: use the attributes, also if there are classes.

    Raises:
        DataError: If the data set does not have them.
    """
    rows = np.ones(len(dataset), bool)
    if dataset.attributes is not None and (multi_label or dataset.labels is None):
        return Answers(dataset.attribute_names, dataset.attributes, rows)
    if multi_label:
        raise DataError(
            f"{dataset.name} has no attributes, which are bool columns of parquet files; for a "
            "folder of images, set --labels FILE.csv"
        )
    if dataset.labels is None:
        raise DataError(
            f"{dataset.name} has no labels: put the images of each class in a folder of its own, "
            "or set --labels FILE.csv"
        )
    return Answers(dataset.classes, dataset.labels, rows)


def read_labels(path: Path, folder: Path, dataset: ImageDataset) -> Answers:
    """Read the labels of a folder's images from a CSV file with a header.

    The first column is the path of an image in ``folder``. With one more column, its texts are the
    classes. With several, each is a label that an image has (1, true, yes) or not (0, false, no).
    Images without a row are not used.

    Raises:
        DataError: If the file cannot be read, a row is not valid, or no image has a row.
    """
    if dataset.contents is None:
        raise DataError(f"--labels is for folders of image files, and {dataset.name} is not one")
    header, table = _read(path)
    texts: dict[bytes, tuple[str, ...]] = {}
    for number, (name, *values) in table:
        try:
            content = hashlib.sha256((folder / name).read_bytes()).digest()
        except OSError as error:
            raise DataError(f"{path} line {number}: {folder / name}: {error.strerror}") from error
        if texts.setdefault(content, tuple(values)) != tuple(values):
            raise DataError(
                f"{path} line {number}: {name} has other labels than another copy of the same file"
            )
    found = [texts.get(content.tobytes()) for content in dataset.contents]
    rows = np.array([each is not None for each in found])
    answers = [each for each in found if each is not None]
    if not answers:
        raise DataError(f"none of the images that {path} names can be used")
    if len(header) == 2:
        classes = tuple(sorted({value for (value,) in answers}))
        number_of = {name: number for number, name in enumerate(classes)}
        return Answers(
            classes, np.array([number_of[value] for (value,) in answers], np.int64), rows
        )
    return Answers(
        tuple(header[1:]),
        np.array([[value.lower() in _YES for value in each] for each in answers]),
        rows,
    )


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and the numbered rows of a CSV file, which are checked."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            header = [name.strip() for name in next(lines, [])]
            table = [(lines.line_num, [v.strip() for v in line]) for line in lines if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read as CSV in UTF-8: {reason}") from error
    if len(header) < 2:
        raise DataError(
            f"{path} needs a header with the column of the image and one or more columns of labels"
        )
    if "" in header[1:] or len({*header}) < len(header):
        raise DataError(f"{path}: every column of labels needs a name of its own")
    for number, line in table:
        if len(line) != len(header):
            raise DataError(f"{path} line {number} has {len(line)} columns; expected {len(header)}")
        for name, value in zip(header[1:], line[1:], strict=True):
            if value == "":
                raise DataError(f"{path} line {number}: {name!r} is empty")
            if len(header) > 2 and value.lower() not in _YES | _NO:
                raise DataError(
                    f"{path} line {number}: {name!r} is {value!r}; with several columns of labels, "
                    "expected 1 or 0"
                )
    return header, table
