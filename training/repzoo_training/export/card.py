"""Render the model card of a package, its ``README.md``, from the other files of the package.

The Hugging Face Hub reads the YAML front matter: ``model-index`` becomes the table of results next
to the card, ``license`` and ``datasets`` become links, and ``pipeline_tag`` and ``tags`` become
filters. The Hub has its own identifiers for licences and data sets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict
from repzoo.errors import PackageError
from repzoo.packages.config import InputSpec, ModelConfig, Precision, TrainingFacts

from repzoo_training.content.report import ContentReport
from repzoo_training.degradations import FIT
from repzoo_training.errors import RecipeError
from repzoo_training.evaluation.report import EvaluationReport, Measure
from repzoo_training.export.costs import graph_costs
from repzoo_training.networks import NetworkSpec
from repzoo_training.objectives import METHODS, LikelihoodSpec
from repzoo_training.probing.report import ProbeReport
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.uncertainty.fitting import ANOTHER_LABEL
from repzoo_training.uncertainty.report import UncertaintyReport
from repzoo_training.uncertainty.searches import ViewsReport

__all__ = ["AddedDecoder", "Embeddings", "TrainingRecord", "render_card", "write_card"]

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
    "squared Fréchet distance": "fid",
}
#: Measures that describe the data and not the model.
_BASELINES = {"majority"}

_WEIGHTS: dict[Precision, str] = {
    "float32": "float32",
    "float16": "stored as float16, computed in float32",
    "int8": "int8 with 7 bits in use, computed in integers; the last layer is float32, a decoder "
    "is float16",
}

_PAPERS = Path(__file__).with_name("papers.bib")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Embeddings(_Record):
    """Collapse statistics of the embeddings at the end of training."""

    rankme: float
    effective_rank: float
    correlation: float
    std_mean: float
    std_min: float
    collapsed: bool


class AddedDecoder(_Record):
    """How a decoder was trained on the frozen encoder."""

    steps: int
    batch: int


class TrainingRecord(_Record):
    """The part of ``metrics.json`` that describes the training beyond ``config.json``."""

    recipe: Recipe
    embeddings: Embeddings | None = None
    added_decoder: AddedDecoder | None = None
    started_from: str | None = None
    extended_at: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Contents:
    """What a package says about itself."""

    folder: Path
    config: ModelConfig
    evaluation: EvaluationReport | None
    uncertainty: UncertaintyReport | None
    content: ContentReport | None
    probes: tuple[ProbeReport, ...]
    parity: dict[str, Any] | None
    training: TrainingRecord | None

    @classmethod
    def read(cls, folder: Path) -> _Contents:
        path = folder / "metrics.json"
        metrics = json.loads(path.read_bytes()) if path.exists() else {}

        def of(name: str, kind: Any) -> Any:
            return kind.model_validate(metrics[name]) if metrics.get(name) else None

        has_searches = "searches" in (metrics.get("uncertainty") or {})
        return cls(
            folder,
            ModelConfig.read(folder / "config.json"),
            of("evaluation", EvaluationReport),
            of("uncertainty", ViewsReport if has_searches else UncertaintyReport),
            of("content", ContentReport),
            tuple(map(ProbeReport.model_validate, metrics.get("probes") or ())),
            metrics.get("onnx_against_torch"),
            of("training", TrainingRecord),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the recipe requires on the card."""
        if self.training is not None:
            return self.training.recipe.notes
        try:  # a package of an older version, or an imported one
            return find_recipe(self.config.facts.recipe).notes
        except (PackageError, RecipeError):
            return ()


def write_card(folder: Path) -> None:
    """Write ``README.md`` of the package in a folder. See `render_card`."""
    (folder / "README.md").write_text(render_card(folder))


def render_card(folder: Path) -> str:
    """Return the card of the package in a folder.

    Everything on it comes from ``config.json``, ``metrics.json`` and the graphs. Pictures in
    ``figures/`` are shown. Facts that an older package does not record are left out.

    Raises:
        PackageError: If ``config.json`` is missing or not valid.
    """
    package = _Contents.read(folder)
    config = package.config
    front = yaml.safe_dump(_metadata(package), sort_keys=False, allow_unicode=True)
    summary = config.summary or f"{_title(config)} on {config.dataset}"
    sections = [
        f"---\n{front}---\n",
        f"# {config.name}\n\n{summary}. An image encoder of the repzoo zoo.\n",
        "".join(f"> {note}\n" for note in package.notes),
        _usage(config),
        "## Model details\n\n" + _details(package),
        "## Evaluation\n\n" + _evaluation(package),
        "".join(map(_probe, package.probes)),
        _pictures(package),
        _uncertainty(package),
        _content(package),
        "## Out-of-scope use\n\n" + _limits(package),
        _citation(config.paper),
    ]
    return "\n".join(filter(None, sections))


def _title(config: ModelConfig) -> str:
    return METHODS[config.method].title if config.method in METHODS else config.method


def _metadata(package: _Contents) -> dict[str, Any]:
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


def _usage(config: ModelConfig) -> str:
    height, width, channels = config.input.shape
    lines = [
        "## Usage\n",
        "```python",
        "import repzoo  # pip install 'repzoo[runtime]'\n",
        f'encoder = repzoo.load("{config.name}")  # or hub="hf://ORG", if another hub serves it',
        f'encoder.embed("image.png")  # float32 [1, {config.latent_dim}]',
    ]
    if config.has_posterior:
        lines.append('encoder.posterior("image.png")  # mean and variance')
    if config.uncertainty is not None:
        lines.append('encoder.uncertainty("image.png")  # probability in [0, 1]')
    if config.content is not None:
        lines.append('encoder.embed("blurred.png", robust=True)  # of the undegraded image')
    if config.has_decoder:
        lines.append("encoder.generate(16, seed=0)  # images in [0, 1]")
    outputs = ", ".join(config.outputs)
    names = ", ".join(f'"{name}"' for name in config.outputs)
    lines += [
        "```\n",
        f"`zoo info {config.name}` prints the revision of the model, the sha256 of its manifest. "
        f'`repzoo.load("{config.name}@sha256:REVISION")` loads exactly that revision from any hub. '
        f"`zoo verify {config.name}` runs it against its golden outputs.\n",
        "The graph also runs without repzoo. `ImageOps.fit` comes close to repzoo's preprocessing, "
        "which also handles transparency and EXIF orientation:\n",
        "```python",
        "import numpy as np",
        "import onnxruntime",
        "from PIL import Image, ImageOps\n",
        f'image = Image.open("image.png").convert("{config.input.mode}")',
        *_fitted(config.input),
        'session = onnxruntime.InferenceSession("encoder.onnx")',
        f"{outputs}{',' if len(config.outputs) == 1 else ''} = session.run(",
        f'    [{names}], {{"images": pixels.reshape(1, {height}, {width}, {channels})}}',
        ")",
        "```\n",
    ]
    return "\n".join(lines)


def _fitted(spec: InputSpec) -> list[str]:
    """Return code that makes ``pixels`` of ``image``."""
    rows, columns = spec.scaled
    top, left = (rows - spec.height) // 2, (columns - spec.width) // 2
    crop = f".crop(({left}, {top}, {left + spec.width}, {top + spec.height}))"
    scaled = (
        f"ImageOps.fit(image, ({columns}, {rows}), Image.Resampling.{spec.resize.filter.upper()})"
    )
    if spec.resize.size is None:
        return [f"pixels = np.asarray({scaled})"]
    return [f"image = {scaled}", f"pixels = np.asarray(image{crop})"]


def _details(package: _Contents) -> str:
    config, facts, training = package.config, package.config.training, package.training
    method = _title(config)
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


def _costs(package: _Contents) -> dict[str, str]:
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
            f"{spec.ratio[0]:g} to {spec.ratio[1]:g}"
        )
    for name, chance in (
        ("horizontal flips", spec.horizontal_flip),
        ("vertical flips", spec.vertical_flip),
        ("greyscale", spec.greyscale),
    ):
        if chance:
            changes.append(f"{name} with probability {chance:g}")
    if spec.jitter is not None:
        strengths = "/".join(f"{strength:g}" for strength in spec.jitter)
        changes.append(
            f"colour jitter {strengths} (brightness/contrast/saturation/hue) with probability "
            f"{spec.jitter_probability:g}"
        )
    of = f"{count} per image" if count > 1 else "1 per image"
    if recipe.group_by is not None:
        of += f", of images with the same {recipe.group_by}"
    return f"{of}; {', '.join(changes) or 'whole images'}"


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


def _evaluation(package: _Contents) -> str:
    report, parity = package.evaluation, package.parity
    if report is None and package.config.training is None:
        text = (
            "The embeddings were not measured: the model was trained elsewhere. `zoo evaluate "
            f"{package.config.name} --data SOURCE` measures them on your images.\n"
        )
    elif report is None:
        text = "There was no test split to measure on.\n"
    else:
        text = (
            f"{report.n_train:,} training and {report.n_test:,} test images, last checkpoint, one "
            "seed. ± is the standard error due to the size of the test set.\n\n"
            "| measure | value | ± | protocol |\n| --- | --- | --- | --- |\n"
            + "".join(map(_row, report.measures))
        )
    if parity is not None:
        text += (
            f"\nONNX and torch embeddings differ by at most {parity['embedding']:.2g} "
            f"({parity['embedding_relative']:.2g} standard deviations of the embedding).\n"
        )
    return text


def _row(m: Measure) -> str:
    scale, digits, unit = (100, 2, " %") if m.unit == "accuracy" else (1, 5, "")
    name = f"{m.task} {m.name}" if m.task else m.name
    protocol = ", ".join(f"{key} {value}" for key, value in m.protocol.items())
    return (
        f"| {name} | {scale * m.value:.{digits}f}{unit} | {scale * m.standard_error:.{digits}f} "
        f"| {protocol} |\n"
    )


def _probe(report: ProbeReport) -> str:
    name = f"{report.task}.{report.kind}"
    return (
        f"## Probe {name}\n\n"
        f"Fitted to labels of {report.dataset} on the frozen encoder, after it was trained. Each "
        "image was predicted by a probe that was fitted without it and its copies.\n\n"
        f"```text\n{report.table()}\n```\n\n"
        f"![confusion matrix](figures/confusion-{name}.png)\n\n"
    )


def _pictures(package: _Contents) -> str:
    """Return the section with all existing pictures, or nothing if none exist."""
    folder = package.folder / "figures"
    shown = [
        f"{caption}\n\n![{name}](figures/{path.name})\n"
        for name, caption in (
            ("reconstructions", _reconstructions_caption(package.training)),
            ("samples", "Samples from `prior.npz`:"),
            ("walk", "Interpolation between the embeddings of two of these images, per row:"),
            (
                "views",
                "New views of a thing (right), given one or three views of it (left). All views "
                "in a row have the same content, and all in a column the same style:",
            ),
            (
                "neighbours",
                "Test images (top row), each above its nearest training images by "
                f"{package.config.metric} distance. Neighbours of another class have a red frame:",
            ),
        )
        for path in (folder / f"{name}.png", folder / f"{name}.jpg")
        if path.exists()
    ]
    return "\n".join(["## Figures\n", *shown]) if shown else ""


def _reconstructions_caption(training: TrainingRecord | None) -> str:
    shown = "Images"
    if training is not None:
        shown = (
            "Test images"
            if training.recipe.share_images
            else "Samples of the model itself, because the training images may not be shared,"
        )
    if training is not None and training.added_decoder is not None:
        return (
            f"{shown} with their reconstructions below. The decoder was trained on the frozen "
            "encoder, so they show what the embedding keeps:"
        )
    return f"{shown} with their reconstructions from the posterior mean below:"


def _uncertainty(package: _Contents) -> str:
    spec, report = package.config.uncertainty, package.uncertainty
    if spec is None:
        return ""
    text = (
        f"## Uncertainty\n\n`uncertainty` is the probability that {spec.probability_of}.\n\n"
        f"Fitted on {spec.fitted_on}. No other images, and none of the corruptions below, were "
        "used. The probability is calibrated for images like these. On images that differ from "
        "them, such as rotated or brightened ones, it can be low although the neighbour is "
        "wrong.\n"
    )
    if report is None:
        suited = " with labels" if spec.probability_of.endswith(ANOTHER_LABEL) else ""
        return f"{text}\nThere were no test images{suited} to measure it on.\n"
    return (
        f"{text}\n![risk over coverage, calibration, corruptions](figures/uncertainty.png)\n\n"
        f"```text\n{report.table()}\n```\n"
    )


def _content(package: _Contents) -> str:
    spec, report = package.config.content, package.content
    if spec is None:
        return ""
    every = all(kind in spec.fitted_on for kind in FIT)
    undone = "blur, noise, crops or bad light" if every else "these degradations"
    text = (
        "## Degraded images\n\n"
        f"The content posterior is a Gaussian over {spec.target}. Its mean, "
        f'`embed("image.png", robust=True)`, undoes what {undone} did to the '
        "embedding; its variance says how far off the mean may be, per dimension. It replaces the "
        "embedding wherever queries or documents may be degraded.\n\n"
        f"Fitted on {spec.fitted_on}. Labels were not used.\n"
    )
    if report is None:
        return f"{text}\nThere were no labelled test images to measure it on.\n"
    steps = (
        "\n![one image at six severities, its content posterior and its neighbours]"
        "(figures/steps.png)\n\n"
        "The image was not chosen by its result: it is the first of a random order whose "
        "undegraded version has five right neighbours.\n"
    ) * (package.folder / "figures" / "steps.png").exists()
    return (
        f"{text}{steps}\n"
        "![precision over severity, by kind of degradation](figures/content.png)\n\n"
        f"```text\n{report.table()}\n```\n\n"
        "`fit` are the kinds that the head was fitted to, `validation` those that choices were "
        "made by, `test` those that took no part in anything. The variance is too small for "
        "degradations that look like another content, such as a strongly rotated digit.\n"
    )


def _limits(package: _Contents) -> str:
    config, training = package.config, package.training
    if config.training is None:
        images = "- Images unlike those that its authors trained it on."
    else:
        images = (
            f"- Images unlike {config.dataset}. The model embeds them, but nothing above was "
            "measured on them."
        )
    limits = [images, "- Decisions about people."]
    if config.has_posterior:
        instead = (
            "This package has no calibrated `uncertainty`."
            if config.uncertainty is None
            else "Use `uncertainty` instead."
        )
        limits.append(
            "- Reading the posterior's variance as a probability of error. It is not calibrated. "
            + instead
        )
    spec = None if training is None else training.recipe.likelihood
    if config.likelihood == "bernoulli" and spec is not None and spec.weight != 1.0:
        limits.append("- Comparing likelihoods in nats with those of other recipes.")
    return "\n".join(limits) + "\n"


def _citation(paper: str | None) -> str:
    """Return the BibTeX entry of the method's paper, or nothing if it is not on arXiv."""
    kind, _, identifier = (paper or "").partition(":")
    if kind.lower() != "arxiv":
        return ""
    entries: Sequence[str] = _PAPERS.read_text(encoding="utf-8").strip().split("\n\n")
    bare = (
        f"@misc{{arxiv{identifier},\n  eprint = {{{identifier}}},\n  archivePrefix = {{arXiv}}\n}}"
    )
    entry = next((each for each in entries if f"{{{identifier}}}" in each), bare)
    return f"## Citation\n\n```bibtex\n{entry}\n```\n"
