"""What tests of documents share: the environment's commands, a server, and comparing outputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e-?\d+)?")
REVISION = re.compile(r"\b[0-9a-f]{12,64}\b")


@pytest.fixture(scope="session")
def same() -> Callable[[str, str], bool]:
    """``same(shown, printed)``: whether a document shows what a command printed.

    Numbers may differ a little, a revision is any revision, and ``...`` stands for anything.
    """

    def compare(shown: str, printed: str) -> bool:
        shown, printed = (
            re.sub(" +", " ", REVISION.sub("@", text)) for text in (shown, printed)
        )  # the width of a column depends on its numbers
        parts = re.split(r"\s*\.\.\.\s*", NUMBER.sub("#", shown).strip())
        pattern = ".*".join(map(re.escape, parts))
        wanted, found = ([float(x) for x in NUMBER.findall(text)] for text in (shown, printed))
        if "..." not in shown and wanted != pytest.approx(found, rel=0.02, abs=1e-3):
            return False
        return re.fullmatch(pattern, NUMBER.sub("#", printed).strip(), re.DOTALL) is not None

    return compare


@pytest.fixture(scope="module")
def url(server_process: type, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server of simvae-mnist."""
    log = tmp_path_factory.mktemp("server") / "log"
    with server_process("--models", "simvae-mnist", "--port", "0", log=log) as server:
        yield server.wait_until_ready()


@pytest.fixture(scope="session")
def unpacked(
    zoo_process: Callable[..., tuple[int, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the ``digits`` and ``photos`` that the documents unpack.

    It is shared by all tests, so copy it before changing it.
    """
    folder = tmp_path_factory.mktemp("unpacked")
    for sample, name in (("mnist", "digits"), ("cifar10", "photos")):
        script = ROOT / "tests" / "data" / "unpack.py"
        status, _, stderr = zoo_process([sample, name], folder, script=script)
        assert status == 0, stderr
    return folder
