"""Packing, limits and unpacking, with a far side that only receives (it trains in test_leases)."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from repzoo_trips.errors import LimitExceeded, LuggageError, PendingError, TransportError
from repzoo_trips.home import Home
from repzoo_trips.pack import Packed, pack, weigh_tree
from repzoo_trips.pending import DataSet, Machine, Pending, PendingRun
from repzoo_trips.pieces import PIECE, describe, sha256_of, write_crates
from repzoo_trips.records import Limits, Plan, Report, RunState, Snapshot, dump, read
from repzoo_trips.status import is_done, status
from repzoo_trips.transport import LocalMachine, call
from repzoo_trips.unpack import unpack

RUNS = tuple(
    PendingRun(name=name, recipe="simvae-mnist", data=name, priority=i, minutes=5.0)
    for i, name in enumerate(("first", "second"))
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two data sets of two shards; 1.5 and 0.5 MiB each."""
    random = np.random.default_rng(0)
    for name, size in (("first", 3 * PIECE // 2), ("second", PIECE // 2)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for shard in range(2):
            path = tmp_path / "data" / name / f"train-0000{shard}-of-00002.parquet"
            path.write_bytes(random.bytes(size))
    return tmp_path / "data"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def pending(**limits: float) -> Pending:
    return Pending(
        machine=Machine(python="3.12", platforms=()),
        data={run.name: DataSet(folder=run.name) for run in RUNS},
        run=RUNS,
        limits=dataclasses.replace(Limits(), **limits),  # type: ignore[arg-type]
    )


@pytest.fixture
def there(tmp_path: Path) -> Callable[[Home, Limits], Path]:
    """Makes a trip whose far side only receives, as ``train`` is off and no run has begun."""

    def trip(home: Home, limits: Limits) -> Path:
        out = tmp_path / "out"
        assert LocalMachine(tmp_path / "machine", limits)(home.luggage, out) == 0
        return out

    return trip


def plan_of(home: Home) -> Plan:
    return read(Plan, home.luggage / "plan.json")


def weight(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# Packing


def test_luggage_is_full_and_not_over(home: Home, data: Path) -> None:
    whole = pack(home, pending(trip_bytes=9_999_999), data)  # as many digits as below
    assert whole.left == 0
    assert whole.size == weight(home.luggage)
    exactly = pack(home, pending(trip_bytes=whole.size), data)
    assert (exactly.left, exactly.size) == (0, whole.size)
    less = pack(home, pending(trip_bytes=whole.size - 1), data)
    assert 0 < less.left <= PIECE
    assert less.size < whole.size
    assert less.trips_left == 1


def test_a_working_tree_that_travels_too_counts(home: Home, data: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    (tree / ".gitignore").write_text("ignored\n")
    for name in ("ignored", "new", "tracked"):
        (tree / name).write_bytes(bytes(10_000))
    subprocess.run(["git", "add", "tracked"], cwd=tree, check=True)
    assert weigh_tree(tree) == 20_000 + len("ignored\n")
    whole = pack(home, pending(trip_bytes=9_999_999), data).size  # as many digits as below
    assert pack(home, pending(trip_bytes=whole + weigh_tree(tree)), data, tree=tree).left == 0
    assert pack(home, pending(trip_bytes=whole + weigh_tree(tree) - 1), data, tree=tree).left
    with pytest.raises(LimitExceeded, match="beside the working tree"):
        pack(home, pending(trip_bytes=weigh_tree(tree) + 1), data, tree=tree)
    with pytest.raises(PendingError, match="no git working tree"):
        weigh_tree(data)


def test_data_that_is_not_there_says_how_to_say_where(home: Home, tmp_path: Path) -> None:
    with pytest.raises(PendingError, match="say with --data"):
        pack(home, pending(), tmp_path)


def trips(
    home: Home, data: Path, limits: Limits, there: Callable[[Home, Limits], Path], most: int = 9
) -> list[Packed]:
    """Trips until nothing is left to bring."""
    made = []
    while not made or made[-1].left:
        made.append(pack(home, dataclasses.replace(pending(), limits=limits), data, train=False))
        unpack(home, there(home, limits), pending())
        assert len(made) < most
    return made


def test_data_goes_over_several_trips_and_only_once(
    home: Home, data: Path, tmp_path: Path, there: Callable[[Home, Limits], Path]
) -> None:
    shutil.rmtree(data / "second")
    shutil.copytree(data / "first", data / "second")  # the same content under two names
    limits = dataclasses.replace(Limits(), trip_bytes=5 * PIECE // 2)
    made = trips(home, data, limits, there)
    assert len(made) == 2
    report = home.read().report
    assert report is not None
    assert {file.sha256 for file in plan_of(home).files} == set(report.files)
    assert not report.pieces
    assert pack(home, pending(), data).left == 0
    assert not list(home.luggage.glob("crate-*.zip"))
    for name in ("first", "second"):
        for file in plan_of(home).data[name]:
            found = tmp_path / "machine" / "work" / "files" / file.sha256
            assert sha256_of(found) == describe(data / name / file.name).sha256


def test_a_machine_that_went_cold_is_told_and_gets_all_again(
    home: Home, data: Path, tmp_path: Path, there: Callable[[Home, Limits], Path]
) -> None:
    trips(home, data, Limits(), there)
    shutil.rmtree(tmp_path / "machine")
    assert pack(home, pending(), data, train=False).left == 0
    said = unpack(home, there(home, Limits()), pending())
    assert "this is another machine than last time: what was there is gone, runs too" in said
    assert "waiting, code.zip not here yet" in status(home, pending())
    report = home.read().report
    assert report is not None
    assert not report.files
    assert {run.state for run in report.runs} == {"waiting"}
    trips(home, data, Limits(), there)
    report = home.read().report
    assert report is not None
    assert {run.state for run in report.runs} == {"open"}


def test_a_file_spoilt_there_is_sent_again(
    home: Home, data: Path, tmp_path: Path, there: Callable[[Home, Limits], Path]
) -> None:
    trips(home, data, Limits(), there)
    shard = describe(data / "first" / "train-00000-of-00002.parquet")
    spoilt = tmp_path / "machine" / "work" / "files" / shard.sha256
    spoilt.chmod(0o600)
    with spoilt.open("r+b") as file:
        file.write(b"spoilt")
    pack(home, pending(), data, train=False)
    unpack(home, there(home, Limits()), pending())
    assert "waiting, train-00000-of-00002.parquet not here yet" in status(home, pending())
    trips(home, data, Limits(), there)
    assert "waiting" not in status(home, pending())


def test_old_luggage_is_refused_there(
    home: Home, data: Path, tmp_path: Path, there: Callable[[Home, Limits], Path]
) -> None:
    pack(home, pending(), data, train=False)
    shutil.copytree(home.luggage, tmp_path / "old")
    there(home, Limits())
    pack(home, pending(), data, train=False)
    there(home, Limits())
    machine = LocalMachine(tmp_path / "machine", Limits())
    assert machine(tmp_path / "old", tmp_path / "out") == 1
    with pytest.raises(LuggageError, match="is not there"):
        unpack(home, tmp_path / "out", pending())


def test_a_crate_damaged_on_the_way_there_is_sent_again(
    home: Home, data: Path, there: Callable[[Home, Limits], Path]
) -> None:
    pack(home, pending(), data, train=False)
    crate = home.luggage / "crate-0.zip"
    spoilt = bytearray(crate.read_bytes())
    spoilt[-2 * PIECE] ^= 1
    crate.write_bytes(spoilt)
    said = unpack(home, there(home, Limits()), pending())
    assert any("damaged on the way: crate-0.zip: 1 pieces" in line for line in said)
    assert "not here yet" in status(home, pending())
    trips(home, data, Limits(), there)
    assert "not here yet" not in status(home, pending())


# The limits of a local machine


def luggage_that(folder: Path, script: str) -> Path:
    folder.mkdir()
    (folder / "remote.py").write_text(
        f"import pathlib, sys, time\nout = pathlib.Path(sys.argv[2])\n{script}"
    )
    return folder


def test_luggage_over_the_limit_does_not_travel(tmp_path: Path) -> None:
    luggage = luggage_that(tmp_path / "luggage", "")
    size = weight(luggage)
    machine = LocalMachine(tmp_path / "machine", Limits(trip_bytes=size))
    assert machine(luggage, tmp_path / "out") == 0
    with pytest.raises(LimitExceeded, match=f"{size:,} bytes are to travel, the limit is"):
        LocalMachine(tmp_path / "machine", Limits(trip_bytes=size - 1))(luggage, tmp_path / "out")


def test_a_command_over_its_time_is_killed_and_what_it_left_comes_back(tmp_path: Path) -> None:
    luggage = luggage_that(
        tmp_path / "luggage", "(out / 'early').write_text('x')\nwhile True: time.sleep(0.1)"
    )
    limits = Limits(command_seconds=5, spare_seconds=0)
    assert LocalMachine(tmp_path / "machine", limits)(luggage, tmp_path / "out") == -9
    assert (tmp_path / "out" / "early").read_text() == "x"


def test_what_is_over_the_limits_of_the_way_back_stays_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    limits = Limits(back_files=3, back_file_bytes=2 * PIECE, back_bytes=3 * PIECE)
    script = (
        "for name, size in {'a': 2, 'b': 2, 'c': 0, 'd': 1}.items():\n"
        f"    (out / name).write_bytes(bytes(size * {PIECE} + (name == 'a')))\n"
    )
    luggage = luggage_that(tmp_path / "luggage", script)
    machine = LocalMachine(tmp_path / "machine", limits)
    assert machine(luggage, tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b", "c", "d"]
    assert "left there: a (2,097,153 bytes)" in capfd.readouterr().err
    (machine.folder / "out" / "e").write_bytes(b"")
    assert machine.bring_back(tmp_path / "out") == ["a (2,097,153 bytes)", "e (0 bytes)"]
    (machine.folder / "out" / "c").write_bytes(b"x")
    assert machine.bring_back(tmp_path / "out") == ["a (2,097,153 bytes)", f"d ({PIECE:,} bytes)"]


def test_any_executable_is_a_transport(tmp_path: Path) -> None:
    luggage = luggage_that(tmp_path / "luggage", "(out / 'x').write_text('back')")
    script = tmp_path / "transport.sh"
    script.write_text('#!/bin/sh\nLUGGAGE=$1 OUT=$3 sh -c "$2"\n')
    script.chmod(0o700)
    call(str(script), luggage, tmp_path / "out")
    assert (tmp_path / "out" / "x").read_text() == "back"
    script.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(TransportError, match="ended with 3"):
        call(str(script), luggage, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())  # nothing of the trip before
    with pytest.raises(TransportError, match="cannot be run"):
        call(str(tmp_path / "nowhere"), luggage, tmp_path / "out")


# Unpacking


class FarSide:
    """Writes reports and crates as a machine would, of runs that nobody trained."""

    def __init__(self, folder: Path, home: Home) -> None:
        self.folder = folder
        self._home = home
        folder.mkdir()

    def snapshot(self, step: int, size: int = 5 * PIECE // 2) -> Snapshot:
        """A snapshot of the run ``first`` at a step of 100."""
        run = self.folder / f"run-{step}"
        run.mkdir()
        (run / "run.json").write_text(json.dumps({"code_commit": None, "source": "/there"}))
        (run / "checkpoint.pt").write_bytes(np.random.default_rng(step).bytes(size))
        files = tuple(describe(run / name) for name in ("run.json", "checkpoint.pt"))
        return Snapshot(run="first", step=step, steps=100, files=files)

    def deliver(
        self, trip: int, snapshot: Snapshot, pieces: slice = slice(None), machine: str = "m"
    ) -> Path:
        """What comes back of a trip: some of the snapshot's pieces, each in its own crate."""
        out = self.folder / f"out-{trip}-{machine}"
        out.mkdir()
        run = self.folder / f"run-{snapshot.step}"
        sources = {
            piece: (run / file.name, index)
            for file in snapshot.files
            for index, piece in enumerate(file.pieces)
        }
        crates = write_crates(
            snapshot.pieces[pieces],
            sources,
            out,
            files=9,
            file_bytes=PIECE + 300,
            total_bytes=2**30,
        )
        state = RunState(
            name="first", state="open", step=snapshot.step, steps=100, snapshot=snapshot
        )
        report = Report(
            version=1,
            home=self._home.read().home,
            trip=trip,
            machine=machine,
            complete=True,
            files=(),
            pieces=(),
            runs=(state,),
            crates={crate.name: sha256_of(crate) for crate in crates},
        )
        (out / "report.json").write_bytes(dump(report))
        return out


@pytest.fixture
def far(tmp_path: Path, home: Home) -> FarSide:
    home.update(packed=9)
    return FarSide(tmp_path / "far", home)


def checkpoint(home: Home) -> str | None:
    path = home.runs / "first" / "checkpoint.pt"
    return sha256_of(path) if path.exists() else None


def test_a_snapshot_comes_over_several_trips(home: Home, far: FarSide, tmp_path: Path) -> None:
    snapshot = far.snapshot(10)
    said = unpack(home, far.deliver(1, snapshot, slice(0, 2)), pending())
    assert "first at step 10 of 100: 2 of 4 pieces are here" in said
    assert checkpoint(home) is None
    assert "2 of 4 pieces of step 10" in status(home, pending())
    said = unpack(home, far.deliver(2, snapshot, slice(2, 4)), pending(), tmp_path / "data")
    assert said[-1].startswith("first at step 10 of 100: complete")
    assert checkpoint(home) == snapshot.files[1].sha256
    assert not home.store.names()
    record = json.loads((home.runs / "first" / "run.json").read_text())
    assert record["source"] == str(tmp_path / "data" / "first")


def test_an_incomplete_snapshot_does_not_replace_a_complete_one(home: Home, far: FarSide) -> None:
    old, new, newer = far.snapshot(10), far.snapshot(20), far.snapshot(30)
    unpack(home, far.deliver(1, old), pending())
    said = unpack(home, far.deliver(2, new, slice(1, 3)), pending())
    assert "first at step 20 of 100: 2 of 4 pieces are here; until then step 10 stays" in said
    assert checkpoint(home) == old.files[1].sha256
    # The machine is gone and with it the rest; another one brings something newer.
    unpack(home, far.deliver(3, newer, slice(0, 1), machine="n"), pending())
    assert checkpoint(home) == old.files[1].sha256
    assert home.store.names() == {newer.pieces[0]}
    unpack(home, far.deliver(4, newer, machine="n"), pending())
    assert checkpoint(home) == newer.files[1].sha256
    said = unpack(home, far.deliver(5, old, machine="o"), pending())
    assert "first at step 10 of 100: not taken, what is here is at step 30" in said
    assert checkpoint(home) == newer.files[1].sha256


@pytest.mark.parametrize("damage", ["lost", "tampered", "cut"])
def test_a_piece_that_did_not_come_back_is_asked_for_again(
    home: Home, far: FarSide, data: Path, damage: str
) -> None:
    snapshot = far.snapshot(10)
    out = far.deliver(1, snapshot)
    crate = out / "crate-1.zip"
    spoilt = bytearray(crate.read_bytes())
    spoilt[500] ^= 1
    if damage == "lost":
        crate.unlink()
    else:
        crate.write_bytes(spoilt if damage == "tampered" else spoilt[:-9])
    said = "\n".join(unpack(home, out, pending()))
    assert "crate-1.zip did not come back whole: the next trip brings what was in it again" in said
    assert "3 of 4 pieces are here" in said
    assert checkpoint(home) is None
    pack(home, pending(), data)
    assert set(snapshot.pieces) - set(plan_of(home).here) == {snapshot.pieces[1]}
    unpack(home, far.deliver(2, snapshot, slice(1, 2)), pending())
    assert checkpoint(home) == snapshot.files[1].sha256


def test_reports_that_are_old_early_or_of_others_are_refused(
    home: Home, far: FarSide, tmp_path: Path
) -> None:
    first = far.deliver(1, far.snapshot(10), slice(0, 1))
    second = far.deliver(2, far.snapshot(20))
    unpack(home, second, pending())
    unpack(home, second, pending())  # again does no harm
    assert checkpoint(home) == describe(far.folder / "run-20" / "checkpoint.pt").sha256
    with pytest.raises(LuggageError, match="trip 1, but that of trip 2 has been unpacked"):
        unpack(home, first, pending())
    with pytest.raises(LuggageError, match="only 9 were packed"):
        unpack(home, far.deliver(10, far.snapshot(30)), pending())
    with pytest.raises(LuggageError, match="to another home"):
        unpack(Home(tmp_path / "other"), second, pending())
    (second / "report.json").write_text('{"version": 0}')
    with pytest.raises(LuggageError, match="is of version 0, this code writes 1"):
        unpack(home, second, pending())


def test_what_is_finished_or_failed_is_packed_no_more(home: Home, far: FarSide, data: Path) -> None:
    out = far.deliver(1, far.snapshot(100))
    report = json.loads((out / "report.json").read_text())
    report["runs"].append({"name": "second", "state": "failed", "message": "the loss is nan"})
    (out / "report.json").write_text(json.dumps(report))
    unpack(home, out, pending())
    assert is_done(home, pending())
    text = status(home, pending())
    assert "finished" in text
    assert "failed: the loss is nan" in text
    with pytest.raises(PendingError, match="nothing is pending"):
        pack(home, pending(), data)
    home.update(failed={})
    assert not is_done(home, pending())
    pack(home, pending(), data)
    assert [job.name for job in plan_of(home).jobs] == ["second"]


def test_an_unfinished_run_is_resumed_by_a_machine_that_lacks_it(
    home: Home, far: FarSide, data: Path
) -> None:
    snapshot = far.snapshot(10)
    unpack(home, far.deliver(1, snapshot), pending())
    warm = pack(home, pending(), data)
    assert plan_of(home).resume["first"].step == 10
    assert plan_of(home).delivered == {"first": snapshot.id}
    cold = pack(home, pending(), data, cold=True)
    assert cold.size - warm.size > snapshot.files[1].size
