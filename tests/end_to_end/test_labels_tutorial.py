"""The tutorial on one's own labels runs as it is written, over a real server."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import repzoo
from click.testing import CliRunner
from repzoo.cli import zoo
from repzoo_serving.announcement import announcement
from repzoo_serving.settings import Settings

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorials" / "your-own-labels.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Numbers that depend on the machine, and the pairs of classes whose order depends on them.
NUMBERS = re.compile(r"[\d.]+ ?%? *|^  \w+ as \w+:.*$", re.MULTILINE)


def blocks(heading: str, language: str) -> list[str]:
    (section,) = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", TUTORIAL, re.M | re.S)
    return [text for kind, text in BLOCK.findall(section) if kind == language]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_admissions: None
) -> Callable[[str], str]:
    """``run(line)`` runs a command of the tutorial in ``tmp_path``, and returns what it prints."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)

    def run_line(line: str) -> str:
        words = shlex.split(line)
        if words[0] == "zoo":  # in this process, which has loaded torch already
            result = CliRunner().invoke(zoo, words[1:], catch_exceptions=False)
            assert result.exit_code == 0, result.output
            return result.stdout
        if words[0] == "python":
            words[0] = sys.executable
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout

    return run_line


def test_the_tutorial(
    run: Callable[[str], str],
    tmp_path: Path,
    server_process: type,
    unused_port: Callable[[], int],
) -> None:
    (unpacking,) = blocks("Sort your photos", "sh")
    run(unpacking)
    (console,) = blocks("Fit the classifier", "console")
    command, _, shown = console.removeprefix("$ ").partition("\n")
    printed = run(command)
    assert NUMBERS.sub("", printed).split() == NUMBERS.sub("", shown).split()
    (accuracy,) = re.findall(r"accuracy (\d+\.\d) %", printed)
    (promised,) = re.findall(r"accuracy (\d+\.\d) %", shown)
    assert abs(float(accuracy) - float(promised)) <= 3

    (script,) = blocks("Several labels per photo", "python")
    run(shlex.join(["python", "-c", script]))
    fitting, serving_both = blocks("Several labels per photo", "sh")[0].splitlines()
    assert "traits (linear): 100 images of photos, 2 labels" in run(fitting)

    (commands, curl) = blocks("Serve it", "sh")
    verifying, serving = commands.splitlines()
    run(verifying)
    assert serving_both == serving.replace("objects", "more")
    port = str(unused_port())
    words = shlex.split(serving.replace("3000", port).replace("objects", "objects,more"))
    with server_process(*words[2:], log=tmp_path / "log") as server:
        server.wait_until_ready()
        (suggested,) = re.findall(r"^  (curl .*)$", server.output(), re.MULTILINE)
        suggestion = json.loads(run(suggested))
        watched = tmp_path / "models.txt"
        watched.write_text("=\n./more\n./objects\n")
        served = httpx.get(f"http://127.0.0.1:{port}/models").json()
        banner = announcement(f"http://127.0.0.1:{port}", served, Settings(watch=str(watched)))
        assert suggested in banner
        script, *_ = blocks("Serve it", "python")
        (expected,) = blocks("Serve it", "text")
        assert run(shlex.join(["python", "-c", script.replace("3000", port)])) == expected
        answer = json.loads(run(curl.replace("3000", port)))
        (of_both,) = blocks("Several labels per photo", "sh")[1:]
        traits = json.loads(run(of_both.replace("3000", port)))
    assert answer["labels"] == ["ship"]
    # The server has suggested a request for the classifier.
    assert suggestion["model"] == "objects"
    assert suggestion["classes"] == answer["classes"]
    local = repzoo.load(tmp_path / "objects").probe("photos/ship/0005.png", "object")
    assert local.labels == answer["labels"]
    assert local.classes == tuple(answer["classes"])
    assert traits["classes"] == ["animal", "flying"]
    assert traits["labels"] == [["animal", "flying"]]

    for line in blocks("Publish it", "sh")[0].splitlines():
        run(line)
