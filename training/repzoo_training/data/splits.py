"""Names of splits: folders and files called ``train``, ``Training``, ``test_set``, ``val`` etc."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

__all__ = ["ADVICE", "AnySplit", "Split", "split_named"]

#: The splits that can be loaded.
Split: TypeAlias = Literal["train", "test"]

#: The splits that are recognised. Validation images are not used.
AnySplit: TypeAlias = Literal["train", "test", "validation"]

#: What to know or do if a source lacks a split.
ADVICE: dict[Split, str] = {
    "train": "folders of these names are never trained on",
    "test": "--split 0.1 holds out some of its images",
}

_NAMES: dict[AnySplit, str] = {
    "train": "train|training",
    "test": "test|testing|eval|evaluation",
    "validation": "val|valid|validation|dev",
}
#: For example ``Train``, ``training_set``, ``test-images``, ``val2017``, ``partial-train``.
_FORMS = {
    split: re.compile(rf"(partial-)?({names})([-_ ]?(set|data|images|split))?(\d{{4}})?", re.I)
    for split, names in _NAMES.items()
}


def split_named(name: str) -> AnySplit | None:
    """Return the split that a file or folder name stands for, in upper or lower case, or None."""
    return next((split for split, form in _FORMS.items() if form.fullmatch(name)), None)
