"""References -> served models: find, verify, load and warm up, in a thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil  # type: ignore[import-untyped]
from repzoo.errors import InvalidInput, RepzooError
from repzoo.loading import find
from repzoo.packages.package import Package
from repzoo.packages.reference import is_path
from repzoo.runtime.encoder import Encoder
from repzoo.runtime.sessions import Provider

from repzoo_serving.models.references import split_alias
from repzoo_serving.models.served import ServedModel

__all__ = ["Loader"]

_logger = logging.getLogger("repzoo_serving")


class Loader:
    """Loads models, and keeps the ones that have not changed.

    Args:
        serve: Makes a served model of an encoder and its alias, if it has one.
        hub: Where names are looked up.
        provider: Where models run.
        threads: Number of threads per run; by default, the number of cores.
    """

    def __init__(
        self,
        serve: Callable[[Encoder, str | None], ServedModel],
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
            alias, rest = split_alias(reference)
            package = find(rest, hub=None if self._is_path(rest) else self._hub)
            model = self._loaded.get(reference)
            if model is None or model.encoder.revision != package.revision:
                model = self._loaded[reference] = self._load(package, alias)
            return model

    def load_all(
        self, references: Iterable[str], served: Iterable[ServedModel]
    ) -> tuple[list[ServedModel], dict[str, RepzooError]]:
        """Load all models that can be loaded.

        If the new revision of a model cannot be loaded, the one in ``served`` is kept. Each failure
        is logged.

        Returns:
            The models, and the errors of the others by reference.
        """
        models: dict[str, ServedModel] = {}
        failed: dict[str, RepzooError] = {}
        references, served = list(references), list(served)
        for reference in references:
            start = time.perf_counter()
            try:
                model = self.load(reference)
                if model.name in models:
                    raise InvalidInput(f"another model is also named {model.name}")
                models[model.name] = model
            except RepzooError as error:
                failed[reference] = error
            except (OSError, ValueError) as error:  # a name that no file can have
                failed[reference] = InvalidInput(f"{reference[:200]!a}: {error}")
            if reference in failed:
                seconds = time.perf_counter() - start
                self._log_failure(reference, failed[reference], seconds, served)
        for model in served:
            if model.name not in models and any(self._means(each, model) for each in failed):
                models[model.name] = model
        if len(failed) < len(references):
            with self._lock:
                self._loaded = {r: m for r, m in self._loaded.items() if r in references}
        return list(models.values()), failed

    def _log_failure(
        self, reference: str, error: RepzooError, seconds: float, served: Iterable[ServedModel]
    ) -> None:
        facts: dict[str, Any] = {"seconds": round(seconds, 3)}
        what = f"{reference} cannot be served: {error}"
        kept = next((model for model in served if self._means(reference, model)), None)
        if kept is not None:
            facts |= {"model": kept.name, "old_revision": kept.encoder.revision}
            what += f"; {kept.name} keeps revision {kept.encoder.revision[:12]}"
        _logger.error("%s, after %.2f s", what, seconds, extra=facts)

    def _means(self, reference: str, model: ServedModel) -> bool:
        """Whether a reference that failed refers to the package of a model."""
        if reference in self._loaded:
            return self._loaded[reference] is model
        try:
            alias, rest = split_alias(reference)
        except InvalidInput:
            return False
        if alias is not None:
            return alias == model.name
        return not self._is_path(rest) and rest.partition("@")[0] == model.name

    def _is_path(self, text: str) -> bool:
        return is_path(text, named=self._hub is not None)

    def _load(self, package: Package, alias: str | None) -> ServedModel:
        start = time.perf_counter()
        process = psutil.Process()
        before = process.memory_info().rss
        encoder = Encoder(
            package.path,
            package.config,
            revision=package.revision,
            provider=self._provider,
            threads=self._threads,
        )
        model = self._serve(encoder, alias)
        model.warm_up()
        model.load_seconds = time.perf_counter() - start
        # Memory that was freed before is reused without visible growth.
        model.memory_bytes = max(process.memory_info().rss - before, package.size)
        return model
