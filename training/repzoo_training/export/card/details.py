"""The table of a card that describes a model and its training."""

from __future__ import annotations

from repzoo.packages.config import InputSpec, ModelConfig, Precision, TrainingFacts

from repzoo_training.export.card.contents import Contents, Embeddings, TrainingRecord, title_of
from repzoo_training.export.costs import graph_costs
from repzoo_training.networks import NetworkSpec
from repzoo_training.objectives import METHODS, LikelihoodSpec
from repzoo_training.recipes.recipe import Recipe

__all__ = ["details"]

_WEIGHTS: dict[Precision, str] = {
    "float32": "float32",
    "float16": "stored as float16, computed in float32",
    "int8": "int8 with 7 bits in use, computed in integers; the last layer is float32, a decoder "
    "is float16",
}


def details(package: Contents) -> str:
    config, facts, training = package.config, package.config.training, package.training
    method = title_of(config)
    if config.method in METHODS:
        method += f" ({METHODS[config.method].family})"
    rows = {}
    if training is not None:
        method += "".join(f", {key} = {value}" for key, value in training.recipe.options.items())
        if config.likelihood is not None and training.recipe.likelihood is not None:
            binarize = training.recipe.augmentation.binarize
            rows["Likelihood"] = _likelihood(training.recipe.likelihood, binarize)
        rows["Network"] = _networks(config, training)
    rows = {
        "Method": method,
        "Input": _input(config.input),
        "Preprocessing": _preprocessing(config.input),
        "Output": _output(config),
        **rows,
        **_costs(package),
        "Weights": f"{_WEIGHTS[config.precision]}; licence {config.licence}",
    }
    if config.source is not None:
        rows["Source"] = config.source
    if facts is not None:
        rows["Training data"] = f"{facts.dataset}, sha256 {(facts.dataset_sha256 or '')[:16]}…"
    if training is not None:
        if training.started_from is not None:
            rows["Started from"] = training.started_from
        rows["Training views"] = _views(training.recipe)
    if facts is not None:
        rows |= {
            "Training budget": f"{facts.views:,} views, {facts.epochs:g} epochs"
            + ("" if training is None else _schedules(facts, training)),
            "Training time": f"{_duration(facts.wall_seconds)} on {facts.device}",
            "Code commit": _commit(facts.code_commit),
        }
    if training is not None and training.embeddings is not None:
        rows["Embeddings"] = _embeddings(training.embeddings, config.latent_dim)
    if config.paper:
        rows["Paper"] = config.paper
    return "| | |\n| --- | --- |\n" + "".join(f"| {k} | {v} |\n" for k, v in rows.items())


def _input(spec: InputSpec) -> str:
    colours = "grey" if spec.channels == 1 else "RGB"
    return (
        f"uint8 `[N, {spec.height}, {spec.width}, {spec.channels}]`, channels last, {colours}; "
        "scaling and normalisation are part of the graph"
    )


def _preprocessing(spec: InputSpec) -> str:
    size, full = f"{spec.height}×{spec.width}", "×".join(map(str, spec.scaled))
    policy = spec.resize
    centre = "" if full == size else f" of {size}"
    if policy.fit == "crop":
        how = f"scale to cover {full} and crop the centre{centre}"
    else:
        how = f"resize to {full}, ignoring the aspect ratio"
        if centre:
            how += f", and crop the centre{centre}"
    rounding = "to nearest" if policy.rounding == "nearest" else "down"
    text = f"{how}; {policy.filter} filter with antialiasing, scaled sizes rounded {rounding}"
    if policy.jpeg == "scaled":
        text += (
            "; large JPEG files are decoded at 1/2, 1/4 or 1/8, at least twice the target's sides"
        )
    return text


def _output(config: ModelConfig) -> str:
    dim = f"float32 `[N, {config.latent_dim}]`"
    if config.has_posterior:
        text = f"`embedding`, the posterior mean, and `log_variance`, {dim} each"
    else:
        text = f"`embedding`, {dim}"
        if config.training is not None:
            text += ", taken before any projection head"
    return f"{text}; compare embeddings by {config.metric} distance"


def _costs(package: Contents) -> dict[str, str]:
    graphs = ("encoder", "decoder") if package.config.has_decoder else ("encoder",)
    costs = {name: graph_costs(package.folder / f"{name}.onnx") for name in graphs}
    return {
        "Parameters": ", ".join(f"{name} {_short(c.parameters)}" for name, c in costs.items()),
        "Compute": ", ".join(
            f"{name} {_short(2 * c.multiply_adds)}FLOP per image" for name, c in costs.items()
        ),
    }


def _short(count: int) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} "


def _networks(config: ModelConfig, training: TrainingRecord) -> str:
    network = _network(training.recipe.network)
    if (added := training.added_decoder) is not None:
        return (
            f"{network}; the decoder is its mirror, trained on the frozen encoder "
            f"({added.steps:,} steps of Adam, {added.batch} images each)"
        )
    return f"{network}; the decoder is its mirror" if config.has_decoder else network


def _network(spec: NetworkSpec) -> str:
    """Describe an encoder in words."""
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


def _views(recipe: Recipe) -> str:
    spec, count = recipe.augmentation, recipe.views_per_image
    changes = []
    if (spec.scale, spec.ratio) != ((1, 1), (1, 1)):
        changes.append(
            f"crops of {spec.scale[0]:g} to {spec.scale[1]:g} of the area with an aspect ratio of "
            f"{spec.ratio[0]:g} to {spec.ratio[1]:g}{_chance(spec.crop_probability)}"
        )
    for name, chance in (
        ("horizontal flips", spec.horizontal_flip),
        ("vertical flips", spec.vertical_flip),
        ("greyscale", spec.greyscale),
        ("degraded", spec.degraded),
    ):
        if chance:
            changes.append(f"{name}{_chance(chance)}")
    if spec.jitter is not None:
        strengths = "/".join(f"{strength:g}" for strength in spec.jitter)
        changes.append(
            f"colour jitter {strengths} (brightness/contrast/saturation/hue)"
            f"{_chance(spec.jitter_probability)}"
        )
    changes += spec.extra
    of = f"{count} per image" if count > 1 else "1 per image"
    if recipe.group_by is not None:
        of += f", of images with the same {recipe.group_by}"
    return f"{of}; {', '.join(changes) or 'whole images'}"


def _chance(probability: float) -> str:
    return "" if probability == 1 else f" with probability {probability:g}"


def _schedules(facts: TrainingFacts, training: TrainingRecord) -> str:
    """Say where the learning rate started anew, and whether the last schedule is complete."""
    recipe = training.recipe
    planned = recipe.steps * recipe.views_per_step
    text = "" if facts.views == planned else f"; unfinished, {planned:,} views were planned"
    if training.extended_at:
        ends = ", ".join(f"{step * recipe.views_per_step:,}" for step in training.extended_at)
        text += f"; extended after {ends} views, with a new learning-rate schedule each time"
    return text


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _commit(commit: str | None) -> str:
    if commit is None:
        return "not recorded"
    return commit.replace("-dirty", " with uncommitted changes")


def _likelihood(spec: LikelihoodSpec, binarized: float | None) -> str:
    if spec.kind == "gaussian":
        whitened = f", whitened by α = {spec.whitening:g}" if spec.whitening else ""
        return f"Gaussian, log σ_x² = {spec.log_variance:g}{whitened}"
    if spec.kind == "optimal-gaussian":
        return "Gaussian at its optimal variance (σ-VAE)"
    if spec.weight == 1.0 and binarized is not None:
        return f"Bernoulli on pixels binarised at {binarized:g}"
    kind = "Bernoulli pseudo-likelihood" + (
        f", weight {spec.weight:g}" if spec.weight != 1.0 else " on grey pixels"
    )
    return kind if binarized is None else f"{kind}, pixels binarised at {binarized:g}"


def _embeddings(seen: Embeddings, dim: int) -> str:
    state = "**collapsed**" if seen.collapsed else "not collapsed"
    return (
        f"{state}; RankMe {seen.rankme:.2f} and effective rank {seen.effective_rank:.2f} of {dim}; "
        f"mean absolute correlation {seen.correlation:.2f}; standard deviation per dimension "
        f"{seen.std_mean:.3g} on average and {seen.std_min:.3g} at least"
    )
