"""``README.md`` of a package: its card, with the YAML that makes a hub show the numbers.

The Hugging Face Hub reads the front matter: ``model-index`` becomes the table of results beside the
card, ``license`` and ``datasets`` become links, ``pipeline_tag`` and ``tags`` filters. It knows
licences and data sets by identifiers of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from repzoo.packages.config import ModelConfig, Precision, TrainingFacts

from repzoo_training.evaluation.frozen_decoder import BATCH, STEPS
from repzoo_training.evaluation.report import EvaluationReport, Measure
from repzoo_training.export.parity import Parity
from repzoo_training.loop.trained import TrainedModel
from repzoo_training.networks import NetworkSpec
from repzoo_training.objectives import LikelihoodSpec, find_method
from repzoo_training.recipes.recipe import Recipe

__all__ = ["write_card"]

#: What the Hub calls the data sets that recipes are for. Others are named in the text only.
_HUB_DATASETS = {
    "mnist": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
}
#: Of the licences that the Hub knows, those that weights and images come under.
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
    "squared Fréchet distance": "fid",
}
#: What says something about the data, and nothing about the model.
_BASELINES = {"majority"}

_WEIGHTS: dict[Precision, str] = {
    "float32": "float32",
    "float16": "float16, computed in float32",
    "int8": "int8 and computed so, 7 bits of it used; the last layer float32, a decoder float16",
}


def write_card(
    folder: Path,
    config: ModelConfig,
    report: EvaluationReport | None,
    parity: Parity,
    model: TrainedModel,
) -> None:
    """Write ``README.md`` from what is known and measured; nothing is typed by hand.

    The pictures that lie in the folder's ``figures/`` are shown, so they must be there before.
    """
    front = yaml.safe_dump(_metadata(config, report, folder), sort_keys=False, allow_unicode=True)
    summary = config.summary or f"{find_method(config.method).title} on {config.training.dataset}"
    sections = [
        f"---\n{front}---\n",
        f"# {config.name}\n\n{summary}. An image encoder of the repzoo zoo.\n",
        "".join(f"> {note}\n" for note in model.recipe.notes),
        _use(config),
        "## What it is\n\n" + _facts(config, model),
        "## Numbers\n\n" + _numbers(report, parity, config),
        _pictures(folder / "figures", config, model),
        "## What it is not for\n\n" + _limits(config, model.recipe),
    ]
    (folder / "README.md").write_text("\n".join(filter(None, sections)))


def _metadata(config: ModelConfig, report: EvaluationReport | None, folder: Path) -> dict[str, Any]:
    dataset = _HUB_DATASETS.get(_plain(config.training.dataset))
    metadata: dict[str, Any] = {
        **_licence(config.licence, folder),
        "library_name": "repzoo",
        "pipeline_tag": "image-feature-extraction",
        "tags": _tags(config),
    }
    if dataset is not None:
        metadata["datasets"] = [dataset]
    results = [] if report is None else _results(report)
    if results:
        units = {metric["type"]: None for result in results for metric in result["metrics"]}
        metadata["metrics"] = list(units)
        metadata["model-index"] = [{"name": config.name, "results": results}]
    return metadata


def _licence(licence: str, folder: Path) -> dict[str, str]:
    """The Hub takes its own identifiers, or ``other`` with a name and a link."""
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
    tags = ["onnx", config.method, "representation-learning", "self-supervised"]
    tags += [name for name in ("posterior", "decoder") if getattr(config, f"has_{name}")]
    if config.paper is not None and config.paper.lower().startswith("arxiv:"):
        tags.append(config.paper.lower())
    return tags


def _results(report: EvaluationReport) -> list[dict[str, Any]]:
    """The measures of each task, in the form of the Hub's ``model-index``."""
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
                    # In per cent, as the Hub's tables have it.
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


def _use(config: ModelConfig) -> str:
    lines = [
        "```python",
        "import repzoo  # pip install 'repzoo[runtime]'",
        f'encoder = repzoo.load("{config.name}")',
        f'encoder.embed("image.png")        # float32 [1, {config.latent_dim}]',
    ]
    if config.has_posterior:
        lines.append('encoder.posterior("image.png")    # mean and variance')
    if config.has_decoder:
        lines.append("encoder.generate(16, seed=0)      # images in [0, 1]")
    pin = (
        f"`zoo info {config.name}` prints its revision, the sha256 of its manifest. "
        f'`repzoo.load("{config.name}@sha256:REVISION")` loads exactly that one, whichever hub '
        "serves it; `zoo verify` runs it against its golden outputs.\n"
    )
    return "\n".join([*lines, "```\n", pin])


def _facts(config: ModelConfig, model: TrainedModel) -> str:
    recipe, method = model.recipe, find_method(config.method)
    height, width, _ = config.input.shape
    facts = config.training
    options = "".join(f", {k} = {v}" for k, v in recipe.options.items())
    rows = {"method": f"{method.title} ({method.family}){options}"}
    if config.likelihood is not None and recipe.likelihood is not None:
        rows["likelihood"] = _likelihood(recipe.likelihood, recipe.augmentation.binarize)
    rows |= {
        "representation": _representation(config),
        "input": f"{height}×{width}, {config.input.mode}",
        "D": str(config.latent_dim),
        "networks": _networks(config, model),
        "views": (
            f"J = {recipe.views_per_image}, crop scale {recipe.augmentation.scale}, "
            f"ratio {recipe.augmentation.ratio}, flips {recipe.augmentation.horizontal_flip} and "
            f"{recipe.augmentation.vertical_flip} (horizontal, vertical)"
        ),
        "data": f"{facts.dataset}, sha256 {(facts.dataset_sha256 or '')[:16]}…",
        "budget": f"{facts.views:,} views, {facts.epochs:g} epochs" + _unfinished(facts, recipe),
        "time": f"{_duration(facts.wall_seconds)} on {facts.device}",
        "weights": f"{_WEIGHTS[config.precision]}; licence {config.licence}",
        "code": facts.code_commit or "not from a checkout",
    }
    if model.collapse:
        rows["embeddings"] = _collapse(model.collapse, config)
    if config.paper:
        rows["paper"] = config.paper
    return "| | |\n| --- | --- |\n" + "".join(f"| {k} | {v} |\n" for k, v in rows.items())


def _representation(config: ModelConfig) -> str:
    if config.has_posterior:
        return "mean of the posterior; its variance comes with it"
    return f"the encoder's output, before any projection head; compare by {config.metric} distance"


def _networks(config: ModelConfig, model: TrainedModel) -> str:
    networks = _network(model.recipe.network)
    if model.has_added_decoder:
        training = f"{STEPS} steps of Adam, {BATCH} images each"
        return f"{networks}; as decoder its mirror, trained on the frozen encoder ({training})"
    return f"{networks} and its mirror" if config.has_decoder else networks


def _network(spec: NetworkSpec) -> str:
    """All that is said of an encoder, in words."""
    parts = [spec.kind, f"widths {'-'.join(map(str, spec.widths))}"]
    if spec.kind.startswith("resnet"):
        small = spec.stem == "small"
        parts.append("stem 3×3 of stride 1" if small else "stem 7×7 of stride 2 and max-pooling")
    if spec.patch is not None:
        parts.append(f"patches {spec.patch}×{spec.patch}")
    if spec.kind == "vit":
        parts.append(f"depth {spec.depth}, {spec.heads} heads")
    parts.append("linear head" if spec.head == "linear" else "no head: the backbone's features")
    return ", ".join(parts)


def _unfinished(facts: TrainingFacts, recipe: Recipe) -> str:
    planned = recipe.steps * recipe.views_per_step
    return "" if facts.views == planned else f"; unfinished, {planned:,} were planned"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _likelihood(spec: LikelihoodSpec, binarized: float | None) -> str:
    if spec.kind == "gaussian":
        return f"Gaussian, log σ_x² = {spec.log_variance:g}"
    if spec.kind == "optimal-gaussian":
        return "Gaussian at its optimal variance (σ-VAE)"
    if spec.weight == 1.0 and binarized is not None:
        return f"Bernoulli on pixels binarised at {binarized:g}"
    kind = "Bernoulli pseudo-likelihood" + (
        f", weight {spec.weight:g}" if spec.weight != 1.0 else " on grey pixels"
    )
    return kind if binarized is None else f"{kind}, pixels binarised at {binarized:g}"


def _numbers(report: EvaluationReport | None, parity: Parity, config: ModelConfig) -> str:
    relative = (
        f"ONNX against torch: the embedding is off by at most {parity['embedding']:.2g} "
        f"({parity['embedding_relative']:.2g} standard deviations of the latents)."
    )
    if report is None:
        return f"{relative} There was no test split with labels; nothing else was measured.\n"
    head = (
        f"Last checkpoint, {report.n_train:,} train and {report.n_test:,} test images; "
        "standard errors from the test set's size; one seed.\n\n"
        "| measure | value | ± | protocol |\n| --- | --- | --- | --- |\n"
    )
    return head + "".join(map(_row, report.measures)) + f"\n{relative}\n"


def _collapse(seen: Mapping[str, Any], config: ModelConfig) -> str:
    """What was last watched of the embeddings while training."""
    state = "**collapsed**" if seen["collapsed"] else "not collapsed"
    return (
        f"RankMe {seen['rankme']:.2f} and effective rank {seen['effective_rank']:.2f} of "
        f"{config.latent_dim}; mean absolute correlation {seen['correlation']:.2f}; "
        f"standard deviation of a dimension {seen['std_mean']:.3g}, "
        f"of the least {seen['std_min']:.3g}; {state}"
    )


def _row(m: Measure) -> str:
    scale, digits, unit = (100, 2, " %") if m.unit == "accuracy" else (1, 5, "")
    name = f"{m.task} {m.name}" if m.task else m.name
    protocol = ", ".join(f"{key} {value}" for key, value in m.protocol.items())
    return (
        f"| {name} | {scale * m.value:.{digits}f}{unit} | {scale * m.standard_error:.{digits}f} "
        f"| {protocol} |\n"
    )


def _pictures(figures: Path, config: ModelConfig, model: TrainedModel) -> str:
    """The section of all pictures that there are; empty without any."""
    shown = [
        f"{caption}\n\n![{name}](figures/{name}.png)\n"
        for name, caption in (
            ("reconstructions", _reconstructions_caption(model)),
            ("samples", "Samples from `prior.npz`:"),
            (
                "walk",
                "From the embedding of one of the images above to that of another, in equal steps:",
            ),
            (
                "neighbours",
                "Test images, and below each the training images that embed nearest to it, by "
                f"{config.metric} distance. A red frame: of another class.",
            ),
        )
        if (figures / f"{name}.png").exists()
    ]
    return "\n".join(["## Pictures\n", *shown]) if shown else ""


def _reconstructions_caption(model: TrainedModel) -> str:
    shown = (
        "Test images"
        if model.recipe.share_images
        else "Samples of the model itself (the training images may not be passed on)"
    )
    if model.has_added_decoder:
        return (
            f"{shown}, and below each what a decoder that was trained on the frozen encoder makes "
            "of its embedding. It shows what the embedding holds; the encoder never learned to "
            "reconstruct:"
        )
    return f"{shown}, and below each its reconstruction from the posterior mean:"


def _limits(config: ModelConfig, recipe: Recipe) -> str:
    limits = [
        f"- Images unlike {config.training.dataset}: they embed, but nothing here was measured "
        "on them.",
        "- Decisions about people.",
    ]
    if config.has_posterior:
        limits.append(
            "- Taking the posterior's variance for a probability of error: it is the model's own "
            "and is not calibrated. This package has no calibrated `uncertainty` yet."
        )
    spec = recipe.likelihood
    if config.likelihood == "bernoulli" and spec is not None and spec.weight != 1.0:
        limits.append("- Comparing its likelihood in nats with that of another recipe.")
    return "\n".join(limits) + "\n"
