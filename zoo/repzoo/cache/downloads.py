"""Fetch the files of a package: several at once, and resumable after any interruption.

A file is written to ``FILE.part`` and renamed once it is complete and right. A part is resumed, no
matter which process left it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repzoo.cache.parts import CHUNK, Part
from repzoo.errors import AccessDenied, HubError, HubUnavailable, IntegrityError
from repzoo.files import create, size_if_there
from repzoo.hub import Hub
from repzoo.packages.package import ADVISORY, MAX_ADVISORY_BYTES, FileEntry
from repzoo.progress import progress_bar
from repzoo.retries import Interrupted, Patience

__all__ = ["PART", "Download", "part_of"]

PART = ".part"

_THREADS = 4
#: A bad file is fetched once more, because the network may have damaged it.
_FETCHES = 2
#: After Ctrl-C, wait this long for threads that are waiting for a hub.
_SECONDS_TO_STOP = 1.0


def part_of(path: Path) -> Path:
    """Return the path of a file's part."""
    return path.with_name(path.name + PART)


@dataclass
class Download:
    """A download of some files of one package into a folder."""

    hub: Hub
    name: str
    commit: str
    folder: Path
    #: Moves a bad file away and returns its new path.
    put_aside: Callable[[Path], Path]
    patience: Patience
    _left: list[tuple[str, FileEntry]] = field(init=False)
    _errors: list[BaseException] = field(init=False)
    _skipped: list[str] = field(init=False)
    #: Advances the progress bar by a number of bytes.
    _advance: Callable[[int], None] = field(init=False)

    def fetch(self, files: Mapping[str, FileEntry]) -> list[str]:
        """Fetch files.

        If a file is bad, the others are still fetched, so that only the bad one is missing
        afterwards. Ctrl-C and other errors stop the whole download; parts stay.

        Returns:
            The advisory files that the hub does not have in a usable form.

        Raises:
            IntegrityError: If a file is bad every time; its content is moved to the quarantine.
            NoSpace: If the disk is full.
            HubError: If the hub does not deliver a file.
            OSError: If the folder cannot be written.
        """
        there = {file: size_if_there(part_of(self.folder / file)) for file in files}
        total = sum(entry.size for entry in files.values())
        # Taken from the end: the largest file first, so that it does not finish last, alone.
        self._left = sorted(files.items(), key=lambda item: item[1].size)
        self._errors, self._skipped = [], []
        with progress_bar(self.name, total, sum(there.values())) as self._advance:
            count = min(_THREADS, len(files))
            # Daemons, because a thread that waits for a hub must not keep the process alive.
            threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    thread.join()
            except BaseException:
                self.patience.stop.set()
                end = time.monotonic() + _SECONDS_TO_STOP
                for thread in threads:
                    thread.join(max(0.0, end - time.monotonic()))
                raise
        if self._errors:
            raise self._errors[0]
        return sorted(self._skipped)

    def _work(self) -> None:
        stop = self.patience.stop
        while not stop.is_set():
            try:
                file, entry = self._left.pop()
            except IndexError:
                return
            try:
                if file in ADVISORY:
                    self._fetch_advisory(file)
                else:
                    self._fetch_file(file, entry)
            except Interrupted:
                return
            except IntegrityError as error:
                self._errors.append(error)
            except BaseException as error:
                self._errors.append(error)
                stop.set()

    def _fetch_file(self, file: str, entry: FileEntry) -> None:
        target = self.folder / file
        target.parent.mkdir(exist_ok=True)
        for _ in range(_FETCHES):
            with Part(part_of(target), entry.size, self.patience.stop) as part:
                fault = self._complete(file, entry, part)
                if fault is None:
                    part.keep_as(target)
                    return
                self._advance(-part.length)
            kept = self.put_aside(part.path)
        raise IntegrityError(
            f"{self.hub.spec}: {file} of {self.name} {fault}; it was moved to {kept}", (file,)
        )

    def _complete(self, file: str, entry: FileEntry, part: Part) -> str | None:
        """Fetch the rest of a file and return what is wrong with the file, or None."""
        failures = 0
        while part.length < entry.size:
            before = part.length
            try:
                fault = self._resume(file, entry, part)
            except HubUnavailable as error:
                failures = failures + 1 if part.length == before else 1
                self.patience.wait(error, failures)
            else:
                if fault is not None:
                    return fault
        if part.sha256() != entry.sha256:
            return "does not have the manifest's sha256"
        return None

    def _resume(self, file: str, entry: FileEntry, part: Part) -> str | None:
        stop = self.patience.stop
        with self.hub.open(self.name, self.commit, file, part.length) as source:
            while part.length < entry.size:
                piece = source.read1(min(CHUNK, entry.size - part.length))
                if stop.is_set():
                    # The thread that held the lock may be gone.
                    raise Interrupted
                if not piece:
                    return f"has {part.length} bytes, not {entry.size}"
                part.write(piece)
                self._advance(len(piece))
            return f"has more than {entry.size} bytes" if source.read1(1) else None

    def _fetch_advisory(self, file: str) -> None:
        """Fetch a file for people, whatever its content is now, or skip it."""

        def read() -> bytes:
            with self.hub.open(self.name, self.commit, file) as source:
                return source.read(MAX_ADVISORY_BYTES + 1)

        try:
            content = self.patience(read)
        except (HubUnavailable, AccessDenied):
            raise
        except HubError:
            content = None
        if content is None or len(content) > MAX_ADVISORY_BYTES:
            self._skipped.append(file)
            return
        with create(part_of(self.folder / file)) as stream:
            stream.write(content)
        part_of(self.folder / file).rename(self.folder / file)
        self._advance(len(content))
