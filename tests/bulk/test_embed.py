"""`zoo embed`: sources, columns, bad images, and what a second run does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import repzoo
from repzoo.bulk.run import Summary, embed_all
from repzoo.errors import Conflict, InvalidInput, MissingExtra, UnsupportedOperation

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def embed(tiny_package: Path, tmp_path: Path) -> Callable[..., Summary]:
    """``embed(SOURCE, **options)`` into ``out.parquet``, in this process alone."""

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
    """The command as it is called, with processes that decode."""
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
    # Again: it is there.
    status, stdout, stderr = finish(photos, out, *options)
    assert (status, stderr) == (3, "")
    assert "already done" in stdout
    assert "3/0300.png: not an image in a known format" in stdout


def test_how_many_work_changes_nothing(
    embed: Callable[..., Summary], photos: Path, tmp_path: Path
) -> None:
    embed(photos, out=tmp_path / "alone.parquet", part_size=200)
    embed(photos, out=tmp_path / "two.parquet", part_size=200, workers=2)
    alone, two = ((tmp_path / name).read_bytes() for name in ("alone.parquet", "two.parquet"))
    assert alone == two


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
    def test_what_a_folder_is_passed_over_for(
        self, embed: Callable[..., Summary], make_png: Callable[..., bytes], tmp_path: Path
    ) -> None:
        folder = tmp_path / "source"
        for name in ("b.png", "a.PNG", ".hidden.png", ".git/x.png", "notes.txt", "sub/c.jpg"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make_png())
        (folder / "loop").symlink_to(folder)
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
        """Several files and row groups, images beside the file, none, and one that is bad."""
        folder = tmp_path / "source"
        folder.mkdir()
        files = [make_png(seed) for seed in range(300)]
        (folder / "beside.png").write_bytes(files[0])
        images: list[Any] = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(files)]
        images[0] = {"bytes": None, "path": "beside.png"}
        images[1] = {"bytes": b"no image", "path": None}
        images[2] = None
        images[3] = {"bytes": None, "path": "../out.parquet"}
        first = pa.table({"image": images[:250], "label": list(range(250))})
        pq.write_table(first, folder / "train-00000-of-00002.parquet", row_group_size=70)
        pq.write_table(pa.table({"image": images[250:]}), folder / "train-00001-of-00002.parquet")
        with pytest.raises(InvalidInput, match=r"holds images \(beside\.png\) and parquet files"):
            embed(folder)
        summary = embed(f"{folder}/*.parquet", part_size=48)
        out = tmp_path / "out.parquet"
        assert (summary.job.images, summary.failed) == (300, 3)
        assert rows(out, "id")[249:251] == [
            "train-00000-of-00002.parquet:249",
            "train-00001-of-00002.parquet:0",
        ]
        errors = rows(out, "error")
        assert errors[1:4] == ["not an image in a known format", "no image bytes", "no image bytes"]
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
            (b"no parquet", "cannot be read as parquet"),
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
        # Nothing is left of it.
        assert not (tmp_path / "out.parquet.parts").exists()

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("nowhere", "there is nothing"),
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
        for source, out in ((tmp_path, tmp_path), (odd, tmp_path), (photos / "0", odd)):
            with pytest.raises(InvalidInput, match="name is not UTF-8"):
                embed(source, out=out / "out.parquet")
        assert [*tmp_path.glob("out.parquet*")] == []

    def test_in_memory(self, embed: Callable[..., Summary], photos: Path, tmp_path: Path) -> None:
        """Another file system, from and to, gives the same rows."""
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
    """What is there already is kept, and never mixed with something else."""

    def test_another_run_is_refused(
        self,
        embed: Callable[..., Summary],
        plain_package: Path,
        photos: Path,
        tmp_path: Path,
    ) -> None:
        # As many characters as a digest has, which is abbreviated; a path is not.
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
        with pytest.raises(Conflict, match=r"out\.parquet\.parts is of another run: model tiny"):
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
            with pytest.raises(Conflict, match="not by zoo embed"):
                embed(photos)
            assert (tmp_path / "out.parquet").read_bytes() == before


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_what_cannot_be_asked_for(
    embed: Callable[..., Summary], plain_package: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedOperation, match="plain has no posterior"):
        embed(photos, model=plain_package, posterior=True)
    with pytest.raises(InvalidInput, match="ends with"):
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
