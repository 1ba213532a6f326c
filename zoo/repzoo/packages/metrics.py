"""Read the measures in a package's ``metrics.json``.

``zoo export`` and ``zoo probe fit`` write the file, but packages come from anyone. Content that
does not have the form of a measure is ignored.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

__all__ = ["Measure", "measures", "own_probes"]

#: Units in which a higher value is better, and units in which a lower one is.
_MORE = {"accuracy", "normalised mutual information", "adjusted Rand index", "R²"}
_LESS = {"mean squared error", "squared Fréchet distance", "absolute difference"}
#: Measures that describe the data, not the model.
_BASELINES = {"majority"}


class Measure(NamedTuple):
    """One measure of a model card."""

    #: ``TASK.NAME``, or ``NAME`` if the measure has no task.
    key: str
    name: str
    task: str | None
    value: float
    #: Standard error of the mean over the test images, or None if the file does not state it.
    standard_error: float | None
    unit: str | None
    #: How the value was measured. Two values are comparable if their protocols are equal.
    protocol: Any

    @property
    def better(self) -> Literal["more", "less"] | None:
        """Whether a higher (``"more"``) or a lower (``"less"``) value is better, if known."""
        if self.name in _BASELINES:
            return None
        return "more" if self.unit in _MORE else "less" if self.unit in _LESS else None


def measures(metrics: Any) -> dict[str, Measure]:
    """Return all measures in the content of a ``metrics.json`` by key, in their order."""
    found: dict[str, Measure] = {}
    for measure in (*_evaluation(metrics), *own_probes(metrics), *_parity(metrics)):
        found.setdefault(measure.key, measure)
    return found


def _evaluation(metrics: Any) -> list[Measure]:
    report = _member(metrics, "evaluation", dict)
    data = {key: _member(report, key, str) for key in ("dataset", "test_sha256")}
    found = []
    for each in _member(report, "measures", list) or []:
        name, task = _member(each, "name", str), _member(each, "task", str)
        value = _number(each, "value")
        if name is None or value is None:
            continue
        found.append(
            Measure(
                key=name if task is None else f"{task}.{name}",
                name=name,
                task=task,
                value=value,
                standard_error=_number(each, "standard_error"),
                unit=_member(each, "unit", str),
                protocol=[data, each.get("protocol")],
            )
        )
    return found


def own_probes(metrics: Any) -> list[Measure]:
    """Return the cross-validated accuracies of probes that were fitted to a user's labels."""
    found = []
    for each in _member(metrics, "probes", list) or []:
        task, kind = _member(each, "task", str), _member(each, "kind", str)
        value = _number(each, "accuracy")
        if task is None or kind is None or value is None:
            continue
        found.append(
            Measure(
                key=f"{task}.{kind}",
                name=kind,
                task=task,
                value=value,
                standard_error=_number(each, "standard_error"),
                unit="accuracy",
                protocol=[each.get(key) for key in ("dataset_sha256", "images", "folds", "seed")],
            )
        )
    return found


def _parity(metrics: Any) -> list[Measure]:
    block = _member(metrics, "onnx_against_torch", dict) or {}
    return [
        Measure(
            key=f"onnx_against_torch.{name}",
            name=name,
            task="onnx_against_torch",
            value=value,
            standard_error=None,
            unit="absolute difference",
            protocol=None,
        )
        for name in block
        if (value := _number(block, name)) is not None
    ]


def _member(record: Any, key: str, kind: type[Any]) -> Any:
    value = record.get(key) if isinstance(record, dict) else None
    return value if isinstance(value, kind) else None


def _number(record: Any, key: str) -> float | None:
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None
