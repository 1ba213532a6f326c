"""Every code block of the how-to guides runs, in order, and prints what the guide shows.

A block is left out only if the comment ``<!-- not run: REASON -->`` stands before it. Console
blocks and the first ``text`` block after a program show its output. The first line of a ``toml``
block names its file.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: Only the Python blocks of these run; the rest describes servers in other states.
REFERENCES = [DOCS / "serving.md", DOCS / "uncertainty.md"]
GUIDES = [
    DOCS / "tutorials" / "search-your-photos.md",
    DOCS / "tutorials" / "train-and-publish.md",
    *sorted((DOCS / "how-to").rglob("*.md")),
    *REFERENCES,
]
#: Tutorials that have a test of their own.
ELSEWHERE = {"import-an-encoder", "own-objective", "your-own-labels"}
#: Guides that train or fit for minutes.
SLOW = {"calibrate", "compare-methods", "fine-tune", "train-and-publish"}
BLOCK = re.compile(r"^(<!-- not run: .* -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Languages whose programs are saved to a file: the command that runs it, and the file's suffix.
PROGRAMS = {"js": ("node", ".mjs"), "java": ("java", ".java")}
MARK = "-- this block --"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def samples(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 300 ``digits`` and all ``photos``."""
    folder = shutil.copytree(unpacked, tmp_path_factory.mktemp("samples"), dirs_exist_ok=True)
    for path in sorted((folder / "digits").iterdir())[300:]:
        path.unlink()
    return folder


def test_every_tutorial_is_run() -> None:
    tutorials = {path.stem for path in (DOCS / "tutorials").glob("*.md")}
    assert tutorials - {guide.stem for guide in GUIDES} == ELSEWHERE


class Reader:
    """Someone who follows a guide in a folder, with a server of simvae-mnist at ``url``."""

    def __init__(self, place: Path, url: str, port: int, zoo_process: Command) -> None:
        self.place, self.url, self.port = place, url, port
        self.zoo_process = zoo_process
        self.servers: list[subprocess.Popen[bytes]] = []
        self.python = ""  # the Python blocks so far
        self.token = ""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = {**os.environ, "PATH": path}

    def run(self, *words: str, failing: bool = False) -> str:
        """Run a program, and return what it prints; with ``failing``, its errors too."""
        if words[0] in ("zoo", "python"):
            script = Path(words[1]) if words[0] == "python" else None
            arguments = words[1:] if script is None else words[2:]
            status, stdout, stderr = self.zoo_process(arguments, self.place, script=script)
        else:
            done = subprocess.run(
                words, cwd=self.place, env=self.env, capture_output=True, text=True, check=False
            )
            status, stdout, stderr = done.returncode, done.stdout, done.stderr
        assert failing or status == 0, f"{words[-1]}\n{stdout}\n{stderr}"
        output = (stderr + stdout if failing else stdout).replace(str(self.place), "~/repzoo")
        return output.replace(os.environ["REPZOO_CACHE"], "~/.cache/repzoo")

    def shell(self, command: str, shown: str = "") -> str:
        """Run a command as it is written, but train briefly and serve on a free port."""
        command = re.sub(r"--budget \w+", "--views 640", self.here(command))
        if found := re.match(r"python tests/data/unpack.py \w+ (\w+)( --classes)?", command):
            if found[2] is None:
                return ""  # `samples` has some of these images
            shutil.rmtree(self.place / found[1])
        if re.match(r"zoo (hub )?serve (?!.*--(check|print-config))", command):
            self.serve(re.sub(r"--port \d+", f"--port {self.port}", command))
            return ""
        if command.startswith("HF_TOKEN=..."):
            command = command.replace("...", self.token)
        is_plain = re.match(r"(zoo|python) [^|&<>$;*]*$", command)
        words = shlex.split(command, comments=True) if is_plain else ["bash", "-ec", command]
        output = self.run(*words, failing=shown.startswith("zoo: "))
        if command.startswith("zoo hub token add"):
            (self.token,) = re.findall(r"^\S{20,}$", output, re.MULTILINE)
        return output

    def serve(self, command: str) -> None:
        process = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=self.place, env=self.env)
        self.servers.append(process)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            assert process.poll() is None, command
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.1)
        raise AssertionError(f"not reachable: {command}")

    def here(self, text: str) -> str:
        text = text.replace("http://127.0.0.1:3000", self.url)
        return re.sub(r"http://127\.0\.0\.1:(3001|8000)", f"http://127.0.0.1:{self.port}", text)

    def program(self, language: str, text: str) -> str:
        text = self.here(text)
        if language == "python":
            script = f"{self.python}\nprint({MARK!r}, flush=True)\n{text}"
            self.python += text
            file = self.place.with_name("block.py")
            file.write_text(script)
            return self.run("python", str(file)).partition(f"{MARK}\n")[2]
        command, suffix = PROGRAMS[language]
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed: a block in {language} was not run")
        file = self.place / f"Embed{suffix}"
        file.write_text(text)
        return self.run(command, str(file))

    def close(self) -> None:
        for server in self.servers:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def lines(block: str) -> Iterator[str]:
    """Yield the commands of a block, each with its continuation lines."""
    for line in block.replace("\\\n", " ").splitlines():
        if line.strip():
            yield line


@pytest.mark.parametrize(
    "guide",
    [
        pytest.param(guide, id=guide.stem, marks=pytest.mark.slow if guide.stem in SLOW else ())
        for guide in GUIDES
    ],
)
def test_a_guide_does_what_it_says(
    guide: Path,
    tmp_path: Path,
    samples: Path,
    url: str,
    unused_port: Callable[[], int],
    zoo_process: Command,
    shared_admissions: None,
    same: Callable[[str, str], bool],
) -> None:
    place = tmp_path / "repzoo"
    shutil.copytree(samples, place)
    (place / "tests").symlink_to(ROOT / "tests")
    reader = Reader(place, url, unused_port(), zoo_process)
    reader.run("zoo", "pull", "simvae-mnist")
    printed = None
    try:
        for left_out, language, block in BLOCK.findall(guide.read_text()):
            if left_out or (guide in REFERENCES and language not in ("python", "text")):
                continue
            if language == "sh":
                for command in lines(block):
                    reader.shell(command)
            elif language == "console":
                steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
                for command, shown in steps:
                    printed = reader.shell(command, shown)
                    assert not shown or same(shown, printed), f"{command}\n{printed}"
            elif language == "text":
                assert printed is None or same(block, printed), printed
                printed = None
            elif language == "toml":
                (name,) = re.findall(r"\A# (\S+)$", block, re.MULTILINE)
                (reader.place / name).write_text(block)
            elif language in ("python", *PROGRAMS):
                printed = reader.program(language, block)
            else:
                raise AssertionError(f"nothing runs a block in {language}")
    finally:
        reader.close()
