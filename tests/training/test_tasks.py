"""The tasks that CelebA's attributes and other attributes pose."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from repzoo_training.data import ImageDataset
from repzoo_training.evaluation import evaluate_dataset
from repzoo_training.evaluation.tasks import BALANCED, tasks_of

HAIR = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
NAMES = ("Bald", *HAIR, "Male", *(f"Other_{i}" for i in range(24)))


def faces(count: int, seed: int, names: tuple[str, ...] = NAMES) -> ImageDataset:
    """Return attributes of different rarity, and images whose brightness encodes Male."""
    random = np.random.default_rng(seed)
    rarity = np.linspace(0.02, 0.5, len(names))
    attributes = random.random((count, len(names))) < rarity
    images = random.integers(0, 100, (count, 4, 4, 3), dtype=np.uint8)
    if "Male" in names:
        images[attributes[:, names.index("Male")]] += 100
    return ImageDataset("celeba", images, attributes=attributes, attribute_names=names)


class Pixels:
    """Embeds images as their pixels."""

    def embed(self, images: NDArray[np.uint8], /) -> NDArray[np.float32]:
        return images.reshape(len(images), -1).astype(np.float32)


def test_celebas_attributes_are_three_tasks() -> None:
    train, test = faces(400, 0), faces(100, 1)
    gender, hair, attributes = tasks_of(train, test)
    assert (gender.name, gender.classes) == ("gender", ("female", "male"))
    assert train.attributes is not None
    assert gender.train.tolist() == train.attributes[:, NAMES.index("Male")].tolist()
    assert gender.train_rows.all()

    assert (hair.name, hair.classes) == (
        "hair-colour",
        ("black", "blond", "brown", "grey", "other"),
    )
    answers = iter(hair.train.tolist())
    for row, known in zip(train.attributes, hair.train_rows, strict=True):
        colours = [i for i, name in enumerate(HAIR) if row[NAMES.index(name)]]
        assert known == (len(colours) <= 1)  # images with two hair colours are left out
        if known:
            assert next(answers) == (colours or [4])[0]
    assert len(hair.test) == hair.test_rows.sum() < len(test)

    assert attributes.train.shape == (400, BALANCED)
    distance = {n: abs(c.mean() - 0.5) for n, c in zip(NAMES, train.attributes.T, strict=True)}
    left_out = set(NAMES) - set(attributes.classes)
    assert max(distance[n] for n in attributes.classes) <= min(distance[n] for n in left_out)
    assert list(attributes.classes) == sorted(attributes.classes, key=NAMES.index)


def test_any_other_attributes_are_one_task_and_labels_another() -> None:
    names = ("Smiling", "Young")
    train, test = faces(50, 0, names), faces(20, 1, names)
    (only,) = tasks_of(train, test)
    assert (only.name, only.classes) == ("attributes", names)
    assert tasks_of(ImageDataset("photos", train.images), ImageDataset("photos", test.images)) == []
    labels = np.arange(50) % 2
    labelled = ImageDataset("photos", train.images, labels, ("a", "b"))
    assert [each.name for each in tasks_of(labelled, labelled, "digit")] == ["digit"]


def test_each_task_has_its_numbers_and_heads() -> None:
    evaluation = evaluate_dataset(
        Pixels(), faces(300, 0), faces(100, 1), measures=("knn", "linear"), progress=False
    )
    report = evaluation.report
    of_gender, of_hair = (report.measure("linear", t) for t in ("gender", "hair-colour"))
    assert of_gender is not None
    assert of_gender.value > 0.95
    assert of_hair is not None
    assert of_hair.n < of_gender.n == 100
    assert {head.spec.file for head in evaluation.heads} == {
        f"probes/{task}.linear.onnx" for task in ("gender", "hair-colour", "attributes")
    }
    commonest = report.measure("majority", "gender")
    assert commonest is not None
    assert commonest.value == pytest.approx(0.9, abs=0.1)
