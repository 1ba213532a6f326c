"""``zoo serve --watch FILE``: serve the models that a file lists, and follow its changes.

Every worker watches the file, and the manifests of packages that it lists by folder. A model that
cannot be loaded is retried, does not affect other models, and is reported in ``/models``. A file
that lists no model that can be loaded changes nothing: it may have been read while it was written.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from repzoo.errors import InvalidInput
from repzoo.packages.reference import is_path

from repzoo_serving.models.loading import Loader
from repzoo_serving.models.memory import settle
from repzoo_serving.models.references import read_references, split_alias
from repzoo_serving.models.registry import Models

__all__ = ["Watcher"]

_logger = logging.getLogger("repzoo_serving")

_Stamp = tuple[tuple[int, int, int] | None, ...]


class Watcher:
    """Serves the models that a file lists.

    Args:
        path: The file.
        models: The served models.
        loader: Loads them.
        every: Seconds between two checks.
        retry: Seconds after which failed models are retried.
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
        #: Whether memory of a replaced model may not have been returned to the system yet.
        self._unsettled = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="load")

    async def run(self) -> None:
        """Check the file repeatedly, until cancelled."""
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
                _logger.exception("cannot watch %s", self._path)
            await asyncio.sleep(self._every)
            since += self._every

    async def converge(self) -> None:
        """Load the listed models and serve them; models already served keep responding."""
        # Changes from now on are seen by the next check.
        self._seen = self._stamp()
        served = list(self._models)
        try:
            references, complete = read_references(self._path)
        except InvalidInput as error:
            _logger.error("%s; the served models do not change", error)
            return
        if not references:
            _logger.error("%s lists no model; the served models do not change", self._path)
            self._models.failed = {}
            return
        load = partial(self._loader.load_all, references, served)
        models, failed = await asyncio.get_running_loop().run_in_executor(self._executor, load)
        self._models.failed = {r: type(reason).__name__ for r, reason in failed.items()}
        if len(failed) == len(references) or (not complete and references[-1] in failed):
            # Nothing resolves, or the last line is cut off: add models, but remove none.
            names = {model.name for model in models}
            models += [model for model in served if model.name not in names]
        self._models.serve(models)
        self._unsettled = True

    def close(self) -> None:
        """Stop loading models."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _stamp(self) -> _Stamp:
        """Return a value that changes when a watched file does."""
        files = [self._path]
        with suppress(InvalidInput):
            references, _ = read_references(self._path)
            for reference in references:
                with suppress(InvalidInput):
                    _, rest = split_alias(reference)
                    if is_path(rest, named=True):
                        files.append(Path(rest) / "manifest.json")
        return tuple(_stat(file) for file in files)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
