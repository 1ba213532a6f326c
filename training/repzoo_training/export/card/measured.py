"""The sections of a card on what was measured: accuracies, pictures, uncertainty and limits."""

from __future__ import annotations

from repzoo_training.degradations import FIT
from repzoo_training.evaluation.report import Measure
from repzoo_training.export.card.contents import Contents, TrainingRecord
from repzoo_training.probing.report import ProbeReport
from repzoo_training.uncertainty.fitting import ANOTHER_LABEL

__all__ = ["content", "evaluation", "limits", "pictures", "probe", "uncertainty"]


def evaluation(package: Contents) -> str:
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


def probe(report: ProbeReport) -> str:
    name = f"{report.task}.{report.kind}"
    chosen = "" if report.kind == "linear" else f', kind="{report.kind}"'
    return (
        f"## Probe {name}\n\n"
        f'`encoder.probe("image.png", "{report.task}"{chosen})` gives the classes and their '
        "probabilities.\n\n"
        f"Fitted to labels of {report.dataset} on the frozen encoder, after it was trained. Each "
        "image was predicted by a probe that was fitted without it and its copies.\n\n"
        f"```text\n{report.table()}\n```\n\n"
        f"![confusion matrix](figures/confusion-{name}.png)\n\n"
    )


def pictures(package: Contents) -> str:
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


def uncertainty(package: Contents) -> str:
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


def content(package: Contents) -> str:
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
        "The image is the first of a random order whose undegraded version has most right "
        "neighbours by both. It was not chosen by what degradation does to it.\n"
    ) * (package.folder / "figures" / "steps.png").exists()
    return (
        f"{text}{steps}\n"
        "![precision over severity, by kind of degradation](figures/content.png)\n\n"
        f"```text\n{report.table()}\n```\n\n"
        "`fit` are the kinds that the head was fitted to, `validation` those that choices were "
        "made by, `test` those that took no part in anything. The variance is too small for "
        "degradations that look like another content, such as a strongly rotated digit.\n"
    )


def limits(package: Contents) -> str:
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
