"""Render the model card of a package, its ``README.md``, from the other files of the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from repzoo_training.export.card import measured
from repzoo_training.export.card.contents import Contents, title_of
from repzoo_training.export.card.details import details
from repzoo_training.export.card.front_matter import front_matter
from repzoo_training.export.card.usage import usage

__all__ = ["render_card", "write_card"]

_PAPERS = Path(__file__).with_name("papers.bib")


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
    package = Contents.read(folder)
    config = package.config
    front = yaml.safe_dump(front_matter(package), sort_keys=False, allow_unicode=True)
    summary = config.summary or f"{title_of(config)} on {config.dataset}"
    sections = [
        f"---\n{front}---\n",
        f"# {config.name}\n\n{summary}. An image encoder of the repzoo zoo.\n",
        "".join(f"> {note}\n" for note in package.notes),
        usage(config),
        "## Model details\n\n" + details(package),
        "## Evaluation\n\n" + measured.evaluation(package),
        "".join(map(measured.probe, package.probes)),
        measured.pictures(package),
        measured.uncertainty(package),
        measured.content(package),
        "## Out-of-scope use\n\n" + measured.limits(package),
        _citation(config.paper),
    ]
    return "\n".join(filter(None, sections))


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
