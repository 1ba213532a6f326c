"""The documents keep their promises: links, commands and paths exist, and the README runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from repzoo import cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "serving" / "deploy" / "README.md",
        ROOT / "clients" / "python" / "README.md",
    ]
)
README = (ROOT / "README.md").read_text()
ROOMS = {
    "repzoo": ROOT / "zoo" / "repzoo",
    "repzoo_serving": ROOT / "serving" / "repzoo_serving",
    "repzoo_training": ROOT / "training" / "repzoo_training",
    "repzoo_client": ROOT / "clients" / "python" / "repzoo_client",
}
#: A block of code: its language and its text.
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every command in the shell blocks of a document."""
    for language, block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if language == "console" and not line.startswith("$ "):
                continue
            if language in ("sh", "console"):
                for part in re.split(r" && | \| ", line.removeprefix("$ ")):
                    yield shlex.split(part, comments=True)


def slugs(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_readme_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) < 150
    assert not [line for line in lines if len(line) > 120]


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    text = document.read_text()
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)|src=\"(?!https?:)([^\"]+)\"", text)
    for link in filter(None, (target for pair in links for target in pair)):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in slugs(target.read_text()), link


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_path_of_the_map_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    paths = re.findall(r"`((?:zoo|training|serving|clients|tests|docs|examples)/[^`\s]*)`", text)
    assert paths
    for path in paths:
        assert (ROOT / path.replace("NAME.py", "simvae.py")).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_command_and_option_exists(document: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands(document.read_text()):
        while words and "=" in words[0]:  # a variable before the command
            words = words[1:]
        match words:
            case ["make", target, *_]:
                assert target in targets
            case ["python", script, *_] if script.endswith(".py"):
                assert (ROOT / script).exists(), script
            case ["zoo", *arguments]:
                check_command(cli.zoo, arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_installation_is_from_a_clone(document: Path) -> None:
    """The distributions are not on PyPI yet, where anyone could take their names."""
    installed = re.findall(r"pip install [^`\n]*", document.read_text())
    assert not [line for line in installed if re.search(r"['\" ]repzoo", line)]


def check_command(command: click.Command, arguments: list[str]) -> None:
    """Assert that the subcommands and options in ``arguments`` exist."""
    while isinstance(command, click.Group) and not arguments[0].startswith("-"):
        name, arguments = arguments[0], arguments[1:]
        assert name in command.commands, f"zoo {name}"
        command = cli.import_command(name) if command is cli.zoo else command.commands[name]
    options = {"--help"}
    for each in command.params:
        options.update(each.opts, each.secondary_opts)
    given = {word.split("=")[0] for word in arguments if word.startswith("--")}
    assert given <= options, command.name


@pytest.mark.parametrize("script", ["generate.py", "diagrams.py"])
def test_every_table_and_diagram_is_up_to_date(
    script: str, zoo_process: Callable[..., tuple[int, str, str]]
) -> None:
    status, stdout, stderr = zoo_process(["--check"], ROOT, script=ROOT / "docs" / script)
    assert status == 0, stdout + stderr


def test_every_bundled_model_is_in_the_readme() -> None:
    for config in (ROOT / "zoo" / "bundled").glob("*/config.json"):
        assert f"(zoo/bundled/{config.parent.name}" in README


@pytest.mark.parametrize("package", ROOMS)
def test_the_map_has_every_room(package: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    folder = ROOMS[package]
    section = text.split(f"\n## `{folder.relative_to(ROOT)}`\n")[1].split("\n## ")[0]
    rooms = {
        str(path.parent.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix in (".py", ".csv") and path.parent != folder
    }
    assert set(re.findall(r"^\| `([\w/]+)` \|", section, re.MULTILINE)) == rooms


def test_every_setting_of_the_server_is_documented() -> None:
    from repzoo_serving.settings import PRIVATE, Settings

    text = (ROOT / "docs/how-to/serve/configure-a-server.md").read_text()
    documented = set(re.findall(r"^\| `REPZOO_SERVE_(\w+)` \|", text, re.MULTILINE))
    assert documented == {name.upper() for name in Settings.model_fields.keys() - PRIVATE}


@pytest.fixture(scope="module")
def place(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images that the README unpacks."""
    return shutil.copytree(unpacked, tmp_path_factory.mktemp("readme"), dirs_exist_ok=True)


def test_unpacking_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "data" / "unpack.py", "mnist", "digits"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.endswith(": pip install pyarrow\n")
    assert "Traceback" not in done.stderr


def test_the_python_blocks_print_what_they_say(
    place: Path,
    url: str,
    zoo_process: Callable[..., tuple[int, str, str]],
    same: Callable[[str, str], bool],
    tmp_path: Path,
) -> None:
    blocks = [block for language, block in BLOCK.findall(README) if language == "python"]
    assert blocks
    script = tmp_path / "block.py"
    for block in blocks:
        script.write_text(block.replace("http://127.0.0.1:3000", url))
        status, printed, stderr = zoo_process([], place, script=script)
        assert status == 0, stderr
        shown = re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)
        assert same("\n".join(shown), printed), printed


def test_the_sessions_print_what_they_show(
    place: Path,
    url: str,
    zoo_process: Callable[..., tuple[int, str, str]],
    same: Callable[[str, str], bool],
) -> None:
    """Every command of the README's sessions, in order, in one folder; training is cut short."""

    def run(*words: str) -> str:
        if words[0] == "zoo":
            status, stdout, stderr = zoo_process(words[1:], place)
        else:
            done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False)
            status, stdout, stderr = done.returncode, done.stdout, done.stderr
        assert status == 0, stderr
        return stdout

    sessions = [block for language, block in BLOCK.findall(README) if language == "console"]
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(sessions), re.MULTILINE)
    assert len(steps) > 5
    run("zoo", "pull", "simvae-mnist")  # as `make serve` does
    for command, shown in steps:
        words = shlex.split(command.replace("http://127.0.0.1:3000", url))
        words = [*words[:-2], "--views", "640"] if words[-2:] == ["--budget", "1m"] else words
        if words[:2] == ["zoo", "serve"]:
            continue  # it does not end; its model is what the next line checks
        printed = run(*words)
        assert same(shown, printed), f"{command}\n{printed}"
    run("zoo", "verify", "packages/photos")

    made = {f"{path.name}/" if path.is_dir() else path.name for path in place.iterdir()}
    assert {"digits/", "index/", "models/", "packages/", "runs/"} <= made
    if (ROOT / ".git").exists():
        ignored = subprocess.run(
            ["git", "check-ignore", *sorted(made)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert set(ignored.stdout.split()) == made
