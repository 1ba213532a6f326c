"""The explorer and the API reference in a real browser, driven over WebDriver."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import repzoo
from PIL import Image

if TYPE_CHECKING:
    from browser import Browser

pytestmark = pytest.mark.usefixtures("browser")

SIZES = {"laptop": (1280, 800), "phone": (390, 844)}


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Browser]:
    """A window at the size of a laptop and of a phone; the console must stay empty."""
    browser.complaints()  # those of earlier tests
    browser.resize(*SIZES[request.param])
    yield browser
    assert not scrolls_sideways(browser)
    assert browser.complaints() == []


at_one_size = pytest.mark.parametrize("page", ["laptop"], indirect=True)


def scrolls_sideways(page: Browser) -> bool:
    return bool(page.run("return document.documentElement.scrollWidth > innerWidth"))


@pytest.fixture
def explorer(page: Browser, server_url: str, eventually: Callable[..., None]) -> Browser:
    """The explorer of the models "tiny" and "plain"."""
    page.open(server_url)
    eventually(lambda: len(page.texts("#examples img")) == 6)
    return page


@pytest.fixture
def robust(page: Browser, content_url: str, eventually: Callable[..., None]) -> Browser:
    """The explorer of a model with a content posterior."""
    page.open(content_url)
    eventually(lambda: len(page.texts("#examples img")) == 6)
    return page


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(2).integers(0, 256, (20, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


@pytest.fixture
def tiny(tiny_package: Path) -> repzoo.Encoder:
    return repzoo.load(tiny_package, provider="cpu", threads=1)


def choose_model(page: Browser, name: str) -> None:
    page.run(
        "const m = document.querySelector('#model'); m.value = arguments[0];"
        "m.dispatchEvent(new Event('change'))",
        name,
    )


def status(page: Browser) -> str:
    return page.texts("#status")[0]


def answered(page: Browser) -> bool:
    return status(page).startswith("Answered") and len(page.texts("#nearest li")) > 0


def pixels(data_url: str) -> Any:
    """Return the uint8 pixels of a ``data:`` URL."""
    head, text = data_url.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def shown(page: Browser, selector: str) -> Any:
    """Return the uint8 pixels of an ``img``."""
    return pixels(page.run("return document.querySelector(arguments[0]).src", selector))


def sent(page: Browser) -> Any:
    """Return the uint8 pixels of the image's canvas."""
    return pixels(page.run("return document.querySelector('#input').toDataURL()"))


def numbers(texts: list[str]) -> Any:
    """Return the numbers ``[N, K]`` in texts, without a first one that counts them."""
    return np.float32([re.findall(r"-?[0-9.]+(?:e[-+]\d+)?", text)[1:] for text in texts])


def column_titles(page: Browser) -> list[str]:
    script = "return [...document.querySelectorAll('#chart .dimension')].map(c => c.title)"
    return list(page.run(script))


def top(page: Browser, selector: str) -> float:
    """Return how far an element is below the top of the window, in pixels."""
    script = "return document.querySelector(arguments[0]).getBoundingClientRect().top"
    return float(page.run(script, selector))


def slide(page: Browser, selector: str, value: float) -> None:
    page.run(
        "const s = document.querySelector(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event('input'))",
        selector,
        value,
    )


def test_the_first_screen_offers_examples(explorer: Browser, tiny: repzoo.Encoder) -> None:
    samples = tiny.generate(48, seed=1).images[..., 0]
    first = shown(explorer, "#examples img") / 255
    assert np.abs(samples - first).max((1, 2)).min() < 0.51 / 255
    assert explorer.texts("h1") == [
        "repzoo turns an image into a vector, and says how far to trust it."
    ]
    assert not explorer.visible("#answer")
    assert not explorer.visible("#error")
    # All that is needed to begin is on the first screen.
    bottom = "return document.querySelector('#drop').getBoundingClientRect().bottom <= innerHeight"
    assert explorer.run(bottom)
    assert explorer.run("return document.querySelector('#camera[type=file][capture]') !== null")
    assert explorer.texts("#picker .badge") == ["samples of the model"]


@at_one_size
def test_drawn_examples_suit_the_model(explorer: Browser) -> None:
    """They show what the model's classes are, if it generates no samples."""
    script = """
    const { drawings } = await import('./explorer/drawings.js');
    const drawn = (channels, ...classes) => drawings(
      { probes: [{ classes }], input: { channels } });
    return [drawn(1), drawn(1, 'sandal', 'shirt'), drawn(3, 'male'), drawn(3, 'ship')].map(
      (found) => [found[0].words, new Set(found.map(({ base64 }) => base64)).size]);
    """
    assert explorer.wait_for(script) == [
        ["drawn digit 0", 6],
        ["drawn T-shirt", 6],
        ["drawn face 1", 6],
        ["drawn airplane", 6],
    ]


def test_an_answer_at_a_glance(
    explorer: Browser, image: Path, tiny: repzoo.Encoder, eventually: Callable[..., None]
) -> None:
    explorer.type("#file", str(image))
    eventually(lambda: answered(explorer))
    assert f"digit {tiny.probe([image], 'digit').labels[0]}" in status(explorer)
    # The posterior, in the columns' titles.
    posterior = tiny.posterior([image])
    expected = np.stack([posterior.mean[0], np.sqrt(posterior.variance[0])], axis=1)
    np.testing.assert_allclose(numbers(column_titles(explorer)), expected, rtol=1e-2)
    # The reconstruction.
    reconstructed = tiny.reconstruct([image]).images[0, :, :, 0]
    assert np.abs(shown(explorer, "#reconstruction img") / 255 - reconstructed).max() < 0.51 / 255
    # The most likely classes of each probe.
    digits = tiny.probe([image], "digit")
    order = np.argsort(-digits.probabilities[0])
    first = "#probes > table:first-of-type tbody th"
    assert explorer.texts(first) == [digits.classes[k] for k in order[:5]]
    assert explorer.texts("#probes details:first-of-type tbody th") == [
        digits.classes[k] for k in order[5:]
    ]
    if explorer.run("return innerWidth > 1000"):  # all begins on the first screen of a laptop
        for selector in ("#uncertainty", "#probes", "#nearest"):
            assert top(explorer, selector) < 600, selector
    assert explorer.texts("#probes thead th:first-child") == [
        "digit",
        "digit, less likely",
        "attributes, each yes or no",
    ]
    # Another model has less to say.
    choose_model(explorer, "plain")
    eventually(lambda: not explorer.visible("#answer"))
    eventually(lambda: len(explorer.texts("#examples img")) == 6)
    explorer.type("#file", str(image))
    eventually(lambda: answered(explorer))
    for selector in ("#reconstruction", "#probes table", "#latents", "#around", "#uncertainty"):
        absent = f"return !document.querySelector('{selector}')?.checkVisibility()"
        assert explorer.run(absent), selector
    assert explorer.texts("#near .badge") == ["example images"]
    assert len(explorer.texts("#nearest li")) == 6


@at_one_size
def test_neighbours_are_samples_and_can_be_analysed(
    explorer: Browser, image: Path, tiny: repzoo.Encoder, eventually: Callable[..., None]
) -> None:
    explorer.type("#file", str(image))
    eventually(lambda: answered(explorer))
    assert explorer.texts("#near .badge") == ["samples of the model"]
    samples = (tiny.generate(32, seed=0).images * 255).round().astype(np.uint8)
    distances = np.linalg.norm(tiny.embed(samples) - tiny.embed([image]), axis=1)
    nearest = np.argsort(distances)[:12]
    said = explorer.texts("#nearest li")
    np.testing.assert_allclose(np.float32(said), distances[nearest], rtol=0.01)
    assert np.abs(shown(explorer, "#nearest img") - 1.0 * samples[nearest[0], :, :, 0]).max() <= 1
    explorer.type("#nearest button", "\ue007")  # Enter
    eventually(lambda: sent(explorer).shape == (8, 8, 4))
    eventually(lambda: explorer.texts("#nearest li")[0].startswith("0.00"))  # the sample itself
    # The neighbour that had the focus is gone.
    eventually(lambda: explorer.run("return document.activeElement.id") == "image-title")
    eventually(lambda: 0 <= top(explorer, "#image") < 500)


@pytest.fixture(scope="module")
def index_url(
    tiny_package: Path,
    plain_package: Path,
    server_process: type,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The URL of a server of "tiny" with an index of 15 images, and of "plain"."""
    pytest.importorskip("pymilvus")
    folder = tmp_path_factory.mktemp("library")
    for number in range(15):
        (folder / "photos" / "a b").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / "a b" / f"{number}#.png")
    build = ["index", "build", "photos", "--model", str(tiny_package), "--out", "index"]
    command = [sys.executable, "-c", "from repzoo.cli import main; main()", *build]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    words = ("--models", f"{tiny_package},{plain_package}", "--index", str(folder / "index"))
    with server_process(*words, "--port", "0", log=folder / "log") as server:
        yield server.wait_until_ready()


def test_neighbours_are_images_of_the_index(
    page: Browser,
    index_url: str,
    image: Path,
    tiny: repzoo.Encoder,
    tmp_path: Path,
    eventually: Callable[..., None],
) -> None:
    page.open(index_url)
    eventually(lambda: len(page.texts("#examples img")) == 6)
    page.type("#file", str(image))  # the same pixels as one of the images
    eventually(lambda: answered(page))
    assert page.texts("#near .badge") == ["images of the index"]
    first = page.run("return document.querySelector('#nearest img').alt")
    assert first == "a b/2#.png, at a distance of"
    np.testing.assert_array_equal(shown(page, "#nearest img"), np.asarray(Image.open(image)))
    distances = np.float32(page.texts("#nearest li"))
    assert len(distances) == 12
    assert distances[0] < 1e-3
    assert (np.diff(distances) >= 0).all()
    assert findings(page) == []
    # The globe still shows samples, and says so.
    assert page.texts("#around .badge") == ["samples of the model"]
    # They follow the degradations, and can be analysed.
    slide(page, "#degradations input", 1)
    eventually(lambda: status(page).startswith("Degraded"))
    eventually(lambda: np.float32(page.texts("#nearest li"))[0] > 1e-3)
    title = page.run("return document.querySelectorAll('#nearest button')[1].title")
    page.run("document.querySelectorAll('#nearest button')[1].click()")
    eventually(lambda: answered(page) and title.endswith("#.png"))
    eventually(lambda: np.float32(page.texts("#nearest li"))[0] < 1e-3)
    assert title == "Analyse " + page.run(
        "return document.querySelector('#nearest img').alt.split(',')[0]"
    )
    page.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.run("document.querySelectorAll('#near .copy button')[1].click()")
    eventually(lambda: status(page) == "Copied as Python.")
    code = page.run("return window.copied")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert title.removeprefix("Analyse ") in done.stdout
    # The choices of /search.
    choices = "return [...document.querySelectorAll('#metric option')].map((each) => each.value)"
    assert page.run(choices) == ["mean", "trusted", "w2", "csd", "content", "euclidean"]
    assert not page.visible("#abstain")  # the model has no uncertainty
    before = page.texts("#nearest li")
    page.run(
        "const m = document.querySelector('#metric'); m.value = 'csd';"
        "m.dispatchEvent(new Event('change', { bubbles: true }))"
    )
    eventually(lambda: page.texts("#nearest li") != before)
    page.run("document.querySelectorAll('#near .copy button')[0].click()")
    eventually(lambda: status(page) == "Copied as curl.")
    assert "csd" in page.run("return window.copied")
    # Another model has no index.
    choose_model(page, "plain")
    eventually(lambda: len(page.texts("#examples img")) == 6)
    page.click("#examples button")
    eventually(lambda: answered(page))
    assert page.texts("#near .badge") == ["example images"]


def test_an_error_replaces_the_answer(
    explorer: Browser, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    explorer.click("#examples button")
    eventually(lambda: answered(explorer))
    assert explorer.visible("#answer")
    (tmp_path / "x.png").write_text("no image")
    explorer.type("#file", str(tmp_path / "x.png"))
    eventually(lambda: explorer.visible("#error"))
    assert explorer.texts("#error h2") == ["The model cannot read this image"]
    assert explorer.texts("#error p")[0].startswith("x.png: not an image in one of BMP, GIF, JPEG")
    assert explorer.run("return document.querySelector('#error').getAttribute('role')") == "alert"
    assert status(explorer) == ""
    for selector in ("#answer", "#around", "#latents"):
        assert not explorer.visible(selector)
    assert not scrolls_sideways(explorer)
    # Nothing more was asked for the file.
    assert ["status of 422" in message for message in explorer.complaints()] == [True]
    # A file that the server would refuse is not sent.
    (tmp_path / "large.png").write_bytes(bytes(1_000_000))
    explorer.type("#file", str(tmp_path / "large.png"))
    eventually(lambda: "large.png has 1.0 MiB" in explorer.texts("#error p")[0])
    # The next answer replaces the error.
    explorer.click("#examples button")
    eventually(lambda: explorer.visible("#answer"))
    assert not explorer.visible("#error")


def test_degradations_change_the_content_posterior(
    robust: Browser,
    image: Path,
    content_packages: dict[str, Path],
    eventually: Callable[..., None],
) -> None:
    encoder = repzoo.load(content_packages["robust"], provider="cpu", threads=1)

    def agrees(picture: Any) -> bool:
        """Return whether the columns show the content posterior of a picture."""
        posterior = encoder.posterior([picture])
        reach = 2 * np.sqrt(posterior.content_variance[0])
        expected = np.stack([posterior.content_mean[0], reach, posterior.mean[0]], axis=1)
        return np.allclose(numbers(column_titles(robust)), expected, rtol=0.02, atol=1e-3)

    robust.type("#file", str(image))
    eventually(lambda: answered(robust))
    assert agrees(image)
    assert robust.texts("#near h3")[1].startswith("Robust")
    if robust.run("return innerWidth > 1000"):  # all begins on the first screen of a laptop
        for selector in ("#degradations", "#chart", "#nearest"):
            assert top(robust, selector) < 700, selector
    seen = [column_titles(robust)]
    for kind in (1, 2, 3, 4):  # blur, noise, crop, dark
        slide(robust, f"#degradations label:nth-child({kind}) input", 0.5)
        eventually(lambda: column_titles(robust) != seen[-1])
        eventually(lambda: agrees(sent(robust)[..., :3]))
        seen.append(column_titles(robust))
    assert "times as wide" in robust.texts("#vector-words")[0]
    # Bars are drawn to scale.
    heights = robust.run(
        "return [...document.querySelectorAll('#chart .interval')]"
        ".map(i => parseFloat(i.style.height))"
    )
    spread = numbers(seen[-1])[:, 1]
    np.testing.assert_allclose(np.array(heights) / heights[0], spread / spread[0], rtol=0.02)
    robust.click("#undegrade")
    eventually(lambda: agrees(image))


@at_one_size
def test_it_works_by_keyboard(robust: Browser, eventually: Callable[..., None]) -> None:
    robust.type("#examples button", "\ue007")  # Enter
    eventually(lambda: answered(robust))
    before = column_titles(robust)
    robust.type("#degradations label:nth-child(2) input", "\ue014\ue014")  # the right arrow key
    eventually(lambda: column_titles(robust) != before)
    focused = "return document.activeElement"
    assert robust.run(f"{focused}.getAttribute('aria-valuetext')") == "10 %"
    assert robust.run(f"{focused}.labels[0].textContent").startswith("noise")
    assert robust.run(f"{focused}.matches(':focus-visible')")


def findings(page: Browser) -> list[str]:
    """Return what axe-core finds in a page."""
    axe = pytest.importorskip("axe_core_python", reason="NO AXE: accessibility is not tested")
    page.run(Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    found = page.wait_for("return (await axe.run()).violations")
    return [f"{each['impact']}: {each['help']}" for each in found]


def test_axe_finds_nothing(
    robust: Browser, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    assert findings(robust) == []
    robust.click("#examples button")
    eventually(lambda: answered(robust))
    assert findings(robust) == []
    (tmp_path / "x.png").write_text("no image")
    robust.type("#file", str(tmp_path / "x.png"))
    eventually(lambda: robust.visible("#error"))
    assert findings(robust) == []
    assert all("status of 422" in message for message in robust.complaints())


@at_one_size
def test_latents_can_be_moved_and_reset(
    explorer: Browser, tiny: repzoo.Encoder, eventually: Callable[..., None]
) -> None:
    explorer.click("#examples button")
    eventually(lambda: answered(explorer))
    values = np.float32(explorer.texts("#sliders output"))
    np.testing.assert_allclose(values, tiny.embed(shown(explorer, "#examples img"))[0], atol=0.006)

    def decoded(latents: Any) -> bool:
        expected = tiny.generate(latents=latents).images[0, :, :, 0]
        return bool(np.abs(shown(explorer, "#generated") / 255 - expected).max() < 0.01)

    eventually(lambda: decoded(values))
    slide(explorer, "#sliders label:nth-child(3) input", 3)
    moved = values.copy()
    moved[2] = 3
    eventually(lambda: decoded(moved))
    assert explorer.texts("#sliders output")[2] == "3.00"
    explorer.run("document.querySelector('#unmove').click()")
    eventually(lambda: decoded(values))
    assert np.float32(explorer.texts("#sliders output")[2]) == values[2]


@at_one_size
def test_images_can_be_pasted_and_dropped(
    explorer: Browser, image: Path, eventually: Callable[..., None]
) -> None:
    give = """
    const bytes = Uint8Array.from(atob(arguments[1]), (c) => c.charCodeAt(0));
    const data = new DataTransfer();
    if (bytes.length) data.items.add(new File([bytes], 'image.png', { type: 'image/png' }));
    document.body.dispatchEvent(arguments[0] === 'paste'
      ? new ClipboardEvent('paste', { clipboardData: data, bubbles: true })
      : new DragEvent('drop', { dataTransfer: data, bubbles: true }));
    """
    encoded = base64.b64encode(image.read_bytes()).decode()
    for event in ("paste", "drop"):
        explorer.run(give, event, encoded)
        eventually(lambda: explorer.visible("#answer"))
        assert sent(explorer).shape == (20, 14, 4)
        explorer.run(give, event, "")
        eventually(lambda: explorer.visible("#error"))
        assert not explorer.visible("#answer")
    # The button, for screens without a keyboard.
    clipboard = """
    const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
    const item = new ClipboardItem({ 'image/png': new Blob([bytes], { type: 'image/png' }) });
    navigator.clipboard.read = async () => (bytes.length ? [item] : []);
    document.querySelector('#paste').click();
    """
    explorer.run(clipboard, encoded)
    eventually(lambda: explorer.visible("#answer"))
    explorer.run(clipboard, "")
    eventually(lambda: explorer.texts("#error p")[0].startswith("The clipboard has no image."))


@at_one_size
def test_the_page_says_that_it_reads_a_file(
    explorer: Browser, image: Path, eventually: Callable[..., None]
) -> None:
    explorer.click("#examples button")
    eventually(lambda: answered(explorer))
    # As with a photo of many megapixels, which takes seconds.
    explorer.run("window.createImageBitmap = () => new Promise(() => {})")
    explorer.type("#file", str(image))
    eventually(lambda: status(explorer) == "Reading image.png ...")
    assert explorer.run("return document.querySelector('#answer').matches('.old')")
    slide(explorer, "#degradations input", 1)  # of the image that is there no more
    assert status(explorer) == "Reading image.png ..."


@at_one_size
def test_photos_are_shrunk_before_they_are_sent(
    explorer: Browser, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    # More pixels than the server takes, and a type that it does not read.
    colours = np.random.default_rng(0).integers(0, 256, (700, 500, 3), dtype=np.uint8)
    for name in ("photo.png", "photo.bmp"):
        Image.fromarray(colours).save(tmp_path / name)
        explorer.type("#file", str(tmp_path / name))
        eventually(lambda: answered(explorer))
        assert explorer.texts("#image figcaption")[0] == "shrunk to 256 × 358"
        choose_model(explorer, "tiny")


@at_one_size
def test_requests_can_be_copied_as_code(
    explorer: Browser, image: Path, tiny: repzoo.Encoder, eventually: Callable[..., None]
) -> None:
    explorer.type("#file", str(image))
    eventually(lambda: answered(explorer))
    explorer.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")

    def copied(card: str, language: str) -> str:
        explorer.run(
            "window.copied = '';"
            "[...document.querySelectorAll(`${arguments[0]} .copy button`)]"
            ".find(b => b.textContent === arguments[1]).click()",
            card,
            language,
        )
        eventually(lambda: status(explorer) == f"Copied as {language}.")
        return str(explorer.run("return window.copied"))

    def output(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    cards = ("#image", "#vector", "#reading", "#near", "#latents")
    mean = tiny.posterior([image]).mean[0]
    if shutil.which("curl"):
        answer = json.loads(
            output("bash", "-c", copied("#vector", "curl").replace("curl", "curl -s"))
        )
        np.testing.assert_allclose(answer["mean"][0], mean, rtol=1e-4)
    code = "".join(copied(card, "Python") for card in cards)
    printed = output(sys.executable, "-c", code)
    assert f"{mean[0]:.4f}"[:-1] in printed
    assert repr(tiny.probe([image], "digit").labels) in printed
    # A browser that refuses the clipboard leaves the focus on the button.
    explorer.run(
        "navigator.clipboard.writeText = async () => { throw new Error('refused'); };"
        "document.execCommand = () => { window.copied = document.activeElement.value; };"
    )
    assert "curl" in copied("#vector", "curl")
    assert explorer.run("return document.activeElement.textContent") == "curl"
    explorer.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    script = copied("#vector", "JavaScript").replace("console.log(", "return (")
    np.testing.assert_allclose(explorer.wait_for(script)["mean"][0], mean, rtol=1e-4)


@at_one_size
def test_the_globe_can_be_turned(
    explorer: Browser, image: Path, eventually: Callable[..., None]
) -> None:
    # No movement of its own.
    explorer.run("window.matchMedia = () => ({ matches: true, addEventListener() {} })")
    explorer.type("#file", str(image))
    eventually(lambda: answered(explorer))
    middle = POINT + "at('pointermove', box.width / 2, box.height / 2); return said();"
    assert explorer.run(middle) == "the image"
    drawn = "return document.querySelector('#globe').toDataURL()"
    before = explorer.run(drawn)
    drag = "at('pointerdown', 9, 9); at('pointermove', 209, 9); at('pointerup', 209, 9);"
    explorer.run(POINT + drag)
    assert explorer.run(drawn) != before
    assert explorer.run(middle) != "the image"
    # The same with the keyboard, which also picks the front picture.
    press = (
        POINT + "globe.dispatchEvent(new KeyboardEvent('keydown', { key: arguments[0] }));"
        "return said();"
    )
    assert explorer.run(press, "Home") == "the image"
    for _ in range(6):
        words = explorer.run(press, "ArrowLeft")
    assert words.startswith("sample ")
    explorer.run(press, "Enter")
    eventually(lambda: explorer.texts("#nearest li")[0].startswith("0.00"))


#: The globe, a pointer event at a place of it, and its text.
POINT = """
const globe = document.querySelector('#globe'), box = globe.getBoundingClientRect();
const at = (type, x, y) => globe.dispatchEvent(new PointerEvent(
  type, { clientX: box.x + x, clientY: box.y + y, pointerId: 1, bubbles: true }));
const said = () => document.querySelector('#globe-words').textContent;
globe.setPointerCapture = () => {};
"""


def test_requests_of_the_reference_can_be_tried(
    page: Browser, server_url: str, image: Path, eventually: Callable[..., None]
) -> None:
    page.open(f"{server_url}/docs")
    eventually(lambda: '"model":"tiny"' in page.texts("#generate pre")[0])
    page.run("document.querySelectorAll('#probe details').forEach(each => { each.open = true; })")
    assert findings(page) == []
    forms = "document.querySelectorAll('form[data-operation]')"
    assert page.run(f"return {forms}.length") == len(page.texts("h3 code")) > 15
    page.type("#probe-images", str(image))
    eventually(lambda: len(page.texts("#probe pre")[0]) > 500)
    page.run(f"{forms}.forEach(form => form.requestSubmit())")
    eventually(lambda: len(page.texts(".reply pre")) == page.run(f"return {forms}.length"))
    assert all(text.startswith("200 OK, in ") for text in page.texts(".reply p"))
    assert '"labels": [ "' in page.texts("#probe .reply pre")[0]
    assert page.texts("#probe dt") == ["Content-Type", "X-Request-ID", "Server-Timing"]
    assert (
        json.loads(page.texts("#probe .reply pre")[0])["request_id"] == page.texts("#probe dd")[1]
    )
    assert len(page.texts("#generate .reply img")) == 4
    assert not scrolls_sideways(page)
    # A field that is wrong, for the page and for the server.
    submit = "document.querySelector(arguments[0]).form.requestSubmit()"
    page.type("#posterior-group", "1,")
    page.run(submit, "#posterior-group")
    eventually(lambda: page.texts(".bad") == ["group must be JSON, such as [[0.5, -1]]."])
    page.type("#embed-dimensions", "5")
    page.run(submit, "#embed-dimensions")
    eventually(lambda: page.texts(".bad")[0].startswith("400 Bad Request, in "))
    assert "malformed-request" in page.texts("#embed .reply pre")[0]
    assert all("status of 400" in message for message in page.complaints())


@at_one_size
def test_it_loads_nothing_from_elsewhere(explorer: Browser, server_url: str) -> None:
    loaded = explorer.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert {name.removeprefix(server_url) for name in loaded if not name.startswith("data:")} >= {
        "/style.css",
        "/explorer/main.js",
    }
    assert all(name.startswith((server_url, "data:", "blob:")) for name in loaded)
    explorer.run("fetch('http://127.0.0.2:9/').catch(() => { document.title = 'refused' })")
    assert any("Content Security Policy" in message for message in explorer.complaints())
