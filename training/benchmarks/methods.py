"""Train and evaluate every method with the same budget, and print tables.

    python training/benchmarks/methods.py --dataset mnist --budget 2m --out runs/methods

Each run is ``zoo train`` and ``zoo evaluate`` with the recipe METHOD-DATASET on one CPU thread, and
``zoo compare`` prints the tables. If there are several data sets, a table of all of them comes
last. Finished runs are skipped and interrupted ones are resumed, so the command can be repeated.
``--source mnist=FOLDER`` reads a data set from a folder instead of downloading it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from repzoo_training.comparison import Board, Images, boards, measure_runs
from repzoo_training.comparison.table import format_estimate
from repzoo_training.objectives import METHODS
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.recipes.registry import list_recipes

ZOO = str(Path(sys.executable).with_name("zoo"))

#: The default source of each family of recipes.
SOURCES = {"mnist": "mnist", "fashion-mnist": "fashion-mnist", "cifar10-mlp": "cifar10"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=SOURCES, action="append", help="default: all")
    parser.add_argument("--method", choices=METHODS, action="append", help="default: all")
    parser.add_argument("--budget", default="2m", help="per run")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="concurrent runs, one core each")
    parser.add_argument("--source", action="append", default=[], metavar="DATASET=FOLDER")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    arguments = parser.parse_args()
    sources = SOURCES | dict(source.split("=", 1) for source in arguments.source)
    runs = [
        (recipe, seed, arguments.out / f"{recipe.name}-{seed}", sources[dataset])
        for dataset in arguments.dataset or SOURCES
        for recipe in recipes(dataset, arguments.method or METHODS)
        for seed in range(arguments.seeds)
    ]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        failed = [run for run in pool.map(lambda run: one(*run, arguments.budget), runs) if run]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    folders = [str(folder) for *_, folder, _ in runs]
    subprocess.run(
        [ZOO, "compare", *folders, "--format", "markdown", "--out", str(arguments.out / "figures")],
        check=True,
    )
    compared = boards(measure_runs([*map(Path, folders)], Images(), ("knn", "linear", "mlp")))
    if len(compared) > 1:
        print(overview(compared))


def overview(compared: Sequence[Board]) -> str:
    """Return a markdown table with one row per method: k-NN, linear and MLP probe per data set."""
    head = ["method", "k-NN by"]
    cells: dict[str, list[str]] = {method: [] for method in METHODS}
    for board in compared:
        dim = board.rows[0].first.report.dim
        head += [f"{board.dataset}, D = {dim}: k-NN", "linear", "MLP"]
        for row in board.rows:
            knn = f"knn_{METHODS[row.method].metric}"
            cells[row.method] += [
                format_estimate(row.estimates.get(name)) for name in (knn, "linear", "mlp")
            ]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    lines += [[METHODS[m].title, METHODS[m].metric, *row] for m, row in cells.items() if row]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def recipes(dataset: str, methods: Mapping[str, object] | list[str]) -> Iterator[Recipe]:
    """Yield the recipe METHOD-DATASET of each method, in the order of the registry."""
    known = {recipe.name: recipe for recipe in list_recipes()}
    yield from (known[f"{method}-{dataset}"] for method in METHODS if method in methods)


def one(recipe: Recipe, seed: int, folder: Path, source: str, budget: str) -> str | None:
    """Train and evaluate one run; return its name if it failed, else None."""
    # The untrained encoder needs no budget: its recipe has very few views.
    time = [] if recipe.method == "random" else ["--budget", budget]
    train = [
        *(ZOO, "train", recipe.name, "--data", source, "--out", str(folder)),
        *("--seed", str(seed), "--threads", "1", *time),
    ]
    for command in (train, [ZOO, "evaluate", str(folder)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        with folder.with_suffix(".log").open("a") as log:
            log.write(done.stdout + done.stderr)
        if done.returncode:
            print(f"{folder.name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            return folder.name
    print(f"{folder.name}: done", file=sys.stderr)
    return None


if __name__ == "__main__":
    main()
