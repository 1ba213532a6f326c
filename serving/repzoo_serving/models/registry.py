"""The models that a worker serves, and how they are changed without losing a request.

A model is replaced by putting another one in its place, which has run by then. Requests that found
the old one go on with it; when the last of them is answered, it is let go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from repzoo.errors import InvalidInput

from repzoo_serving.http.problems import RETRY_AFTER, Problem
from repzoo_serving.models.served import ServedModel

__all__ = ["Models"]


class Models:
    """Served models by name. Used from one event loop.

    Attributes:
        failed: what was wanted and could not be loaded: the kind of error, by reference.
    """

    def __init__(self) -> None:
        self._served: dict[str, ServedModel] = {}
        self._users: dict[ServedModel, int] = {}
        self._retired: set[ServedModel] = set()
        self.failed: dict[str, str] = {}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._served.values()))

    def __bool__(self) -> bool:
        return bool(self._served)

    @property
    def settled(self) -> bool:
        """Whether every model that was replaced is gone."""
        return not self._retired

    @property
    def names(self) -> list[str]:
        return list(self._served)

    def get(self, name: str) -> ServedModel:
        """The model of this name.

        Raises:
            Problem: 404, or 503 while there is none at all.
        """
        model = self._served.get(name)
        if model is not None:
            return model
        if not self._served:
            raise Problem("unavailable", "no model is loaded yet", headers=[RETRY_AFTER])
        raise Problem(
            "unknown-model", f"{name!r} is not served here; there: {', '.join(self.names)}"
        )

    @contextmanager
    def hold(self, model: ServedModel) -> Iterator[None]:
        """Do not let a model go within the block."""
        self._users[model] = self._users.get(model, 0) + 1
        try:
            yield
        finally:
            self._users[model] -= 1
            self._let_go(model)

    def serve(self, models: Iterable[ServedModel]) -> None:
        """Serve these from now on, and no others.

        Raises:
            InvalidInput: if two have the same name; nothing changes then.
        """
        served: dict[str, ServedModel] = {}
        for model in models:
            if model.name in served:
                raise InvalidInput(f"two of the models are called {model.name}")
            served[model.name] = model
        before, self._served = self._served, served
        for model in before.values():
            if served.get(model.name) is not model:
                self._retired.add(model)
                self._let_go(model)

    def _let_go(self, model: ServedModel) -> None:
        if not self._users.get(model):
            self._users.pop(model, None)
            if model in self._retired:
                self._retired.remove(model)
                model.runner.shutdown(wait=False)

    def describe(self, name: str | None = None) -> bytes:
        """``/models``, or the entry of one of them, as JSON."""
        if name is not None:
            return json.dumps(self.get(name).describe()).encode()
        document: dict[str, Any] = {
            "models": [model.describe() for model in self],
            "failed": [
                {"reference": reference, "reason": reason}
                for reference, reason in self.failed.items()
            ],
        }
        return json.dumps(document).encode()

    def close(self, seconds: float) -> bool:
        """Wait for what runs; whether all ended within ``seconds``."""
        ended = [model.runner.end(seconds) for model in (*self._served.values(), *self._retired)]
        return all(ended)
