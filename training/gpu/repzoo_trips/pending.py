"""``pending.toml``: which runs are to be trained, on what, and what a trip may be.

See ``training/gpu/pending.toml`` for an example; a table of what may stand in it:

=============  ==================================================================================
``[limits]``   fields of :class:`repzoo_trips.records.Limits`
``[machine]``  ``python`` and ``platforms`` of the wheels, ``packages`` that it lacks, ``at_once``
``[data.SET]`` ``folder`` below the data's root, ``files`` as a pattern
``[[run]]``    ``name``, ``recipe``, ``data``; ``views`` or ``budget``; ``priority`` (1 is first),
               ``minutes`` expected; ``seed``, ``threads``, ``compile``, ``checkpoint``, ``set``
=============  ==================================================================================
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from repzoo_trips.errors import PendingError, TripError
from repzoo_trips.pieces import describe
from repzoo_trips.records import File, Job, Limits, decode

__all__ = ["DataSet", "Machine", "Pending", "PendingRun", "read_pending"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The far side: what pip needs to know to choose wheels for it, and how much it can do."""

    python: str
    platforms: tuple[str, ...]
    packages: tuple[str, ...] = ()
    at_once: int = 1


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Shards that match the pattern ``files`` in ``folder``."""

    folder: str
    files: str = "train*.parquet"

    def shards(self, root: Path) -> dict[Path, File]:
        """The shards below the data's root, read.

        Raises:
            PendingError: if there are none.
        """
        found = sorted((root / self.folder).glob(self.files))
        if not found:
            raise PendingError(
                f"there is no {self.files} in {root / self.folder}: "
                "say with --data where the data sets' folders lie"
            )
        return {path: describe(path) for path in found}


@dataclass(frozen=True, kw_only=True)
class PendingRun:
    """One run; ``minutes`` of GPU time that it is thought to need, for people."""

    name: str
    recipe: str
    data: str
    priority: int
    minutes: float
    views: int | None = None
    budget: str | None = None
    seed: int | None = None
    threads: int | None = None
    compile: bool = False
    checkpoint: str = "60s"
    set: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.views is not None and self.budget is not None:
            raise PendingError(f"run {self.name}: views and budget exclude each other")

    def job(self) -> Job:
        """The run as the far side needs it."""
        words = ["--checkpoint", self.checkpoint]
        for option in ("views", "budget", "seed", "threads"):
            if (value := getattr(self, option)) is not None:
                words += [f"--{option}", str(value)]
        words += ["--compile"] if self.compile else []
        words += [word for setting in self.set for word in ("--set", setting)]
        return Job(name=self.name, recipe=self.recipe, data=self.data, arguments=tuple(words))


@dataclass(frozen=True, kw_only=True)
class Pending:
    """All of the file."""

    machine: Machine
    data: dict[str, DataSet]
    run: tuple[PendingRun, ...]
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        names = [run.name for run in self.run]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise PendingError(f"two runs are called {', '.join(twice)}")
        for run in self.run:
            if run.data not in self.data:
                raise PendingError(f"run {run.name}: there is no data set [data.{run.data}]")

    @property
    def runs(self) -> list[PendingRun]:
        """In the order of their priority, and of the file where that is equal."""
        return sorted(self.run, key=lambda run: run.priority)


def read_pending(path: Path) -> Pending:
    """The file at ``path``.

    Raises:
        PendingError: if it is not there, or something in it cannot be used.
    """
    try:
        pending: Pending = decode(Pending, tomllib.loads(path.read_text()))
    except FileNotFoundError:
        raise PendingError(f"{path} is not there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TripError) as error:
        raise PendingError(f"{path}: {error}") from None
    return pending
