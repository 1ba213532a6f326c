"""Take the pictures of the explorer and the API reference that the documents show, in Chromium.

    python docs/screenshots.py [PACKAGE]

PACKAGE is a name or folder of a model of MNIST digits, ``simvae-mnist`` by default. The pictures
show only samples of the model.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
#: Name, width and height of each picture.
PICTURES = (
    ("explorer.png", 1280, 880),
    ("explorer-phone.png", 390, 844),
    ("explorer-phone-answer.png", 390, 844),
    ("reference.png", 1280, 800),
)
PORT, DRIVER_PORT = 23_401, 23_402


def load(path: str) -> ModuleType:
    """Import a file of the tests."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "tests" / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def take(browser: Any, url: str, name: str, width: int, height: int) -> None:
    browser.resize(width, height)
    for setting, on in (("setScrollbarsHidden", "hidden"), ("setTouchEmulationEnabled", "enabled")):
        parameters = {on: on == "hidden" or width < 600}
        browser.post("goog/cdp/execute", cmd=f"Emulation.{setting}", params=parameters)
    browser.open(f"{url}/docs" if name == "reference.png" else url)
    if name == "reference.png":
        wait(browser, "document.querySelector('#generate pre').textContent.includes(location.host)")
        browser.run("document.querySelector('#generate form').requestSubmit()")
        wait(browser, "document.querySelector('#generate .reply img')")
        browser.run("document.querySelector('#generate').scrollIntoView()")
    else:
        wait(browser, "document.querySelectorAll('#examples img').length === 6")
    if name in ("explorer.png", "explorer-phone-answer.png"):
        browser.run("document.querySelectorAll('#examples button')[3].click()")
        wait(browser, "document.querySelector('#nearest img')")
        browser.run(
            "const noise = document.querySelector('#degradations label:nth-child(2) input');"
            "noise.value = 0.6; noise.dispatchEvent(new Event('input'))"
        )
    time.sleep(2)  # until the answer for the degraded image is shown
    command = {"cmd": "Page.captureScreenshot", "params": {"format": "png"}}
    picture = Image.open(
        io.BytesIO(base64.b64decode(browser.post("goog/cdp/execute", **command)["data"]))
    )
    picture.convert("RGB").quantize(128).save(ROOT / "serving" / name, optimize=True)


def wait(browser: Any, condition: str) -> None:
    end = time.monotonic() + 30
    while not browser.run(f"return Boolean({condition})"):
        if time.monotonic() > end:
            raise SystemExit(f"this did not become true: {condition}")
        time.sleep(0.1)


def main() -> None:
    package = sys.argv[1] if len(sys.argv) > 1 else "simvae-mnist"
    browsers, servers = load("browser.py"), load("server_process.py")
    folder = Path(tempfile.mkdtemp())
    arguments = ("--models", package, "--port", str(PORT))
    with (
        browsers.opened(DRIVER_PORT, folder / "profile") as browser,
        servers.ServerProcess(*arguments, log=folder / "log") as server,
    ):
        url = server.wait_until_ready()
        for picture in PICTURES:
            take(browser, url, *picture)


if __name__ == "__main__":
    main()
