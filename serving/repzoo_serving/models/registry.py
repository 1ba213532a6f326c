"""The models that a worker serves, and how they are replaced without losing a request.

A model is only replaced by one that has already run. Requests that hold the old one finish with it;
it is released after the last of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from repzoo.errors import InvalidInput

from repzoo_serving.http.problems import RETRY_AFTER, Problem
from repzoo_serving.models.served import ServedModel

__all__ = ["Models"]

_logger = logging.getLogger("repzoo_serving")


class Models:
    """Served models by name. Use it from one event loop.

    Attributes:
        failed: Models that could not be loaded: the kind of error by reference.
        max_latent_dim: The largest dimension of a served model's latents.
    """

    def __init__(self) -> None:
        self._served: dict[str, ServedModel] = {}
        self._users: dict[ServedModel, int] = {}
        self._retired: set[ServedModel] = set()
        self.failed: dict[str, str] = {}
        self.max_latent_dim = 0

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._served.values()))

    def __bool__(self) -> bool:
        return bool(self._served)

    @property
    def settled(self) -> bool:
        """Whether every replaced model has been released."""
        return not self._retired

    @property
    def names(self) -> list[str]:
        return list(self._served)

    def get(self, name: str) -> ServedModel:
        """Return a model by name.

        Raises:
            Problem: 404 if it is not served, 503 while no model is loaded.
        """
        model = self._served.get(name)
        if model is not None:
            return model
        if not self._served:
            raise Problem("unavailable", "no model is loaded yet", headers=[RETRY_AFTER])
        raise Problem(
            "unknown-model", f"{name!r} is not served here; available: {', '.join(self.names)}"
        )

    @contextmanager
    def hold(self, model: ServedModel) -> Iterator[None]:
        """Keep a model from being released within the block."""
        self._users[model] = self._users.get(model, 0) + 1
        try:
            yield
        finally:
            self._users[model] -= 1
            self._release(model)

    def serve(self, models: Iterable[ServedModel]) -> None:
        """Serve exactly these models from now on.

        Raises:
            InvalidInput: If two have the same name; then nothing changes.
        """
        served: dict[str, ServedModel] = {}
        for model in models:
            if model.name in served:
                raise InvalidInput(f"two of the models are named {model.name}")
            served[model.name] = model
        before, self._served = self._served, served
        self.max_latent_dim = max((model.latent_dim for model in served.values()), default=0)
        for model in served.values():
            _log_change(before.get(model.name), model)
        for model in before.values():
            if served.get(model.name) is not model:
                self._retired.add(model)
                self._release(model)
            if model.name not in served:
                revision = model.encoder.revision
                facts = {"model": model.name, "old_revision": revision}
                _logger.info("unloaded %s, revision %s", model.name, revision[:12], extra=facts)

    def _release(self, model: ServedModel) -> None:
        if not self._users.get(model):
            self._users.pop(model, None)
            if model in self._retired:
                self._retired.remove(model)
                model.runner.shutdown(wait=False)

    def describe(self, name: str | None = None) -> dict[str, Any]:
        """Return the response of ``/models``, or of ``/models/NAME``."""
        if name is not None:
            return self.get(name).describe()
        return {
            "models": [model.describe() for model in self],
            "failed": [
                {"reference": reference, "reason": reason}
                for reference, reason in self.failed.items()
            ],
        }

    def close(self, seconds: float) -> bool:
        """Wait for the current runs; return whether each ended within ``seconds``."""
        ended = [model.runner.end(seconds) for model in (*self._served.values(), *self._retired)]
        return all(ended)


def _log_change(old: ServedModel | None, new: ServedModel) -> None:
    if old is new:
        return
    revision = new.encoder.revision
    facts = {"model": new.name, "revision": revision, "seconds": round(new.load_seconds, 3)}
    what = f"loaded {new.name}, revision {revision[:12]}"
    if old is not None:
        facts["old_revision"] = old.encoder.revision
        what = f"replaced {new.name}, revision {old.encoder.revision[:12]} by {revision[:12]}"
    _logger.info("%s, in %.2f s", what, new.load_seconds, extra=facts)
