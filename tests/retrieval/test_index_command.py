"""`zoo index` on a folder of real digits: killed, changed and searched."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import repzoo
from PIL import Image
from repzoo_client.retrieval import PosteriorIndex
from repzoo_index import embedding, folder
from repzoo_index.embedding import open_model

COMMAND = [sys.executable, "-c", "from repzoo.cli import main; main()", "index"]

Run = Callable[..., Any]
Make = Callable[[int], Path]


def built(run: Run, *words: object, status: int = 0) -> dict[str, Any]:
    return json.loads(run("build", *words, "--json", status=status).stdout)


def test_a_build_that_is_killed_ends_as_an_undisturbed_one(
    zoo_index: Run,
    digits: Make,
    index_place: Path,
    tmp_path: Path,
    build_killed: Callable[[Sequence[object], Path, int, int], int],
    same_index: Callable[[Path, Path], None],
) -> None:
    folder = digits(240)
    words = [folder, "--model", "simvae-mnist", "--out", index_place, "--batch-size", 2]
    assert build_killed(words, index_place, 5, 0) >= 2
    assert "may lack images" in zoo_index("info", "--index", index_place).stderr
    assert built(zoo_index, *words)["count"] == 240
    assert zoo_index("info", "--index", index_place).stderr == ""
    zoo_index("build", folder, "--model", "simvae-mnist", "--out", tmp_path / "undisturbed")
    same_index(index_place, tmp_path / "undisturbed")


def test_an_empty_index_is_said_to_be_empty(
    zoo_index: Run, digits: Make, index_place: Path
) -> None:
    folder = digits(1)
    zoo_index("build", folder, "--model", "simvae-mnist", "--out", index_place)
    zoo_index("delete", "part 0/0000.png", "--index", index_place)
    found = zoo_index("search", folder / "part 0" / "0000.png", "--index", index_place)
    assert found.stdout.endswith(f"\nnothing found: {index_place} is empty\n")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_build_that_is_killed_many_times(
    seed: int,
    zoo_index: Run,
    digits: Make,
    index_place: Path,
    tmp_path: Path,
    build_killed: Callable[[Sequence[object], Path, int, int], int],
    same_index: Callable[[Path, Path], None],
) -> None:
    folder = digits(1000)
    words = [folder, "--model", "simvae-mnist", "--out", index_place, "--batch-size", 2]
    assert build_killed(words, index_place, 12, seed) >= 6
    assert built(zoo_index, *words)["count"] == 1000
    zoo_index("build", folder, "--model", "simvae-mnist", "--out", tmp_path / "undisturbed")
    same_index(index_place, tmp_path / "undisturbed")


def test_an_index_follows_its_folder(zoo_index: Run, digits: Make, index_place: Path) -> None:
    folder = digits(60)
    (folder / "bad.png").write_text("not an image")
    (folder / "notes.txt").write_text("no image either")
    (folder / ".hidden.png").write_bytes((folder / "part 0" / "0000.png").read_bytes())
    deep = folder / "a" / "b" / "c"
    deep.mkdir(parents=True)
    Image.open(folder / "part 0" / "0003.png").resize((90, 90)).save(deep / "large ü.JPG")
    words = (folder, "--model", "simvae-mnist", "--out", index_place)
    first = zoo_index("build", *words, status=3)
    assert "files skipped because they are not images: 1" in first.stdout
    assert first.stdout.startswith(f"{index_place}: 61 images of simvae-mnist")
    assert "61 added" in first.stdout
    assert first.stdout.endswith(
        "images skipped because they cannot be read (1 of 62):\n"
        "  bad.png: not an image in a known format\n"
    )

    (folder / "part 0" / "0000.png").unlink()
    (folder / "part 1" / "0001.png").write_bytes((folder / "part 2" / "0002.png").read_bytes())
    (folder / "bad.png").write_bytes((folder / "part 2" / "0002.png").read_bytes())
    (folder / "part 2" / "0005.png").write_text("broken by now")
    os.utime(folder / "part 0" / "0006.png", ns=(1, 1))
    second = built(zoo_index, *words, status=3)
    assert {key: second[key] for key in ("count", "added", "changed", "unchanged", "dropped")} == {
        "count": 60,
        "added": 1,
        "changed": 2,
        "unchanged": 57,
        "dropped": ["part 0/0000.png", "part 2/0005.png"],
    }
    assert [*second["bad"]] == ["part 2/0005.png"]

    os.utime(folder / "part 0" / "0006.png", ns=(2, 2))
    (folder / "part 0" / "0009.png").unlink()
    third = built(zoo_index, *words, "--checksums", "--keep", status=3)
    assert (third["count"], third["changed"], third["dropped"]) == (60, 0, [])

    with PosteriorIndex.open(index_place, model="simvae-mnist") as index:
        encoder = repzoo.load("simvae-mnist")
        files = ["bad.png", "part 1/0001.png", "a/b/c/large ü.JPG"]
        expected = encoder.posterior([folder / file for file in files])
        for i, file in enumerate(files):
            found = index.get([file])
            assert np.array_equal(found.mean[0], expected.mean[i])
            assert found.variance[0] == pytest.approx(expected.variance[i], rel=1e-6)
            assert expected.uncertainty is not None
            assert found.uncertainty[0] == expected.uncertainty[i]
            assert found.metadata[0]["folder"] == file.rpartition("/")[0]
        index.add(["of mine"], expected.mean[:1])
    # 0009.png is dropped at last; the document "of mine" was not added by a build.
    assert built(zoo_index, *words, status=3)["count"] == 60


@pytest.mark.parametrize("least", [1, 2**30])
def test_large_files_are_decoded_in_threads(
    least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [b"not an image"]
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (90, 70), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "image.jpg")
        files.append((tmp_path / "image.jpg").read_bytes())
    monkeypatch.setattr(embedding, "_THREADED_BYTES", least)
    encoder, threads = repzoo.load("simvae-mnist"), set[str]()
    as_it_is = repzoo.Encoder.preprocess

    def spy(self: repzoo.Encoder, images: Any) -> Any:
        threads.add(threading.current_thread().name.split("_")[0])
        return as_it_is(self, images)

    with monkeypatch.context() as patched, open_model("simvae-mnist", None, None) as model:
        patched.setattr(repzoo.Encoder, "preprocess", spy)
        found = model.embed(files)
    assert threads == {"decode"} if least == 1 else {"MainThread"}
    assert [*found.bad] == [0]
    expected = encoder.posterior(files[1:])
    np.testing.assert_array_equal(found.mean, expected.mean)
    assert found.uncertainty is not None
    np.testing.assert_allclose(found.uncertainty, expected.uncertainty, atol=1e-5)


def test_contents_of_files_do_not_pile_up(
    digits: Make,
    tmp_path: Path,
    same_index: Callable[[Path, Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = digits(9)
    (images / "broken.png").write_bytes(b"not an image")
    held: list[int] = []
    with open_model("simvae-mnist", None, None) as model:

        def embed(files: Sequence[bytes]) -> folder.Embedded:
            held.append(len(files))
            return model.embed(files)

        for name, most, expected in (("few", 1, [1] * 10), ("all", 2**30, [10])):
            monkeypatch.setattr(folder, "_HELD_BYTES", most)
            monkeypatch.setattr(folder, "usable_cores", lambda: 1)
            with PosteriorIndex.create(
                tmp_path / name, model=model.name, dim=model.dim, metric=model.metric
            ) as index:
                report = folder.index_folder(index, images, embed)
            assert (report.added, [*report.bad]) == (9, ["broken.png"])
            assert held == expected
            held.clear()
    same_index(tmp_path / "few", tmp_path / "all")


def test_what_cannot_be_read_stays_in_the_index(
    zoo_index: Run, run_as_anyone: Run, digits: Make, index_place: Path
) -> None:
    folder = digits(30)
    words = ("build", folder, "--model", "simvae-mnist", "--out", index_place)
    zoo_index(*words)
    (folder / "part 2" / "0002.png").unlink()
    closed = [folder / "part 0" / "0003.png", folder / "part 1"]
    os.utime(closed[0], ns=(1, 1))  # so that a build reads it again
    for path in closed:
        path.chmod(0)
    try:
        said = run_as_anyone(*words, "--max-skipped", "0.5", status=3).stdout
        done = run_as_anyone(*words, "--json", "--max-skipped", "0.5", status=3)
    finally:
        for path in closed:
            path.chmod(0o755)
    assert said.endswith(
        "files and folders that cannot be opened; the index keeps their images as they were:\n"
        "  part 1/: Permission denied\n"
        "  part 0/0003.png: Permission denied\n"
    )
    report = json.loads(done.stdout)
    assert report["unread"] == dict.fromkeys(
        ["part 0/0003.png", "part 1/"], os.strerror(errno.EACCES)
    )
    assert (report["count"], report["dropped"]) == (29, [])  # dropped by the first
    assert built(zoo_index, *words[1:])["changed"] == 1


def test_search_shows_hits_and_draws_them(
    zoo_index: Run, digits: Make, index_place: Path, tmp_path: Path
) -> None:
    folder = digits(90)
    zoo_index("build", folder, "--model", "simvae-mnist", "--out", index_place)
    query = folder / "part 1" / "0001.png"
    words = ("search", query, "--index", index_place)
    done = zoo_index(*words, "-k", 4, "--metric", "trusted", "--out", tmp_path / "hits.png")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{query}: uncertainty 0.")
    assert lines[1].split() == ["RANK", "DISTANCE", "(trusted)", "UNCERTAINTY", "ID"]
    assert lines[2].split(maxsplit=3)[::3] == ["1", "part 1/0001.png"]
    assert len(lines) == 2 + 4 + 1
    with Image.open(tmp_path / "hits.png") as sheet:
        assert (sheet.format, sheet.mode) == ("PNG", "RGB")
        # The query is on the left, twice as large as the hits, and the first hit is the query.
        pixels = np.asarray(sheet)
        with Image.open(query) as digit:
            drawn = np.asarray(digit.resize((224, 224), Image.Resampling.NEAREST))
        places = [
            (top, left)
            for top in range(30, 60)
            for left in range(10, 40)
            if np.array_equal(pixels[top : top + 224, left : left + 224, 0], drawn)
        ]
        assert len(places) == 1

    found = json.loads(zoo_index(*words, "-k", 30, "--where", "folder=part 2", "--json").stdout)
    assert [hit["metadata"]["folder"] for hit in found["hits"]] == ["part 2"] * 30
    assert not found["abstained"]
    assert found["probability"] == pytest.approx(1 - found["uncertainty"])

    noise = tmp_path / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    Image.fromarray(pixels).save(noise)
    done = zoo_index(
        *("search", noise, "--index", index_place, "--abstain", 0.5, "--out", tmp_path / "none.png")
    )
    assert "too uncertain: no answer" in done.stdout
    assert (tmp_path / "none.png").exists()

    blocked = tmp_path / "nowhere" / "all.npz"
    exported = zoo_index("export", blocked, "--index", index_place, status=1)
    assert exported.stderr == f"zoo: {blocked}: No such file or directory\n"

    zoo_index("delete", "part 1/0001.png", "--index", index_place)
    facts = json.loads(zoo_index("info", "--index", index_place, "--json").stdout)
    assert (facts["count"], facts["model"], facts["dim"]) == (89, "simvae-mnist", 10)


def test_what_does_not_fit_is_said(
    zoo_index: Run, run_as_anyone: Run, digits: Make, index_place: Path, tmp_path: Path
) -> None:
    folder = digits(3)
    words = (folder, "--out", index_place)
    zoo_index("build", *words, "--model", "simvae-mnist")
    other = zoo_index("build", *words, "--model", "vae-mnist", status=1)
    assert "holds posteriors of model simvae-mnist, not of vae-mnist" in other.stderr
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "nowhere"):
        for out in (index_place, tmp_path / "new"):
            words = (place, "--out", out, "--model", "simvae-mnist")
            assert zoo_index("build", *words, status=1).stderr.startswith(f"zoo: {place} ")
    assert not (tmp_path / "new").exists()
    (tmp_path / "text.png").write_text("not an image")
    bad = zoo_index("search", tmp_path / "text.png", "--index", index_place, status=1)
    assert "not an image in a known format" in bad.stderr
    query = ("search", folder / "part 0" / "0000.png", "--index", index_place)
    # In a new process, where Milvus logs to stderr, too.
    misspelt = run_as_anyone(*query, "--filter", "uncertainty ===", status=1)
    assert misspelt.stderr.startswith("zoo: Milvus does not understand the filter: ")
    assert misspelt.stderr.count("\n") == 1
    no_url = zoo_index(*query, "--server", "here", status=1)
    assert no_url.stderr == "zoo: --server: 'here' is not an http:// or https:// URL\n"
    nowhere = zoo_index("info", "--index", tmp_path / "nowhere", status=1)
    assert nowhere.stderr == f"zoo: there is no index in {tmp_path / 'nowhere'}\n"


def test_a_server_embeds_as_well(
    zoo_index: Run,
    digits: Make,
    index_place: Path,
    tmp_path: Path,
    server_process: Any,
    make_package: Callable[..., Path],
) -> None:
    folder = digits(30)
    (folder / "bad.png").write_text("not an image")
    points = make_package(
        tmp_path, "points", posterior=False, decoder=False, probes=(), uncertainty=True
    )
    places = {"simvae-mnist": index_place, "points": tmp_path / "other"}
    arguments = ("--models", f"simvae-mnist,{points}", "--port", "0")
    with server_process(*arguments, log=tmp_path / "log") as server:
        url = server.wait_until_ready()
        for name, place in places.items():
            words = (folder, "--model", name, "--out", place, "--server", url)
            remote = built(zoo_index, *words, status=3)
            assert remote["count"] == 30
            assert remote["bad"].keys() == {"bad.png"}
            assert remote["bad"]["bad.png"].startswith("not an image in one of BMP, GIF, JPEG")
            # The server embeds each image once, uncertainty included.
            metrics = httpx.get(f"{url}/metrics").text
            images = re.findall(rf'^repzoo_images_total.*model="{name}".* (\d+)', metrics, re.M)
            assert sum(map(int, images)) == 30, metrics
    path = folder / "part 0" / "0003.png"
    with PosteriorIndex.open(index_place) as index:
        expected = repzoo.load("simvae-mnist").posterior(path)
        found = index.get(["part 0/0003.png"])
        assert found.mean == pytest.approx(expected.mean, abs=1e-3)
    with PosteriorIndex.open(places["points"]) as index:
        encoder = repzoo.load(points)
        found = index.get(["part 0/0003.png"])
        assert found.mean == pytest.approx(encoder.embed(path), abs=1e-5)
        assert not found.variance.any()
        assert found.uncertainty == pytest.approx(encoder.uncertainty(path), abs=1e-5)
    # It is the same revision, so a build on this machine continues the server's.
    words = (folder, "--model", "simvae-mnist", "--out", index_place)
    assert built(zoo_index, *words, status=3)["unchanged"] == 30


def test_what_a_folder_may_contain(zoo_index: Run, digits: Make, index_place: Path) -> None:
    """Links, broken links, pipes, names that are not UTF-8, and formats that not all tools read."""
    folder = digits(6)
    other = folder.with_name("other")
    (folder / "part 2").rename(other)
    (folder / "linked").symlink_to(other)
    (folder / "loop").symlink_to(folder)
    (folder / "broken.png").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")
    digit = Image.open(folder / "part 0" / "0000.png")
    for suffix in ("avif", "jfif", "jp2", "BMP"):
        digit.save(folder / f"digit.{suffix}")
    bad = {
        "broken.png": "No such file or directory",
        "pipe.png": "not a regular file",
    }
    if sys.platform != "darwin":
        (folder / os.fsdecode(b"\xff.png")).write_bytes(b"")
        bad[r"\xff.png"] = "its path is not UTF-8 text of at most 1,024 bytes"
    words = (folder, "--model", "simvae-mnist", "--out", index_place)
    refused = zoo_index("build", *words, status=1)
    assert f"{len(bad)} of {10 + len(bad)} images cannot be read (at most 1" in refused.stderr
    assert f"{len(bad)} of {10 + len(bad)} images cannot be read: broken.png: " in (
        zoo_index("build", *words, "--strict", status=1).stderr
    )
    report = built(zoo_index, *words, "--max-skipped", 1, status=3)
    assert (report["count"], report["bad"]) == (10, bad)
    with PosteriorIndex.open(index_place) as index:
        assert {"linked/0002.png", "digit.avif"} <= index.metadata().keys()


def test_numbers_in_where(zoo_index: Run, digits: Make, index_place: Path) -> None:
    folder = digits(9)
    zoo_index("build", folder, "--model", "simvae-mnist", "--out", index_place)
    query = folder / "part 0" / "0003.png"
    size = query.stat().st_size
    same = sum(path.stat().st_size == size for path in folder.rglob("*.png"))
    with PosteriorIndex.open(index_place) as index:
        index.add(["text"], np.zeros((1, 10)), metadata=[{"size": str(size), "flag": True}])
    words = ("search", query, "--index", index_place, "--json")

    def hits(*where: str) -> int:
        options = [word for pair in where for word in ("--where", pair)]
        return len(json.loads(zoo_index(*words, *options).stdout)["hits"])

    assert hits(f"size={size}") == same + 1
    assert hits("flag=true") == 1
    assert hits("folder=part 0", "folder=part 1") == 0
    assert hits(f"size={10**30}") == hits("size=NaN") == hits('size="') == hits("size=") == 0
    for pair in ("size", "=3"):
        wrong = zoo_index("search", query, "--index", index_place, "--where", pair, status=2)
        assert "expected KEY=VALUE" in wrong.stderr


def test_one_word_for_one_distance(
    zoo_index: Run,
    digits: Make,
    index_place: Path,
    tmp_path: Path,
) -> None:
    folder = digits(6)
    zoo_index("build", folder, "--model", "simvae-mnist", "--out", index_place)
    metric = json.loads(zoo_index("info", "--index", index_place, "--json").stdout)["metric"]
    words = ("search", folder / "part 0" / "0000.png", "--index", index_place)
    plain, named = zoo_index(*words), zoo_index(*words, "--metric", metric)
    assert plain == named
    assert "DISTANCE (squared Euclidean)" in plain.stdout
    (other,) = {"euclidean", "cosine"} - {metric}
    refused = zoo_index(*words, "--metric", other, status=1)
    assert f"metric is '{other}', but {index_place} is built for '{metric}'" in refused.stderr


def test_images_that_have_moved(
    zoo_index: Run, digits: Make, index_place: Path, tmp_path: Path
) -> None:
    folder = digits(6)
    zoo_index("build", folder, "--model", "simvae-mnist", "--out", index_place)
    query, sheet = folder / "part 0" / "0000.png", tmp_path / "hits.png"
    words = ("search", query, "--index", index_place, "--out", sheet)
    (folder / "part 1" / "0001.png").unlink()
    some = zoo_index(*words)
    missing = folder / "part 1" / "0001.png"
    assert some.stderr == f"zoo: not on the contact sheet: {missing} cannot be read\n"
    moved = folder.rename(tmp_path / "moved")
    sheet.unlink()
    words = ("search", moved / "part 0" / "0000.png", *words[2:])
    none = zoo_index(*words, status=1)
    assert "use --images DIR" in none.stderr
    assert not sheet.exists()
    zoo_index(*words, "--images", moved)
    assert sheet.exists()


def test_searches_at_once_wait_for_each_other(
    zoo_index: Run, digits: Make, index_place: Path
) -> None:
    folder = digits(6)
    zoo_index("build", folder, "--model", "simvae-mnist", "--out", index_place)
    query = folder / "part 0" / "0000.png"
    command = [*COMMAND, "search", str(query), "--index", str(index_place), "--json"]
    searches = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for search in searches:
        stdout, stderr = search.communicate(timeout=300)
        assert search.returncode == 0, stderr
        assert json.loads(stdout)["hits"][0]["id"] == "part 0/0000.png"
        waiting = f"zoo: waiting for another process that uses {index_place}\n"
        assert stderr in ("", waiting)


def test_an_index_of_content_posteriors(
    zoo_index: Run,
    digits: Make,
    index_place: Path,
    make_package: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = digits(30)
    package = make_package(tmp_path, content=True, uncertainty=True)
    query = sorted(folder.rglob("*.png"))[0]
    words = [folder, "--model", package, "--out", index_place]
    assert built(zoo_index, *words, "--robust")["count"] == 30
    info = json.loads(zoo_index("info", "--index", index_place, "--json").stdout)
    assert info["posterior"] == "content"
    searched = ["search", query, "--index", index_place, "--model", package, "--json"]
    found = json.loads(zoo_index(*searched, "--metric", "robust", "-k", 30).stdout)
    encoder = repzoo.load(package, provider="cpu")
    posterior = encoder.posterior(query)
    assert len(found["hits"]) == 30
    with PosteriorIndex.open(index_place) as index:
        (kept,) = (d for d in index.documents() if query.name in str(d.ids))
        row = next(i for i, name in enumerate(kept.ids) if name.endswith(query.name))
        np.testing.assert_allclose(kept.mean[row], posterior.content_mean[0], rtol=1e-5)
        np.testing.assert_allclose(kept.variance[row], posterior.content_variance[0], rtol=1e-4)
    # An index holds one kind of posterior.
    assert "add --robust" in zoo_index("build", *words, status=1).stderr
    plain = make_package(tmp_path, "plain")
    refused = [folder, "--model", plain, "--out", tmp_path / "other", "--robust"]
    assert "plain has no content posterior" in zoo_index("build", *refused, status=1).stderr


def test_errors_name_the_command_that_builds_another_index(
    zoo_index: Run,
    digits: Make,
    index_place: Path,
    make_package: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, hub = digits(5), tmp_path / "hub"
    query = sorted(folder.rglob("*.png"))[0]
    package = make_package(hub, "zebra", content=True)
    words = ["--model", "zebra", "--hub", hub]
    zoo_index("build", folder, *words, "--out", index_place)
    search = ["search", query, "--index", index_place, "--hub", hub]
    refused = zoo_index(*search, "--metric", "robust", status=1).stderr
    assert "zoo index build DIR --model zebra --robust --out NEW" in refused
    refused = zoo_index("build", folder, *words, "--robust", "--out", index_place, status=1).stderr
    assert "choose another --out" in refused
    # The hub has another revision now, and the cache does not have the old one.
    shutil.rmtree(package)
    make_package(hub, "zebra", content=True, seed=1)
    monkeypatch.setenv("REPZOO_CACHE", str(tmp_path / "empty"))
    assert "zoo index build DIR --model zebra --out NEW" in zoo_index(*search, status=1).stderr
    refused = zoo_index("build", folder, *words, "--out", index_place, status=1).stderr
    assert "zoo index build DIR --model zebra --out NEW" in refused
