"""Many images through both clients: chunks, order, bad images, progress, iteration."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import repzoo
from repzoo_client import AsyncClient, Client, errors


def noise(n: int, seed: int = 0) -> Any:
    """uint8 [n, 8, 8, 1], the size of the model."""
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)


class TestBoth:
    """Both clients on a real server that takes 64 images and a million bytes per request."""

    def test_every_call(
        self, ask: Callable[..., Any], server_url: str, encoder: repzoo.Encoder
    ) -> None:
        pixels = noise(150)
        expected = encoder.posterior(pixels)
        posterior = ask(server_url, "posterior", pixels, model="tiny")
        np.testing.assert_allclose(posterior.mean, expected.mean, atol=1e-6)
        np.testing.assert_allclose(posterior.variance, expected.variance, atol=1e-6)
        embeddings = ask(server_url, "embed", list(pixels), model="tiny")
        np.testing.assert_allclose(embeddings, expected.mean, atol=1e-6)
        assert ask(server_url, "uncertainty", pixels[0], model="tiny") is None
        both = ask(server_url, "embed_with_uncertainty", pixels, model="tiny", normalize=True)
        np.testing.assert_allclose(np.linalg.norm(both.embeddings, axis=1), 1, atol=1e-5)
        assert (both.embeddings.shape, both.uncertainty) == ((150, 4), None)
        reconstruction = ask(server_url, "reconstruct", pixels, model="tiny")
        np.testing.assert_allclose(
            reconstruction.error, encoder.reconstruct(pixels).error, atol=1e-6
        )
        labels = ask(server_url, "probe", pixels, "digit", model="tiny").labels
        assert labels == encoder.probe(pixels, "digit").labels
        drawn = ask(server_url, "generate", 3, model="tiny", seed=5)
        np.testing.assert_allclose(drawn.latents, encoder.sample(3, seed=5))
        assert [model.name for model in ask(server_url, "models")] == ["tiny", "plain"]
        assert ask(server_url, "model", "tiny").input_shape == (8, 8, 1)
        with pytest.raises(errors.UnsupportedOperation):
            ask(server_url, "posterior", pixels, model="plain")

    def test_chunks_keep_the_servers_limits(
        self,
        ask: Callable[..., Any],
        rogue: Callable[..., Any],
        encoder: repzoo.Encoder,
        make_png: Callable[..., bytes],
    ) -> None:
        # Arrays are limited by number, files by bytes too: a request holds three files of 270 kB.
        files = [make_png((300, 300, 3), seed) for seed in range(7)]
        with rogue() as (url, seen):
            # One at a time, so that the server's queue cannot overflow.
            options: Any = {"model": "tiny", "client": {"batch_size": 1000, "concurrency": 1}}
            many = ask(url, "embed", noise(150), **options)
            np.testing.assert_allclose(many, encoder.embed(noise(150)), atol=1e-6)
            assert len(seen.posts) == 3
            large = ask(url, "embed", iter(files), **options)
            np.testing.assert_allclose(large, encoder.embed(files), atol=1e-6)
            sizes = [len(body) for _, body in seen.posts[3:]]
            assert len(sizes) == 3
            assert max(sizes) < 1_000_000

    def test_an_image_that_no_request_can_carry(
        self, ask: Callable[..., Any], server_url: str, make_png: Callable[..., bytes]
    ) -> None:
        files = [make_png(), bytes(2_000_000)]
        with pytest.raises(
            errors.RequestTooLarge, match=r"^image 1 has .* \(1,000,000\)"
        ) as caught:
            ask(server_url, "embed", files, model="tiny")
        assert caught.value.index == 1

    def test_files_and_arrays_go_together(
        self,
        ask: Callable[..., Any],
        server_url: str,
        encoder: repzoo.Encoder,
        make_png: Callable[..., bytes],
    ) -> None:
        images = [noise(1)[0], make_png(), make_png(seed=1), noise(1, 2)[0, :, :, 0]]
        found = ask(server_url, "embed", images, model="tiny")
        expected = np.concatenate([encoder.embed(image) for image in images])
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_bad_images_are_collected(
        self,
        ask: Callable[..., Any],
        server_url: str,
        encoder: repzoo.Encoder,
        make_png: Callable[..., bytes],
        tmp_path: Path,
    ) -> None:
        images: list[Any] = [make_png(seed=seed) for seed in range(20)]
        images[0] = images[7] = images[8] = images[19] = b"no image"
        images[3] = tmp_path / "nothing.png"
        images[5] = np.zeros((9, 9, 2), np.uint8)
        images[6] = bytes(2_000_000)
        images[11] = 3
        images[12] = noise(1)[0]
        bad = {0, 3, 5, 6, 7, 8, 11, 19}
        good = [i for i in range(20) if i not in bad]
        expected = np.concatenate([encoder.embed(images[i]) for i in good])
        for size in (4, 20):
            found: dict[int, Exception] = {}
            rows = ask(
                server_url,
                "embed",
                images,
                model="tiny",
                on_error="collect",
                errors=found,
                client={"batch_size": size},
            )
            assert rows.shape == (20, 4)
            np.testing.assert_allclose(rows[good], expected, atol=1e-6)
            assert np.isnan(rows[sorted(bad)]).all()
            assert found.keys() == bad
            assert isinstance(found[0], errors.InvalidImage)
            assert isinstance(found[3], FileNotFoundError)
            assert isinstance(found[6], errors.RequestTooLarge)
            assert isinstance(found[11], TypeError)
            for place in (0, 5, 6, 7, 8, 11, 19):
                assert str(found[place]).startswith(f"image {place}"), found[place]

    def test_what_collecting_leaves_in_other_results(
        self,
        ask: Callable[..., Any],
        server_url: str,
        encoder: repzoo.Encoder,
        make_png: Callable[..., bytes],
    ) -> None:
        images = [b"", make_png()]
        options: Any = {"model": "tiny", "on_error": "collect"}
        posterior = ask(server_url, "posterior", images, **options)
        assert np.isnan(posterior.variance[0]).all()
        np.testing.assert_allclose(posterior.mean[1:], encoder.embed(images[1]), atol=1e-6)
        reconstruction = ask(server_url, "reconstruct", images, **options)
        assert reconstruction.images.dtype == np.uint8
        assert not reconstruction.images[0].any()
        assert np.isnan(reconstruction.error[0])
        (expected,) = encoder.probe(images[1], "digit").labels
        assert ask(server_url, "probe", images, "digit", **options).labels == ["", expected]
        # A call with nothing but bad images has a result, too.
        nothing = ask(server_url, "probe", [b"", b""], "attributes", **options)
        assert nothing.labels == [[], []]
        assert nothing.classes == encoder.probe(make_png(), "attributes").classes
        assert np.isnan(nothing.probabilities).all()
        assert np.isnan(ask(server_url, "embed", np.zeros((3, 9, 9, 2), np.uint8), **options)).all()
        with pytest.raises(errors.ModelNotFound):
            ask(server_url, "embed", images, **{**options, "model": "nope"})

    def test_many_bad_images_do_not_have_the_good_ones_sent_as_often(
        self, ask: Callable[..., Any], rogue: Callable[..., Any], make_png: Callable[..., bytes]
    ) -> None:
        images = [make_png() if i % 2 else b"no image" for i in range(32)]
        with rogue() as (url, seen):
            rows = ask(url, "embed", images, model="tiny", on_error="collect")
        assert np.isnan(rows[:, 0]).sum() == 16
        # Without halving, all good images would travel 17 times.
        assert sum(len(body) for _, body in seen.posts) < 17 * 16 * len(make_png()) / 2

    def test_progress(self, ask: Callable[..., Any], server_url: str) -> None:
        said: list[Any] = []
        options: Any = {
            "model": "tiny",
            "progress": lambda done, total: said.append((done, total)),
            "client": {"batch_size": 4},
        }
        ask(server_url, "embed", noise(10), **options)
        ask(server_url, "embed", iter(noise(6)), **options)
        ask(server_url, "embed", noise(1)[0], **options)
        assert said == [(4, 10), (8, 10), (10, 10), (4, None), (6, None), (1, 1)]

    def test_a_progress_bar(
        self, ask: Callable[..., Any], server_url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ask(server_url, "embed", noise(10), model="tiny", progress=True)
        assert "10.0/10.0" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"on_error": "ignore"}, "on_error is 'ignore': expected 'raise' or 'collect'"),
            ({"errors": {}}, "on_error='collect'"),
            ({"deadline": 0}, "deadline is 0"),
        ],
    )
    def test_options_are_checked(
        self, ask: Callable[..., Any], server_url: str, options: Any, said: str
    ) -> None:
        with pytest.raises(ValueError, match=re.escape(said)):
            ask(server_url, "embed", noise(1), model="tiny", **options)
        with pytest.raises(TypeError, match="unknown"):
            ask(server_url, "embed", noise(1), model="tiny", unknown=1)

    def test_iteration(
        self, ask: Callable[..., Any], server_url: str, encoder: repzoo.Encoder
    ) -> None:
        pixels = noise(10)
        options: Any = {"model": "tiny", "client": {"batch_size": 4}}
        pieces = ask(server_url, "embed_iter", iter(pixels), **options)
        assert [len(piece) for piece in pieces] == [4, 4, 2]
        np.testing.assert_allclose(np.concatenate(pieces), encoder.embed(pixels), atol=1e-6)
        means = [part.mean for part in ask(server_url, "posterior_iter", pixels, **options)]
        np.testing.assert_allclose(np.concatenate(means), encoder.embed(pixels), atol=1e-6)
        with pytest.raises(ValueError, match="no images"):
            ask(server_url, "embed_iter", iter([]), **options)


def test_iteration_takes_constant_memory(server_url: str) -> None:
    batch, taken = noise(64), 0

    def images() -> Iterator[Any]:
        nonlocal taken
        for _ in range(8_000):
            taken += 1
            yield batch[taken % 64].copy()

    # The queue of this server holds one such request. On a busy machine, four of them would be
    # refused more often than a client retries.
    with Client(server_url, batch_size=64, concurrency=1) as client:
        pieces = client.embed_iter(images(), model="tiny")
        next(pieces)
        # The iterator is only advanced for the request that is running.
        assert taken <= 64 * 2 + 1
        tracemalloc.start()
        peaks = []
        for number, _ in enumerate(pieces, 1):
            if number % 40 == 0:
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.reset_peak()
        tracemalloc.stop()
    assert taken == 8_000
    assert peaks[-1] < peaks[0] + 200_000


def test_an_iteration_that_is_left_takes_no_more(server_url: str) -> None:
    taken = 0

    def images() -> Iterator[Any]:
        nonlocal taken
        for image in noise(64):
            taken += 1
            yield image

    with Client(server_url, batch_size=2, concurrency=3) as client:
        for _ in client.embed_iter(images(), model="tiny"):
            break
        assert taken <= 9
        assert len(client.embed(noise(3), model="tiny")) == 3


def test_images_are_taken_in_the_callers_thread(server_url: str) -> None:
    threads = set()

    def images() -> Iterator[Any]:
        for image in noise(5):
            threads.add(threading.current_thread())
            yield image

    with Client(server_url, batch_size=2) as client:
        client.embed(images(), model="tiny")
    assert threads == {threading.current_thread()}


def test_an_asynchronous_iterable(
    server_url: str, encoder: repzoo.Encoder, make_png: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "one.png").write_bytes(make_png())
    images = [make_png(seed=1), tmp_path / "one.png", noise(1)[0], "nothing.png"]

    async def each() -> AsyncIterator[Any]:
        for image in images:
            await asyncio.sleep(0)
            yield image

    async def nothing() -> AsyncIterator[Any]:
        return
        yield

    async def main() -> Any:
        async with AsyncClient(server_url) as client:
            with pytest.raises(ValueError, match="no images"):
                await client.embed(nothing(), model="tiny")
            return await client.embed(each(), model="tiny", on_error="collect")

    rows = asyncio.run(main())
    expected = np.concatenate([encoder.embed(image) for image in images[:3]])
    np.testing.assert_allclose(rows[:3], expected, atol=1e-6)
    assert np.isnan(rows[3]).all()


def test_a_client_that_is_forgotten_ends_its_thread(server_url: str) -> None:
    client = Client(server_url)
    client.models()
    (thread,) = (t for t in threading.enumerate() if t.name == "repzoo-client")
    del client
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_closed_client(server_url: str) -> None:
    client = Client(server_url)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.models()
    client.close()
