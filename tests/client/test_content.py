"""Robust embeddings and content posteriors through both clients, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import repzoo
from repzoo_client import AsyncClient, Client, UnsupportedOperation

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def packages(
    make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packages")
    return {
        "robust": make_package(folder, "robust", content=True, uncertainty=True),
        "point": make_package(folder, "point", content=True, posterior=False),
        "plain": make_package(folder, "plain"),
    }


@pytest.fixture(scope="module")
def url(
    packages: dict[str, Path], server_process: type, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    log = tmp_path_factory.mktemp("server") / "log"
    models = ",".join(map(str, packages.values()))
    with server_process("--models", models, "--port", "0", log=log) as server:
        yield server.wait_until_ready()


def test_robust_embeddings(url: str, packages: dict[str, Path]) -> None:
    expected = repzoo.load(packages["robust"], provider="cpu").embed(IMAGES, robust=True)
    with Client(url) as client:
        given = client.embed(IMAGES, model="robust", robust=True)
        (piece,) = client.embed_iter(IMAGES, model="robust", robust=True)
        both = client.embed_with_uncertainty(IMAGES, model="robust", robust=True)
        for values in (given, piece, both.embeddings):
            np.testing.assert_allclose(values, expected, rtol=1e-5)
        with pytest.raises(UnsupportedOperation, match="plain has no content posterior"):
            client.embed(IMAGES, model="plain", robust=True)

    async def ask() -> np.ndarray:
        async with AsyncClient(url) as client:
            return await client.embed(IMAGES, model="robust", robust=True)

    np.testing.assert_allclose(asyncio.run(ask()), expected, rtol=1e-5)


def test_posteriors(url: str, packages: dict[str, Path]) -> None:
    expected = repzoo.load(packages["robust"], provider="cpu").posterior(IMAGES)
    with Client(url) as client:
        posterior = client.posterior(IMAGES, model="robust")
        mean, variance, uncertainty = posterior
        np.testing.assert_allclose(mean, expected.mean, rtol=1e-5)
        np.testing.assert_allclose(variance, expected.variance, rtol=1e-5)
        np.testing.assert_allclose(uncertainty, expected.uncertainty, rtol=1e-5)
        np.testing.assert_allclose(posterior.content_mean, expected.content_mean, rtol=1e-5)
        np.testing.assert_allclose(posterior.content_variance, expected.content_variance, rtol=1e-5)
        assert client.posterior(IMAGES, model="plain").content_mean is None
        with pytest.raises(UnsupportedOperation, match="send content: true"):
            client.posterior(IMAGES, model="point")
        point = client.posterior(IMAGES, model="point", content=True)
        assert point.variance is None
        assert point.content_mean is not None


def test_a_bad_image_leaves_nan_in_both_posteriors(url: str) -> None:
    with Client(url) as client:
        posterior = client.posterior(
            [IMAGES[0], b"not an image"], model="robust", on_error="collect"
        )
        for values in (posterior.mean, posterior.content_mean, posterior.content_variance):
            assert values is not None
            np.testing.assert_array_equal(np.isnan(values).all(axis=1), [False, True])
