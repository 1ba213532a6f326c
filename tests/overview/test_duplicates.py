"""``zoo duplicates`` on real photos with planted copies."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from PIL import Image
from repzoo.errors import Conflict, InvalidInput
from repzoo.overview.altered import altered_copies
from repzoo.overview.groups import close_pairs, grouped

MODEL = Path(__file__).parents[2] / "zoo" / "bundled" / "simclr-cifar10"
PLANTED = {
    frozenset({"0/00.png", "exact.png"}),
    frozenset({"0/10.png", "compressed.jpg"}),
    frozenset({"0/20.png", "enlarged.png"}),
    frozenset({"0/30.png", "trimmed.png"}),
}

Run = Callable[..., Result]


def groups_in(table: Path) -> list[frozenset[str]]:
    found: dict[str, set[str]] = {}
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            assert float(row["distance"]) >= 0
            found.setdefault(row["group"], set()).add(row["id"])
    return [frozenset(group) for group in found.values()]


def test_altered_copies_are_found_and_nothing_else(zoo: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (photos, "--model", MODEL, "--out", out)
    result = zoo("duplicates", *arguments, status=3)
    assert "64 images, 4 groups of near-duplicates: 4 images could go" in result.stdout
    assert "within which 75% of altered copies are" in result.stdout
    assert "images skipped because they cannot be read (1 of 65):\n  " in result.stdout
    found = groups_in(out / "duplicates.csv")
    assert set(found) == PLANTED
    assert found[0] == {"0/00.png", "exact.png"}  # the closest
    with Image.open(out / "duplicates.png") as sheet:
        assert sheet.width > 4 * 112
        assert len(sheet.convert("RGB").getcolors(1 << 24) or []) > 1000

    # With another distance, nothing is embedded again.
    before = (out / "embeddings.parquet").stat().st_mtime_ns
    result = zoo("duplicates", *arguments, "--distance", 1e-4, "--json", status=3)
    assert json.loads(result.stdout)["groups"] == 1
    assert groups_in(out / "duplicates.csv") == [frozenset({"0/00.png", "exact.png"})]
    assert (out / "embeddings.parquet").stat().st_mtime_ns == before
    (photos / "exact.png").unlink()
    with pytest.raises(Conflict, match="which has changed since; use --overwrite"):
        zoo("duplicates", *arguments)
    result = zoo("duplicates", *arguments, "--overwrite", "--distance", 1e-4, status=3)
    assert "0 groups" in result.stdout
    assert not (out / "duplicates.png").exists()


def test_images_in_parquet_files_are_compared(zoo: Run, photos: Path, tmp_path: Path) -> None:
    files = [photos / "0" / "00.png", photos / "1" / "01.png", photos / "exact.png"]
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    pq.write_table(pa.table({"image": images}), tmp_path / "data.parquet")
    out = tmp_path / "out"
    zoo("duplicates", tmp_path / "data.parquet", "--model", MODEL, "--out", out)
    assert groups_in(out / "duplicates.csv") == [frozenset({"data.parquet:0", "data.parquet:2"})]


def test_what_cannot_be_compared_is_refused(zoo: Run, photos: Path, tmp_path: Path) -> None:
    model = ("--model", MODEL)
    with pytest.raises(InvalidInput, match=r"is in .*: choose an --out outside of the source"):
        zoo("duplicates", photos, *model, "--out", photos / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="holds no images"):
        zoo("duplicates", tmp_path / "empty", *model, "--out", tmp_path / "out")
    with pytest.raises(InvalidInput, match="1 of 65 images cannot be read"):
        zoo("duplicates", photos, *model, "--out", tmp_path / "out", "--strict")
    zoo("duplicates", photos, *model, "--out", photos / "bad.png", status=2)
    for distance in ("nan", "inf"):
        with pytest.raises(InvalidInput, match=f"the distance is {distance}; expected a number"):
            zoo("duplicates", photos, *model, "--out", tmp_path / "out", "--distance", distance)


def test_one_image_has_no_duplicates(zoo: Run, photos: Path, tmp_path: Path) -> None:
    result = zoo("duplicates", photos / "exact.png", "--model", MODEL, "--out", tmp_path / "out")
    assert "1 images, 0 groups" in result.stdout


def test_pairs_are_those_of_all_distances() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(1500, 8)).astype(np.float32) + 100  # far from the origin
    vectors[1400] = vectors[3]
    every = np.linalg.norm(vectors[:, None].astype(np.float64) - vectors[None], axis=2)
    i, j, distances = close_pairs(vectors, 1.2)
    expected = set(zip(*np.nonzero(np.triu(every <= 1.2, 1)), strict=True))
    assert len(expected) > 100
    assert set(zip(i, j, strict=True)) == expected
    np.testing.assert_allclose(distances, every[i, j], atol=1e-5)
    assert close_pairs(vectors, 0.0)[2].tolist() == [0.0]
    with pytest.raises(InvalidInput, match="choose a smaller --distance"):
        close_pairs(np.zeros((2100, 2), np.float32), 1.0)


def test_groups_are_around_the_image_with_the_most_neighbours() -> None:
    line = np.array([[0], [1], [2], [3], [10], [10.5]], np.float32)
    groups = grouped(6, close_pairs(line, 1.0))
    assert [group.members for group in groups] == [[4, 5], [1, 0, 2]]  # 3 is only close to 2
    assert groups[0].distances == [0.0, 0.5]
    assert grouped(3, close_pairs(line[:3] * 9, 1.0)) == []


@pytest.mark.parametrize(("mode", "size"), [("L", (1, 1)), ("RGB", (3, 40)), ("RGB", (640, 480))])
def test_images_of_any_size_have_altered_copies(mode: str, size: tuple[int, int]) -> None:
    copies = altered_copies(Image.new(mode, size, 128 if mode == "L" else (90, 120, 200)))
    assert len(copies) == 4
    assert all(copy.mode == mode and min(copy.size) >= 1 for copy in copies)
