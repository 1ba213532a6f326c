"""References -> served models: find, verify, load and warm up, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from repzoo.errors import InvalidInput, RepzooError
from repzoo.loading import find
from repzoo.packages.package import Package
from repzoo.packages.reference import is_path
from repzoo.runtime.encoder import Encoder
from repzoo.runtime.sessions import Provider

from repzoo_serving.models.served import ServedModel

__all__ = ["Loader", "read_references"]


def read_references(path: Path) -> tuple[list[str], bool]:
    """Read a file that lists models to serve: one reference per line, ``#`` begins a comment.

    Folders are relative to the file's folder.

    Returns:
        The references, and whether the last line is complete, that is, ends with a newline.

    Raises:
        InvalidInput: If the file cannot be read.
    """
    try:
        # Bytes that are not UTF-8 only affect their own line.
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror or error}") from None
    references = [line.partition("#")[0].strip() for line in text.splitlines()]
    unique = dict.fromkeys(str(path.parent / r) if is_path(r) else r for r in references if r)
    return list(unique), text.endswith("\n")


class Loader:
    """Loads models, and keeps the ones that have not changed.

    Args:
        serve: Makes a served model of an encoder.
        hub: Where names are looked up.
        provider: Where models run.
        threads: Number of threads per run; by default, the number of cores.
    """

    def __init__(
        self,
        serve: Callable[[Encoder], ServedModel],
        *,
        hub: str | None = None,
        provider: Provider | None = None,
        threads: int | None = None,
    ) -> None:
        self._serve = serve
        self._hub = hub
        self._provider = provider
        self._threads = threads
        self._loaded: dict[str, ServedModel] = {}
        # One at a time, so that the growth of the process is the memory of the model.
        self._lock = threading.Lock()

    def load(self, reference: str) -> ServedModel:
        """Return the model of a reference; the loaded one if it has not changed.

        Raises:
            RepzooError: If it cannot be found, verified or run.
        """
        with self._lock:
            package = find(reference, hub=None if is_path(reference) else self._hub)
            model = self._loaded.get(reference)
            if model is None or model.encoder.revision != package.revision:
                model = self._loaded[reference] = self._load(package)
            return model

    def load_all(
        self, references: Iterable[str], served: Iterable[ServedModel]
    ) -> tuple[list[ServedModel], dict[str, RepzooError]]:
        """Load all models that can be loaded.

        If the new revision of a model cannot be loaded, the one in ``served`` is kept.

        Returns:
            The models, and the errors of the others by reference.
        """
        models: dict[str, ServedModel] = {}
        failed: dict[str, RepzooError] = {}
        references = list(references)
        for reference in references:
            try:
                model = self.load(reference)
                if model.name in models:
                    raise InvalidInput(f"another model is also named {model.name}")
                models[model.name] = model
            except RepzooError as error:
                failed[reference] = error
            except (OSError, ValueError) as error:  # a name that no file can have
                failed[reference] = InvalidInput(f"{reference[:200]!a}: {error}")
        for model in served:
            if model.name not in models and any(self._means(each, model) for each in failed):
                models[model.name] = model
        if len(failed) < len(references):
            with self._lock:
                self._loaded = {r: m for r, m in self._loaded.items() if r in references}
        return list(models.values()), failed

    def _means(self, reference: str, model: ServedModel) -> bool:
        """Whether a reference that failed refers to the package of a model."""
        if reference in self._loaded:
            return self._loaded[reference] is model
        return not is_path(reference) and reference.partition("@")[0] == model.name

    def _load(self, package: Package) -> ServedModel:
        process = psutil.Process()
        before = process.memory_info().rss
        encoder = Encoder(
            package.path,
            package.config,
            revision=package.revision,
            provider=self._provider,
            threads=self._threads,
        )
        model = self._serve(encoder)
        model.warm_up()
        # Memory that was freed before is reused without visible growth.
        model.memory_bytes = max(process.memory_info().rss - before, package.size)
        return model
