"""The client with a real server: every call, every error; and with other servers."""

from __future__ import annotations

import io
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import repzoo
import repzoo_client
from PIL import Image
from repzoo_client import Client, errors


@pytest.fixture(scope="module")
def client(server_url: str) -> Iterator[Client]:
    with Client(server_url) as client:
        yield client


@pytest.fixture(scope="module")
def encoder(tiny_package: Path) -> repzoo.Encoder:
    return repzoo.load(tiny_package, provider="cpu", threads=1)


@pytest.fixture(scope="module")
def pixels() -> Any:
    """uint8 [5, 8, 8, 1], the size of the model."""
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)


def png(shape: tuple[int, ...] = (20, 13, 3), seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_public_names() -> None:
    assert repzoo_client.__all__ == sorted(repzoo_client.__all__)
    assert all(hasattr(repzoo_client, name) for name in repzoo_client.__all__)
    assert set(errors.__all__) < set(repzoo_client.__all__)


def test_it_imports_little() -> None:
    code = (
        "import sys, repzoo_client\n"
        "heavy = {'repzoo', 'torch', 'pydantic', 'PIL', 'onnxruntime', 'bentoml'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class TestCalls:
    """Every call returns what the local runtime returns."""

    def test_embed(self, client: Client, encoder: repzoo.Encoder, pixels: Any) -> None:
        embeddings = client.embed(pixels, model="tiny")
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(embeddings, encoder.embed(pixels), atol=1e-6)
        normalized = client.embed(pixels, model="tiny", normalize=True)
        np.testing.assert_allclose(np.linalg.norm(normalized, axis=1), 1, atol=1e-5)

    def test_posterior(self, client: Client, encoder: repzoo.Encoder, pixels: Any) -> None:
        posterior = client.posterior(pixels, model="tiny")
        expected = encoder.posterior(pixels)
        np.testing.assert_allclose(posterior.mean, expected.mean, atol=1e-6)
        np.testing.assert_allclose(posterior.variance, expected.variance, atol=1e-6)
        assert posterior.uncertainty is None
        assert client.uncertainty(pixels, model="tiny") is None

    def test_reconstruct(self, client: Client, encoder: repzoo.Encoder, pixels: Any) -> None:
        reconstruction = client.reconstruct(pixels, model="tiny")
        expected = encoder.reconstruct(pixels)
        assert reconstruction.images.dtype == np.uint8
        np.testing.assert_allclose(reconstruction.images / 255, expected.images, atol=0.51 / 255)
        np.testing.assert_allclose(reconstruction.error, expected.error, atol=1e-6)

    def test_generate(self, client: Client, encoder: repzoo.Encoder) -> None:
        drawn = client.generate(3, model="tiny", seed=5)
        assert drawn.images.shape == (3, 8, 8, 1)
        np.testing.assert_allclose(drawn.latents, encoder.sample(3, seed=5))
        again = client.generate(model="tiny", latents=drawn.latents.tolist())
        assert np.array_equal(again.images, drawn.images)
        assert client.generate(model="tiny", latents=np.zeros(4)).images.shape == (1, 8, 8, 1)
        assert client.generate(model="tiny").latents.shape == (1, 4)

    def test_probe(self, client: Client, encoder: repzoo.Encoder, pixels: Any) -> None:
        predictions = client.probe(pixels, "digit", model="tiny")
        expected = encoder.probe(pixels, "digit")
        assert predictions.classes == expected.classes
        assert predictions.labels == expected.labels
        np.testing.assert_allclose(predictions.probabilities, expected.probabilities, atol=1e-6)
        many = client.probe(pixels, "attributes", "linear", model="tiny")
        assert many.labels == encoder.probe(pixels, "attributes").labels

    def test_models(self, client: Client, encoder: repzoo.Encoder) -> None:
        tiny, plain = client.models()
        assert client.model("tiny") == tiny
        assert tiny.name == "tiny"
        assert tiny.revision == encoder.revision
        assert tiny.provider == "CPUExecutionProvider"
        assert "generate" in tiny.capabilities
        assert plain.capabilities == ("embed",)
        assert tiny.limits["max_images"] == 64
        assert tiny.config["latent_dim"] == 4


class TestJsonAnswers:
    """JSON answers contain the same numbers and pixels."""

    def test_every_call(self, client: Client, server_url: str, pixels: Any) -> None:
        with Client(server_url, answers="json", batch_size=2) as other:
            for images in (pixels, [png(seed=seed) for seed in range(3)]):
                embeddings = other.embed(images, model="tiny")
                assert embeddings.dtype == np.float32
                np.testing.assert_allclose(
                    embeddings, client.embed(images, model="tiny"), atol=1e-6
                )
                posterior = other.posterior(images, model="tiny")
                expected = client.posterior(images, model="tiny")
                np.testing.assert_allclose(posterior.mean, expected.mean, atol=1e-6)
                np.testing.assert_allclose(posterior.variance, expected.variance, atol=1e-6)
                assert posterior.uncertainty is None
                reconstruction = other.reconstruct(images, model="tiny")
                again = client.reconstruct(images, model="tiny")
                assert np.array_equal(reconstruction.images, again.images)
                np.testing.assert_allclose(reconstruction.error, again.error, atol=1e-6)
            generated = other.generate(2, model="tiny", seed=3)
            drawn = client.generate(2, model="tiny", seed=3)
            assert np.array_equal(generated.images, drawn.images)
            assert np.array_equal(generated.latents, drawn.latents)
            probed = other.probe(pixels, "digit", model="tiny")
            assert probed.labels == client.probe(pixels, "digit", model="tiny").labels
            assert probed.probabilities.dtype == np.float32
            assert other.models() == client.models()

    def test_other_formats_are_refused(self) -> None:
        with pytest.raises(ValueError, match="answers"):
            Client(answers="xml")  # type: ignore[arg-type]


class TestImages:
    """The kinds of images, and how they are sent."""

    def test_files(self, client: Client, encoder: repzoo.Encoder, tmp_path: Path) -> None:
        path = tmp_path / "image of a thing.png"
        path.write_bytes(png())
        expected = encoder.embed(png())
        for images in (path, str(path), png(), [path], [png()], (p for p in [path])):
            np.testing.assert_allclose(client.embed(images, model="tiny"), expected, atol=1e-6)

    def test_errors_name_the_file(self, client: Client, pixels: Any, tmp_path: Path) -> None:
        path = tmp_path / "bad.png"
        path.write_bytes(b"no image")
        collected: dict[int, Exception] = {}
        client.embed([png(), path], model="tiny", on_error="collect", errors=collected)
        assert str(collected[1]).startswith(f"image 1 ({path}): not an image")
        path.write_bytes(bytes(2_000_000))
        with pytest.raises(errors.RequestTooLarge, match=re.escape(f"image 1 ({path}) has 2,000,")):
            client.embed([png(), str(path)], model="tiny")

    def test_arrays(self, client: Client, encoder: repzoo.Encoder, pixels: Any) -> None:
        expected = encoder.embed(pixels)
        for images in (list(pixels), [p[:, :, 0] for p in pixels], pixels[:, ::-1][:, ::-1]):
            np.testing.assert_allclose(client.embed(images, model="tiny"), expected, atol=1e-6)
        for image in (pixels[0], pixels[0, :, :, 0]):
            np.testing.assert_allclose(client.embed(image, model="tiny"), expected[:1], atol=1e-6)

    def test_many_travel_in_several_requests(
        self, server_url: str, encoder: repzoo.Encoder
    ) -> None:
        many = np.random.default_rng(1).integers(0, 256, (150, 8, 8, 1), dtype=np.uint8)
        files = [png(seed=seed) for seed in range(7)]
        with Client(server_url, batch_size=3) as client:
            np.testing.assert_allclose(
                client.embed(many, model="tiny"), encoder.embed(many), atol=1e-6
            )
            predictions = client.probe(files, "digit", model="tiny")
            assert predictions.labels == encoder.probe(files, "digit").labels
            # The index counts within the call, not within the third request.
            files[6] = b"no image"
            with pytest.raises(errors.InvalidImage, match=r"^image 6: ") as caught:
                client.embed(files, model="tiny")
            assert caught.value.index == 6

    @pytest.mark.parametrize(
        ("images", "error", "said"),
        [
            ([], ValueError, "no images"),
            (np.zeros((0, 8, 8, 1), np.uint8), ValueError, "no images"),
            (np.zeros((1, 8, 8, 1)), ValueError, "image 0 is float64: expected uint8"),
            (np.zeros((8, 8, 2), np.uint8), ValueError, "[8, 8, 2]"),
            (np.zeros(8, np.uint8), ValueError, "[8]"),
            ([3], TypeError, "int is not an image"),
            (3, TypeError, "int"),
            ("/nowhere/image.png", FileNotFoundError, "/nowhere/image.png"),
        ],
    )
    def test_what_cannot_be_sent(
        self, client: Client, images: Any, error: type[Exception], said: str
    ) -> None:
        with pytest.raises(error, match=re.escape(said)):
            client.embed(images, model="tiny")


class TestErrors:
    """Problems become typed exceptions that inherit builtin ones."""

    def check(
        self, call: Callable[[], Any], kind: type[errors.APIError], builtin: type, status: int
    ) -> errors.APIError:
        with pytest.raises(kind) as caught:
            call()
        error = caught.value
        assert type(error) is kind
        assert isinstance(error, builtin)
        assert error.status == status
        assert error.type.startswith("urn:repzoo:problem:")
        assert error.request_id
        assert error.detail in str(error)
        return error

    def test_they_are_typed(self, client: Client, pixels: Any) -> None:
        self.check(
            lambda: client.embed(pixels, model="nope"), errors.ModelNotFound, LookupError, 404
        )
        self.check(lambda: client.model("a/b?c"), errors.ModelNotFound, LookupError, 404)
        self.check(
            lambda: client.probe(pixels, "nope", model="tiny"),
            errors.UnknownTask,
            LookupError,
            404,
        )
        self.check(
            lambda: client.reconstruct(pixels, model="plain"),
            errors.UnsupportedOperation,
            TypeError,
            409,
        )
        self.check(lambda: client.generate(0, model="tiny"), errors.InvalidRequest, ValueError, 400)
        self.check(
            lambda: client.generate(10**6, model="tiny"), errors.RequestTooLarge, ValueError, 413
        )

    def test_an_image_that_is_none_has_an_index(self, client: Client) -> None:
        error = self.check(
            lambda: client.embed([png(), b"no image"], model="tiny"),
            errors.InvalidImage,
            ValueError,
            422,
        )
        assert error.index == 1

    def test_latents_of_another_shape(self, client: Client) -> None:
        with pytest.raises(ValueError, match=r"\[1, 2, 3\]"):
            client.generate(model="tiny", latents=np.zeros((1, 2, 3)))
        with pytest.raises(errors.InvalidRequest, match=r"\[N, 4\]"):
            client.generate(model="tiny", latents=np.zeros((2, 3)))


class TestStrangers:
    """Servers that are down, slow, or not a repzoo server."""

    def test_nobody_answers(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        with Client(url) as client, pytest.raises(errors.ServerUnreachable) as caught:
            client.models()
        assert isinstance(caught.value, ConnectionError)
        assert str(caught.value).startswith(f"no server answers at {url} (")
        assert "zoo serve" in str(caught.value)
        assert "REPZOO_URL" in str(caught.value)

    def test_a_slow_answer(self, stranger: Callable[..., Any]) -> None:
        with (
            stranger(200, {}, b"", seconds=0.5) as (url, _),
            Client(url, timeout=0.1) as client,
            pytest.raises(errors.RequestTimedOut, match=r"within 0\.1 seconds") as caught,
        ):
            client.models()
        assert isinstance(caught.value, TimeoutError)

    def test_a_connection_that_breaks(self, stranger: Callable[..., Any]) -> None:
        with (
            stranger(200, {"Content-Length": "100"}, b"half") as (url, _),
            Client(url) as client,
            pytest.raises(errors.ServerUnreachable, match="broke"),
        ):
            client.models()

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            ("text/html", b"<html>"),
            ("application/json", b"{"),
            ("application/json", b"[]"),
            ("application/json", b"{}"),
            ("application/json", b'{"models": [{"name": "x"}]}'),
            ("application/x-safetensors", b"\xff" * 20),
            ("application/x-safetensors", b"\x02\0\0\0\0\0\0\0{}"),
            ("application/x-safetensors", b"\x02\0\0\0\0\0\0\0[]"),
        ],
    )
    def test_an_answer_that_is_not_the_apis(
        self, kind: str, body: bytes, stranger: Callable[..., Any]
    ) -> None:
        with stranger(200, {"Content-Type": kind}, body) as (url, _), Client(url) as client:
            with pytest.raises(errors.UnexpectedAnswer):
                client.models()
            with pytest.raises(errors.UnexpectedAnswer):
                client.embed(b"x", model="tiny")

    def test_a_redirection_is_not_followed(self, stranger: Callable[..., Any]) -> None:
        with (
            stranger(302, {"Location": "http://127.0.0.1:1/"}, b"") as (url, _),
            Client(url) as client,
            pytest.raises(errors.UnexpectedAnswer, match="is it a repzoo server"),
        ):
            client.models()

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, errors.InvalidRequest),
            (401, errors.AccessDenied),
            (403, errors.AccessDenied),
            (404, errors.NotFound),
            (429, errors.Overloaded),
            (500, errors.ServerError),
            (502, errors.ServerError),
            (503, errors.Unavailable),
            (504, errors.DeadlineExceeded),
        ],
    )
    def test_errors_without_a_problem_document(
        self,
        status: int,
        kind: type[errors.APIError],
        stranger: Callable[..., Any],
    ) -> None:
        headers = {"Retry-After": "7", "Content-Type": "application/problem+json"}
        for body in (b"<html>", b"[]", b""):
            with (
                stranger(status, headers, body) as (url, _),
                Client(url, retries=0) as client,
                pytest.raises(errors.APIError) as caught,
            ):
                client.models()
            assert type(caught.value) is kind
            assert caught.value.status == status
            assert caught.value.retry_after == 7
            assert caught.value.type == "about:blank"


class TestSettings:
    def test_the_url_comes_from_the_environment(
        self, server_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REPZOO_URL", f"{server_url}/")
        with Client() as client:
            assert client.url == server_url
            assert len(client.models()) == 2
        with Client("http://example.org/below/") as client:
            assert client.url == "http://example.org/below"
        monkeypatch.delenv("REPZOO_URL")
        with Client() as client:
            assert client.url == "http://127.0.0.1:3000"

    def test_the_key_is_sent(self, stranger: Callable[..., Any]) -> None:
        with stranger(200, {"Content-Type": "application/json"}, b'{"models": []}') as (url, seen):
            with Client(url, api_key="secret") as client:
                assert client.models() == []
            with Client(url) as client:
                client.models()
        assert [headers.get("Authorization") for headers in seen] == ["Bearer secret", None]

    @pytest.mark.parametrize(
        "url", ["127.0.0.1:3000", "ftp://x", "file:///etc", "http://", "http://x:port"]
    )
    def test_other_urls_are_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match="http"):
            Client(url)

    def test_a_batch_has_images(self) -> None:
        with pytest.raises(ValueError, match="batch_size is 0"):
            Client(batch_size=0)
