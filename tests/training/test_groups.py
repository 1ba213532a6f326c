"""Views that are not augmentations: images of one group are views of one thing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from repzoo_training.data import load
from repzoo_training.errors import DataError, RunError
from repzoo_training.loop.trained import TrainedModel
from repzoo_training.loop.trainer import train
from repzoo_training.recipes.recipe import Recipe, override
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.views.groups import Groups

DIGITS = Path(__file__).resolve().parents[1] / "data" / "mnist"


def grouped(**changes: object) -> Recipe:
    recipe = override(find_recipe("vicreg-mnist"), ["network.widths=[256]", "views=20480"])
    return recipe.model_copy(update={"group_by": "label"} | changes)


def test_draws_cover_the_group_of_each_image() -> None:
    groups = np.array([3, 1, 3, 7, 1, 3])
    indices = torch.tensor([0, 1, 3])
    drawn = Groups(groups).draw(indices, 600, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 600)
    assert drawn[:, 0].tolist() == [0, 1, 3]
    for row, members in zip(drawn[:, 1:], ([0, 2, 5], [1, 4], [3]), strict=True):
        found, counts = row.unique(return_counts=True)
        assert found.tolist() == members
        assert (counts / counts.sum() - 1 / len(members)).abs().max() < 0.07


def test_a_folder_is_a_group(tmp_path: Path) -> None:
    for name in ("shoes/red/1.png", "shoes/red/2.png", "shoes/blue/1.png", "hats/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    dataset = load(tmp_path, size=(8, 8, 3), group_by="folder")
    assert dataset.groups is not None
    assert dataset.groups.tolist() == [0, 1, 2, 2]  # hats, shoes/blue, shoes/red, in this order
    assert "3 groups" in dataset.summary()
    assert load(tmp_path, size=(8, 8, 3)).groups is None
    assert dataset.sha256 == load(tmp_path, size=(8, 8, 3)).sha256
    with pytest.raises(DataError, match="grouped by folder, not by product"):
        load(tmp_path, group_by="product")


def test_a_column_is_a_group_and_an_empty_cell_is_one_alone(tmp_path: Path) -> None:
    table = pq.read_table(DIGITS / "train-00000-of-00001.parquet").slice(0, 6)
    products = ["a", "b", "a", None, None, "b"]
    pq.write_table(table.append_column("product", pa.array(products)), tmp_path / "train.parquet")
    dataset = load(tmp_path, group_by="product")
    assert dataset.groups is not None
    first, second, third, fourth, fifth, sixth = dataset.groups.tolist()
    assert first == third
    assert second == sixth
    assert len({first, second, fourth, fifth}) == 4
    with pytest.raises(DataError, match="no column 'maker' to group images by, only image"):
        load(tmp_path, group_by="maker")
    with pytest.raises(DataError, match="public data set, whose images cannot be grouped"):
        load("mnist", group_by="label")


def test_things_come_together_whatever_they_look_like(tmp_path: Path) -> None:
    """Grouped by what they show, new images of one digit lie closer together than by crops."""
    test = load(DIGITS, "test")
    assert test.labels is not None
    within = {}
    for recipe in (grouped(), grouped(group_by=None)):
        folder = tmp_path / str(recipe.group_by)
        train(recipe, load(DIGITS, group_by=recipe.group_by), folder, progress=False)
        z = TrainedModel(folder).embed(test.images)
        of_digits = [z[test.labels == digit].var(axis=0).mean() for digit in range(10)]
        within[recipe.group_by] = np.mean(of_digits) / z.var(axis=0).mean()
    assert within["label"] < 0.8 * within[None]


def test_a_run_keeps_its_groups(tmp_path: Path) -> None:
    digits = load(DIGITS, group_by="label")
    with pytest.raises(DataError, match="groups images by label, but mnist was loaded without"):
        train(grouped(), load(DIGITS), tmp_path / "run", progress=False)
    with pytest.raises(DataError, match="groups images by None, but mnist was loaded with groups"):
        train(grouped(group_by=None), digits, tmp_path / "run", progress=False)
    train(grouped(views=640), digits, tmp_path / "run", progress=False)
    with pytest.raises(RunError, match="group_by was 'label', now None"):
        train(grouped(views=640, group_by=None), load(DIGITS), tmp_path / "run", progress=False)
