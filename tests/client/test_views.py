"""Several views of one thing through both clients, on a real server that takes 8 images at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import repzoo
from repzoo_client import errors

Ask = Callable[..., Any]

IMAGES = np.random.default_rng(0).integers(0, 256, (21, 8, 8, 1), dtype=np.uint8)
#: Products of 1 to 6 views, not in order.
GROUP = [*"abacadaeafaghij", *"bcghih"]


@pytest.fixture(scope="module")
def encoder(views_packages: dict[str, Path]) -> repzoo.Encoder:
    return repzoo.load(views_packages["views"], provider="cpu", threads=1)


@pytest.mark.parametrize("answers", ["safetensors", "json"])
def test_groups_are_fused_over_several_requests(
    ask: Ask, views_url: str, encoder: repzoo.Encoder, answers: str
) -> None:
    expected = encoder.posterior(IMAGES, group=GROUP)
    done: list[tuple[int, int | None]] = []
    for client in ({}, {"batch_size": 2, "concurrency": 1}):
        fused = ask(
            views_url,
            "posterior",
            IMAGES,
            model="views",
            group=GROUP,
            progress=lambda *counts: done.append(counts),
            client={"answers": answers, **client},
        )
        assert fused.mean.shape == (10, 4)
        np.testing.assert_allclose(fused.mean, expected.mean, atol=1e-5)
        np.testing.assert_allclose(fused.variance, expected.variance, rtol=1e-4)
        assert fused.uncertainty is None
        assert done[-1] == (21, 21)


def test_content_posteriors_are_fused(
    ask: Ask, views_url: str, views_packages: dict[str, Path]
) -> None:
    expected = repzoo.load(views_packages["point"], provider="cpu").posterior(IMAGES, group=GROUP)
    for answers in ("safetensors", "json"):
        fused = ask(
            views_url,
            "posterior",
            IMAGES,
            model="point",
            content=True,
            group=GROUP,
            client={"answers": answers},
        )
        assert fused.variance is None
        for name in ("mean", "content_mean", "content_variance"):
            np.testing.assert_allclose(getattr(fused, name), getattr(expected, name), atol=1e-5)


def test_groups_of_files_and_of_arrays(
    ask: Ask,
    views_url: str,
    encoder: repzoo.Encoder,
    make_png: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    files = [make_png(seed=seed) for seed in range(3)]
    path = tmp_path / "view.png"
    path.write_bytes(files[2])
    mixed = [IMAGES[0], files[0], files[1], IMAGES[1], path]
    fused = ask(views_url, "posterior", mixed, model="views", group=[0, 1, 1, 0, 1])
    expected = encoder.posterior([*IMAGES[:2], *files], group=[0, 0, 1, 1, 1])
    np.testing.assert_allclose(fused.mean, expected.mean, atol=1e-5)
    one = ask(views_url, "posterior", mixed, model="views", group=[0] * 5)
    expected = encoder.posterior([*IMAGES[:2], *files], group=[0] * 5)
    np.testing.assert_allclose(one.mean, expected.mean, atol=1e-5)


def test_groups_that_are_wrong(ask: Ask, views_url: str, make_png: Callable[..., bytes]) -> None:
    def fuse(images: Any, group: Any, **options: Any) -> Any:
        return ask(views_url, "posterior", images, model="views", group=group, **options)

    with pytest.raises(ValueError, match="20 ids for 21 images"):
        fuse(IMAGES, GROUP[:-1])
    with pytest.raises(ValueError, match="9 images belong together, but a request"):
        fuse(IMAGES[:9], ["x"] * 9)
    with pytest.raises(ValueError, match="there are no images"):
        fuse([], [])
    with pytest.raises(ValueError, match=r"group\[0\] is \[1\]: expected"):
        fuse(IMAGES[:2], [[1], [2]])
    with pytest.raises(ValueError, match="group is 5: expected one id per image"):
        fuse(IMAGES[:2], 5)
    with pytest.raises(ValueError, match="cannot be combined with group"):
        fuse(IMAGES, GROUP, on_error="collect")
    # The first bad image of the call is named, although another group was sent before it.
    files = [make_png(), b"not an image", make_png(), make_png()]
    with pytest.raises(errors.InvalidImage, match="image 1:") as caught:
        fuse(files, "abaa", client={"batch_size": 1})
    assert caught.value.index == 1
    with pytest.raises(FileNotFoundError):
        fuse(["missing.png"], [0])


def test_new_views_of_a_thing(
    ask: Ask, views_url: str, encoder: repzoo.Encoder, make_png: Callable[..., bytes]
) -> None:
    files = [make_png(seed=seed) for seed in range(3)]
    for images in (IMAGES[:3], IMAGES[0], files, files[0]):
        for vary in ("both", "style", "content"):
            drawn = ask(views_url, "generate", 2, model="views", content=images, seed=4, vary=vary)
            expected = encoder.generate(2, content=images, seed=4, vary=vary)
            np.testing.assert_allclose(drawn.latents, expected.latents, atol=1e-5)
            np.testing.assert_allclose(drawn.images / 255, expected.images, atol=0.51 / 255)
    one, two = (ask(views_url, "generate", model="views", content=files) for _ in range(2))
    assert one.images.shape == (1, 8, 8, 1)
    assert not np.array_equal(one.latents, two.latents)


def test_new_views_that_cannot_be_drawn(ask: Ask, views_url: str) -> None:
    def draw(content: Any, model: str = "views", **options: Any) -> Any:
        return ask(views_url, "generate", model=model, content=content, **options)

    with pytest.raises(errors.UnsupportedOperation, match="models trained with SimVAE"):
        draw(IMAGES[:2], model="plain")
    with pytest.raises(errors.InvalidRequest, match="vary"):
        draw(IMAGES[:2], vary="colour")
    with pytest.raises(ValueError, match="cannot be combined"):
        draw(IMAGES[:2], latents=np.zeros(4))
    with pytest.raises(ValueError, match="there are no images"):
        draw([])
    with pytest.raises(ValueError, match="21 images belong together, but a request"):
        draw(IMAGES)
    with pytest.raises(errors.InvalidImage) as caught:
        draw([b"no image"])
    assert caught.value.index == 0


def test_an_asynchronous_iterable(views_url: str, encoder: repzoo.Encoder) -> None:
    import asyncio

    from repzoo_client import AsyncClient

    async def views() -> AsyncIterator[Any]:
        for image in IMAGES[:3]:
            yield image

    async def run() -> Any:
        async with AsyncClient(views_url) as client:
            fused = await client.posterior(views(), model="views", group=[0, 0, 0])
            return fused, await client.generate(model="views", content=views(), seed=0)

    fused, drawn = asyncio.run(run())
    np.testing.assert_allclose(
        fused.mean, encoder.posterior(IMAGES[:3], group=[0] * 3).mean, atol=1e-5
    )
    np.testing.assert_allclose(
        drawn.latents, encoder.generate(content=IMAGES[:3], seed=0).latents, atol=1e-5
    )
