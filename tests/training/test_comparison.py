"""``zoo compare``: pooling, published numbers, tables, pictures and errors."""

from __future__ import annotations

import io
import json
import math
import os
import pty
import shutil
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from repzoo.errors import InvalidInput
from repzoo_training.commands.compare import compare
from repzoo_training.comparison import (
    ComparedRun,
    Images,
    board_data,
    board_table,
    boards,
    draw,
    folder_names,
    measure_runs,
    pictures,
)
from repzoo_training.comparison.figures import collapse_figure, content_style_figure
from repzoo_training.data import load
from repzoo_training.errors import DataError, RunError
from repzoo_training.evaluation import EvaluationReport, Measure
from repzoo_training.evaluation.frozen_decoder import train_decoder, with_frozen_decoder
from repzoo_training.evaluation.report import Unit
from repzoo_training.loop.trained import TrainedModel
from repzoo_training.loop.trainer import train
from repzoo_training.networks import NetworkSpec
from repzoo_training.recipes.recipe import override
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.results.published import published
from repzoo_training.run import RunRecord

DATA = Path(__file__).parents[1] / "data"
ZOO = Path(sys.executable).with_name("zoo")
SMALL = ("network.widths=[64,32]", "images_per_step=32", "precision=float32", "views_per_image=2")

Finish = Callable[..., subprocess.CompletedProcess[str]]


def measure(
    name: str, value: float, *, task: str | None = "class", unit: Unit = "accuracy", n: int = 100
) -> Measure:
    error = math.sqrt(abs(value * (1 - value)) / n)
    return Measure(
        name=name, task=task, value=value, standard_error=error, n=n, unit=unit, protocol={}
    )


def made(
    recipe: str = "simclr-mnist",
    *settings: str,
    value: float = 0.9,
    dataset: str = "mnist",
    images: str = "a",
    sizes: tuple[int, int] = (10, 100),
    steps: int | None = None,
    measures: tuple[Measure, ...] | None = None,
    collapse: dict[str, Any] | None = None,
) -> ComparedRun:
    """Return an untrained run with the given numbers."""
    settled = override(find_recipe(recipe), (*SMALL, "views=6400", *settings))
    record = RunRecord(
        recipe=settled,
        source="",
        dataset=dataset,
        dataset_sha256=images,
        dataset_images=10,
        device="cpu",
        device_name="a CPU",
        code_commit=None,
    )
    report = EvaluationReport(
        dataset=dataset,
        train_sha256=images,
        test_sha256=images,
        n_train=sizes[0],
        n_test=sizes[1],
        dim=settled.latent_dim,
        measures=measures or (measure("knn_cosine", value), measure("knn_euclidean", value)),
    )
    return ComparedRun(
        path=Path(f"runs/{settled.name}-{settled.seed}-{settled.views}"),
        record=record,
        report=report,
        steps=settled.steps if steps is None else steps,
        wall_seconds=60.0,
        collapse=collapse or {},
    )


def test_seeds_are_pooled_with_the_standard_error_of_their_mean() -> None:
    values = (0.90, 0.93, 0.96)
    runs = [made("simclr-mnist", f"seed={i}", value=v) for i, v in enumerate(values)]
    (board,) = boards(runs)
    (row,) = board.rows
    found = row.estimates["knn_cosine"]
    assert found.value == pytest.approx(0.93)
    assert found.error == pytest.approx(0.03 / math.sqrt(3))  # std with N − 1 is 0.03
    assert found.seeds == 3
    assert "93.0 ± 1.7" in board_table(board)
    assert "over seeds" in board_table(board)


def test_one_seed_has_the_error_of_the_test_set() -> None:
    (board,) = boards([made(value=0.9)])
    found = board.rows[0].estimates["knn_cosine"]
    assert found.error == pytest.approx(math.sqrt(0.9 * 0.1 / 100))
    assert "size of the test set, one seed" in board_table(board)


def test_runs_that_differ_in_more_than_the_seed_are_rows_of_their_own() -> None:
    runs = [
        made("simclr-mnist", "seed=0"),
        made("simclr-mnist", "seed=1", "views=7040"),  # a budget in seconds, measured again
        made("simclr-mnist", "seed=2", "views=64000"),  # another budget
        made("simclr-mnist", "seed=3", 'options={"temperature":0.5}'),
    ]
    (board,) = boards(runs)
    assert sorted(len(row.runs) for row in board.rows) == [1, 1, 2]
    labels = [row.label for row in board.rows]
    assert len(set(labels)) == 3
    assert any("64,000 views" in label for label in labels)


def labels(*runs: ComparedRun) -> set[str]:
    (board,) = boards(runs)
    return {row.label for row in board.rows}


def test_a_label_names_the_settings_that_differ() -> None:
    assert labels(
        made("simclr-mnist"),
        made("simclr-mnist", "options.temperature=0.5", "views=7040"),
        made("vicreg-mnist"),
    ) == {
        "SimCLR (simclr-mnist, options.temperature=0.1)",
        "SimCLR (simclr-mnist, options.temperature=0.5)",
        "VICReg",
    }


def test_runs_with_another_start_or_other_training_images_are_rows_of_their_own() -> None:
    def changed(**record: Any) -> ComparedRun:
        run = made()
        return replace(run, record=run.record.model_copy(update=record))

    assert labels(
        made(),
        changed(started_from="simclr-mnist@sha256:abc"),
        changed(extended_at=(20,)),
        changed(dataset="other", dataset_sha256="0123456789"),
    ) == {
        "SimCLR (simclr-mnist, trained on mnist a)",
        "SimCLR (simclr-mnist, from simclr-mnist@sha256:abc, trained on mnist a)",
        "SimCLR (simclr-mnist, extended at 1,280 views, trained on mnist a)",
        "SimCLR (simclr-mnist, trained on other 0123456)",
    }


def test_a_wide_table_is_divided_into_blocks_with_the_labels() -> None:
    (board,) = boards([made("simclr-mnist"), made("vicreg-mnist")])
    whole = board_table(board).splitlines()
    blocks = board_table(board, width=50).splitlines()
    assert sum(line.startswith("VICReg") for line in whole) == 1
    assert sum(line.startswith("VICReg") for line in blocks) > 1
    assert max(len(line) for line in blocks if line.startswith(("method", "SimCLR"))) <= 50
    assert set(" ".join(whole[2].split()).split("  ")[0].split()) <= set(" ".join(blocks).split())


def test_the_same_run_is_not_counted_twice() -> None:
    with pytest.raises(RunError, match="have the same recipe, budget and seed"):
        boards([made(), made()])


def test_each_data_set_has_its_own_board() -> None:
    runs = [made(images="a"), made(images="b", dataset="my photos!"), made("moco-mnist")]
    found = boards(runs)
    assert [[row.method for row in board.rows] for board in found] == [
        ["simclr", "moco"],
        ["simclr"],
    ]
    assert folder_names(found) == ["mnist", "my-photos"]
    assert folder_names(found[:1]) == ["."]
    # Two versions of one data set do not draw over each other.
    assert len(set(folder_names(boards([made(images="a"), made(images="b")])))) == 2


def test_published_numbers_stand_beside_those_of_the_same_data_and_method() -> None:
    by_task = {p.task: (p.value, p.error) for p in published("fashion-mnist", "simvae", "mlp")}
    assert by_task == {"knn": (86.5, 0.0), "mlp": (82.1, 0.0)}
    assert published("fashion_mnist", "vae", "mlp")[0].value == 83.7
    of_celeba = {p.task: p.value for p in published("celeba10k", "simclr", "resnet18")}
    assert of_celeba == {"knn": 91.6, "mlp": 93.7, "hair-colour mlp": 52.0}
    # Numbers of a ResNet-18 are not compared with an MLP.
    assert {p.source for p in published("cifar10", "simclr", "mlp")} == {"paper"}
    sources = {p.source: p.value for p in published("cifar10", "moco", "resnet18")}
    assert sources == {"paper": 56.4, "lightly 200": 84.7, "lightly 800": 89.9, "solo-learn": 92.94}
    assert published("my photos", "simclr", "mlp") == ()
    assert published("mnist", "byol", "mlp") == ()


def test_of_celeba_the_papers_task_stands_for_the_content() -> None:
    of_all = (
        measure("knn_cosine", 0.8, task="attributes"),
        measure("knn_cosine", 0.9, task="gender"),
        measure("knn_cosine", 0.5, task="hair-colour"),
    )
    (board,) = boards([made("simclr-mnist", measures=of_all, dataset="celeba")])
    found = {name: each.value for name, each in board.rows[0].estimates.items()}
    assert found == {
        "knn_cosine": 0.9,
        "attributes knn_cosine": 0.8,
        "hair-colour knn_cosine": 0.5,
    }
    assert "The task is gender" in board_table(board)


def test_the_markdown_table_is_one() -> None:
    runs = [
        made("simvae-mnist", value=0.97),
        made("simclr-mnist", "seed=0", value=0.90),
        made("simclr-mnist", "seed=1", value=0.91),
        made("byol-mnist", value=0.8, collapse={"collapsed": True}),
        made("random-mnist", "views=128", value=0.3, steps=1),
    ]
    (board,) = boards(runs)
    lines = [line for line in board_table(board, "markdown").splitlines() if line[:1] == "|"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) == 1
    head, rule, *rows = cells
    assert all(set(cell) <= set("-:") for cell in rule)
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    # In the order of the registry: generative methods first, the lower bound last.
    assert list(table) == ["SimVAE", "SimCLR", "BYOL !!", "Random *"]
    assert table["SimVAE"]["k-NN euc"].startswith("97.0 ±")
    assert table["SimVAE"]["paper: k-NN"] == "98.5 ± 0.0"
    assert table["Random *"]["paper: k-NN"] == "46.1 ± 2.5"
    assert table["BYOL !!"]["paper: k-NN"] == ""
    assert table["SimCLR"]["seeds"] == "2"
    text = board_table(board, "markdown")
    assert "collapsed during training" in text
    assert "unfinished" in text
    assert "arXiv:2402.01399" in text
    other = "are about all 60,000 training and 10,000 test images"
    assert other in text
    (whole,) = boards([made(sizes=(60_000, 10_000))])
    assert other not in board_table(whole)
    # Constant facts are part of the title.
    assert "D" not in head
    assert "; D 10;" in text


def test_what_is_not_measured_of_a_row_is_left_blank() -> None:
    own = measure("reconstruction", 0.0123, task=None, unit="mean squared error")
    runs = [made("simvae-mnist", measures=(own, measure("linear", 0.9))), made("simclr-mnist")]
    (board,) = boards(runs)
    text = board_table(board, "markdown")
    assert "12.3 ±" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| SimCLR")]
    assert "|  |" in row


def test_json_has_every_number_unrounded() -> None:
    (board,) = boards([made(value=0.123456789)])
    (row,) = json.loads(json.dumps(board_data(board)))["rows"]
    assert row["measures"]["knn_cosine"]["value"] == 0.123456789
    assert row["measures"]["knn_cosine"]["standard_error_of"] == "test set"
    assert row["published"][0]["per_cent"] == 97.2


def test_pictures_leave_out_what_was_not_measured() -> None:
    (board,) = boards([made()])
    assert content_style_figure(board) is None
    assert collapse_figure(board) is None
    style = measure("linear_fit", 0.4, task="style_scale", unit="R²")
    points = (measure("linear", 0.9), style)
    (board,) = boards([made(measures=points), made("vae-mnist", measures=points)])
    picture = content_style_figure(board)
    assert picture is not None
    assert Image.open(io.BytesIO(picture)).format == "PNG"


def test_a_frozen_decoder_does_not_depend_on_the_scale_of_embeddings() -> None:
    """A decoder folds the scale of the embeddings into its first layer."""
    random = np.random.default_rng(0)
    z = random.normal(size=(300, 4)).astype(np.float32)
    images = (255 / (1 + np.exp(-z @ random.normal(size=(4, 36))))).astype(np.uint8)
    images = images.reshape(300, 6, 6, 1)
    spec = NetworkSpec(kind="mlp", widths=(32,))
    state = torch.random.get_rng_state()

    def decoded(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        decoder = train_decoder(
            torch.from_numpy(rows), torch.from_numpy(images), spec, steps=600, progress=False
        )
        found: np.ndarray[Any, Any] = torch.sigmoid(decoder(torch.from_numpy(rows))).numpy()
        return found

    plain = decoded(z)
    assert (decoded(z) == plain).all()
    np.testing.assert_allclose(decoded((100 * z + 70).astype(np.float32)), plain, atol=2e-2)
    assert torch.equal(torch.random.get_rng_state(), state)
    target = images.transpose(0, 3, 1, 2) / 255
    assert np.square(plain - target).mean() < 0.2 * target.var(0).mean()
    # A constant dimension, as of a collapsed encoder, causes no division by zero.
    z[:, 0] = 3
    assert np.isfinite(decoded(z)).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Short runs on real digits: SimCLR with two seeds, and SimVAE."""
    folder = tmp_path_factory.mktemp("runs")
    images = load(str(DATA / "mnist"), "train", progress=False)
    paths = {}
    for name, recipe, seed in (("a", "simclr", 0), ("b", "simclr", 1), ("c", "simvae", 0)):
        settled = override(find_recipe(f"{recipe}-mnist"), (*SMALL, "views=2560", f"seed={seed}"))
        paths[name] = folder / name
        train(settled, images, paths[name], source=str(DATA / "mnist"), progress=False)
    return paths


def test_compare_prints_what_evaluation_found_and_draws_it(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = partial(with_frozen_decoder, steps=300, progress=False)
    monkeypatch.setattr(pictures, "with_frozen_decoder", lambda *of, progress: decode(*of))
    out = tmp_path / "pictures"
    words = [*trained.values(), "--measures", "knn", "--out", out, "--json"]
    done = CliRunner().invoke(compare, list(map(str, words)), catch_exceptions=False)
    (board,) = json.loads(done.stdout)
    rows = {row["method"]: row for row in board["rows"]}
    reports = {
        name: json.loads((path / "evaluation.json").read_text()) for name, path in trained.items()
    }

    def value(name: str) -> float:
        found = [m["value"] for m in reports[name]["measures"] if m["name"] == "knn_cosine"]
        return float(found[0])

    simclr = rows["simclr"]["measures"]["knn_cosine"]
    assert simclr["value"] == pytest.approx((value("a") + value("b")) / 2)
    assert simclr["standard_error"] == pytest.approx(abs(value("a") - value("b")) / 2)
    assert rows["simvae"]["measures"]["knn_cosine"]["value"] == value("c")
    assert {path.name for path in out.iterdir()} == {
        "collapse.png",
        "knn.png",
        "reconstructions.png",
    }
    for path in out.iterdir():
        assert np.asarray(Image.open(path).convert("L")).std() > 10, path
    # The decoder is kept, and not trained again.
    kept = (trained["a"] / "decoder.pt").stat().st_mtime_ns
    images = load(str(DATA / "mnist"), "train", progress=False)
    model = decode(trained["a"], TrainedModel(trained["a"]), images)
    assert (trained["a"] / "decoder.pt").stat().st_mtime_ns == kept
    errors = model.reconstruct(images.images[:200]).error
    scaled = images.images[:200] / np.float32(255)
    assert errors.mean() < 0.9 * scaled.var(0).mean()


def test_progress_is_shown_on_stderr_only(trained: dict[str, Path], finish: Finish) -> None:
    """With a terminal as stderr, bars name the run; stdout has nothing but the table."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 120))
    command = [ZOO, "compare", trained["a"], "--measures", "knn,clustering", "--no-figures"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower) as process:
        os.close(follower)
        shown = b""
        with suppress(OSError):  # the end of a terminal is an error
            while part := os.read(leader, 2**16):
                shown += part
        os.close(leader)
        assert process.stdout is not None
        table = process.stdout.read().decode()
    assert process.returncode == 0
    assert "comparing: 100%" in shown.decode()
    assert "clustering: 100%" in shown.decode()
    assert table.startswith("mnist: ")
    assert "GMM" in table
    # The clusters are in the file now, and are shown if they are asked for.
    done = finish(["compare", trained["a"], "--measures", "knn", "--no-figures", "--json"])
    rows = json.loads(done.stdout)
    measures = rows[0]["rows"][0]["measures"]
    assert measures.keys() == {"majority", "knn_cosine", "knn_euclidean"}


def test_without_figures_there_is_no_folder(trained: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    options = ("--measures", "knn", "--no-figures", "--format", "markdown", "--out", out)
    done = CliRunner().invoke(compare, list(map(str, (trained["a"], *options))))
    assert "| SimCLR |" in done.output
    assert not out.exists()


def test_methods_without_decoder_can_be_left_out_of_reconstructions(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    images = Images(str(DATA / "mnist"), progress=False)
    found = boards(measure_runs([trained["a"]], images, ("knn",), progress=False))
    written = draw(found[0], images, tmp_path, decoders=False, progress=False)
    assert "reconstructions.png" not in {path.name for path in written}


def test_a_damaged_evaluation_is_made_again(trained: dict[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(trained["a"], tmp_path / "run")
    (run / "evaluation.json").write_text('{"dataset": "mnist", "meas')
    images = Images(str(DATA / "mnist"), progress=False)
    (found,) = measure_runs([run], images, ("knn",), progress=False)
    assert found.report.measure("knn_cosine") is not None
    json.loads((run / "evaluation.json").read_text())


def test_what_cannot_be_compared_is_refused_before_anything_is_measured(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    def refusal(*paths: Path, data: str | None = None) -> str:
        with pytest.raises((RunError, DataError)) as caught:
            measure_runs(paths, Images(data, progress=False), ("knn",), progress=False)
        return str(caught.value)

    good = trained["a"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty} is not a run" in refusal(good, empty)
    package = Path(__file__).parents[2] / "zoo" / "bundled" / "simvae-mnist"
    assert "no run.json; zoo evaluate measures packages" in refusal(good, package)
    young = tmp_path / "young"
    young.mkdir()
    shutil.copy(good / "run.json", young)
    assert f"{young} has no checkpoint yet" in refusal(good, young)
    assert "given twice" in refusal(good, good)
    assert "given twice, also as" in refusal(good, good.parent / "b" / ".." / "a")
    broken = shutil.copytree(good, tmp_path / "broken")
    (broken / "checkpoint.pt").write_bytes(b"PK nothing")
    assert f"{broken}/checkpoint.pt is damaged" in refusal(broken)
    record = json.loads((good / "run.json").read_text())
    moved = shutil.copytree(good, tmp_path / "moved")
    for source, said in (("/nowhere/images", "name its images with --data"), ("", "give --data")):
        (moved / "run.json").write_text(json.dumps({**record, "source": source}))
        assert f"{moved}" in refusal(moved)
        assert said in refusal(moved)
    assert "/nowhere/else" in refusal(good, data="/nowhere/else")


def test_errors_are_one_line(tmp_path: Path, finish: Finish) -> None:
    done = finish(["compare", tmp_path])
    assert done.returncode == 1
    assert done.stderr == f"zoo: {tmp_path} is not a run: it has no run.json\n"


def test_a_measure_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(compare, [str(tmp_path), "--measures", "magic"])
    assert isinstance(done.exception, InvalidInput)
    assert "'magic'; choose from" in str(done.exception)
    assert CliRunner().invoke(compare, []).exit_code == 2
