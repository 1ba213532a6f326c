"""Photos with planted copies, and the commands on them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageEnhance
from repzoo.cli import import_command

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _admissions(shared_admissions: None) -> None:
    """Check a package once, not in every test."""


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 real photos, in two folders. Shared by all tests."""
    folder = tmp_path_factory.mktemp("originals")
    table = pq.read_table(ROOT / "tests" / "data" / "cifar10" / "train-00000-of-00001.parquet")
    for number, row in enumerate(table["image"].to_pylist()[:60]):
        path = folder / f"{number % 2}" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(row["bytes"])
    return folder


@pytest.fixture
def photos(originals: Path, tmp_path: Path) -> Path:
    """The photos, with an exact, a compressed, an enlarged and a darkened copy, and a bad file."""
    folder = tmp_path / "photos"
    shutil.copytree(originals, folder)
    shutil.copyfile(folder / "0" / "00.png", folder / "exact.png")
    Image.open(folder / "0" / "10.png").save(folder / "compressed.jpg", quality=80)
    Image.open(folder / "0" / "20.png").resize((96, 96)).save(folder / "enlarged.png")
    trimmed = Image.open(folder / "0" / "30.png").crop((1, 1, 31, 31))
    ImageEnhance.Brightness(trimmed).enhance(0.9).save(folder / "trimmed.png")
    (folder / "bad.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def zoo() -> Callable[..., Result]:
    """``zoo(command, *arguments, status=0)`` runs a command; errors are raised."""

    def run(command: str, *arguments: object, status: int = 0) -> Result:
        result = CliRunner().invoke(import_command(command), list(map(str, arguments)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.output
        return result

    return run
