"""`zoo embed --out FILE.npy`, and the embeddings as a column of a data set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import repzoo
from PIL import Image


def test_the_array_has_the_rows_of_the_table(
    finish: Callable[..., Any], tiny_package: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9), np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    (photos / "3.png").write_bytes(b"no image")
    out = tmp_path / "out.npy"
    for _ in range(2):  # the second run has nothing left to do
        status, stdout, _ = finish(photos, out, "--part-size", "2", "--workers", "0", "--json")
        assert status == 3
        said = json.loads(stdout)
        assert (said["npy"], said["out"]) == (str(out), str(tmp_path / "out.parquet"))
        array = np.load(out)
        table = pq.read_table(tmp_path / "out.parquet")
        assert (array.dtype, array.shape) == (np.float32, (7, 4))
        for row, (name, error) in enumerate(zip(table["id"], table["error"], strict=True)):
            if error.is_valid:
                assert name.as_py() == "3.png"
                assert np.isnan(array[row]).all()
            else:
                assert array[row].tolist() == table["embedding"][row].as_py()
        out.unlink()


def test_a_column_of_a_data_set(tiny_package: Path) -> None:
    """The lines of docs/how-to/search/embed-in-bulk.md."""
    datasets = pytest.importorskip(
        "datasets", reason="datasets is not installed: its map is not tested"
    )
    images = [Image.fromarray(np.full((9, 9), 40 * n, np.uint8)) for n in range(5)]
    photos = datasets.Dataset.from_dict(
        {"image": images}, datasets.Features({"image": datasets.Image()})
    )
    encoder = repzoo.load(tiny_package)
    photos = photos.map(
        lambda batch: {"embedding": encoder.embed(batch["image"])}, batched=True, batch_size=2
    )
    np.testing.assert_allclose(photos["embedding"], encoder.embed(images), atol=1e-6)
