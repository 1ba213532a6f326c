"""``zoo serve --watch FILE``: the worker serves what the file says, and changes when it does.

Every worker looks by itself, at the file and at the manifests of packages that it names by their
folders. What cannot be loaded is tried again, takes nothing else down, and stands in ``/models``.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from repzoo.errors import InvalidInput, RepzooError
from repzoo.packages.reference import is_path

from repzoo_serving.models.loading import Loader, wanted
from repzoo_serving.models.memory import settle
from repzoo_serving.models.registry import Models

__all__ = ["Watcher"]

_logger = logging.getLogger("repzoo_serving")

_Stamp = tuple[tuple[int, int, int] | None, ...]


class Watcher:
    """Keeps ``models`` what ``path`` says.

    Args:
        path: the file.
        models: what is served.
        loader: loads them.
        every: seconds between two looks.
        retry: seconds after which what failed is tried again.
    """

    def __init__(
        self, path: Path, models: Models, loader: Loader, *, every: float = 1.0, retry: float = 30.0
    ) -> None:
        self._path = path
        self._models = models
        self._loader = loader
        self._every = every
        self._retry = retry
        self._seen: _Stamp | None = None
        #: whether a model may have been replaced whose memory is not given back yet.
        self._unsettled = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="load")

    async def run(self) -> None:
        """Look, again and again, until cancelled."""
        since = 0.0
        while True:
            try:
                if self._stamp() != self._seen or (self._models.failed and since >= self._retry):
                    since = 0.0
                    await self.converge()
                elif self._unsettled and self._models.settled:
                    settle()
                    self._unsettled = False
            except Exception:
                _logger.exception("watching %s", self._path)
            await asyncio.sleep(self._every)
            since += self._every

    async def converge(self) -> None:
        """Load what is wanted and serve it; what is served already goes on meanwhile."""
        # What changes from now on is seen the next time.
        self._seen = self._stamp()
        try:
            references = wanted(self._path)
        except InvalidInput as error:
            _logger.error("%s; the models stay as they are", error)
            return
        load = partial(self._loader.load_all, references, list(self._models))
        models, failed = await asyncio.get_running_loop().run_in_executor(self._executor, load)
        self._models.serve(models)
        self._unsettled = True
        self._report(failed)

    def _report(self, failed: dict[str, RepzooError]) -> None:
        for reference, error in failed.items():
            _logger.error("%s is not served as wanted: %s", reference, error)
        self._models.failed = {r: type(error).__name__ for r, error in failed.items()}

    def close(self) -> None:
        """Load nothing more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _stamp(self) -> _Stamp:
        """What changes whenever something that can be watched does."""
        files = [self._path]
        with suppress(InvalidInput):
            files += [Path(r) / "manifest.json" for r in wanted(self._path) if is_path(r)]
        return tuple(_stat(file) for file in files)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
