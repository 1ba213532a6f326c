"""From references to served models: found, verified, loaded and warmed up, in a thread."""

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

__all__ = ["Loader", "wanted"]


def wanted(path: Path) -> list[str]:
    """The references in a wanted-models file: one a line, ``#`` begins a comment.

    Folders are meant as seen from the file's.

    Raises:
        InvalidInput: if the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    references = [line.partition("#")[0].strip() for line in lines]
    return list(dict.fromkeys(str(path.parent / r) if is_path(r) else r for r in references if r))


class Loader:
    """Loads models, and keeps those that have not changed.

    Args:
        serve: makes a served model of an encoder.
        hub: where names are looked up.
        provider: where models run.
        threads: that a run of a model may use; by default as many as the machine has cores.
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
        # One at a time, so that the memory which the process gains is the model's.
        self._lock = threading.Lock()

    def load(self, reference: str) -> ServedModel:
        """The model of a reference; the one that is loaded already, if it is the same.

        Raises:
            RepzooError: if it cannot be found, verified or run.
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
        """All that can be loaded, and what is wrong with the others.

        Where the new revision of a model cannot be loaded, the one in ``served`` stays.
        """
        models: dict[str, ServedModel] = {}
        failed: dict[str, RepzooError] = {}
        references = list(references)
        for reference in references:
            try:
                model = self.load(reference)
                if model.name in models:
                    raise InvalidInput(f"there is another model called {model.name}")
                models[model.name] = model
            except RepzooError as error:
                failed[reference] = error
        for model in served:
            if model.name not in models and any(self._means(each, model) for each in failed):
                models[model.name] = model
        with self._lock:
            self._loaded = {r: m for r, m in self._loaded.items() if r in references}
        return list(models.values()), failed

    def _means(self, reference: str, model: ServedModel) -> bool:
        """Whether a reference that failed is to the package of a model."""
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
        # Memory that was freed before is used again without any growth to be seen.
        model.memory_bytes = max(process.memory_info().rss - before, package.size)
        return model
