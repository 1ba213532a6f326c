"""The explorer page in a real browser, driven over WebDriver."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import repzoo
from PIL import Image

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER) and "REPZOO_REQUIRE_BROWSER" not in os.environ,
    reason="NO BROWSER: the explorer page is not tested; Debian has chromium and chromium-driver",
)

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # what WebDriver calls a reference to an element


class Browser:
    """One window of a headless Chromium."""

    def __init__(self, driver_url: str, profile: Path) -> None:
        self._http = httpx.Client(timeout=60)
        options = {
            "binary": CHROMIUM,
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",  # there is no GPU, and detecting that takes long
                "--disable-background-networking",
                f"--user-data-dir={profile}",
            ],
        }
        capabilities = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        body = {"capabilities": {"alwaysMatch": capabilities}}
        answer = self._http.post(f"{driver_url}/session", json=body).json()["value"]
        self._url = f"{driver_url}/session/{answer['sessionId']}"

    def post(self, command: str, **body: Any) -> Any:
        answer = self._http.post(f"{self._url}/{command}", json=body).json()["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    def open(self, url: str) -> None:
        self.post("url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script with ``arguments``, and return its result."""
        return self.post("execute/sync", script=script, args=list(arguments))

    def type(self, selector: str, text: str) -> None:
        found = self.post("element", using="css selector", value=selector)
        self.post(f"element/{found[ELEMENT]}/value", text=text)

    def click(self, selector: str) -> None:
        found = self.post("element", using="css selector", value=selector)
        self.post(f"element/{found[ELEMENT]}/click")

    def complaints(self) -> list[str]:
        """Return the entries of the console: errors and violations of the policy."""
        return [entry["message"] for entry in self.post("se/log", type="browser")]

    def close(self) -> None:
        self._http.delete(self._url)
        self._http.close()


@pytest.fixture(scope="module")
def browser(
    unused_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    with ExitStack() as stack:
        # Not port 0: chromedriver would choose a free port of IPv4, and fail if the same port of
        # IPv6 is in use.
        port = unused_port()
        command = [str(DRIVER), f"--port={port}"]
        driver = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        stack.callback(driver.terminate)
        wait_until_started(driver)
        opened = Browser(f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("profile"))
        stack.callback(opened.close)
        yield opened


def wait_until_started(driver: subprocess.Popen[str]) -> None:
    assert driver.stdout is not None
    said = []
    for line in driver.stdout:
        if "started successfully" in line:
            return
        said.append(line)
    raise AssertionError(f"chromedriver did not start:\n{''.join(said)}")


@pytest.fixture
def page(browser: Browser, server_url: str, eventually: Callable[..., None]) -> Iterator[Browser]:
    """The explorer with its models; the console must stay empty."""
    browser.open(server_url)
    eventually(lambda: browser.run("return document.querySelectorAll('#model option').length") == 2)
    yield browser
    assert browser.complaints() == []


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(2).integers(0, 256, (20, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def status(page: Browser) -> str:
    return str(page.run("return document.querySelector('#status').textContent"))


def shown(page: Browser, selector: str) -> Any:
    """Return the uint8 pixels of an ``img`` that came from the API."""
    source = page.run("return document.querySelector(arguments[0]).src", selector)
    head, text = source.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_an_image_is_shown_with_all_that_the_model_says(
    page: Browser, image: Path, tiny_package: Path, eventually: Callable[..., None]
) -> None:
    encoder = repzoo.load(tiny_package, provider="cpu", threads=1)
    page.type("#file", str(image))
    eventually(lambda: "Done" in status(page))
    # Every mean has an error bar, and its number is the bar's title.
    titles = page.run(
        "return [...document.querySelectorAll('#means title')].map(t => t.textContent)"
    )
    posterior = encoder.posterior([image])
    for i, title in enumerate(titles):
        mean, deviation = (float(part) for part in title.split(": ")[1].split(" ± "))
        assert mean == pytest.approx(posterior.mean[0, i], rel=1e-3)
        assert deviation == pytest.approx(np.sqrt(posterior.variance[0, i]), rel=1e-3)
    assert len(titles) == 4
    assert page.run("return document.querySelectorAll('#means path').length") == 4
    # The reconstruction.
    expected = encoder.reconstruct([image]).images[0, :, :, 0]
    assert np.abs(shown(page, "#reconstruction img") / 255 - expected).max() < 0.51 / 255
    # The probes.
    headings = page.run(
        "return [...document.querySelectorAll('#probes h2')].map(h => h.textContent)"
    )
    assert headings[0] == f"digit (linear): {encoder.probe([image], 'digit').labels[0]}"
    assert len(headings) == 2
    assert page.run("return document.querySelectorAll('#probes meter').length") == 13
    # The sliders show the means.
    sliders = page.run("return [...document.querySelectorAll('#sliders input')].map(i => i.value)")
    np.testing.assert_allclose(np.float32(sliders), posterior.mean[0], atol=1e-3)


def test_a_slider_makes_another_image(
    page: Browser, tiny_package: Path, eventually: Callable[..., None]
) -> None:
    encoder = repzoo.load(tiny_package, provider="cpu", threads=1)
    zeros = encoder.generate(latents=np.zeros(4)).images[0, :, :, 0]
    eventually(lambda: page.run("return document.querySelector('#generated').naturalWidth") == 8)
    assert np.abs(shown(page, "#generated") / 255 - zeros).max() < 0.51 / 255
    page.run(
        "const s = document.querySelectorAll('#sliders input')[2]; s.value = 3;"
        "s.dispatchEvent(new Event('input'))"
    )
    moved = encoder.generate(latents=np.float32([0, 0, 3, 0])).images[0, :, :, 0]
    eventually(lambda: np.abs(shown(page, "#generated") / 255 - moved).max() < 0.51 / 255)


def test_neighbours_stand_around_the_image(
    page: Browser, image: Path, tiny_package: Path, eventually: Callable[..., None]
) -> None:
    encoder = repzoo.load(tiny_package, provider="cpu", threads=1)
    page.type("#file", str(image))
    eventually(lambda: page.run("return document.querySelectorAll('#nearest li').length") == 9)
    # The nearest of as many samples as a request may have here.
    samples = encoder.generate(64, seed=0)
    distances = np.linalg.norm(samples.latents - encoder.embed([image]), axis=1)
    nearest = np.argsort(distances)[:9]
    said = page.run("return [...document.querySelectorAll('#nearest li')].map(l => l.textContent)")
    np.testing.assert_allclose(np.float32(said), distances[nearest], rtol=0.01)
    assert (
        np.abs(shown(page, "#nearest img") / 255 - samples.images[nearest[0], :, :, 0]).max() < 0.01
    )
    alt = page.run("return document.querySelector('#nearest img').alt")
    assert alt == f"sample 1, at a distance of {said[0]}"
    about = page.run("return document.querySelector('#globe-about').textContent")
    assert about.startswith("The 32 samples nearest to the image, of 64 generated from")
    # A sample can be picked from the list or on the globe.
    sliders = "return [...document.querySelectorAll('#sliders input')].map(i => i.value)"
    page.click("#nearest button")
    np.testing.assert_allclose(
        np.float32(page.run(sliders)), samples.latents[nearest[0]], atol=1e-3
    )


#: The globe's text for its middle, where the image is, and for another place with a picture.
POINT = """
const globe = document.querySelector('#globe'), box = globe.getBoundingClientRect();
const at = (type, x, y) => globe.dispatchEvent(new PointerEvent(
  type, { clientX: box.x + x, clientY: box.y + y, pointerId: 1, bubbles: true }));
const said = () => document.querySelector('#globe-words').textContent;
globe.setPointerCapture = () => {};
"""


def test_the_globe_can_be_turned(
    page: Browser, image: Path, eventually: Callable[..., None]
) -> None:
    page.run(
        "window.matchMedia = () => ({ matches: true, addEventListener() {} })"
    )  # no movement of its own
    page.type("#file", str(image))
    eventually(lambda: page.run("return document.querySelectorAll('#nearest li').length") == 9)
    middle = POINT + "at('pointermove', box.width / 2, box.height / 2); return said();"
    assert page.run(middle).startswith("the image")
    pixels = "return document.querySelector('#globe').toDataURL()"
    before = page.run(pixels)
    page.run(POINT + "at('pointerdown', 9, 9); at('pointermove', 209, 9); at('pointerup', 209, 9);")
    assert page.run(pixels) != before
    assert not page.run(middle).startswith("the image")
    # The same with the keyboard, which also picks the front picture.
    press = (
        POINT + "globe.dispatchEvent(new KeyboardEvent('keydown', { key: arguments[0] }));"
        "return said();"
    )
    assert page.run(press, "Home").startswith("the image")
    for _ in range(6):
        words = page.run(press, "ArrowLeft")
    assert words.startswith("sample ")
    page.run(press, "Enter")
    assert status(page) == f"Using the latents of {words}."


def test_a_sample_can_be_drawn_and_a_model_may_have_less(
    page: Browser, image: Path, eventually: Callable[..., None]
) -> None:
    page.click("#sample")
    eventually(lambda: "Done" in status(page))
    page.run(
        "const m = document.querySelector('#model'); m.value = 'plain';"
        "m.dispatchEvent(new Event('change'))"
    )
    hidden = (
        "return ['#sample', '#latents', '#reconstruction', '#probes', '#neighbours'].every("
        "s => document.querySelector(s).hidden)"
    )
    eventually(lambda: page.run(hidden))
    page.type("#file", str(image))
    eventually(lambda: "Done" in status(page))
    assert page.run(hidden)
    assert page.run("return document.querySelectorAll('#means rect').length") == 4
    assert page.run("return document.querySelectorAll('#means path').length") == 0


def test_what_is_no_image_is_said(
    page: Browser, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    (tmp_path / "x.png").write_text("no image")
    page.type("#file", str(tmp_path / "x.png"))
    eventually(lambda: status(page).startswith("Error: image 0: "))
    # The browser logs refused requests, and that it cannot show the file.
    assert all("422" in message or "blob:" in message for message in page.complaints())


def test_it_loads_nothing_from_elsewhere(page: Browser, server_url: str) -> None:
    loaded = page.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert {name.removeprefix(server_url) for name in loaded if not name.startswith("data:")} >= {
        "/style.css",
        "/explorer.js",
    }
    assert all(name.startswith((server_url, "data:", "blob:")) for name in loaded)
    page.run("fetch('http://127.0.0.2:9/').catch(() => { document.title = 'refused' })")
    assert any("Content Security Policy" in message for message in page.complaints())
