"""Runs that are killed: they lose no finished part, and end with the same bytes."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

OPTIONS = ("--part-size", "32", "--workers", "1")


def parts(out: Path) -> dict[str, tuple[str, int]]:
    """The sha256 and modification time of each finished part."""
    folder = out.with_name(out.name + ".parts")
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.glob("part-*.parquet")
    }


def test_killed_again_and_again(
    start: Callable[..., subprocess.Popen[str]],
    finish: Callable[..., Any],
    photos: Path,
    tmp_path: Path,
) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    assert finish(photos, whole, *OPTIONS)[0] == 3
    rng = random.Random(0)
    kept: dict[str, tuple[str, int]] = {}
    kills = 0
    while True:
        process = start(photos, out, *OPTIONS)
        if kills < 4:
            # Kill after a few more parts, so that the speed of the machine does not matter.
            wanted = len(kept) + rng.randint(0, 5)
            while process.poll() is None and len(parts_there(out)) < wanted:
                time.sleep(0.005)
            time.sleep(rng.random() * 0.05)
            children = psutil.Process(process.pid).children() if process.poll() is None else []
            process.kill()
            kills += 1
        process.communicate(timeout=300)
        if kills >= 4 and process.returncode == 3:
            break
        if out.exists():
            break
        # Its children have ended, too, and no part is lost or written again.
        psutil.wait_procs(children, timeout=20)
        assert not [child for child in children if child.is_running()]
        there = parts(out)
        assert kept.items() <= there.items()
        kept = there
    assert kept
    assert out.read_bytes() == whole.read_bytes()
    assert not out.with_name("out.parquet.parts").exists()


def parts_there(out: Path) -> list[Path]:
    try:
        return list(out.with_name(out.name + ".parts").glob("part-*.parquet"))
    except FileNotFoundError:  # the parts were joined meanwhile
        return []


def test_ctrl_c(
    start: Callable[..., subprocess.Popen[str]],
    finish: Callable[..., Any],
    photos: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.parquet"
    process = start(photos, out, *OPTIONS)
    while process.poll() is None and not parts_there(out):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    status, stdout, _ = finish(photos, out, *OPTIONS)
    assert status == 3
    assert "were done earlier" in stdout


def test_a_decoder_that_is_killed_is_replaced(
    start: Callable[..., subprocess.Popen[str]],
    finish: Callable[..., Any],
    photos: Path,
    tmp_path: Path,
) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    assert finish(photos, whole, *OPTIONS)[0] == 3
    process = start(photos, out, *OPTIONS)
    while process.poll() is None and not parts_there(out):
        time.sleep(0.005)
    for child in psutil.Process(process.pid).children():
        if "spawn_main" in " ".join(child.cmdline()):
            child.kill()
    _, stderr = process.communicate(timeout=300)
    assert (process.returncode, stderr) == (3, "")
    assert out.read_bytes() == whole.read_bytes()


def test_an_image_that_kills_its_decoder(tmp_path: Path, make_png: Callable[..., bytes]) -> None:
    """It gets an error, and the other images of its batch are decoded."""
    from repzoo.bulk.decoding import Batch, Decoders
    from repzoo.bulk.sources import Item
    from repzoo.packages.config import InputSpec

    items = [Item(str(seed), make_png(seed)) for seed in range(4)]
    deadly = Deadly("deadly", b"x")
    spec = InputSpec(height=8, width=8, channels=1)
    with Decoders(spec, 1) as decoders:
        batches = [Batch(0, items), Batch(0, [items[0], deadly, items[1]]), Batch(1, items[2:])]
        first, second, third = decoders.map(batches)
    assert (len(first.pixels), len(third.pixels)) == (4, 2)
    assert second.ids == ["0", "deadly", "1"]
    assert second.errors == {1: "the decoder crashed"}
    assert (second.pixels == first.pixels[:2]).all()


class Deadly(tuple[Any, ...]):
    """An item that ends the process when it is unpickled, as a bug in a decoder might."""

    __slots__ = ()

    def __new__(cls, *fields: Any) -> Any:
        return super().__new__(cls, (*fields, None))

    @property
    def id(self) -> str:
        return str(self[0])

    def __reduce__(self) -> Any:
        import os

        return os._exit, (7,)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_two_at_once(
    start: Callable[..., subprocess.Popen[str]], photos: Path, tmp_path: Path, workers: str
) -> None:
    """The second run waits for the first, and finds nothing left to do."""
    out = tmp_path / "out.parquet"
    options = ("--part-size", "64", "--workers", workers)
    both = [start(photos, out, *options) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [3, 3], outputs
    assert sum("already done" in stdout for stdout, _ in outputs) == 1
