"""A real browser for tests, driven over WebDriver."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

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

    def wait_for(self, script: str) -> Any:
        """Run the body of an ``async`` function, and return its result."""
        body = f"const done = arguments[0]; (async () => {{ {script} }})().then(done)"
        return self.post("execute/async", script=body, args=[])

    def texts(self, selector: str) -> list[str]:
        """Return the text of each element that matches."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return list(self.run(script, selector))

    def visible(self, selector: str) -> bool:
        """Return whether the first element that matches is shown."""
        return bool(
            self.run("return document.querySelector(arguments[0]).checkVisibility()", selector)
        )

    def type(self, selector: str, text: str) -> None:
        found = self.post("element", using="css selector", value=selector)
        self.post(f"element/{found[ELEMENT]}/value", text=text)

    def click(self, selector: str) -> None:
        found = self.post("element", using="css selector", value=selector)
        self.post(f"element/{found[ELEMENT]}/click")

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.post("goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=metrics)

    def complaints(self) -> list[str]:
        """Return the entries of the console: errors and violations of the policy.

        The browser also reports that the server was busy, after which the page asks again.
        """
        said = [entry["message"] for entry in self.post("se/log", type="browser")]
        return [message for message in said if "status of 429" not in message]

    def close(self) -> None:
        self._http.delete(self._url)
        self._http.close()


@contextmanager
def opened(port: int, profile: Path) -> Iterator[Browser]:
    """A browser with a new profile, driven through ``port``; skips the test without Chromium."""
    if not (CHROMIUM and DRIVER) and "REPZOO_REQUIRE_BROWSER" not in os.environ:
        pytest.skip("NO BROWSER: pages are not tested; Debian has chromium and chromium-driver")
    with ExitStack() as stack:
        # Not port 0: chromedriver would choose a free port of IPv4, and fail if the same port of
        # IPv6 is in use.
        driver = stack.enter_context(
            subprocess.Popen(
                [str(DRIVER), f"--port={port}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        stack.callback(driver.terminate)
        _wait_until_started(driver)
        browser = Browser(f"http://127.0.0.1:{port}", profile)
        stack.callback(browser.close)
        yield browser


def _wait_until_started(driver: subprocess.Popen[str]) -> None:
    assert driver.stdout is not None
    said = []
    for line in driver.stdout:
        if "started successfully" in line:
            return
        said.append(line)
    raise AssertionError(f"chromedriver did not start:\n{''.join(said)}")
