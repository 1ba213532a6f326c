"""`PosteriorIndex` on milvus-lite, as a folder and as a server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import repzoo_client
from repzoo_client.retrieval import (
    IndexExists,
    IndexInUse,
    IndexNotFound,
    IndexUnavailable,
    InvalidFilter,
    InvalidQuery,
    ModelMismatch,
    PosteriorIndex,
    distances,
)
from repzoo_client.retrieval.ranking import CANDIDATES, TRUST_WEIGHT, Metric

N, D = 600, 5
RANDOM = np.random.default_rng(3)
MEAN = RANDOM.standard_normal((N, D)).astype(np.float32)
VARIANCE = RANDOM.uniform(0.001, 1, (N, D)).astype(np.float32)
UNCERTAINTY = RANDOM.random(N).astype(np.float32)
IDS = [f"image {i}.png" for i in range(N)]
METADATA = [{"label": str(i % 10), "number": i, "even": i % 2 == 0} for i in range(N)]
QUERIES = 40


def fill(index: PosteriorIndex) -> PosteriorIndex:
    index.add(IDS, MEAN, VARIANCE, UNCERTAINTY, METADATA)
    return index


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("full") / "index"
    fill(PosteriorIndex.create(place, model="m", revision="r1", dim=D, scatter=0.3)).close()
    return place


@pytest.fixture
def index(folder: Path) -> Iterator[PosteriorIndex]:
    with PosteriorIndex.open(folder) as opened:
        yield opened


@pytest.fixture
def empty(index_place: Path) -> Iterator[PosteriorIndex]:
    with PosteriorIndex.create(index_place, model="m", dim=D) as opened:
        yield opened


def queries() -> dict[str, Any]:
    random = np.random.default_rng(4)
    return {
        "mean": random.standard_normal((QUERIES, D)).astype(np.float32),
        "variance": random.uniform(0.001, 1, (QUERIES, D)).astype(np.float32),
        "uncertainty": random.random(QUERIES).astype(np.float32),
    }


def brute_force(metric: Metric, query: int, k: int) -> list[tuple[str, float]]:
    """The k nearest documents by the definition of each metric."""
    mean, variance = queries()["mean"][query], queries()["variance"][query]
    near = distances.euclidean(mean, MEAN)
    if metric == "w2":
        distance = distances.wasserstein(mean, variance, MEAN, VARIANCE)
    elif metric == "csd":
        distance = distances.closed_form_sampled(mean, variance, MEAN, VARIANCE)
    elif metric == "content":
        distance = -distances.mutual_log_likelihood(mean, variance + 0.3, MEAN, VARIANCE + 0.3)
    elif metric == "robust":
        distance = -distances.mutual_log_likelihood(mean, variance, MEAN, VARIANCE)
    elif metric == "trusted":
        distance = near * (1 + TRUST_WEIGHT * UNCERTAINTY.astype(np.float64))
    else:
        distance = near
    rows = np.arange(N)
    if metric in ("content", "trusted", "robust"):
        rows = np.argsort(near)[: CANDIDATES * k]
    order = sorted(rows, key=lambda i: distance[i])[:k]
    return [(IDS[i], float(distance[i])) for i in order]


@pytest.mark.parametrize("metric", [m for m in get_args(Metric) if m != "robust"])
def test_hits_are_those_of_brute_force(index: PosteriorIndex, metric: Metric) -> None:
    answers = index.search(**queries(), k=7, metric=metric)
    assert len(answers) == QUERIES
    for number, answer in enumerate(answers):
        expected = brute_force(metric, number, 7)
        assert [hit.id for hit in answer.hits] == [name for name, _ in expected]
        found = [hit.distance for hit in answer.hits]
        assert found == pytest.approx([distance for _, distance in expected], rel=1e-5)


@pytest.mark.parametrize("recommended", ["euclidean", "cosine"])
def test_an_index_of_content_posteriors(
    index_place: Path, recommended: Literal["euclidean", "cosine"]
) -> None:
    created = PosteriorIndex.create(
        index_place, model="m", dim=D, metric=recommended, posterior="content"
    )
    fill(created).close()
    with PosteriorIndex.open(index_place) as index:
        assert index.info.posterior == "content"
        # Content means are not scaled, whatever the model recommends.
        for metric in ("robust", "mean", "trusted"):
            answers = index.search(**queries(), k=7, metric=metric)
            for number, answer in enumerate(answers):
                expected = brute_force(metric, number, 7)
                assert [hit.id for hit in answer.hits] == [name for name, _ in expected]
        assert index.search(**queries(), metric="euclidean") == index.search(**queries())
        with pytest.raises(InvalidQuery, match="built for 'euclidean' distances"):
            index.search(**queries(), metric="cosine")
        with pytest.raises(InvalidQuery, match="zoo index build DIR --model m --out NEW"):
            index.search(**queries(), metric="content")
        with pytest.raises(InvalidQuery, match="robust needs the variances of the queries"):
            index.search(MEAN[17], metric="robust")
        with pytest.raises(InvalidQuery, match="content posteriors, which need a variance"):
            index.add(["point"], MEAN[:1])


def test_robust_needs_an_index_of_content_posteriors(index: PosteriorIndex) -> None:
    assert index.info.posterior == "encoder"
    with pytest.raises(InvalidQuery, match="zoo index build DIR --model m --robust --out NEW"):
        index.search(**queries(), metric="robust")


@pytest.mark.parametrize("index_type", ["FLAT", "HNSW", "AUTOINDEX"])
def test_other_ways_to_find_neighbours(
    index_place: Path, index_type: Literal["FLAT", "HNSW", "AUTOINDEX"]
) -> None:
    with PosteriorIndex.create(index_place, model="m", dim=D, index_type=index_type) as made:
        fill(made).flush()
        answers = made.search(**queries(), metric="w2")
    right = [
        len({hit.id for hit in answer.hits} & {name for name, _ in brute_force("w2", i, 10)})
        for i, answer in enumerate(answers)
    ]
    assert np.mean(right) >= (10 if index_type == "FLAT" else 9)


def test_a_hit_says_what_it_is(index: PosteriorIndex) -> None:
    (answer,) = index.search(MEAN[17], VARIANCE[17], [0.25], k=1)
    (hit,) = answer.hits
    assert (hit.id, hit.distance, hit.metadata) == (IDS[17], 0, METADATA[17])
    assert hit.uncertainty == pytest.approx(UNCERTAINTY[17])
    assert hit.probability == 0.75
    assert (answer.uncertainty, answer.probability, answer.abstained) == (0.25, 0.75, False)
    (unknown,) = index.search(MEAN[17], k=1)
    assert unknown.probability is None


def test_the_uncertain_are_not_answered(index: PosteriorIndex) -> None:
    given = queries()
    answers = index.search(**given, abstain=0.6)
    for answer, doubt in zip(answers, given["uncertainty"], strict=True):
        assert answer.abstained == (doubt > 0.6)
        assert len(answer.hits) == (0 if answer.abstained else 10)
    with pytest.raises(InvalidQuery, match="needs the uncertainty"):
        index.search(given["mean"], abstain=0.5)


def test_uncertain_documents_are_left_out(index: PosteriorIndex) -> None:
    limit = float(np.float64(UNCERTAINTY[5]))
    assert index.count(max_uncertainty=limit) == (UNCERTAINTY[5] >= UNCERTAINTY).sum()
    (answer,) = index.search(MEAN[0], k=20, max_uncertainty=limit)
    assert all(hit.uncertainty is not None and hit.uncertainty <= limit for hit in answer.hits)


def test_filters(index: PosteriorIndex) -> None:
    assert index.count({"label": "3"}) == 60
    assert index.count({"label": "3", "even": True}) == 0
    assert index.count({"number": 12}) == 1
    assert index.count('metadata["number"] < 100 or id == "image 599.png"') == 101
    (answer,) = index.search(MEAN[3], k=30, filter={"label": "7"})
    assert {hit.metadata["label"] for hit in answer.hits} == {"7"}
    with pytest.raises(InvalidFilter, match="does not understand the filter"):
        index.search(MEAN[0], filter="metadata[")
    with pytest.raises(InvalidFilter):
        index.count({"label": None})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "value",
    ['" or id != "', "it's", "back\\slash", "two\nlines\r\t", "ü 漢 😀", '\\" or true #', ""],
)
def test_values_of_a_filter_are_only_values(empty: PosteriorIndex, value: str) -> None:
    empty.add(
        ["this", "other", "third"], MEAN[:3], metadata=[{"x": value}, {"x": "other"}, {value: 1}]
    )
    assert empty.count({"x": value}) == 1
    assert [hit.id for hit in empty.search(MEAN[0], filter={"x": value})[0].hits] == ["this"]
    assert empty.count({value: 1}) == 1


def test_ids_are_only_values(empty: PosteriorIndex) -> None:
    ids = [
        "a\nb",
        "it's",
        'a"b',
        "back\\slash",
        "x'] or id != ['",
        '"] or id != ["',
        "tab\t",
        "ü漢😀",
        "end\\",
    ]
    empty.add([*ids, "other"], MEAN[: len(ids) + 1])
    for name in ids:
        assert empty.get([name]).ids == [name]
    assert sorted(empty.get(ids).ids) == sorted(ids)
    assert empty.delete([*ids, "nowhere\n"]) == len(ids)
    assert [*empty.metadata()] == ["other"]
    assert empty.get("other").ids == ["other"]
    assert (empty.delete("o"), empty.delete("other")) == (0, 1)


def test_numbers_of_numpy(empty: PosteriorIndex) -> None:
    metadata = [{"n": np.int64(3), "x": np.float32(0.5), "name": np.str_("é")}]
    empty.add("one", MEAN[:1], metadata=metadata)
    assert empty.count({"n": np.int64(3), "x": np.float64(0.5), "name": np.str_("é")}) == 1
    assert empty.count({"n": np.int8(4)}) == 0


def test_adding_again_replaces(empty: PosteriorIndex) -> None:
    steps: list[int] = []
    for _ in range(3):
        empty.add(IDS, MEAN, VARIANCE, UNCERTAINTY, METADATA, progress=steps.append)
    assert (empty.count(), sum(steps)) == (N, 3 * N)
    empty.add(IDS[:1], MEAN[1:2], None, None, [{"new": 1}])
    kept = empty.get([*IDS[:2], "nowhere"])
    assert sorted(kept.ids) == IDS[:2]
    changed = kept.ids.index(IDS[0])
    assert kept.mean[changed] == pytest.approx(MEAN[1])
    assert kept.metadata[changed] == {"new": 1}
    assert np.isnan(kept.uncertainty[changed])
    assert kept.variance[changed].tolist() == [0] * D


def test_delete(empty: PosteriorIndex) -> None:
    fill(empty)
    assert empty.delete([IDS[0], IDS[1], "nowhere"]) == 2
    assert (empty.count(), empty.delete([])) == (N - 2, 0)
    assert IDS[0] not in {hit.id for hit in empty.search(MEAN[0], k=50)[0].hits}


def test_what_was_written_is_there_after_closing(index_place: Path) -> None:
    with PosteriorIndex.create(index_place, model="m", revision="r", dim=D) as made:
        fill(made)
        made.delete(IDS[:10])
    with PosteriorIndex.open(index_place, model="m", revision="r") as again:
        assert again.count() == N - 10
        assert again.info.dim == D
        assert [hit.id for hit in again.search(MEAN[20], k=1)[0].hits] == [IDS[20]]


def killed(code: str, *arguments: object) -> None:
    """Run Python code in a process that ends without closing anything."""
    code = f"import os, sys\nfrom repzoo_client.retrieval import *\n{code}\nos._exit(9)"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=False)
    assert done.returncode == 9


def test_what_a_killed_process_left_is_mended(index_place: Path) -> None:
    # Killed before the collection existed, before it had indexes, and while they were written.
    (index_place / "milvus.db" / "collections" / "repzoo" / "partitions").mkdir(parents=True)
    (index_place / ".open").touch()
    killed(
        "from repzoo_client.retrieval import layout, milvus\n"
        "client = milvus.connect(sys.argv[1], token=None, create=True).client\n"
        "info = IndexInfo('m', '', 5, 0.15, 'euclidean', 'IVF_FLAT')\n"
        "layout.create_collection(client, 'repzoo', info)",
        index_place,
    )
    with PosteriorIndex.open(index_place) as opened:
        fill(opened)
    killed("index = PosteriorIndex.open(sys.argv[1])", index_place)
    sidecars = [*index_place.rglob("*.idx")]
    assert len(sidecars) == 3
    for sidecar in sidecars:
        sidecar.write_bytes(sidecar.read_bytes()[:100])
    with PosteriorIndex.open(index_place) as mended:
        assert mended.count() == N
        assert [hit.id for hit in mended.search(MEAN[20], k=1)[0].hits] == [IDS[20]]


def test_export(index: PosteriorIndex, tmp_path: Path) -> None:
    assert index.export(tmp_path / "all.npz") == N
    with np.load(tmp_path / "all.npz", allow_pickle=False) as found:
        order = sorted(range(N), key=IDS.__getitem__)
        assert found["ids"].tolist() == sorted(IDS)
        assert np.array_equal(found["mean"], MEAN[order])
        assert found["variance"] == pytest.approx(VARIANCE[order], rel=1e-6)
        assert np.array_equal(found["uncertainty"], UNCERTAINTY[order])
        assert [json.loads(fact) for fact in found["metadata"]] == [METADATA[i] for i in order]
        assert json.loads(str(found["info"]))["model"] == "m"
    assert index.export(tmp_path / "some.npz", {"label": "1"}) == 60
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == ["all.npz", "some.npz"]


def test_posteriors_of_another_model_are_refused(index: PosteriorIndex, folder: Path) -> None:
    index.require(model="m", revision="r1")
    with pytest.raises(ModelMismatch, match="revision r1, not of r2"):
        index.require(revision="r2")
    index.close()
    with pytest.raises(ModelMismatch, match="model m, not of other"):
        PosteriorIndex.open(folder, model="other")
    PosteriorIndex.open(folder, model="m").close()  # a refusal closes the folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": np.zeros((2, D + 1))}, "expected \\[N, 5\\] for this index"),
        ({"mean": np.full((2, D), np.nan)}, "mean must be finite"),
        ({"mean": "words"}, "not an array of numbers"),
        ({"variance": np.full((2, D), -1.0)}, "negative"),
        ({"variance": np.zeros((3, D))}, "variance has shape"),
        ({"uncertainty": [0.5, 1.5]}, "must lie in"),
        ({"uncertainty": [0.5]}, "uncertainty has shape"),
        ({"ids": ["a"]}, "1 IDs for 2 posteriors"),
        ({"ids": ["a", "a"]}, "'a' occurs twice"),
        ({"ids": ["a", ""]}, "1 to 1,024 bytes"),
        ({"ids": ["a", "\udc80"]}, "1 to 1,024 bytes"),
        ({"ids": ["a", "ü" * 513]}, "1 to 1,024 bytes"),
        ({"metadata": [{}]}, "1 metadata objects for 2 IDs"),
        ({"metadata": [{}, {"x": b"bytes"}]}, "not a JSON object"),
        ({"metadata": [{}, {3: "x"}]}, "not a JSON object"),
        ({"metadata": [{}, {"x": "\ud800"}]}, "not a JSON object"),
        ({"metadata": [{}, {"x": 2**70}]}, "not a JSON object"),
        ({"metadata": ["ab", "text"]}, "not a JSON object"),
    ],
)
def test_what_cannot_be_added(empty: PosteriorIndex, change: dict[str, Any], message: str) -> None:
    given = {"ids": ["a", "b"], "mean": MEAN[:2], "variance": VARIANCE[:2], **change}
    with pytest.raises(InvalidQuery, match=message):
        empty.add(**given)
    assert empty.count() == 0


@pytest.mark.parametrize("options", [{"k": 0}, {"k": 801}, {"metric": "l1"}, {"weight": -1}])
def test_what_cannot_be_asked(empty: PosteriorIndex, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidQuery):
        empty.search(MEAN[0], **options)


def test_an_empty_index_has_no_hits(empty: PosteriorIndex) -> None:
    assert [answer.hits for answer in empty.search(MEAN[:2])] == [(), ()]
    assert list(empty.metadata()) == []


def test_cosine(index_place: Path) -> None:
    with PosteriorIndex.create(index_place, model="m", dim=D, metric="cosine") as made:
        made.add(IDS, 7 * MEAN, VARIANCE)
        (answer,) = made.search(3 * MEAN[8], k=5)
        unit = MEAN / np.linalg.norm(MEAN, axis=1, keepdims=True)
        cosine = unit @ unit[8]
        assert [hit.id for hit in answer.hits] == [IDS[i] for i in np.argsort(-cosine)[:5]]
        expected = 1 - np.sort(cosine)[::-1][:5]
        assert [hit.distance for hit in answer.hits] == pytest.approx(expected, abs=1e-5)
        assert made.search(3 * MEAN[8], k=5, metric="cosine") == [answer]
        made.add(IDS, 7 * MEAN, VARIANCE, UNCERTAINTY)
        (trusted,) = made.search(3 * MEAN[8], k=5, metric="trusted")
        rows = [IDS.index(hit.id) for hit in trusted.hits]
        expected = (1 - cosine[rows]) * (1 + TRUST_WEIGHT * UNCERTAINTY[rows])
        assert [hit.distance for hit in trusted.hits] == pytest.approx(expected, abs=1e-5)
        with pytest.raises(InvalidQuery, match="built for 'cosine' distances"):
            made.search(MEAN[8], metric="euclidean")


def test_one_index_at_a_time_has_a_folder_open(index: PosteriorIndex, folder: Path) -> None:
    with pytest.raises(IndexInUse, match="already open"):
        PosteriorIndex.open(folder)
    code = (
        "import sys; from repzoo_client.retrieval import *\n"
        "try: PosteriorIndex.open(sys.argv[1])\nexcept IndexInUse: print('in use')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("in use\n", "")
    assert index.count() == N


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_does_not_keep_a_folder_locked(folder: Path) -> None:
    code = """
import multiprocessing, sys
from repzoo_client.retrieval import *
with PosteriorIndex.open(sys.argv[1]):
    child = multiprocessing.get_context("fork").Process(target=input)
    child.start()
PosteriorIndex.open(sys.argv[1]).close()
child.kill()
print("opened again")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "opened again\n", done


def test_a_small_index_prints_nothing(index_place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with PosteriorIndex.create(index_place, model="m", dim=D) as made:
        made.add(IDS[:3], MEAN[:3])
    with PosteriorIndex.open(index_place) as again:
        assert [hit.id for hit in again.search(MEAN[1], k=1)[0].hits] == [IDS[1]]
    assert capfd.readouterr() == ("", "")


def test_places_without_an_index(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(IndexNotFound):
        PosteriorIndex.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(IndexNotFound):
        PosteriorIndex.open(folder, collection="other")
    with pytest.raises(IndexExists):
        PosteriorIndex.create(folder, model="m", dim=D)
    with pytest.raises(InvalidQuery):
        PosteriorIndex.create(tmp_path / "nowhere", model="m", dim=0)


@pytest.mark.parametrize("name", ["posterior", "metric", "index_type"])
def test_an_index_of_an_unknown_kind_is_not_created(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidQuery, match=f"{name} is 'robust'; expected one of"):
        PosteriorIndex.create(tmp_path / "index", model="m", dim=D, **{name: "robust"})  # type: ignore[arg-type]
    assert not (tmp_path / "index").exists()


def test_a_milvus_server_by_its_uri(tmp_path: Path, unused_port: Callable[[], int]) -> None:
    port = unused_port()
    command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(tmp_path / "data")]
    uri = f"http://127.0.0.1:{port}"
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log
        )
    try:
        wait_for(port)
        with PosteriorIndex.create(uri, model="m", dim=D) as made:
            fill(made)
        with PosteriorIndex.open(uri) as first, PosteriorIndex.open(uri) as second:
            assert second.count() == N
            assert len(first.metadata()) == N
            answers = first.search(**queries(), metric="csd", k=3)
            for number, answer in enumerate(answers):
                expected = [name for name, _ in brute_force("csd", number, 3)]
                assert [hit.id for hit in answer.hits] == expected
    finally:
        server.kill()
        server.wait()


def wait_for(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server does not listen")


def test_errors_are_the_clients(tmp_path: Path) -> None:
    for kind, builtin in (
        (InvalidQuery, ValueError),
        (IndexNotFound, LookupError),
        (IndexExists, FileExistsError),
        (IndexUnavailable, ConnectionError),
    ):
        assert issubclass(kind, builtin)
        assert issubclass(kind, repzoo_client.ClientError)
