"""``pack``: the luggage of the next trip."""

from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from repzoo_trips.errors import LimitExceeded, PendingError
from repzoo_trips.home import Home, State
from repzoo_trips.pending import Pending
from repzoo_trips.pieces import PIECE, describe, write_crates, write_file
from repzoo_trips.records import VERSION, File, Plan, dump

__all__ = ["CODE", "Packed", "pack", "weigh_tree"]

#: What the far side needs of the repository.
CODE = ("zoo/repzoo", "training/repzoo_training")

_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """``size`` bytes of luggage; ``left`` bytes that are wanted there and did not fit."""

    trip: int
    size: int
    left: int
    jobs: int

    @property
    def trips_left(self) -> int:
        """How many more such trips ``left`` takes."""
        return -(-self.left // self.size)


def pack(
    home: Home,
    pending: Pending,
    data: Path,
    *,
    tree: Path | None = None,
    train: bool = True,
    cold: bool = False,
) -> Packed:
    """Write the luggage of the next trip to ``home.luggage``.

    Args:
        home: what is known of the far side.
        pending: what to train.
        data: the root of the data sets' folders.
        tree: a working tree that travels too, whatever is in it; its files count.
        train: False for a trip that only fetches.
        cold: assume that the far side has nothing.

    Raises:
        PendingError: if there is nothing to do, or the data cannot be read.
        LimitExceeded: if not even the code fits.
    """
    state = home.read()
    report = None if cold else state.report
    shutil.rmtree(home.luggage, ignore_errors=True)
    home.luggage.mkdir(parents=True)
    code = home.path / "code.zip"
    write_file(code, _archive_of_code())
    sources: dict[str, Path] = {}

    def known(paths: Iterable[Path]) -> tuple[File, ...]:
        files = {path: describe(path) for path in paths}
        sources.update({file.sha256: path for path, file in files.items()})
        return tuple(files.values())

    wheels = known(sorted(home.wheels.glob("*.whl")))
    runs = [run for run in pending.runs if not _settled(home, state, run.name)]
    if not runs:
        raise PendingError("nothing is pending: every run is finished here, or has failed")
    shards = {name: pending.data[name].shards(data) for name in dict.fromkeys(r.data for r in runs)}
    for found in shards.values():
        sources.update({file.sha256: path for path, file in found.items()})
    resume = {run.name: snapshot for run in runs if (snapshot := home.resume(run.name))}
    for name, snapshot in resume.items():
        sources.update({f.sha256: home.runs / name / f.name for f in snapshot.files})
    plan = Plan(
        version=VERSION,
        home=state.home,
        trip=state.packed + 1,
        machine=report.machine if report else None,
        commit=_commit(),
        limits=pending.limits,
        at_once=pending.machine.at_once,
        train=train,
        code=known([code])[0],
        wheels=wheels,
        data={name: tuple(found.values()) for name, found in shards.items()},
        jobs=tuple(run.job() for run in runs),
        resume=resume,
        here=tuple(sorted(home.store.names())),
        delivered={run.name: s.id for run in runs if (s := home.delivered(run.name))},
    )
    write_file(home.luggage / "plan.json", dump(plan))
    _copy_tool(home.luggage)
    wanted = _wanted(plan, state if report else None)
    pieces = {
        piece: (sources[file.sha256], index)
        for file in wanted
        for index, piece in enumerate(file.pieces)
        if report is None or piece not in report.pieces
    }
    sizes = {
        piece: min(PIECE, file.size - index * PIECE)
        for file in wanted
        for index, piece in enumerate(file.pieces)
        if piece in pieces
    }
    room = pending.limits.trip_bytes - _weigh(home.luggage) - (weigh_tree(tree) if tree else 0)
    needed = sum(file.size for file in (plan.code, *plan.wheels) if file in wanted)
    if room < max(0, needed):
        raise LimitExceeded(
            f"the code alone is {needed:,} bytes, and {max(0, room):,} are left of trip_bytes "
            f"({pending.limits.trip_bytes:,})"
            + (f" beside the working tree {tree}: make it smaller" if tree else "")
        )
    crates = write_crates(pieces, pieces, home.luggage, files=1, file_bytes=room, total_bytes=room)
    home.update(packed=plan.trip)
    packed = {name for crate in crates for name in zipfile.ZipFile(crate).namelist()}
    left = sum(size for piece, size in sizes.items() if piece not in packed)
    return Packed(trip=plan.trip, size=_weigh(home.luggage), left=left, jobs=len(runs))


def _settled(home: Home, state: State, run: str) -> bool:
    known = home.delivered(run)
    return run in state.failed or (known is not None and known.finished)


def _wanted(plan: Plan, state: State | None) -> list[File]:
    """The files that the far side should have and is not known to have, in order."""
    if state is None or state.report is None:
        return list(plan.files)
    steps = {run.name: run.step for run in state.report.runs}
    newer_there = {
        file.sha256
        for name, snapshot in plan.resume.items()
        if steps.get(name, 0) >= snapshot.step
        for file in snapshot.files
    }
    there = newer_there.union(state.report.files)
    return [file for file in plan.files if file.sha256 not in there]


def _archive_of_code() -> bytes:
    """The packages as a zip archive, the same bytes for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for package in CODE:
            folder = _ROOT / package
            for path in sorted(folder.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    name = path.relative_to(folder.parent).as_posix()
                    entry = zipfile.ZipInfo(name)  # with a date that is always the same
                    archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _copy_tool(luggage: Path) -> None:
    shutil.copyfile(Path(__file__).parents[1] / "remote.py", luggage / "remote.py")
    package = Path(__file__).parent
    (luggage / package.name).mkdir()
    for path in package.glob("*.py"):
        shutil.copyfile(path, luggage / package.name / path.name)


def _commit() -> str | None:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match="],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None


def _weigh(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def weigh_tree(tree: Path) -> int:
    """Bytes of the files of a git working tree that are tracked, or new and not ignored.

    Raises:
        PendingError: if it is none.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        raise PendingError(f"{tree} is no git working tree: {listed.stderr.strip()}")
    paths = {tree / name for name in listed.stdout.split("\0") if name}
    return sum(path.lstat().st_size for path in paths if path.is_symlink() or path.is_file())
