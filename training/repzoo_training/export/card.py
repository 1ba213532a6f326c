"""``README.md`` of a package: its card, with the YAML that makes a hub show the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from repzoo.config import ModelConfig, TrainingFacts

from repzoo_training.evaluation.report import EvaluationReport, Measure
from repzoo_training.recipe import Recipe

__all__ = ["write_card"]


def write_card(
    folder: Path,
    config: ModelConfig,
    report: EvaluationReport | None,
    parity: dict[str, float],
    recipe: Recipe,
) -> None:
    """Write ``README.md`` from what is known and measured; nothing is typed by hand."""
    front = yaml.safe_dump(_metadata(config, report), sort_keys=False, allow_unicode=True)
    sections = [
        f"---\n{front}---\n",
        f"# {config.name}\n\n{config.summary}. An image encoder of the repzoo zoo.\n",
        _use(config),
        "## What it is\n\n" + _facts(config, recipe),
        "## Numbers\n\n" + _numbers(report, parity, config),
        "## Pictures\n\n"
        + _caption(recipe)
        + "\n\n![reconstructions](figures/reconstructions.png)\n\n"
        "Samples from `prior.npz`:\n\n![samples](figures/samples.png)\n",
        "## What it is not for\n\n" + _limits(config, recipe),
    ]
    (folder / "README.md").write_text("\n".join(sections))


def _metadata(config: ModelConfig, report: EvaluationReport | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "license": config.licence,
        "library_name": "repzoo",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["onnx", config.method, "representation-learning", "self-supervised"],
        "datasets": [config.training.dataset],
    }
    if report is None:
        return metadata
    results = [
        {
            "task": {"type": "image-classification", "name": m.task},
            "dataset": {"name": report.dataset, "type": report.dataset, "split": "test"},
            "metrics": [{"type": "accuracy", "name": m.name, "value": round(100 * m.value, 2)}],
        }
        for m in report.measures
        if m.unit == "accuracy" and m.task is not None
    ]
    if results:
        metadata["model-index"] = [{"name": config.name, "results": results}]
    return metadata


def _use(config: ModelConfig) -> str:
    lines = [
        "```python",
        "import repzoo",
        "",
        f'encoder = repzoo.load("{config.name}")',
        f'encoder.embed("image.png")        # float32 [1, {config.latent_dim}]',
    ]
    if config.has_posterior:
        lines.append('encoder.posterior("image.png")    # mean and variance')
    if config.has_decoder:
        lines.append("encoder.generate(16, seed=0)      # images in [0, 1]")
    return "\n".join([*lines, "```\n"])


def _facts(config: ModelConfig, recipe: Recipe) -> str:
    height, width, _ = config.input.shape
    facts = config.training
    network = f"{recipe.network.kind}, widths {'-'.join(map(str, recipe.network.widths))}"
    rows = {
        "method": config.method + "".join(f", {k} = {v}" for k, v in recipe.options.items()),
        "likelihood": _likelihood(recipe),
        "input": f"{height}×{width}, {config.input.mode}",
        "D": config.latent_dim,
        "networks": network + " and its mirror",
        "views": (
            f"J = {recipe.views_per_image}, crop scale {recipe.augmentation.scale}, "
            f"ratio {recipe.augmentation.ratio}, flips {recipe.augmentation.horizontal_flip} and "
            f"{recipe.augmentation.vertical_flip} (horizontal, vertical)"
        ),
        "data": f"{facts.dataset}, sha256 {(facts.dataset_sha256 or '')[:16]}…",
        "budget": f"{facts.views:,} views, {facts.epochs:g} epochs" + _unfinished(facts, recipe),
        "time": f"{facts.wall_seconds / 60:.0f} minutes on {facts.device}",
        "weights": f"{config.precision}, licence {config.licence}",
        "code": facts.code_commit or "not from a checkout",
    }
    if config.paper:
        rows["paper"] = config.paper
    return "| | |\n| --- | --- |\n" + "".join(f"| {k} | {v} |\n" for k, v in rows.items())


def _unfinished(facts: TrainingFacts, recipe: Recipe) -> str:
    planned = recipe.steps * recipe.views_per_step
    return "" if facts.views == planned else f"; unfinished, {planned:,} were planned"


def _likelihood(recipe: Recipe) -> str:
    spec = recipe.likelihood
    if spec.kind == "gaussian":
        return f"Gaussian, log σ_x² = {spec.log_variance:g}"
    if spec.kind == "optimal-gaussian":
        return "Gaussian at its optimal variance (σ-VAE)"
    if spec.weight == 1.0 and recipe.augmentation.binarize is not None:
        return f"Bernoulli on pixels binarised at {recipe.augmentation.binarize:g}"
    kind = "Bernoulli pseudo-likelihood" + (
        f", weight {spec.weight:g}" if spec.weight != 1.0 else " on grey pixels"
    )
    binarized = recipe.augmentation.binarize
    return kind if binarized is None else f"{kind}, pixels binarised at {binarized:g}"


def _numbers(report: EvaluationReport | None, parity: dict[str, float], config: ModelConfig) -> str:
    relative = (
        f"ONNX against torch: the embedding is off by at most {parity['embedding']:.2g} "
        f"({parity['embedding_relative']:.2g} standard deviations of the latents)."
    )
    if report is None:
        return f"{relative} There was no test split, so nothing else was measured.\n"
    head = (
        f"Last checkpoint, {report.n_train:,} train and {report.n_test:,} test images; "
        "standard errors from the test set's size; one seed.\n\n"
        "| measure | value | ± | protocol |\n| --- | --- | --- | --- |\n"
    )
    return head + "".join(map(_row, report.measures)) + f"\n{relative}\n"


def _row(m: Measure) -> str:
    scale, digits, unit = (100, 2, " %") if m.unit == "accuracy" else (1, 5, "")
    name = f"{m.task} {m.name}" if m.task else m.name
    protocol = ", ".join(f"{key} {value}" for key, value in m.protocol.items())
    return (
        f"| {name} | {scale * m.value:.{digits}f}{unit} | {scale * m.standard_error:.{digits}f} "
        f"| {protocol} |\n"
    )


def _caption(recipe: Recipe) -> str:
    if recipe.share_images:
        return "Test images, and below each its reconstruction from the posterior mean:"
    return (
        "Samples of the model itself (the training images may not be passed on), and below each "
        "its reconstruction from the posterior mean:"
    )


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
    if recipe.likelihood.kind == "bernoulli" and recipe.likelihood.weight != 1.0:
        limits.append("- Comparing its likelihood in nats with that of another recipe.")
    return "\n".join(limits) + "\n"
