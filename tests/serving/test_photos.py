"""Photos: the same pixels everywhere, 48 megapixels, and small images next to huge ones."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import httpx
import numpy as np
import pytest
import repzoo
from PIL import ExifTags, Image
from repzoo.bulk.decoding import Batch, Decoders
from repzoo.bulk.sources import Item
from repzoo.packages.config import InputSpec, ResizePolicy
from repzoo_client import Client

SPEC = InputSpec(height=8, width=8, channels=3, resize=ResizePolicy(jpeg="scaled"))


def photo(width: int, height: int, **options: object) -> bytes:
    noise = np.random.default_rng(5).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def package(make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("packages"), "photos", input_spec=SPEC)


@pytest.fixture(scope="module")
def url(
    server_process: type,
    package: Path,
    tiny_package: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """A server of "photos", and of "tiny", whose policy is to decode files at full size."""
    log = tmp_path_factory.mktemp("server") / "log"
    with server_process("--models", f"{package},{tiny_package}", "--port", "0", log=log) as server:
        yield server.wait_until_ready()


def post(url: str, data: bytes, model: str = "photos") -> httpx.Response:
    files = [("images", ("photo", data))]
    return httpx.post(f"{url}/embed", data={"model": model}, files=files, timeout=60)


def test_a_photo_gives_the_same_pixels_everywhere(url: str, package: Path, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    photos = [photo(1203, 901), photo(900, 1200, exif=turned), photo(640, 480, progressive=True)]
    encoder = repzoo.load(package, provider="cpu")
    expected = encoder.embed(photos)
    with Client(url) as client:
        np.testing.assert_allclose(client.embed(photos, model="photos"), expected, atol=1e-6)
    paths = [tmp_path / f"{number}.jpg" for number in range(len(photos))]
    for path, data in zip(paths, photos, strict=True):
        path.write_bytes(data)
    with Decoders(SPEC, 1) as decoders:
        (decoded,) = decoders.map([Batch(0, [Item(str(path), str(path)) for path in paths])])
    assert np.array_equal(decoded.pixels, encoder.preprocess(photos))


def test_48_megapixels_are_accepted_unless_they_are_held_in_memory(
    url: str, package: Path, tiny_package: Path
) -> None:
    data = photo(8064, 6048)
    for model, folder in (("photos", package), ("tiny", tiny_package)):
        response = post(url, data, model)
        assert response.status_code == 200, response.text
        expected = repzoo.load(folder, provider="cpu").embed(data)
        np.testing.assert_allclose(response.json()["embeddings"], expected, atol=1e-6)
    data = photo(8064, 6048, progressive=True)
    progressive = post(url, data)
    assert progressive.status_code == 413
    assert "progressive" in progressive.json()["detail"]
    # The client scales what the server refuses.
    expected = repzoo.load(package, provider="cpu").embed(data)
    with Client(url) as client:
        np.testing.assert_allclose(client.embed(data, model="photos"), expected, atol=1e-6)


def test_a_small_image_does_not_wait_for_huge_ones(url: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(buffer, "PNG", compress_level=1)
    huge = buffer.getvalue()
    small = photo(500, 375, quality=95)
    assert len(small) > 8192  # smaller files are decoded before they could wait
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(post, url, huge) for _ in range(8)]
        wait(waiting, return_when=FIRST_COMPLETED)
        assert post(url, small).status_code == 200
        assert sum(not each.done() for each in waiting) >= 3
        assert {each.result().status_code for each in waiting} == {200}
