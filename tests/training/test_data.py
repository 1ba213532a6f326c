"""Images in memory: they equal the source, and unusable parts of the source are named."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from repzoo.errors import RepzooError
from repzoo.packages.config import InputSpec, ResizePolicy
from repzoo.runtime.images import as_pixels, decode, preprocess
from repzoo_training.data import ImageDataset, absolute, load, with_split
from repzoo_training.errors import DataError

SAMPLES = Path(__file__).parents[1] / "data"


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return load(SAMPLES / "mnist", "test")


@pytest.fixture(scope="module")
def photos() -> ImageDataset:
    return load(SAMPLES / "cifar10", "test")


def write_table(path: Path, columns: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def encoded(images: NDArray[np.uint8]) -> list[dict[str, Any]]:
    return [{"bytes": png(image), "path": None} for image in images]


# Parquet folders


@pytest.mark.parametrize(
    ("name", "split", "shape"),
    [
        ("mnist", "train", (2000, 28, 28, 1)),
        ("mnist", "test", (500, 28, 28, 1)),
        ("fashion_mnist", "test", (100, 28, 28, 1)),
        ("cifar10", "train", (100, 32, 32, 3)),
    ],
)
def test_samples(name: str, split: Any, shape: tuple[int, ...]) -> None:
    data = load(str(SAMPLES / name), split)
    assert data.images.shape == shape
    assert data.images.dtype == np.uint8
    assert data.images.flags.c_contiguous
    assert data.shape == shape[1:]
    assert len(data) == shape[0]
    assert data.name == name
    assert len(data.classes) == 10
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(data.labels), np.full(10, shape[0] // 10))
    assert (data.attributes, data.attribute_names) == (None, ())


def test_pixels_are_those_of_the_files(photos: ImageDataset) -> None:
    table = pq.read_table(SAMPLES / "cifar10" / "test-00000-of-00001.parquet")
    for row, image in enumerate(table["image"].to_pylist()):
        with Image.open(io.BytesIO(image["bytes"])) as opened:
            np.testing.assert_array_equal(photos.images[row], np.asarray(opened))
    assert photos.labels is not None
    assert photos.labels.tolist() == table["label"].to_pylist()
    assert photos.classes[:3] == ("airplane", "automobile", "bird")


def test_shards_are_read_in_order(tmp_path: Path, digits: ImageDataset) -> None:
    for shard in (1, 0):
        rows = slice(shard * 3, shard * 3 + 3)
        write_table(
            tmp_path / "data" / f"train-0000{shard}-of-00002.parquet",
            {"img": encoded(digits.images[rows]), "label": digits.labels[rows]},  # type: ignore[index]
        )
    data = load(tmp_path)
    np.testing.assert_array_equal(data.images, digits.images[:6])
    assert data.labels is not None
    np.testing.assert_array_equal(data.labels, digits.labels[:6])  # type: ignore[index]

    (tmp_path / "data" / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"lacks train-00000-of-00002\.parquet"):
        load(tmp_path)


def test_attributes(tmp_path: Path, photos: ImageDataset) -> None:
    columns = {
        "image": [png(image) for image in photos.images[:2]],  # plain binary
        "Smiling": [True, False],
        "Young": [True, True],
    }
    write_table(tmp_path / "train.parquet", columns)
    data = load(tmp_path)
    assert data.labels is None
    assert data.classes == ()
    assert data.attribute_names == ("Smiling", "Young")
    assert data.attributes is not None
    assert data.attributes.dtype == np.bool_
    assert data.attributes.tolist() == [[True, True], [False, True]]


def test_images_beside_the_parquet_file(tmp_path: Path, digits: ImageDataset) -> None:
    (tmp_path / "7.png").write_bytes(png(digits.images[0]))
    rows = [{"bytes": None, "path": "7.png"}, {"bytes": None, "path": "8.png"}]
    write_table(tmp_path / "train.parquet", {"image": rows[:1]})
    np.testing.assert_array_equal(load(tmp_path).images, digits.images[:1])
    write_table(tmp_path / "train.parquet", {"image": rows})
    with pytest.raises(DataError, match=r"row 1: No such file"):
        load(tmp_path, max_skipped=0)


def test_labels_that_are_kept_back(tmp_path: Path, digits: ImageDataset) -> None:
    columns = {"image": encoded(digits.images[:2]), "label": [-1, -1]}
    write_table(tmp_path / "test.parquet", columns)
    assert load(tmp_path, "test").labels is None


def test_too_many_bad_images_are_all_named(tmp_path: Path, digits: ImageDataset) -> None:
    images = encoded(digits.images[:12])
    images[3]["bytes"] = images[3]["bytes"][:100]
    images[5]["bytes"] = b"this is text"
    images[7]["bytes"] = None
    path = write_table(tmp_path / "train.parquet", {"image": images})
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert message.startswith(
        "3 of 12 images cannot be read (at most 1 may be skipped, see --max-skipped):"
    )
    for row in (3, 5, 7):
        assert f"{path} row {row}: " in message
    assert isinstance(caught.value, RepzooError)
    assert isinstance(caught.value, ValueError)


def test_many_bad_images_are_counted(tmp_path: Path) -> None:
    write_table(tmp_path / "train.parquet", {"image": [b"text"] * 20})
    with pytest.raises(DataError, match=r"20 of 20 images(.|\n)*row 4: (.|\n)*and 15 more$"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b"x"], "label": [0]}, "has no image column.*found picture, label"),
        ({"image": [3]}, "column 'image' is int64, expected encoded images"),
        ({"image": pa.array([], pa.binary())}, "no rows"),
    ],
)
def test_bad_columns(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    write_table(tmp_path / "train.parquet", columns)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["cat", "dog", "cat"], "expected integers, found string"),
        ([0.0, 1.0, 0.5], "expected integers, found double"),
        ([[0], [0, 1], []], "expected integers, found list<.*>"),
        ([0, None, 1], "some are missing"),
        ([0, -1, 1], r"some are negative \(-1\)"),
        ([0, 1, 10**15], "label 1000000000000000 is too large"),
        (pa.array(["a", "b", "a"]).dictionary_encode(), "expected integers, found dict"),
    ],
)
def test_training_does_not_need_labels_that_it_cannot_use(
    tmp_path: Path, digits: ImageDataset, labels: Any, reason: str
) -> None:
    write_table(tmp_path / "train.parquet", {"image": encoded(digits.images[:3]), "label": labels})
    data = load(tmp_path)
    assert (data.labels, data.classes) == (None, ())
    np.testing.assert_array_equal(data.images, digits.images[:3])
    (note,) = data.notes
    assert re.search(f"labels in column 'label' are not used: {reason}", note)


def test_label_beyond_the_classes(tmp_path: Path, digits: ImageDataset) -> None:
    write_features(
        tmp_path / "train.parquet",
        {"image": encoded(digits.images[:3]), "label": [0, 1, 2]},
        {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}}},
    )
    data = load(tmp_path)
    assert data.labels is None
    assert "label 2 is not one of 2 classes" in data.notes[0]


def test_an_attribute_with_missing_values_is_not_used(tmp_path: Path, digits: ImageDataset) -> None:
    columns = {"image": encoded(digits.images[:2]), "Old": [True, None], "Young": [True, False]}
    write_table(tmp_path / "train.parquet", columns)
    data = load(tmp_path)
    assert data.attribute_names == ("Young",)
    assert data.attributes is not None
    assert data.attributes.tolist() == [[True], [False]]
    assert "attribute 'Old' is not used: it has missing values" in data.notes[0]


def write_features(path: Path, columns: dict[str, Any], metadata: Any) -> None:
    text = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    pq.write_table(pa.table(columns).replace_schema_metadata({"huggingface": text}), path)


@pytest.mark.parametrize(
    "metadata",
    [
        # As written by datasets 3.6 for a column of lists.
        {"info": {"features": {"image": {"_type": "Image"}, "tags": [{"dtype": "string"}]}}},
        {"info": {"features": {"label": {"_type": "ClassLabel", "names": None}}}},
        {"info": {"features": [{"name": "image"}]}},
        {"info": {"features": None}},
        {"info": None},
        ["info"],
        b"{not JSON",
        b"\xff\xfe",
    ],
)
def test_metadata_that_cannot_be_used_is_ignored(
    tmp_path: Path, digits: ImageDataset, metadata: Any
) -> None:
    columns = {
        "image": encoded(digits.images[:2]),
        "label": [1, 0],
        "tags": [["a"], ["b", "c"]],
    }
    write_features(tmp_path / "train.parquet", columns, metadata)
    data = load(tmp_path)
    assert data.classes == ("0", "1")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    "layout",
    [
        "default/{}/0000.parquet",
        "default/partial-{}/0000.parquet",
        "{}/0000.parquet",
        "{}/images.parquet",
        "data/{}.parquet",
        "{}-00000-of-00001.parquet",
    ],
)
def test_layouts_of_parquet_folders(tmp_path: Path, digits: ImageDataset, layout: str) -> None:
    for number, split in enumerate(("train", "test", "validation")):
        rows = {"image": encoded(digits.images[number : number + 1])}
        write_table(tmp_path / layout.format(split), rows)
    for number, split in enumerate(("train", "test")):
        data = load(tmp_path, split)  # type: ignore[arg-type]
        np.testing.assert_array_equal(data.images, digits.images[number : number + 1])
        assert data.splits == {"train": 1, "test": 1, "validation": 1}


def test_several_configurations_are_refused(tmp_path: Path, digits: ImageDataset) -> None:
    for name in ("large", "small"):
        write_table(
            tmp_path / name / "train" / "0000.parquet", {"image": encoded(digits.images[:1])}
        )
    with pytest.raises(DataError, match=r"several configurations: use one .*, large, small"):
        load(tmp_path)
    assert len(load(tmp_path / "small")) == 1


def test_a_parquet_file_of_metadata_does_not_hide_images(
    tmp_path: Path, digits: ImageDataset
) -> None:
    write_table(tmp_path / "train" / "metadata.parquet", {"file_name": ["1.png"]})
    write_table(tmp_path / "metadata.parquet", {"file_name": ["1.png"]})
    (tmp_path / "train" / "1.png").write_bytes(png(digits.images[0]))
    np.testing.assert_array_equal(load(tmp_path).images, digits.images[:1])


def test_unreadable_parquet(tmp_path: Path) -> None:
    whole = (SAMPLES / "cifar10" / "test-00000-of-00001.parquet").read_bytes()
    path = tmp_path / "train.parquet"
    for data in (b"", b"PAR1 not really PAR1", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"train\.parquet cannot be read as parquet"):
            load(tmp_path)


def test_split_that_is_not_there(tmp_path: Path) -> None:
    write_table(tmp_path / "validation.parquet", {"image": [b"x"]})
    with pytest.raises(DataError, match="no train split: its parquet files are named validation"):
        load(tmp_path)


# Sizes


def test_mixed_sizes_need_a_size(tmp_path: Path, digits: ImageDataset) -> None:
    images = [digits.images[0], digits.images[1][:20], digits.images[2]]
    path = write_table(tmp_path / "train.parquet", {"image": [png(image) for image in images]})
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert "1 of 3 images differ in size" in str(caught.value)
    assert f"{path} row 1 is 20x28" in str(caught.value)
    assert load(tmp_path, size=(16, 16, 1)).images.shape == (3, 16, 16, 1)


def test_size_is_the_one_preprocessing(photos: ImageDataset) -> None:
    data = load(SAMPLES / "cifar10", "test", size=(20, 24, 1))
    spec = InputSpec(height=20, width=24, channels=1)
    for ours, image in zip(data.images, photos.images, strict=True):
        np.testing.assert_array_equal(ours, preprocess(Image.fromarray(image), spec))


@pytest.mark.parametrize("in_parquet", [False, True])
def test_large_jpeg_files_are_decoded_as_an_exported_package_does(
    in_parquet: bool, tmp_path: Path, photos: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, specs, threads = [], [], set[str]()
    for image in photos.images[:3]:
        stream = io.BytesIO()
        Image.fromarray(image).resize((700, 500), Image.Resampling.NEAREST).save(stream, "JPEG")
        files.append(stream.getvalue())
    if in_parquet:
        write_table(tmp_path / "train.parquet", {"image": files})
    else:
        for number, file in enumerate(files):
            (tmp_path / f"{number}.jpg").write_bytes(file)

    def spy(data: bytes, spec: InputSpec | None = None) -> Image.Image:
        threads.add(threading.current_thread().name)
        return decode(data, spec)

    room = "parquet" if in_parquet else "folders"
    monkeypatch.setattr(f"repzoo_training.data.{room}.decode", spy)
    for jpeg in ("scaled", "full"):
        policy = ResizePolicy.model_validate({"jpeg": jpeg})
        specs.append(InputSpec(height=32, width=32, channels=3, resize=policy))
    scaled, full = (as_pixels(files, spec) for spec in specs)
    assert (scaled != full).any()
    np.testing.assert_array_equal(load(tmp_path, size=(32, 32, 3)).images, scaled)
    np.testing.assert_array_equal(load(tmp_path, size=specs[1]).images, full)
    assert len(threads) > 1  # although they are small once they are resized


@pytest.mark.parametrize("size", [(28, 28, 2), (0, 28, 1), (28, 28)])
def test_impossible_size(size: Any) -> None:
    with pytest.raises(DataError, match="expected \\(height, width, channels\\)"):
        load(SAMPLES / "mnist", "test", size=size)


@pytest.mark.parametrize("scale", [1, 4])  # 4: large enough for the pool of threads
def test_grey_among_colour(tmp_path: Path, photos: ImageDataset, scale: int) -> None:
    def save(name: str, image: Image.Image) -> None:
        image.resize((32 * scale, 32 * scale), Image.Resampling.NEAREST).save(tmp_path / name)

    grey = Image.fromarray(photos.images[0]).convert("L")
    save("a.png", grey)
    assert load(tmp_path).shape == (32 * scale, 32 * scale, 1)
    save("b.png", Image.fromarray(photos.images[1]))
    save("c.png", grey)
    data = load(tmp_path)
    assert data.shape == (32 * scale, 32 * scale, 3)
    small = data.images[:, ::scale, ::scale]
    np.testing.assert_array_equal(small[0], np.stack([np.asarray(grey)] * 3, axis=2))
    np.testing.assert_array_equal(small[1], photos.images[1])
    np.testing.assert_array_equal(small[2], small[0])


# Image folders


Save = Callable[[str, int], Path]


@pytest.fixture
def save(tmp_path: Path, digits: ImageDataset) -> Save:
    """``save(path, i)`` writes the i-th digit to a path below ``tmp_path``."""

    def write(name: str, index: int) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(digits.images[index]))
        return path

    return write


def test_flat_folder(tmp_path: Path, save: Save, digits: ImageDataset) -> None:
    save("b.PNG", 1)
    save("a.png", 0)
    save(".hidden.png", 2)
    save(".cache/c.png", 3)
    save("__MACOSX/d.png", 4)
    (tmp_path / "notes.txt").write_text("not an image, and not named like one")
    data = load(tmp_path)
    np.testing.assert_array_equal(data.images, digits.images[:2])
    assert (data.labels, data.classes) == (None, ())


def test_class_folders(tmp_path: Path, save: Save, digits: ImageDataset) -> None:
    save("zebra/1.png", 0)
    save("ape/deep/er/2.png", 1)
    save("train/3.png", 2)  # the class of trains, not a split
    data = load(tmp_path)
    assert data.classes == ("ape", "train", "zebra")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(data.images, digits.images[[1, 2, 0]])
    with pytest.raises(DataError, match="no test split"):
        load(tmp_path, "test")


def test_folders_that_are_not_classes(tmp_path: Path, save: Save) -> None:
    save("images/1.png", 0)  # a single folder is not a class
    assert load(tmp_path).labels is None
    save("more/2.png", 1)
    save("3.png", 2)  # in no class
    data = load(tmp_path)
    assert len(data) == 3
    assert data.labels is None


def test_split_folders_share_classes(tmp_path: Path, save: Save, digits: ImageDataset) -> None:
    for name in ("a", "b", "c"):
        save(f"train/{name}/1.png", 0)
    save("test/c/1.png", 1)
    assert load(tmp_path).classes == ("a", "b", "c")
    test = load(tmp_path, "test")
    assert test.classes == ("a", "b", "c")
    assert test.labels is not None
    assert test.labels.tolist() == [2]
    np.testing.assert_array_equal(test.images, digits.images[1:2])

    stranger = save("test/d/1.png", 1)
    with pytest.raises(DataError, match=f"{stranger} is in none of the 3 class folders"):
        load(tmp_path, "test")


def test_links_are_followed_once(tmp_path: Path, save: Save) -> None:
    save("outside/2.png", 1)
    save("folder/1.png", 0)
    (tmp_path / "folder" / "loop").symlink_to(tmp_path / "folder")
    (tmp_path / "folder" / "more").symlink_to(tmp_path / "outside")
    (tmp_path / "folder" / "again").symlink_to(tmp_path / "outside")
    assert len(load(tmp_path / "folder")) == 2


def test_too_many_bad_files_are_named(tmp_path: Path, save: Save) -> None:
    save("1.png", 0)
    truncated = save("2.png", 1)
    truncated.write_bytes(truncated.read_bytes()[:90])
    (tmp_path / "3.jpg").write_text("text")
    (tmp_path / "4.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "5.png").touch()
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert message.startswith(
        "4 of 5 images cannot be read (at most 1 may be skipped, see --max-skipped):"
    )
    for name in ("2.png", "3.jpg", "4.png: No such file", "5.png"):
        assert f"{tmp_path}/{name}" in message


def test_a_few_bad_images_are_skipped(
    tmp_path: Path, save: Save, digits: ImageDataset, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(40):
        save(f"{'ab'[index % 2]}/{index:02}.png", index)
    (tmp_path / "a" / "00.png").write_bytes(b"text")
    (tmp_path / "b" / "05.png").write_bytes(huge_png())
    with caplog.at_level(logging.WARNING):
        data = load(tmp_path)
    kept = [*range(2, 40, 2), *(index for index in range(1, 40, 2) if index != 5)]
    np.testing.assert_array_equal(data.images, digits.images[kept])
    assert data.labels is not None
    assert data.labels.tolist() == [0] * 19 + [1] * 19
    assert [line.split(": ")[0] for line in data.skipped] == [
        f"{tmp_path}/a/00.png",
        f"{tmp_path}/b/05.png",
    ]
    assert "images skipped because they cannot be read (2 of 40):" in caplog.text
    assert "05.png: 9000 x 9000 pixels" in caplog.text

    with pytest.raises(DataError, match="2 of 40 images cannot be read:"):
        load(tmp_path, max_skipped=0)
    (tmp_path / "b" / "01.png").write_bytes(b"text")
    with pytest.raises(DataError, match="3 of 40 images cannot be read \\(at most 2 may be"):
        load(tmp_path)


def huge_png() -> bytes:
    """Return a PNG file of 9,000 × 9,000 pixels without any pixel data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 9_000, 9_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def test_skipped_rows_keep_labels_and_attributes_in_order(
    tmp_path: Path, digits: ImageDataset
) -> None:
    images = encoded(digits.images[:4])
    images[1]["bytes"] = b"text"
    write_table(
        tmp_path / "train.parquet",
        {"image": images, "label": [3, 2, 1, 0], "Old": [True, True, False, True]},
    )
    data = load(tmp_path)
    np.testing.assert_array_equal(data.images, digits.images[[0, 2, 3]])
    assert data.labels is not None
    assert data.labels.tolist() == [3, 1, 0]
    assert data.attributes is not None
    assert data.attributes[:, 0].tolist() == [True, False, True]


def test_one_unreadable_image_may_always_be_skipped_but_not_all(tmp_path: Path, save: Save) -> None:
    save("1.png", 0).write_bytes(b"text")
    with pytest.raises(DataError, match="none of 1 images can be read"):
        load(tmp_path)
    save("2.png", 1)
    assert len(load(tmp_path)) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every folder")
def test_a_folder_that_cannot_be_read_is_reported(tmp_path: Path, save: Save) -> None:
    save("a/1.png", 0)
    save("b/2.png", 1)
    (tmp_path / "b").chmod(0)
    try:
        assert "Permission denied" in load(tmp_path).skipped[0]
    finally:
        (tmp_path / "b").chmod(0o700)


@pytest.mark.parametrize("suffix", ["avif", "jp2", "jfif", "JPE", "pbm"])
def test_all_formats_that_are_read_are_found(
    tmp_path: Path, photos: ImageDataset, suffix: str
) -> None:
    form = {"avif": "AVIF", "jp2": "JPEG2000", "pbm": "PPM"}.get(suffix, "JPEG")
    image = Image.fromarray(photos.images[0])
    try:
        image.save(tmp_path / f"photo.{suffix}", form)
    except KeyError:
        pytest.skip(f"this Pillow cannot write {form}")
    assert load(tmp_path).images.shape == (1, 32, 32, 3)


def test_formats_that_are_not_supported_are_counted(tmp_path: Path, save: Save) -> None:
    save("1.png", 0)
    for name in ("a.heic", "b.HEIC", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (note,) = load(tmp_path).notes
    assert note.endswith("2 .heic files are not used, because the format is not supported")


def test_names_that_are_not_utf8(tmp_path: Path, digits: ImageDataset) -> None:
    for index, label in enumerate((b"a", b"\xff")):
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/photos/" + label))
        folder.mkdir(parents=True)
        (folder / os.fsdecode(b"\xfe.png")).write_bytes(png(digits.images[index]))
    data = load(tmp_path / "photos")
    assert data.classes == ("a", "\\xff")
    np.testing.assert_array_equal(data.images, digits.images[:2])
    (tmp_path / "photos" / "a" / "bad.png").write_bytes(b"text")
    assert load(tmp_path / "photos").skipped[0].startswith(str(tmp_path))
    with pytest.raises(DataError, match=r"photos/\\xff: the path is not valid UTF-8"):
        absolute(os.fsdecode(os.fsencode(tmp_path) + b"/photos/\xff"))


# Splits


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("training", "testing"),
        ("Train", "Test"),
        ("TRAIN", "TEST"),
        ("training_set", "test_set"),
        ("train-images", "test-images"),
        ("train2017", "val2017/../test2017"),
        ("Train", "eval"),
        ("download/train", "download/test"),
        ("data/Training", "data/Testing"),
    ],
)
def test_test_images_are_not_trained_on(
    tmp_path: Path, save: Save, digits: ImageDataset, train: str, test: str
) -> None:
    for index, name in enumerate(("cat", "dog", "dog")):
        save(f"{train}/{name}/{index}.png", index)
    save(f"{test}/dog/1.png", 3)
    data = load(tmp_path)
    np.testing.assert_array_equal(data.images, digits.images[:3])
    assert data.classes == ("cat", "dog")
    np.testing.assert_array_equal(load(tmp_path, "test").images, digits.images[3:4])
    assert data.splits == {"train": 3, "test": 1}
    assert data.summary() == (
        f"{tmp_path.name}: 3 images, 28×28×1; splits: train 3, test 1; 2 classes: cat 1, dog 2"
    )


def test_splits_inside_of_class_folders(tmp_path: Path, save: Save, digits: ImageDataset) -> None:
    for index, name in enumerate(("cat", "dog")):
        save(f"{name}/train/1.png", index)
        save(f"{name}/test/2.png", index + 2)
    train, test = load(tmp_path), load(tmp_path, "test")
    np.testing.assert_array_equal(train.images, digits.images[:2])
    np.testing.assert_array_equal(test.images, digits.images[2:4])
    assert train.classes == test.classes == ("cat", "dog")
    assert test.labels is not None
    assert test.labels.tolist() == [0, 1]


def test_validation_images_are_for_measuring_if_there_are_no_test_images(
    tmp_path: Path, save: Save, digits: ImageDataset
) -> None:
    save("Train/1.png", 0)
    save("Valid/2.png", 1)
    data = load(tmp_path)
    assert len(data) == 1
    assert data.splits == {"train": 1, "validation": 1}
    np.testing.assert_array_equal(load(tmp_path, "test").images, digits.images[1:2])
    save("test/3.png", 2)
    np.testing.assert_array_equal(load(tmp_path, "test").images, digits.images[2:3])


def test_images_outside_of_the_splits_are_counted(tmp_path: Path, save: Save) -> None:
    for index, name in enumerate(("train/1.png", "test/2.png", "extra/3.png", "4.png")):
        save(name, index)
    data = load(tmp_path)
    assert len(data) == 1
    assert "2 images outside of the splits are not used" in data.notes[0]


@pytest.mark.parametrize(
    ("train", "apart", "classes"),
    [
        (["1.png", "2.png"], "test/3.png", ()),
        (["1.png", "deep/2.png"], "Validation/cat/3.png", ()),
        (["cat/1.png", "dog/2.png"], "test/3.png", ("cat", "dog")),
        (["cat/1.png", "dog/2.png"], "test/cat/3.png", ("cat", "dog")),
        (["cat/1.png", "dog/2.png"], "cat/test/3.png", ("cat", "dog")),
        (["cat/1.png", "dog/2.png"], "dog/2020/val/3.png", ("cat", "dog")),
        (["mine/cat/1.png", "mine/dog/2.png"], "mine/eval/3.png", ("cat", "dog")),
        (["train/1.png", "train/2.png"], "train/test/3.png", ()),
        (["cat/train/1.png", "dog/2.png"], "cat/test/3.png", ("cat", "dog")),
    ],
)
def test_no_test_folder_is_ever_trained_on(
    tmp_path: Path,
    save: Save,
    digits: ImageDataset,
    train: list[str],
    apart: str,
    classes: tuple[str, ...],
) -> None:
    for index, name in enumerate(train):
        save(name, index)
    save(apart, 2)
    data = load(tmp_path)
    np.testing.assert_array_equal(data.images, digits.images[:2])
    assert data.classes == classes
    np.testing.assert_array_equal(load(tmp_path, "test").images, digits.images[2:3])


def test_only_test_images(tmp_path: Path, save: Save) -> None:
    save("photos/test/1.png", 0)
    with pytest.raises(DataError, match=r"only test \(1 images\): folders of these names"):
        load(tmp_path)
    assert len(load(tmp_path / "photos" / "test")) == 1  # asked for by name


def test_a_flat_test_folder_has_no_labels(tmp_path: Path, save: Save) -> None:
    for name in ("train/cat/1.png", "train/dog/2.png", "test/3.png"):
        save(name, 0)
    assert load(tmp_path).classes == ("cat", "dog")
    test = load(tmp_path, "test")
    assert test.labels is None
    assert "not in class folders" in test.notes[0]


# Held-out images


def test_held_out_images(tmp_path: Path, save: Save, digits: ImageDataset) -> None:
    for index in range(60):
        save(f"{'cat' if index < 40 else 'dog'}/{index:02}.png", index)
    train, test = (load(f"{tmp_path}#split=0.1:7", split) for split in ("train", "test"))
    assert train.splits == test.splits == {"train": 54, "test": 6}
    assert train.labels is not None
    assert test.labels is not None
    assert (np.bincount(train.labels).tolist(), np.bincount(test.labels).tolist()) == (
        [36, 18],
        [4, 2],
    )
    both = {image.tobytes() for image in train.images} & {i.tobytes() for i in test.images}
    assert not both

    def held_out(seed: int, size: Any = None) -> set[bytes]:
        data = load(f"{tmp_path}#split=0.1:{seed}", "test", size=size)
        return {np.asarray(content).tobytes() for content in data.contents}  # type: ignore[union-attr]

    assert held_out(7) != held_out(8)
    assert held_out(7, (14, 14, 1)) == held_out(7)
    before = held_out(7)
    (tmp_path / "cat").rename(tmp_path / "renamed")
    assert held_out(7) == before


def test_copies_are_held_out_together(tmp_path: Path, save: Save) -> None:
    for index in range(20):
        for name in ("a/1", "a/2", "b/3"):
            save(f"{name}-{index}.png", index)
    train, test = (load(f"{tmp_path}#split=0.2", split) for split in ("train", "test"))
    assert len(train) + len(test) == 60
    assert len(test) % 3 == 0
    assert not {i.tobytes() for i in train.images} & {i.tobytes() for i in test.images}


def test_a_parquet_folder_can_be_divided(tmp_path: Path, digits: ImageDataset) -> None:
    columns = {"image": encoded(digits.images[:20]), "Old": [True, False] * 10}
    write_table(tmp_path / "train.parquet", columns)
    train, test = (load(f"{tmp_path}#split=0.25", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (15, 5)
    assert train.attributes is not None
    assert train.attributes.shape == (15, 1)


def test_splits_that_are_not_possible(tmp_path: Path, save: Save) -> None:
    save("train/1.png", 0)
    for text in ("0", "1", "1.5", "a", "0.1:-1", "-0.1", ""):
        with pytest.raises(DataError, match="expected a share of the images between 0 and 1"):
            load(f"{tmp_path}#split={text}")
    with pytest.raises(DataError, match="too few different images for a test split: 1"):
        load(f"{tmp_path}#split=0.5")
    save("val/2.png", 1)
    with pytest.raises(DataError, match="already has a validation split"):
        load(f"{tmp_path}#split=0.5")
    with pytest.raises(DataError, match="already has a split"):
        with_split(f"{tmp_path}#split=0.5", "0.1")


def test_sources_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images found in"):
        load(tmp_path)
    file = tmp_path / "file.png"
    file.touch()
    with pytest.raises(DataError, match="is a file"):
        load(file)
    with pytest.raises(DataError, match="source of images is empty"):
        load("")  # not the working folder
    with pytest.raises(DataError, match="neither a folder nor one of cifar10, fashion-mnist"):
        load("mnits")
    with pytest.raises(DataError, match="unknown split 'val'"):
        load(tmp_path, "val")  # type: ignore[arg-type]


# Public data sets


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "mnist"), ("fashion-mnist", "fashion_mnist")]
)
def test_public_dataset_already_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    raw = tmp_path / ("MNIST" if name == "mnist" else "FashionMNIST") / "raw"
    for split, prefix in (("train", "train"), ("test", "t10k")):
        data = load(SAMPLES / folder, split)  # type: ignore[arg-type]
        assert data.labels is not None
        write_idx(raw / f"{prefix}-images-idx3-ubyte", data.images[..., 0])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", data.labels.astype(np.uint8))
    monkeypatch.setenv("REPZOO_DATA", str(tmp_path))

    ours, theirs = load(name, "test"), load(SAMPLES / folder, "test")
    assert ours.sha256 == theirs.sha256  # for every source
    assert len(ours.classes) == 10
    if name == "mnist":
        assert ours.classes == theirs.classes
    resized = load(f"torchvision:{name}", "test", size=(14, 14, 3))
    np.testing.assert_array_equal(
        resized.images, load(SAMPLES / folder, "test", size=(14, 14, 3)).images
    )

    (raw / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03 too short")
    with pytest.raises(DataError, match=f"{name} is not in .* or its files are damaged"):
        load(name, "test")


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.delenv("no_proxy", raising=False)
    # urlopen keeps the proxies of its first call for the rest of the process.
    monkeypatch.setattr("urllib.request._opener", None)
    monkeypatch.setenv("REPZOO_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"{name} is not in {tmp_path} and cannot be downloaded"):
        load(name)


# The data set's own record


def test_sha256_is_of_the_content(digits: ImageDataset) -> None:
    assert digits.labels is not None
    same = ImageDataset("other name", digits.images.copy(), digits.labels.copy())
    assert same.sha256 == digits.sha256
    pixels, labels = digits.images.copy(), digits.labels.copy()
    pixels[-1, 0, 0] ^= 1
    labels[0] += 1
    assert ImageDataset("", pixels, digits.labels).sha256 != digits.sha256
    assert ImageDataset("", digits.images, labels).sha256 != digits.sha256
    assert ImageDataset("", digits.images).sha256 != digits.sha256
    reshaped = digits.images.reshape(-1, 14, 56, 1)
    assert ImageDataset("", reshaped, digits.labels).sha256 != digits.sha256


def test_a_source_is_remembered_so_that_it_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("photos") == str(tmp_path / "photos")
    assert absolute("mnist") == "mnist"
    assert absolute("torchvision:mnist") == "torchvision:mnist"
    assert absolute("./mnist") == str(tmp_path / "mnist")
