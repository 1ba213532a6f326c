"""The YAML front matter of a card, as the Hugging Face Hub reads it.

``model-index`` becomes the table of results next to the card, ``license`` and ``datasets`` become
links, and ``pipeline_tag`` and ``tags`` become filters. The Hub has its own identifiers for
licences and data sets.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from repzoo.packages.config import ModelConfig

from repzoo_training.evaluation.report import EvaluationReport, Measure
from repzoo_training.export.card.contents import Contents

__all__ = ["front_matter"]

#: The Hub's names of the data sets that recipes use. Other data sets are only named in the text.
_HUB_DATASETS = {
    "mnist": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
}
#: The Hub's licences that are suitable for weights and images.
_HUB_LICENCES = frozenset(
    {
        *("afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd-2-clause", "bsd-3-clause"),
        *("bsd-3-clause-clear", "bsl-1.0", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0"),
        *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
        *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0"),
        *("cc-by-sa-3.0", "cc-by-sa-4.0", "ecl-2.0", "epl-2.0", "eupl-1.1", "eupl-1.2", "gpl-2.0"),
        *("gpl-3.0", "isc", "lgpl-2.1", "lgpl-3.0", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl"),
        *("odc-by", "ofl-1.1", "openrail", "osl-3.0", "other", "pddl", "postgresql", "unknown"),
        *("unlicense", "wtfpl", "zlib"),
    }
)
#: The Hub's identifiers of metrics, by unit.
_HUB_METRICS = {
    "accuracy": "accuracy",
    "mean squared error": "mse",
    "normalised mutual information": "nmi",
    "adjusted Rand index": "ari",
    "R²": "r_squared",
    "intraclass correlation": "intraclass_correlation",
    "squared Fréchet distance": "fid",
}
#: Measures that describe the data and not the model.
_BASELINES = {"majority"}


def front_matter(package: Contents) -> dict[str, Any]:
    config = package.config
    dataset = _HUB_DATASETS.get(_plain(config.dataset))
    metadata: dict[str, Any] = {
        **_licence(config.licence, package.folder),
        "library_name": "repzoo",
        "pipeline_tag": "image-feature-extraction",
        "tags": _tags(config),
    }
    if dataset is not None:
        metadata["datasets"] = [dataset]
    results = [] if package.evaluation is None else _results(package.evaluation)
    if results:
        units = {metric["type"]: None for result in results for metric in result["metrics"]}
        metadata["metrics"] = list(units)
        metadata["model-index"] = [{"name": config.name, "results": results}]
    return metadata


def _licence(licence: str, folder: Path) -> dict[str, str]:
    """Return the licence in the Hub's terms: its own identifier, or ``other`` with a name."""
    identifier = licence.lower()
    if identifier in _HUB_LICENCES - {"other"}:
        return {"license": identifier}
    named = {"license": "other"}
    if identifier != "other":
        named["license_name"] = re.sub(r"[^a-z0-9.]+", "-", identifier).strip("-")
    if (folder / "LICENSE").is_file():
        named["license_link"] = "LICENSE"
    return named


def _tags(config: ModelConfig) -> list[str]:
    tags = ["onnx", config.method, "representation-learning"]
    if config.training is not None:
        tags.append("self-supervised")
    tags += [name for name in ("posterior", "decoder") if getattr(config, f"has_{name}")]
    if config.paper is not None and config.paper.lower().startswith("arxiv:"):
        tags.append(config.paper.lower())
    return tags


def _results(report: EvaluationReport) -> list[dict[str, Any]]:
    """Return the measures of each task in the form of the Hub's ``model-index``."""
    by_task: dict[str | None, list[Measure]] = {}
    for measure in report.measures:
        if measure.name not in _BASELINES:
            by_task.setdefault(measure.task, []).append(measure)
    dataset = {
        "name": report.dataset,
        "type": _HUB_DATASETS.get(_plain(report.dataset), report.dataset),
        "split": "test",
    }
    return [
        {
            "task": {
                "type": "image-feature-extraction" if task is None else "image-classification",
                "name": task or "representation",
            },
            "dataset": dict(dataset),
            "metrics": [
                {
                    "type": _HUB_METRICS[measure.unit],
                    "name": measure.name,
                    # In per cent, as in the Hub's tables.
                    "value": round(100 * measure.value, 2)
                    if measure.unit == "accuracy"
                    else round(measure.value, 6),
                    "args": dict(measure.protocol),
                }
                for measure in measures
            ],
        }
        for task, measures in by_task.items()
    ]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
