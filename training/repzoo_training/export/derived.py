"""Make a new package from an existing one."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repzoo.errors import PackageError
from repzoo.files import temporary_folder
from repzoo.packages.arrays import read_arrays
from repzoo.packages.config import ModelConfig
from repzoo.packages.package import Package, write_manifest
from repzoo.packages.reference import is_name
from repzoo.runtime.golden import GOLDEN, write_golden

from repzoo_training.export.card import write_card

__all__ = ["derived_package", "renamed"]


@contextmanager
def derived_package(package: Package, out: str | Path) -> Iterator[Path]:
    """Yield a folder with a copy of a package's files, and move it to ``out`` in the end.

    The body changes the files, including ``config.json``. Then the card is rendered, the golden
    outputs are recorded for the same inputs, and the manifest is written. If the body fails,
    nothing is left behind.

    Raises:
        PackageError: If ``out`` exists already.
    """
    out = Path(out)
    if out.exists():
        raise PackageError(f"{out} exists already: remove it or choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(out.parent, f".{out.name}.") as folder:
        for file in package.manifest.files:
            (folder / file).parent.mkdir(exist_ok=True)
            if (package.path / file).exists():  # an advisory file may be missing
                shutil.copyfile(package.path / file, folder / file)
        yield folder
        write_card(folder)
        _rewrite_golden(folder)
        write_manifest(folder)
        folder.rename(out)


def renamed(config: ModelConfig, name: str | None) -> ModelConfig:
    """Return a configuration with another name, or the same one for None.

    Raises:
        PackageError: If the name cannot name a model.
    """
    if name is None:
        return config
    if not is_name(name):
        raise PackageError(f"{name!r} cannot name a model: use a-z and 0-9, with . _ - in between")
    return config.model_copy(update={"name": name})


def _rewrite_golden(folder: Path) -> None:
    """Store the outputs of this package for the same golden inputs."""
    arrays = read_arrays(folder / GOLDEN)
    names = (f"files.{number}" for number in itertools.count())
    files = [arrays[name].tobytes() for name in itertools.takewhile(arrays.__contains__, names)]
    write_golden(folder, arrays["inputs"], files, arrays.get("latents"))
