"""Add probes that were fitted to a user's own labels to a package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.errors import PackageError
from repzoo.packages.config import ModelConfig
from repzoo.packages.package import Package
from repzoo.runtime.encoder import Encoder

from repzoo_training.export.derived import derived_package, renamed
from repzoo_training.export.graphs import write_probe
from repzoo_training.probing.cross_validation import CrossValidated
from repzoo_training.probing.figures import confusion_figure

__all__ = ["add_probes", "check_task"]

#: Largest difference of a probability between torch and the graph.
_PARITY = 1e-3


def check_task(config: ModelConfig, task: str) -> None:
    """Check that a package can get a probe for a new task.

    Raises:
        PackageError: If the package has a probe of that name already.
    """
    if any(task in (probe.task, *probe.aliases) for probe in config.probes):
        raise PackageError(f"{config.name} already has a probe {task!r}: choose another --task")


def add_probes(
    package: Package,
    out: str | Path,
    fitted: Sequence[CrossValidated],
    images: NDArray[np.uint8],
    *,
    name: str | None = None,
) -> ModelConfig:
    """Write a copy of a package with further probes, their numbers and confusion matrices.

    Args:
        package: a verified package.
        out: the folder of the new package, which must not exist. It appears complete or not at all.
        fitted: the probes, of one task that the package does not have.
        images: uint8 ``[N, H, W, C]``, with which the graphs are compared with torch.
        name: the name of the new package; by default that of the old one.

    Raises:
        PackageError: If ``out`` or the task exists, the name is not valid, or a graph differs from
            the probe in torch.
    """
    for each in fitted:
        check_task(package.config, each.report.task)
    specs = tuple(each.head.spec for each in fitted)
    config = renamed(package.config, name)
    config = config.model_copy(update={"probes": (*config.probes, *specs)})
    with derived_package(package, out) as folder:
        path = folder / "metrics.json"
        metrics = json.loads(path.read_bytes()) if path.exists() else {}
        (folder / "figures").mkdir(exist_ok=True)
        for head, report, confusion in fitted:
            write_probe(folder, head)
            metrics.setdefault("probes", []).append(report.model_dump(mode="json"))
            picture = folder / "figures" / f"confusion-{report.task}.{report.kind}.png"
            picture.write_bytes(confusion_figure(confusion, head.spec.classes))
        path.write_text(json.dumps(metrics, indent=2) + "\n")
        config.write(folder / "config.json")
        _compare(Encoder(folder, config, provider="cpu"), fitted, images)
    return config


def _compare(encoder: Encoder, fitted: Sequence[CrossValidated], images: NDArray[np.uint8]) -> None:
    """Check that the graphs give the probabilities of torch."""
    z = torch.from_numpy(encoder.embed(images))
    for head, *_ in fitted:
        spec = head.spec
        logits = head.module(z)
        expected = logits.sigmoid() if spec.multi_label else logits.softmax(dim=1)
        given = encoder.probe(images, spec.task, spec.kind).probabilities
        off = float(np.abs(given - expected.numpy()).max())
        if not off <= _PARITY:
            raise PackageError(f"ONNX and torch differ by {off:.2g} in the probe {spec.file}")
