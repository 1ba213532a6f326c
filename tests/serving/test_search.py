"""``zoo serve --index``: images of an index are found, and no other file is read."""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import repzoo
from PIL import Image
from repzoo.index_source import IndexSource
from repzoo_client import (
    AsyncClient,
    Client,
    InvalidImage,
    InvalidRequest,
    Neighbours,
    UnsupportedOperation,
)
from repzoo_client._options import Distance, Metric
from repzoo_client.retrieval import PosteriorIndex
from repzoo_serving.wire.request_bodies import SearchOptions

pytest.importorskip("pymilvus")

COUNT = 40


def zoo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from repzoo.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def png(size: tuple[int, int], seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images in folders, one of them large, and a secret next to it."""
    folder = tmp_path_factory.mktemp("library") / "photos"
    (folder / "cats & dögs").mkdir(parents=True)
    for number in range(COUNT - 1):
        (folder / "cats & dögs" / f"{number:02}.png").write_bytes(png((9, 7), number))
    Image.open(io.BytesIO(png((500, 300), 99))).save(folder / "large.jpg")
    (folder.parent / "secret.png").write_bytes(png((8, 8), 1234))
    return folder


@pytest.fixture(scope="module")
def index(photos: Path, tiny_package: Path) -> Path:
    place = photos.parent / "index"
    done = zoo("index", "build", photos, "--model", tiny_package, "--out", place)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def url(index: Path, tiny_package: Path, plain_package: Path, server_process: Any) -> Iterator[str]:
    """A server of "tiny" under an alias, whose index it is, and of "plain"."""
    words = ("--models", f"mine={tiny_package},{plain_package}", "--index", str(index))
    with server_process(*words, "--port", "0", log=index.parent / "log") as server:
        yield server.wait_until_ready()


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def search(http: httpx.Client, *files: bytes, **options: Any) -> httpx.Response:
    form = {"model": "mine", **{name: str(value) for name, value in options.items()}}
    return http.post("/search", data=form, files=[("images", file) for file in files])


def same_as_the_index(
    url: str, index: Path, package: Path, queries: list[bytes], metric: Any, **options: Any
) -> Neighbours:
    """Search over HTTP, and compare with `PosteriorIndex.search`."""
    with Client(url) as client:
        model = client.models()[0].name
        found = client.search(queries, model=model, k=5, metric=metric, **options)
    with PosteriorIndex.open(index) as opened:  # the server does not keep it open
        content = opened.info.posterior == "content"
        posterior = repzoo.load(package, provider="cpu").posterior(queries)
        moments = (posterior.mean, posterior.variance)
        if content:
            moments = (posterior.content_mean, posterior.content_variance)
        expected = opened.search(*moments, posterior.uncertainty, k=5, metric=metric, **options)
    assert found.ids == [[hit.id for hit in answer.hits] for answer in expected]
    assert found.abstained.tolist() == [answer.abstained for answer in expected]
    for row, answer in zip(found.distances, expected, strict=True):
        distances = [hit.distance for hit in answer.hits]
        np.testing.assert_allclose(row[: len(distances)], distances, rtol=1e-3, atol=1e-5)
        assert np.isnan(row[len(distances) :]).all()
    return found


@pytest.mark.parametrize("metric", [m for m in get_args(Metric) if m != "robust"])
def test_it_finds_what_zoo_index_search_finds(
    url: str, index: Path, photos: Path, tiny_package: Path, metric: Metric
) -> None:
    queries = [(photos / "cats & dögs" / "03.png").read_bytes(), png((8, 8), 77)]
    found = same_as_the_index(url, index, tiny_package, queries, metric)
    assert metric != "mean" or found.ids[0][0] == "cats & dögs/03.png"


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ({"metric": "robust"}, 409, "robust', which needs content posteriors, but the server's"),
        ({"metric": "cosine"}, 409, "the server's index is built for 'euclidean' distances"),
        ({"abstain": 0.5}, 409, "abstain: mine has no calibrated uncertainty"),
        ({"metric": "nearest"}, 400, "metric"),
        ({"abstain": 1.5}, 400, "abstain"),
        ({"max_uncertainty": "low"}, 400, "max_uncertainty"),
    ],
)
def test_what_the_index_cannot_do(
    http: httpx.Client, options: dict[str, Any], status: int, said: str
) -> None:
    refused = search(http, png((8, 8), 1), **options)
    assert refused.status_code == status
    assert said in refused.json()["detail"]


def test_the_choices_are_those_of_the_index() -> None:
    assert {*get_args(SearchOptions.model_fields["metric"].annotation)} == {
        *get_args(Metric),
        *get_args(Distance),
    }
    for search_ in (Client.search, AsyncClient.search, PosteriorIndex.search):
        defaults = {
            name: given.default for name, given in inspect.signature(search_).parameters.items()
        }
        for name, field in SearchOptions.model_fields.items():
            assert name in ("model", "encoding_format") or defaults[name] == field.default


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("answers", ["json", "safetensors"])
def test_both_clients_search(
    kind: type[Client | AsyncClient], answers: Any, url: str, http: httpx.Client
) -> None:
    bad = b"no image"
    queries = [bad, *(png((8, 8), seed) for seed in range(3)), bad]

    def found(images: list[bytes], k: int, batch_size: int, **options: Any) -> Neighbours:
        client = kind(url, answers=answers, batch_size=batch_size)
        if isinstance(client, Client):
            with client:
                return client.search(images, model="mine", k=k, **options)

        async def ask() -> Neighbours:
            async with client:
                return await client.search(images, model="mine", k=k, **options)

        return asyncio.run(ask())

    errors: dict[int, Exception] = {}
    for batch_size in (1, 2, 5):  # requests with nothing but a bad image, and with some good ones
        near = found(queries, 100, batch_size, on_error="collect", errors=errors)
        expected = search(http, *queries[1:4], k=100).json()
        assert near.ids == [[], *expected["ids"], []]
        assert near.distances.shape == (5, COUNT)
        np.testing.assert_allclose(near.distances[1:4], expected["distances"], rtol=1e-4, atol=1e-6)
        assert np.isnan(near.distances[[0, 4]]).all()
        assert near.uncertainty is None
        assert sorted(errors) == [0, 4]
    assert found([bad], 3, 5, on_error="collect").ids == [[]]
    with pytest.raises(InvalidImage):
        found([bad], 3, 5)
    with pytest.raises(InvalidRequest, match="k"):
        found(queries[1:2], 101, 5)
    with Client(url) as client, pytest.raises(UnsupportedOperation, match="no index"):
        client.search(queries[1], model="plain")


def test_k_is_ten_by_default_and_no_more_than_there_are(http: httpx.Client) -> None:
    for k, expected in ((None, 10), (1, 1), (100, COUNT)):
        answer = search(http, png((8, 8), 1), **({} if k is None else {"k": k})).json()
        (ids,), (distances,) = answer["ids"], answer["distances"]
        assert len(ids) == len(set(ids)) == len(distances) == expected
        assert distances == sorted(distances)
    for k in (0, 101, "many"):
        assert search(http, png((8, 8), 1), k=k).status_code == 400


def test_many_images_at_once(http: httpx.Client) -> None:
    queries = [png((8, 8), seed) for seed in range(150)]
    many = search(http, *queries, k=3).json()
    for position in (0, 70, 149):
        one = search(http, queries[position], k=3).json()
        assert one["ids"][0] == many["ids"][position]


def test_only_the_model_of_the_index_searches_it(http: httpx.Client) -> None:
    models = {m["name"]: m["capabilities"] for m in http.get("/models").json()["models"]}
    assert "search" in models["mine"]
    assert "search" not in models["plain"]
    mine, plain = http.get("/models").json()["models"]
    assert mine["index"] == {
        "count": COUNT,
        "posterior": "encoder",
        "metrics": ["mean", "trusted", "w2", "csd", "content", "euclidean"],
    }
    assert "index" not in plain
    refused = search(http, png((8, 8), 1), model="plain")
    assert refused.status_code == 409
    assert "plain has no index of images" in refused.json()["detail"]


def test_pictures_are_small_and_made_anew(http: httpx.Client, photos: Path) -> None:
    small = http.get("/index/images/cats %26 d%C3%B6gs/03.png")
    assert small.status_code == 200
    assert small.headers["content-type"] == "image/png"
    assert small.headers["cache-control"] == "private, max-age=3600"
    pixels = np.asarray(Image.open(io.BytesIO(small.content)))
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(photos / "cats & dögs" / "03.png")))
    large = http.get("/index/images/large.jpg")
    assert large.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(large.content)).size == (154, 256)
    assert http.head("/index/images/large.jpg").content == b""
    assert http.post("/index/images/large.jpg").status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "%2e%2e/secret.png",
        "..%2Fsecret.png",
        "cats & dögs/../../secret.png",
        "cats & dögs",
        "/etc/hostname",
        "%2Fetc%2Fhostname",
        "large.jpg/",
        "large.jpg%00",
        "",
    ],
)
def test_nothing_else_is_read(url: str, path: str) -> None:
    # httpx would normalise the path.
    target = f"/index/images/{quote(path, safe='/%.')}".encode()
    request = httpx.Request("GET", url, extensions={"target": target})
    with httpx.Client() as client:
        response = client.send(request)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_an_image_that_becomes_something_else_is_not_sent(http: httpx.Client, photos: Path) -> None:
    path = photos / "cats & dögs" / "05.png"
    before = path.read_bytes()
    address = "/index/images/cats & dögs/05.png"

    def replaced_by(make: Callable[[], object]) -> int:
        path.unlink()
        make()
        return http.get(address).status_code

    try:
        assert replaced_by(lambda: path.symlink_to("/etc/hostname")) == 404
        assert replaced_by(lambda: path.write_text("no image")) == 404
        assert replaced_by(lambda: os.mkfifo(path)) == 404
        assert replaced_by(lambda: path.write_bytes(before)) == 200
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(before)


def test_the_document_describes_what_the_server_has(http: httpx.Client, server_url: str) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/search", "/index/images/{id}"} < paths.keys()
    properties = paths["/search"]["post"]["responses"]["200"]["content"]["application/json"]
    described = properties["schema"]["properties"].keys()
    assert search(http, png((8, 8), 1)).json().keys() <= described
    without = httpx.get(f"{server_url}/openapi.json").json()["paths"].keys()
    assert paths.keys() - without == {"/search", "/index/images/{id}"}


def test_without_an_index_there_is_no_search(server_url: str) -> None:
    with httpx.Client(base_url=server_url) as http:
        assert search(http, png((8, 8), 1), model="tiny").status_code == 409
        assert http.get("/index/images/large.jpg").status_code == 404
        for model in http.get("/models").json()["models"]:
            assert "search" not in model["capabilities"]


def test_an_index_of_content_posteriors(
    content_packages: dict[str, Path], photos: Path, server_process: Any, tmp_path: Path
) -> None:
    package, place = content_packages["robust"], tmp_path / "index"
    done = zoo("index", "build", photos, "--model", package, "--robust", "--out", place)
    assert done.returncode == 0
    queries = [png((8, 8), seed) for seed in range(6)]
    uncertainty = repzoo.load(package, provider="cpu").uncertainty(queries)
    assert uncertainty is not None
    middle = float(np.median(uncertainty))
    words = ("--models", str(package), "--index", str(place), "--port", "0")
    with server_process(*words, log=tmp_path / "log") as server:
        url = server.wait_until_ready()
        for metric in ("mean", "trusted", "robust"):
            same_as_the_index(url, place, package, queries, metric)
        found = same_as_the_index(
            url, place, package, queries, "robust", abstain=middle, max_uncertainty=middle
        )
        assert 0 < found.abstained.sum() < len(queries)
        nothing = same_as_the_index(url, place, package, queries, "mean", max_uncertainty=0)
        assert nothing.ids == [[]] * len(queries)
        with httpx.Client(base_url=url) as http:
            refused = search(http, queries[0], model="robust", metric="content")
            assert (refused.status_code, "zoo index build" in refused.text) == (409, True)
            for answer in (
                search(http, *queries, model="robust", abstain=0),
                search(http, *queries, model="robust", abstain=0, encoding_format="base64"),
            ):
                assert answer.json()["abstained"] == [True] * len(queries)
                assert not any(answer.json()["ids"] + answer.json()["distances"])
        for answers in ("json", "safetensors"):
            with Client(url, answers=answers) as client:
                silent = client.search(queries, model="robust", abstain=middle)
            assert silent.abstained.tolist() == [len(ids) == 0 for ids in silent.ids]
            assert (np.isnan(silent.distances).all(axis=1) == silent.abstained).all()


def test_an_index_whose_build_was_interrupted_is_named(
    index: Path, tiny_package: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(index, tmp_path / "index")
    source = IndexSource.read(index)
    assert source is not None
    assert source.complete
    source.model_copy(update={"complete": False}).write(copy)
    for place, said in ((index, False), (copy, True)):
        done = zoo("serve", "--models", tiny_package, "--index", place, "--check")
        assert done.returncode == 0, done.stderr
        assert (f"{place} may lack images" in done.stderr) == said


def test_wrong_indexes_are_one_line(
    index: Path, tiny_package: Path, plain_package: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("no index")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "empty").mkdir()
    for package, place, said in (
        (tiny_package, tmp_path / "nope", "nope"),
        (tiny_package, tmp_path / "empty", "empty"),
        (tiny_package, tmp_path / "text", "is not an export of an index"),
        (tiny_package, tmp_path / "other.npz", "is not an export of an index"),
        (plain_package, index, "which is not among the models"),
    ):
        done = zoo("serve", "--models", package, "--index", place, "--port", 0)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
