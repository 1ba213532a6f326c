"""From real images to answers: a SimVAE is trained, exported, published, pulled, served and
called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import repzoo_client
from repzoo_training.data import load
from repzoo_training.loop.trained import TrainedModel

DATA = Path(__file__).parents[1] / "data" / "mnist"
SETTINGS = ("network.widths=[128,64]", "images_per_step=16", "views_per_image=4")
MEASURES = ("--measures", "knn,linear")


def test_the_main_job(
    server_process: type, zoo_process: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    def zoo(*arguments: object) -> str:
        status, stdout, stderr = zoo_process(arguments, tmp_path)
        assert status == 0, stderr
        return stdout

    run, package, hub = tmp_path / "run", tmp_path / "tiny", tmp_path / "hub"
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    zoo("train", "simvae-mnist", "--data", DATA, "--out", run, "--views", 15_000, *settings)

    output = zoo("export", run, "--out", package, "--name", "tiny", *MEASURES)
    assert "next: zoo verify" in output
    metrics = json.loads((package / "metrics.json").read_text())
    accuracy = {m["name"]: m["value"] for m in metrics["evaluation"]["measures"]}
    # Far from chance after seconds of training: the graphs, probes and labels belong together.
    assert accuracy["knn_euclidean"] > 0.5
    assert accuracy["linear"] > 0.4

    zoo("hub", "init", hub)
    zoo("publish", package, "--hub", hub)
    zoo("pull", "tiny", "--hub", hub, "--out", tmp_path / "copy")
    zoo("verify", tmp_path / "copy" / "tiny")
    zoo("verify", "tiny")

    # Both the run and the package evaluate through the same protocol.
    report = json.loads(zoo("evaluate", package, "--data", DATA, "--json", *MEASURES))
    assert report["measures"] == metrics["evaluation"]["measures"]

    images = load(str(DATA), "test", progress=False).images[:40]
    mean, log_variance = TrainedModel(run).posterior(images)
    log = tmp_path / "server.log"
    with server_process("--models", "tiny", "--hub", hub, "--port", "0", log=log) as server:
        url = server.wait_until_ready()
        with repzoo_client.Client(url) as client:
            posterior = client.posterior(images, model="tiny")
            np.testing.assert_allclose(posterior.mean, mean, rtol=0, atol=1e-4)
            np.testing.assert_allclose(np.log(posterior.variance), log_variance, rtol=0, atol=1e-4)
            embeddings = client.embed(images, model="tiny", normalize=True)
            np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
            decoded = TrainedModel(run).reconstruct(images)
            reconstruction = client.reconstruct(images, model="tiny")
            assert np.abs(reconstruction.images / 255 - decoded.images).max() < 1 / 255
            np.testing.assert_allclose(reconstruction.error, decoded.error, atol=1e-3)
            generated = client.generate(5, model="tiny", seed=3)
            assert generated.images.shape == (5, 28, 28, 1)
            again = client.generate(5, model="tiny", seed=3)
            assert (generated.images == again.images).all()
            labels = client.probe(images, model="tiny", task="class").labels
            assert len(labels) == 40
