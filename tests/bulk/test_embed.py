"""`zoo embed`: sources, columns, bad images, and second runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import repzoo
from PIL import Image
from repzoo.bulk.decoding import Decoders, usable_cores
from repzoo.bulk.run import Summary, embed_all
from repzoo.errors import Conflict, InvalidInput, MissingExtra, UnsupportedOperation
from repzoo.packages.config import InputSpec

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def embed(tiny_package: Path, tmp_path: Path) -> Callable[..., Summary]:
    """``embed(SOURCE, **options)`` writes ``out.parquet``, in this process."""

    def run(source: object, **options: Any) -> Summary:
        options = {"out": tmp_path / "out.parquet", "workers": 0, **options}
        model = str(options.pop("model", tiny_package))
        return embed_all(str(source), str(options.pop("out")), model, **options)

    return run


def rows(path: Path, column: str) -> Any:
    return pq.read_table(path)[column].to_pylist()


def test_a_folder(
    finish: Callable[..., Any], encoder: repzoo.Encoder, photos: Path, tmp_path: Path
) -> None:
    """The command itself, with processes that decode."""
    out = tmp_path / "out.parquet"
    options = ("--posterior", "--workers", "2", "--part-size", "128")
    status, stdout, stderr = finish(photos, out, *options, "--json")
    assert (status, stderr) == (3, "")
    said = json.loads(stdout)
    assert (said["images"], said["failed"], said["embedded_now"]) == (700, 3, 700)
    table = pq.read_table(out)
    assert table.column_names == ["id", "embedding", "variance", "error"]
    assert table["embedding"].type == pa.list_(pa.float32(), 4)
    ids = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    assert table["id"].to_pylist() == ids
    bad = [row for row, error in enumerate(table["error"].to_pylist()) if error]
    assert [ids[row] for row in bad] == ["0/0005.png", "3/0300.png", "6/0699.png"]
    assert set(table["error"].to_pylist()) == {None, "not an image in a known format"}
    assert all(table[name][row].as_py() is None for row in bad for name in table.column_names[1:3])
    good = [row for row in range(700) if row not in bad]
    expected = encoder.posterior([photos / ids[row] for row in good])
    found = table.take(good)
    np.testing.assert_allclose(found["embedding"].to_pylist(), expected.mean, atol=1e-6)
    np.testing.assert_allclose(found["variance"].to_pylist(), expected.variance, rtol=1e-5)
    job = json.loads(pq.read_schema(out).metadata[b"repzoo"])
    assert (job["model"], job["revision"]) == ("tiny", encoder.revision)
    assert sorted(p.name for p in tmp_path.iterdir() if "out" in p.name) == ["out.parquet"]
    # Again: nothing is left to do.
    status, stdout, stderr = finish(photos, out, *options)
    assert (status, stderr) == (3, "")
    assert "already done" in stdout
    assert "3/0300.png: not an image in a known format" in stdout


def test_too_many_bad_images(finish: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    options = ("--workers", "0", "--part-size", "128")
    status, _, stderr = finish(photos, out, *options, "--strict")
    assert status == 1
    assert stderr.startswith("zoo: 3 of 700 images cannot be read: 0/0005.png: not an image")
    status, _, stderr = finish(photos, out, *options, "--max-skipped", "0.003")
    assert (status, out.exists()) == (1, False)
    assert "3 of 700 images cannot be read (at most 2 may be skipped, see --max-skipped)" in stderr
    # Nothing is embedded again.
    status, stdout, _ = finish(photos, out, *options, "--json")
    assert (status, json.loads(stdout)["embedded_now"], out.exists()) == (3, 0, True)
    assert finish(photos, out, *options, "--strict")[0] == 1
    assert out.exists()


def test_how_many_work_changes_nothing(
    embed: Callable[..., Summary], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(photos, out=tmp_path / "alone.parquet", part_size=200)
    embed(photos, out=tmp_path / "two.parquet", part_size=200, workers=2)
    monkeypatch.setattr("repzoo.bulk.parts._LARGE_BYTES", 0)  # as if all images were large
    embed(photos, out=tmp_path / "large.parquet", part_size=200)
    alone, two, large = (
        (tmp_path / f"{n}.parquet").read_bytes() for n in ("alone", "two", "large")
    )
    assert alone == two == large


def test_processes_decode_many_images_or_large_ones(
    embed: Callable[..., Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def decoders(spec: InputSpec, workers: int) -> Decoders:
        asked.append(workers)
        return Decoders(spec, 0)

    monkeypatch.setattr("repzoo.bulk.run.Decoders", decoders)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(noise).save(tmp_path / "in" / "0.png")
    for limit in ("_SMALL", "_FEW", None):
        embed(tmp_path / "in", workers=None, overwrite=True)
        if limit is not None:
            monkeypatch.setattr(f"repzoo.bulk.run.{limit}", 1)
    assert asked == [0, usable_cores(), usable_cores()]


def test_uncertainty_and_normalize(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    summary = embed_all(
        str(DATA / "mnist" / "test-00000-of-00001.parquet"),
        str(out),
        "simvae-mnist",
        normalize=True,
        workers=0,
    )
    assert (summary.failed, summary.job.images) == (0, 500)
    table = pq.read_table(out)
    assert table["id"][17].as_py() == "test-00000-of-00001.parquet:17"
    images = pq.read_table(DATA / "mnist" / "test-00000-of-00001.parquet")["image"].to_pylist()
    files = [image["bytes"] for image in images]
    encoder = repzoo.load("simvae-mnist")
    expected = encoder.embed(files, normalize=True)
    np.testing.assert_allclose(table["embedding"].to_pylist(), expected, atol=1e-5)
    np.testing.assert_allclose(
        table["uncertainty"].to_pylist(), encoder.uncertainty(files), atol=1e-5
    )


class TestSources:
    def test_hidden_and_other_files_are_skipped(
        self, embed: Callable[..., Summary], make_png: Callable[..., bytes], tmp_path: Path
    ) -> None:
        folder = tmp_path / "source"
        for name in ("b.png", "a.PNG", ".hidden.png", ".git/x.png", "notes.txt", "sub/c.jpg"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make_png())
        summary = embed(folder)
        assert rows(tmp_path / "out.parquet", "id") == ["a.PNG", "b.png", "sub/c.jpg"]
        assert summary.skipped == 1

    def test_a_pattern(self, embed: Callable[..., Summary], photos: Path, tmp_path: Path) -> None:
        embed(f"{photos}/[01]/*7.png")
        ids = rows(tmp_path / "out.parquet", "id")
        assert len(ids) == 20
        assert ids[0] == "0/0007.png"

    def test_the_output_is_no_part_of_it(
        self, embed: Callable[..., Summary], photos: Path, tmp_path: Path
    ) -> None:
        source = tmp_path / "source"
        shutil.copytree(photos / "1", source)
        assert embed(source, out=source / "out.parquet").job.images == 100
        assert embed(source, out=source / "out.parquet").done_now == 0

    def test_one_image(self, embed: Callable[..., Summary], photos: Path, tmp_path: Path) -> None:
        embed(photos / "0" / "0000.png")
        assert rows(tmp_path / "out.parquet", "id") == ["0000.png"]

    def test_parquet_files(
        self,
        embed: Callable[..., Summary],
        encoder: repzoo.Encoder,
        make_png: Callable[..., bytes],
        tmp_path: Path,
    ) -> None:
        """Several files and row groups, images beside the file, missing ones, and a bad one."""
        folder = tmp_path / "source"
        folder.mkdir()
        files = [make_png(seed) for seed in range(300)]
        (folder / "beside.png").write_bytes(files[0])
        images: list[Any] = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(files)]
        images[0] = {"bytes": None, "path": "beside.png"}
        images[1] = {"bytes": b"no image", "path": None}
        images[2] = None
        images[3] = {"bytes": None, "path": "nowhere.png"}
        first = pa.table({"image": images[:250], "label": list(range(250))})
        pq.write_table(first, folder / "train-00000-of-00002.parquet", row_group_size=70)
        pq.write_table(pa.table({"image": images[250:]}), folder / "train-00001-of-00002.parquet")
        with pytest.raises(InvalidInput, match=r"holds images \(beside\.png\) and Parquet files"):
            embed(folder)
        summary = embed(f"{folder}/*.parquet", part_size=48)
        out = tmp_path / "out.parquet"
        assert (summary.job.images, summary.failed) == (300, 3)
        assert rows(out, "id")[249:251] == [
            "train-00000-of-00002.parquet:249",
            "train-00001-of-00002.parquet:0",
        ]
        errors = rows(out, "error")
        nowhere = f"{folder}/nowhere.png is not a file"
        assert errors[1:4] == ["not an image in a known format", "no image bytes", nowhere]
        good = [0, *range(4, 300)]
        found = [rows(out, "embedding")[row] for row in good]
        np.testing.assert_allclose(found, encoder.embed([files[i] for i in good]), atol=1e-6)

    def test_parquet_of_plain_bytes(
        self,
        embed: Callable[..., Summary],
        encoder: repzoo.Encoder,
        make_png: Callable[..., bytes],
        tmp_path: Path,
    ) -> None:
        pq.write_table(pa.table({"img": [make_png(1), make_png(2)]}), tmp_path / "in.parquet")
        embed(tmp_path / "in.parquet")
        found = rows(tmp_path / "out.parquet", "embedding")
        np.testing.assert_allclose(found, encoder.embed([make_png(1), make_png(2)]), atol=1e-6)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (pa.table({"text": ["x"]}), "no column of images: expected 'image' or 'img'"),
            (pa.table({"image": [1]}), "column 'image' is int64"),
            (
                pa.table({"image": [{"bytes": "/etc/hostname"}]}),
                "column 'image' is struct<bytes: string>",
            ),
            (b"no parquet", "cannot be read as Parquet"),
        ],
    )
    def test_parquet_without_images(
        self, embed: Callable[..., Summary], tmp_path: Path, content: Any, said: str
    ) -> None:
        path = tmp_path / "in.parquet"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pq.write_table(content, path)
        with pytest.raises(InvalidInput, match=re.escape(said)):
            embed(path)
        # No folder of parts is left.
        assert not (tmp_path / "out.parquet.parts").exists()

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("nowhere", "nowhere does not exist"),
            ("empty", "holds no images"),
            ("empty/*.png", "holds no images"),
            ("nosuch://bucket", "nosuch"),
        ],
    )
    def test_nothing(
        self,
        embed: Callable[..., Summary],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        source: str,
        said: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "notes.txt").write_text("x")
        with pytest.raises(InvalidInput, match=said):
            embed(source)

    @pytest.mark.skipif(sys.platform == "darwin", reason="all names are UTF-8 there")
    def test_names_that_are_not_utf8(
        self, embed: Callable[..., Summary], photos: Path, tmp_path: Path
    ) -> None:
        odd = tmp_path / os.fsdecode(b"\xff")
        odd.mkdir()
        shutil.copy(photos / "0" / "0000.png", odd)
        for source, out in ((odd, tmp_path), (photos / "0", odd)):
            with pytest.raises(InvalidInput, match="name is not UTF-8"):
                embed(source, out=out / "out.parquet")
        assert [*tmp_path.glob("out.parquet*")] == []
        # A name below the source does not stop the others.
        source = tmp_path / "source"
        source.mkdir()
        odd.rename(source / odd.name)
        shutil.copy(photos / "0" / "0000.png", source)
        assert embed(source).failed == 1
        assert rows(tmp_path / "out.parquet", "id") == ["0000.png", r"\xff/0000.png"]
        assert rows(tmp_path / "out.parquet", "error") == [None, "its name is not UTF-8"]

    def test_links(self, embed: Callable[..., Summary], photos: Path, tmp_path: Path) -> None:
        """Links to images, folders and Parquet files, as in the Hugging Face cache."""
        folder = tmp_path / "source"
        folder.mkdir()
        (folder / "a.png").symlink_to(photos / "0" / "0000.png")
        (folder / "b").symlink_to(photos / "1")
        (folder / "broken.png").symlink_to("nowhere")
        (folder / "loop").symlink_to(folder)
        os.mkfifo(folder / "pipe.png")
        for source, count in ((folder, 103), (f"{folder}/*.png", 3)):
            summary = embed(source, overwrite=True)
            assert (summary.job.images, summary.failed) == (count, 2)
            ids, errors = (rows(tmp_path / "out.parquet", name) for name in ("id", "error"))
            found = dict(zip(ids, errors, strict=True))
            assert found["a.png"] is None
            assert found["broken.png"] == "cannot be read: No such file or directory"
            assert found["pipe.png"] == "cannot be read: not a regular file"
        (tmp_path / "parquet").mkdir()
        name = "test-00000-of-00001.parquet"
        (tmp_path / "parquet" / name).symlink_to(DATA / "mnist" / name)
        assert embed(tmp_path / "parquet", overwrite=True).job.images == 500

    def test_existing_names_are_not_patterns(
        self,
        embed: Callable[..., Summary],
        make_png: Callable[..., bytes],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        folder = tmp_path / "br[2021]"
        folder.mkdir()
        names = ("a::b.png", "photo1.png", "photo[1].png", "x*.png")
        for name in names:
            (folder / name).write_bytes(make_png())
        (tmp_path / "br2").mkdir()
        (tmp_path / "br2" / "wrong.png").write_bytes(make_png())
        assert embed(folder).job.images == 4
        monkeypatch.chdir(folder)
        for name in names:
            assert embed(name, overwrite=True).job.images == 1
            assert rows(tmp_path / "out.parquet", "id") == [name]
        for pattern in ("photo[0-9].png", f"{tmp_path}/br[[]2021[]]/photo[0-9].png"):
            embed(pattern, overwrite=True)
            (found,) = rows(tmp_path / "out.parquet", "id")
            assert found.rpartition("/")[2] == "photo1.png"

    def test_an_output_in_the_source_by_another_way(
        self, embed: Callable[..., Summary], photos: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(photos / "1", tmp_path / "real")
        (tmp_path / "link").symlink_to("real")
        assert embed(tmp_path / "link", out=tmp_path / "real" / "x.parquet").job.images == 100
        assert embed(tmp_path / "link", out=tmp_path / "real" / "x.parquet").done_now == 0

    def test_a_folder_is_never_overwritten(
        self, embed: Callable[..., Summary], photos: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "all.parquet"  # as Spark writes it
        out.mkdir()
        (out / "part").write_bytes(b"x")
        with pytest.raises(OSError, match=re.escape(str(out))):
            embed(photos / "1", out=out, overwrite=True)
        assert (out / "part").exists()

    def test_a_zip_file(
        self,
        finish: Callable[..., Any],
        photos: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with zipfile.ZipFile("x.zip", "w") as archive:
            for path in sorted((photos / "1").iterdir()):
                archive.write(path, f"photos/{path.name}")
        for source in ("zip://photos::x.zip", f"zip://photos/*.png::file://{tmp_path}/x.zip"):
            options = ("--part-size", "30", "--workers", "0", "--overwrite")
            status, _, stderr = finish(source, "out.parquet", *options)
            assert (status, stderr) == (0, "")
            assert len(rows(tmp_path / "out.parquet", "id")) == 100
        status, _, stderr = finish("zip://photos::nowhere.zip", "out.parquet")
        assert (status, stderr) == (1, "zoo: zip://photos::nowhere.zip does not exist\n")

    @pytest.mark.parametrize(
        "metadata",
        [
            b"{",
            b"[]",
            b"\xff",
            b'{"info": null}',
            b'{"info": {"features": []}}',
            b'{"info": {"features": {"image": null, "images": [{"_type": "Image"}]}}}',
            b"[" * 100_000,
        ],
        ids=range(7),
    )
    def test_metadata_that_datasets_did_not_write(
        self,
        embed: Callable[..., Summary],
        make_png: Callable[..., bytes],
        tmp_path: Path,
        metadata: bytes,
    ) -> None:
        table = pa.table({"images": [["x"]], "image": [make_png()]})
        path = tmp_path / "in.parquet"
        pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), path)
        assert embed(path).failed == 0

    def test_parquet_with_paths_only(
        self, embed: Callable[..., Summary], make_png: Callable[..., bytes], tmp_path: Path
    ) -> None:
        """As `imagefolder` of datasets writes it: absolute or relative paths, and no bytes."""
        (tmp_path / "images").mkdir()
        (tmp_path / "data").mkdir()
        file = tmp_path / "images" / "x.png"
        file.write_bytes(make_png())
        os.mkfifo(tmp_path / "images" / "pipe.png")
        paths = [str(file), "../images/x.png", "../images/pipe.png"]
        images = [{"bytes": None, "path": path} for path in paths]
        pq.write_table(pa.table({"image": images}), tmp_path / "data" / "in.parquet")
        assert embed(tmp_path / "data").failed == 1
        errors = rows(tmp_path / "out.parquet", "error")
        assert errors == [None, None, f"{tmp_path}/data/../images/pipe.png is not a file"]

    def test_a_nested_layout(
        self, embed: Callable[..., Summary], make_png: Callable[..., bytes], tmp_path: Path
    ) -> None:
        path = tmp_path / "source" / "default" / "train" / "0000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"image": [make_png()]}), path)
        embed(tmp_path / "source")
        assert rows(tmp_path / "out.parquet", "id") == ["default/train/0000.parquet:0"]

    def test_in_memory(self, embed: Callable[..., Summary], photos: Path, tmp_path: Path) -> None:
        """Another file system, as source and output, gives the same rows."""
        import fsspec  # type: ignore[import-untyped]

        memory = fsspec.filesystem("memory")
        memory.put(f"{photos}/0/", "/photos/", recursive=True)
        try:
            summary = embed("memory://photos", out="memory://results/out.parquet", part_size=30)
            assert summary.failed == 1
            (tmp_path / "remote.parquet").write_bytes(memory.cat_file("/results/out.parquet"))
            assert memory.find("/results") == ["/results/out.parquet"]
        finally:
            memory.rm("/", recursive=True)
        embed(photos / "0", part_size=30)
        for column in ("id", "embedding", "error"):
            here, there = (rows(tmp_path / f"{n}.parquet", column) for n in ("out", "remote"))
            assert here == there


class TestAgain:
    """Earlier results are kept, and never mixed with those of another run."""

    def test_another_run_is_refused(
        self,
        embed: Callable[..., Summary],
        plain_package: Path,
        photos: Path,
        tmp_path: Path,
    ) -> None:
        # Digests are abbreviated in messages; a path of the same length must not be.
        source = tmp_path / "source".rjust(63 - len(str(tmp_path)), "-")
        shutil.copytree(photos / "1", source)
        embed(source)
        before = (tmp_path / "out.parquet").read_bytes()
        for options, said in (
            ({"model": plain_package}, "model tiny, not plain; revision"),
            ({"normalize": True}, "normalize False, not True"),
            ({"part_size": 7}, "part size 4096, not 7"),
        ):
            with pytest.raises(Conflict, match=said):
                embed(source, **options)
        with pytest.raises(Conflict, match=r"source .*source, not .*/2;"):
            embed(photos / "2")
        (source / "0100.png").write_bytes(b"changed")
        with pytest.raises(Conflict, match="which has changed since"):
            embed(source)
        assert (tmp_path / "out.parquet").read_bytes() == before
        assert embed(source, overwrite=True).failed == 1

    def test_parts_of_another_run_are_refused(
        self,
        embed: Callable[..., Summary],
        plain_package: Path,
        photos: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        embed(photos / "1")
        expected = (tmp_path / "out.parquet").read_bytes()
        (tmp_path / "out.parquet").unlink()
        monkeypatch.setattr("repzoo.bulk.run._join", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed(photos / "1")
        monkeypatch.undo()
        with pytest.raises(
            Conflict, match=r"out\.parquet\.parts belongs to another run: model tiny"
        ):
            embed(photos / "1", model=plain_package)
        assert embed(photos / "1").done_now == 0
        assert (tmp_path / "out.parquet").read_bytes() == expected

    def test_a_file_of_others_is_left_alone(
        self, embed: Callable[..., Summary], photos: Path, tmp_path: Path
    ) -> None:
        for content in (b"mine", None):
            if content is None:
                pq.write_table(pa.table({"x": [1]}), tmp_path / "out.parquet")
            else:
                (tmp_path / "out.parquet").write_bytes(content)
            before = (tmp_path / "out.parquet").read_bytes()
            with pytest.raises(Conflict, match="not written by zoo embed"):
                embed(photos)
            assert (tmp_path / "out.parquet").read_bytes() == before


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_what_cannot_be_asked_for(
    embed: Callable[..., Summary], plain_package: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedOperation, match="plain has no posterior"):
        embed(photos, model=plain_package, posterior=True)
    with pytest.raises(InvalidInput, match="ends in"):
        embed(photos, out=tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("missing", "options", "extra"),
    [("pyarrow", "", "batch"), ("fsspec", "", "batch"), ("ray", "--engine ray", "ray")],
)
def test_a_missing_extra_is_named(
    tiny_package: Path, photos: Path, tmp_path: Path, missing: str, options: str, extra: str
) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from repzoo.cli import main; main()"
    arguments = ["embed", str(photos / "0"), "--model", str(tiny_package), *options.split()]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--out", str(tmp_path / "out.parquet")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"needs the '{extra}' extra" in done.stderr
    assert f"pip install 'repzoo[{extra}]'" in done.stderr
    assert MissingExtra.__name__ not in done.stderr


def test_ray_is_not_imported(embed: Callable[..., Summary], photos: Path) -> None:
    code = (
        "import sys, repzoo.bulk.run, repzoo.commands.embedding, repzoo.bulk.on_ray\n"
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_robust_embeddings_are_content_means(
    make_package: Callable[..., Path], tmp_path: Path
) -> None:
    package = make_package(tmp_path, content=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    out = str(tmp_path / "robust.parquet")
    embed_all(str(tmp_path / "images"), out, str(package), robust=True, posterior=True, workers=0)
    table = pq.read_table(out).to_pydict()
    expected = repzoo.load(package, provider="cpu").posterior(images[..., None])
    np.testing.assert_allclose(table["embedding"], expected.content_mean, rtol=1e-5)
    np.testing.assert_allclose(table["variance"], expected.content_variance, rtol=1e-5)
    # A file of plain embeddings is another one.
    with pytest.raises(Conflict, match="robust True, not False"):
        embed_all(str(tmp_path / "images"), out, str(package), posterior=True, workers=0)
    plain = make_package(tmp_path, "plain")
    with pytest.raises(repzoo.UnsupportedOperation, match="has no content posterior"):
        embed_all(str(tmp_path / "images"), out, str(plain), robust=True)


_THREADS = """
import os, sys, threading
import pyarrow
from repzoo.bulk.run import embed_all

def native() -> int:
    return len(os.listdir("/proc/self/task")) - threading.active_count()

before = native()
embed_all(sys.argv[1], sys.argv[2], sys.argv[3], workers=0)
print(native() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize("kind", ["images", "parquet"])
def test_no_thread_of_arrow_outlives_the_run(
    kind: str, tiny_package: Path, photos: Path, tmp_path: Path
) -> None:
    """Python may abort if such a thread drops a buffer while it exits."""
    source = photos
    if kind == "parquet":
        source = tmp_path / "images.parquet"
        files = [path.read_bytes() for path in sorted(photos.rglob("000*.png"))]
        pq.write_table(pa.table({"image": files}), source)
    command = [sys.executable, "-c", _THREADS, str(source), str(tmp_path / "out.parquet")]
    command.append(str(tiny_package))
    # The first run also starts threads of ONNX Runtime. The second only reads what there is.
    for _ in range(2):
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output == "0\n"
