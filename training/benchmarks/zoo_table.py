"""Print what each package of a folder reaches on its data set, beside published numbers.

    python training/benchmarks/zoo_table.py zoo/bundled --source celeba10k=FOLDER --source ...

The numbers come from the ``metrics.json`` of each package. If a package lacks some, or has numbers
of another version of the protocol, and the folder of its data set is given, its graphs are measured
again. The new report is cached in ``--cache`` by the revision of the package. The output is
markdown, one table per data set. ``docs/generate.py`` writes the same tables into the docs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import repzoo
from repzoo.packages.config import ModelConfig
from repzoo.packages.package import Package
from repzoo_training.comparison.rows import Estimate, measured_classes
from repzoo_training.comparison.table import format_estimate
from repzoo_training.data import load
from repzoo_training.evaluation import DEFAULT_GROUPS, EvaluationReport, Group, evaluate_dataset
from repzoo_training.evaluation.protocol import SUITE
from repzoo_training.objectives import METHODS
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.results.published import SOURCES, published, subject

CACHE = Path("runs/zoo-table")

#: Every group that can be measured without a run and without a file of weights.
GROUPS: tuple[Group, ...] = (*DEFAULT_GROUPS, "fid")

#: Heads of the columns by measure. A task other than the content's is part of the measure's name.
COLUMNS = {
    "knn_euclidean": "k-NN euc",
    "knn_cosine": "k-NN cos",
    "linear": "linear",
    "mlp": "MLP",
    "hair-colour mlp": "hair colour, MLP",
    "attributes mlp": "20 attributes, MLP",
    "gmm_accuracy": "GMM",
    "style_position linear_fit": "position R²",
    "style_flip linear_fit": "flip",
    "reconstruction": "MSE",
    "cnn_fid_generated": "FID of samples",
    "cnn_fid_real": "of test images",
}
PAPER = {"knn": "paper: k-NN", "mlp": "paper: MLP", "hair-colour mlp": "paper: hair colour"}

NOTES = (
    "Accuracies in per cent at the last checkpoint, ± the standard error due to the size of the "
    "test set. MSE: of pixels in [0, 1], in thousandths. Position and flip: how well a linear "
    "model predicts the crop and the mirroring of a view. FID: in features of this repository's "
    "CNN, which was trained on the labels of the data set, not in Inception's.",
    f"paper: {SOURCES['paper'].setting}.",
)


@dataclass(frozen=True)
class Row:
    """One package with its numbers and its size in bytes."""

    config: ModelConfig
    report: EvaluationReport
    size: int

    def cells(self) -> dict[str, str]:
        """Return the cells of the table's row by the head of their column."""
        facts = self.config.facts
        found = {
            "model": f"`{self.config.name}`",
            "MiB": f"{self.size / 2**20:.1f}",
            "views": f"{facts.views / 1e6:.2g} M",
            "minutes": f"{facts.wall_seconds / 60:.0f}",
            "seeds": "1",
            "D": str(self.config.latent_dim),
        }
        content = measured_classes(self.report.measures)
        for measure in self.report.measures:
            plain = measure.task in (None, content)
            name = measure.name if plain else f"{measure.task} {measure.name}"
            estimate = Estimate(measure.value, measure.standard_error, 1, measure.unit)
            if name in COLUMNS:
                found[COLUMNS[name]] = format_estimate(estimate)
        network = find_recipe(facts.recipe).network.kind
        for number in published(facts.dataset, self.config.method, network):
            if number.source == "paper" and number.task in PAPER:
                error = "" if number.error is None else f" ± {number.error:.1f}"
                found[PAPER[number.task]] = f"{number.value:.1f}{error}"
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path, help="folder of packages")
    parser.add_argument("--source", action="append", default=[], metavar="DATASET=FOLDER")
    parser.add_argument("--cache", type=Path, default=CACHE)
    arguments = parser.parse_args()
    sources = dict(source.split("=", 1) for source in arguments.source)
    print("\n\n".join(tables(read(arguments.packages, sources, arguments.cache))))


def read(packages: Path, sources: Mapping[str, str] = {}, cache: Path = CACHE) -> list[Row]:
    """Return a row per package of a folder, in the order of their names."""
    folders = sorted(path.parent for path in packages.glob("*/config.json"))
    return [row(Package.open(folder), sources, cache) for folder in folders]


def row(package: Package, sources: Mapping[str, str], cache: Path) -> Row:
    """Return the numbers of a package, measured if it lacks some and its images are available."""
    facts = package.config.facts
    metrics = json.loads((package.path / "metrics.json").read_bytes())["evaluation"]
    report = EvaluationReport.model_validate(metrics)
    kept = cache / f"{package.config.name}-{package.revision}.json"
    if report.suite != SUITE or not {*GROUPS} <= {*report.groups}:
        if kept.exists():
            report = EvaluationReport.model_validate_json(kept.read_bytes())
        elif facts.dataset in sources:
            size = package.config.input.shape
            train, test = (load(sources[facts.dataset], s, size=size) for s in ("train", "test"))
            encoder = repzoo.load(package.path)
            report = evaluate_dataset(encoder, train, test, measures=GROUPS).report
            cache.mkdir(parents=True, exist_ok=True)
            kept.write_text(report.model_dump_json(indent=2) + "\n")
    return Row(package.config, report, package.size)


def tables(rows: Iterable[Row]) -> list[str]:
    """Return a table per data set, with rows in the order of the methods, then the notes."""
    order = list(METHODS)
    by_dataset: dict[str, list[Row]] = {}
    for each in sorted(rows, key=lambda row: order.index(row.config.method)):
        by_dataset.setdefault(each.config.dataset, []).append(each)
    heads = sorted(by_dataset, key=lambda name: (subject(name) is None, name))
    shown = [_table(by_dataset[name]) for name in heads]
    return [*shown, *NOTES]


def _table(rows: Sequence[Row]) -> str:
    cells = [row.cells() for row in rows]
    costs = ("model", "MiB", "views", "minutes", "seeds", "D")
    heads = [
        head
        for head in (*costs, *COLUMNS.values(), *PAPER.values())
        if any(head in each for each in cells)
    ]
    report = rows[0].report
    content = measured_classes(report.measures)
    caption = (
        f"**{report.dataset}**: {report.n_train:,} training and {report.n_test:,} test images; "
        f"task: {content}"
    )
    if (majority := report.measure("majority", content)) is not None:
        caption += f" (the most common answer alone scores {100 * majority.value:.1f} %)"
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    lines += [[each.get(head, "") for head in heads] for each in cells]
    return caption + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
