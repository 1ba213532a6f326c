"""A run that is trained in leases ends as one that nobody disturbed.

The far side is a Python that has torch and the like, and neither pydantic nor repzoo.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import torch
from repzoo_training.run import Run
from repzoo_trips.home import Home
from repzoo_trips.pack import Packed, pack
from repzoo_trips.pending import DataSet, Machine, Pending, PendingRun
from repzoo_trips.records import Job, Limits, RunState
from repzoo_trips.status import is_done, status
from repzoo_trips.training import Workshop, train_all
from repzoo_trips.transport import LocalMachine
from repzoo_trips.unpack import unpack

DATA = Path(__file__).parents[2] / "data"
STEPS = 240
SMALL = (
    *("network.widths=[256,64]", "images_per_step=8", "views_per_image=4"),
    "precision=float32",
)
RUN = PendingRun(
    name="small",
    recipe="simvae-mnist",
    data="mnist",
    priority=1,
    minutes=1.0,
    views=STEPS * 8 * 4,
    threads=1,
    checkpoint="0.2s",
    set=SMALL,
)
CARRIED = ("annotated-types", "pydantic", "pydantic_core", "typing-inspection")
ABSENT = ("pydantic", "annotated_types", "typing_inspection", "bentoml", "typer", "repzoo")


def pending(**limits: Any) -> Pending:
    return Pending(
        machine=Machine(python="", platforms=()),
        data={"mnist": DataSet(folder="mnist")},
        run=(RUN,),
        # A snapshot on the way is of 5.6 MB, so it takes two trips; a finished one is of 1.9 MB.
        limits=Limits(back_bytes=4 * 2**20, back_file_bytes=2 * 2**20, least_seconds=1.0, **limits),
    )


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python of its own with links to what is installed here, but for ``ABSENT``."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "links").mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        hidden = (*ABSENT, "_", "~")
        if not path.name.lower().startswith(hidden) and path.suffix != ".pth":
            (folder / "links" / path.name).symlink_to(path)
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "links.pth").write_text(f"{folder / 'links'}\n")
    python = folder / "venv" / "bin" / "python"
    for name, there in (("torch", True), ("pydantic", False), ("repzoo_training", False)):
        code = f"import importlib.util as i; assert bool(i.find_spec({name!r})) is {there}"
        subprocess.run([python, "-c", code], check=True, cwd=folder)
    return python


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """With wheels of what the bare Python lacks, made of what is installed here."""
    home = Home(tmp_path / "home")
    home.wheels.mkdir()
    for name in CARRIED:
        wheel = home.wheels / f"{name}-0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for file in distribution(name).files or ():
                if file.suffix != ".pyc":
                    archive.write(Path(str(file.locate())), str(file))
    return home


def environment(python: Path) -> dict[str, str]:
    paths = ("PYTHONPATH", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in paths}
    return {**kept, "PYTHON": str(python)}


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def test_a_run_cut_into_leases_ends_like_an_undisturbed_one(
    home: Home, bare_python: Path, tmp_path: Path
) -> None:
    far = tmp_path / "machine"
    checkpoint = far / "work" / "runs" / "small" / "checkpoint.pt"
    small = pending(trip_bytes=pack(home, pending(trip_bytes=9_999_999), DATA).size - 300_000)
    machine = LocalMachine(far, small.limits, environment=environment(bare_python))

    def packed(**how: bool) -> Packed:
        return pack(home, small, DATA, **how)

    def trip(**how: bool) -> str:
        packed(**how)
        assert machine(home.luggage, tmp_path / "out") == 0
        return "\n".join(unpack(home, tmp_path / "out", small, DATA))

    def there() -> RunState:
        report = home.read().report
        assert report is not None
        return report.runs[0]

    # The data does not fit into the first trip.
    assert packed().left > 0
    trip()
    assert (there().state, there().message) == (
        *("waiting", "train-00000-of-00001.parquet not here yet"),
    )

    # The second trains until it is told to stop, and half of its checkpoint comes back.
    packed()
    machine.bring(home.luggage)
    process = machine.start()
    wait_for(checkpoint.exists, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(240) == 0
    assert machine.bring_back(tmp_path / "out") == []
    said = "\n".join(unpack(home, tmp_path / "out", small, DATA))
    first = there()
    assert first.snapshot is not None
    assert 0 < first.step < STEPS
    assert f"{len(home.store.names())} of {len(first.snapshot.pieces)} pieces are here" in said
    assert 0 < len(home.store.names()) < len(first.snapshot.pieces)

    # The third is killed after its next checkpoint; its trainer dies with it.
    packed()
    machine.bring(home.luggage)
    process = machine.start()
    before = stamp(checkpoint)
    wait_for(lambda: stamp(checkpoint) > before, process)
    process.kill()
    process.wait()
    machine.bring_back(tmp_path / "out")
    assert "the command was cut short" in "\n".join(unpack(home, tmp_path / "out", small, DATA))

    # The rest of the first checkpoint comes, as nothing of a newer one has come yet.
    said = trip(train=False)
    assert f"small at step {first.step} of {STEPS}: complete" in said
    assert there().step > first.step
    resumable = Run(home.runs / "small").read_checkpoint()
    assert resumable is not None
    assert resumable.step == first.step

    # The machine goes cold, and nobody knew. All is sent again, the checkpoint too.
    shutil.rmtree(far)
    assert "this is another machine than last time" in trip()
    while packed().left:
        trip()
        assert there().state == "waiting"
    said = trip()
    assert f"small at step {STEPS} of {STEPS}: complete" in said
    assert is_done(home, small)
    assert "finished" in status(home, small)

    alone = tmp_path / "alone"
    words = ["train", RUN.recipe, "--data", str(DATA / "mnist"), "--out", str(alone)]
    zoo = Path(sys.executable).with_name("zoo")
    subprocess.run([zoo, *words, *RUN.job().arguments], check=True, capture_output=True)
    assert_same(Run(home.runs / "small"), Run(alone))


def assert_same(a: Run, b: Run) -> None:
    """Weights bit for bit, metrics but for the time that they took, and the record."""
    ours, theirs = a.read_checkpoint(), b.read_checkpoint()
    assert ours is not None
    assert theirs is not None
    assert ours.step == theirs.step == STEPS
    assert ours.objective.keys() == theirs.objective.keys()
    for name, tensor in ours.objective.items():
        assert torch.equal(tensor, theirs.objective[name]), name
    assert not ours.optimizer["state"]
    assert metrics(a) == metrics(b)
    record, other = a.read_record(), b.read_record()
    assert record is not None
    assert other is not None
    assert record.code_commit
    assert record.model_copy(update={"code_commit": other.code_commit}) == other


def metrics(run: Run) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("wall_seconds", "views_per_second")}
        for line in lines
    ]


def test_runs_are_stopped_when_the_time_is_up_and_failures_are_told(tmp_path: Path) -> None:
    workshop = Workshop(paths=(), runs=tmp_path, at_once=2, least_seconds=1.0, grace_seconds=60.0)
    wrong = Job(name="wrong", recipe="simvae-minst", data="mnist", arguments=())
    checkpoint = tmp_path / "small" / "checkpoint.pt"
    late = Job(name="late", recipe="simvae-mnist", data="mnist", arguments=())
    failed = train_all(
        [(job, DATA / "mnist") for job in (wrong, RUN.job(), late)],
        workshop,
        # Time enough to start two and no third, until the second has saved.
        lambda: (
            -1.0 if checkpoint.exists() else 5.0 if len(list(tmp_path.glob("*.log"))) < 2 else 0.5
        ),
    )
    assert failed.keys() == {"wrong"}
    assert "did you mean" in failed["wrong"]
    saved = Run(tmp_path / "small").read_checkpoint()
    assert saved is not None
    assert 0 < saved.step < STEPS
    assert "saved at step" in (tmp_path / "small.log").read_text()
    assert not (tmp_path / "late.log").exists()
