"""Robust embeddings and content posteriors through both clients, on a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import repzoo
from repzoo_client import AsyncClient, Client, UnsupportedOperation

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)


def test_robust_embeddings(content_url: str, content_packages: dict[str, Path]) -> None:
    expected = repzoo.load(content_packages["robust"], provider="cpu").embed(IMAGES, robust=True)
    with Client(content_url) as client:
        given = client.embed(IMAGES, model="robust", robust=True)
        (piece,) = client.embed_iter(IMAGES, model="robust", robust=True)
        both = client.embed_with_uncertainty(IMAGES, model="robust", robust=True)
        for values in (given, piece, both.embeddings):
            np.testing.assert_allclose(values, expected, rtol=1e-5)
        with pytest.raises(UnsupportedOperation, match="plain has no content posterior"):
            client.embed(IMAGES, model="plain", robust=True)

    async def ask() -> np.ndarray:
        async with AsyncClient(content_url) as client:
            return await client.embed(IMAGES, model="robust", robust=True)

    np.testing.assert_allclose(asyncio.run(ask()), expected, rtol=1e-5)


def test_posteriors(content_url: str, content_packages: dict[str, Path]) -> None:
    expected = repzoo.load(content_packages["robust"], provider="cpu").posterior(IMAGES)
    with Client(content_url) as client:
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


def test_a_bad_image_leaves_nan_in_both_posteriors(content_url: str) -> None:
    with Client(content_url) as client:
        posterior = client.posterior(
            [IMAGES[0], b"not an image"], model="robust", on_error="collect"
        )
        for values in (posterior.mean, posterior.content_mean, posterior.content_variance):
            assert values is not None
            np.testing.assert_array_equal(np.isnan(values).all(axis=1), [False, True])
