"""Write the result tables of the documentation between their markers.

    python docs/generate.py            # rewrite README.md and docs/**/*.md
    python docs/generate.py --check    # exit with 1 if a page is stale

A page marks the place of a table:

    <!-- begin: results/NAME -->
    <!-- end -->

NAME is a CSV file in ``docs/results`` or one of the tables in ``COMPUTED``, which come from the
packages in ``zoo/bundled``, the server's code, and the data that ships with
``repzoo_training.results``.

A CSV file has one row per number. The columns before ``measure`` say what was measured; those that
are the same in every row become the table's caption. ``value`` may have a ``standard_error``, an
interval ``low`` to ``high``, and a ``note``. Numbers are printed as they are written.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from repzoo.packages.config import ModelConfig
from repzoo_client._wire import error_type
from repzoo_serving.configuration import variable
from repzoo_serving.http.problems import KINDS
from repzoo_serving.settings import SECTIONS, Settings
from repzoo_serving.telemetry.logs import MEMBERS
from repzoo_serving.telemetry.metrics import FAMILIES
from repzoo_training.objectives import METHODS
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.results.published import SOURCES
from repzoo_training.results.published import rows as published_rows
from repzoo_training.results.reached import rows as reached_rows

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
BUNDLED = ROOT / "zoo" / "bundled"

sys.path.insert(0, str(ROOT / "training" / "benchmarks"))
import zoo_table  # noqa: E402 - a script beside the package

_MARKED = re.compile(r"(<!-- begin: results/(\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

Rows = Sequence[Mapping[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; fail if stale")
    check = parser.parse_args().check
    stale = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text()
        if (new := fill(text)) != text:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(new)
    if stale:
        print(f"{'stale' if check else 'rewritten'}: {', '.join(stale)}")
    if stale and check:
        sys.exit("run `python docs/generate.py` and commit the result")


def fill(text: str) -> str:
    """Return a page with every marked table written anew."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{table(found[2])}\n\n{found[3]}", text)


def table(name: str) -> str:
    """Return the markdown of a table."""
    if name in COMPUTED:
        return COMPUTED[name]()
    path = RESULTS / f"{name}.csv"
    if not path.is_file():
        known = sorted([*COMPUTED, *(path.stem for path in RESULTS.glob("*.csv"))])
        sys.exit(f"results/{name} does not exist; choose from {', '.join(known)}")
    with path.open(newline="") as file:
        return pivot(list(csv.DictReader(file)))


def pivot(rows: Rows) -> str:
    """Return a table with a row per thing measured and a column per measure."""
    names = list(rows[0])
    about = names[: names.index("measure")]
    constant = {name: rows[0][name] for name in about if len({row[name] for row in rows}) == 1}
    varying = [name for name in about if name not in constant]
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        cells.setdefault(tuple(row[name] for name in varying), {})[row["measure"]] = number(row)
    body = [
        [*map(grouped, key), *(of_key.get(measure, "") for measure in measures)]
        for key, of_key in cells.items()
    ]
    command = constant.pop("command", "")
    caption = "; ".join(f"{name}: {grouped(value)}" for name, value in constant.items() if value)
    parts = [caption, markdown([*varying, *measures], body, text=len(varying))]
    return "\n\n".join(filter(None, [*parts, f"```sh\n{command}\n```" if command else ""]))


def number(row: Mapping[str, str]) -> str:
    text = grouped(row["value"])
    if row.get("standard_error"):
        text += f" ± {row['standard_error']}"
    if row.get("low"):
        text += f" [{row['low']}, {row['high']}]"
    return f"{text} ({row['note']})" if row.get("note") else text


def grouped(text: str) -> str:
    """Return a whole number with commas, and any other text as it is."""
    return f"{int(text):,}" if text.isdigit() and len(text) > 4 else text


def markdown(heads: Sequence[str], body: Iterable[Sequence[str]], *, text: int = 1) -> str:
    """Return a markdown table whose first ``text`` columns are aligned to the left."""
    rule = ["---"] * text + ["---:"] * (len(heads) - text)
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *body))


def zoo() -> str:
    return "\n\n".join(zoo_table.tables(zoo_table.read(BUNDLED)))


def zoo_summary() -> str:
    """One row per bundled model, with a link to its card."""
    body = []
    for row in zoo_table.read(BUNDLED):
        cells, name = row.cells(), row.config.name
        knn = zoo_table.COLUMNS[f"knn_{row.config.metric}"]
        body.append(
            [
                f"[{name}](zoo/bundled/{name}/README.md)",
                row.config.training.dataset,
                *(cells[head] for head in (knn, "MLP", "MiB")),
            ]
        )
    heads = ["model", "data set", "k-NN, %", "MLP probe, %", "MiB"]
    return markdown(heads, body, text=2)


def commands() -> str:
    """The command that trained each bundled package: its recipe, and what differs from it."""
    lines = []
    for path in sorted(BUNDLED.glob("*/metrics.json")):
        recipe = json.loads(path.read_bytes())["training"]["recipe"]
        standard = find_recipe(recipe["name"]).model_dump(mode="json")
        changes = "".join(f" --set {key}={value}" for key, value in _changes(recipe, standard))
        family = recipe["name"].partition("-")[2].removesuffix("-conv")
        lines.append(
            f"zoo train {recipe['name']} --data {_SOURCES.get(family, family)} "
            f"--views {recipe['views']}{changes}"
        )
    return "```sh\n" + "\n".join(lines) + "\n```"


#: What `--data` is called where it is not the last part of the recipe's name.
_SOURCES = {"celeba": "celeba10k/"}

#: Fields of a recipe that do not change what a run learns, and its views.
_DESCRIBING = {"name", "summary", "notes", "paper", "licence", "precision", "share_images", "views"}


def _changes(
    recipe: Mapping[str, Any], standard: Mapping[str, Any], parents: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield the settings of a recipe that differ from another. Settings it lacks are newer."""
    for key in sorted(recipe.keys() & standard.keys() - _DESCRIBING):
        mine, other, name = recipe[key], standard[key], f"{parents}{key}"
        if isinstance(mine, dict) and isinstance(other, dict):
            yield from _changes(mine, other, f"{name}.")
        elif mine != other:
            yield name, json.dumps(mine, separators=(",", ":"))


def methods() -> str:
    """Every method by its two-minute recipe, one group of columns per data set."""
    rows = [row for row in reached_rows() if row["budget"].startswith("2 minutes")]
    names = {"linear": "linear", "mlp": "MLP"}
    renamed = [
        {
            "method": METHODS[row["method"]].title,
            "k-NN by": METHODS[row["method"]].metric,
            "seeds": row["seeds"],
            "budget": row["budget"],
            "command": row["command"],
            "measure": f"{row['dataset']} {names.get(row['measure'], 'k-NN')}, %",
            "value": row["value"],
            "standard_error": row["standard_error"],
        }
        for row in rows
    ]
    return pivot(renamed)


def published() -> str:
    """All published numbers, one table per source."""
    parts = []
    for source, about in SOURCES.items():
        rows = [
            {**row, "method": METHODS[row["method"]].title, "measure": _measure(row)}
            for row in published_rows()
            if row["source"] == source
        ]
        short = [
            {name: row[name] for name in ("method", "measure", "value", "standard_error")}
            for row in rows
        ]
        parts += [f"**{about.title}**: {about.setting}.", pivot(short)]
    return "\n\n".join(parts)


def _measure(row: Mapping[str, str]) -> str:
    return f"{row['dataset']} {row['task'].replace('knn', 'k-NN').replace('mlp', 'MLP')}, %"


def uncertainty(kind: str) -> str:
    """The calibration of every bundled package whose uncertainty is about ``kind``."""
    rows = []
    for path in sorted(BUNDLED.glob("*/metrics.json")):
        config = ModelConfig.read(path.with_name("config.json"))
        report = json.loads(path.read_bytes())["uncertainty"]
        if config.uncertainty is None or not config.uncertainty.probability_of.endswith(kind):
            continue
        scores = {score["name"]: score for score in report["scores"]}
        own, rises = scores["uncertainty"], report["corruptions"].values()
        falls = (a - b for curve in rises for a, b in pairwise(curve["uncertainty"]))
        row = {
            "model": f"`{config.name}`",
            "wrong neighbours, %": f"{100 * report['wrong']:.1f}",
            "R-AUROC": interval(own["r_auroc"], 3),
        }
        for name, title in (
            ("variance", "raw variance"),
            ("reconstruction", "reconstruction error"),
            ("vote", "vote of 10 neighbours"),
            ("ratio", "ratio of distances"),
        ):
            row[f"R-AUROC, {title}"] = f"{scores[name]['r_auroc'][0]:.3f}" if name in scores else ""
        row |= {
            "calibration error": f"{own['calibration_error']:.3f}",
            "OOD AUROC": ", ".join(
                f"{value[0]:.3f} ({name})"
                for name, value in own["outside"].items()
                if name.split()[0] not in report["corruptions"]
            ),
            "gain, clean": interval(own["gain"], 2),
            "gain, corrupted": interval(own["gain_corrupted"], 2),
            "largest fall": f"{max(0.0, *falls):.2f}",
        }
        rows.append(row)
    heads = [head for head in rows[0] if any(row.get(head) for row in rows)] if rows else ["model"]
    return markdown(heads, [[row.get(head, "") for head in heads] for row in rows])


def content() -> str:
    """The content posterior of every bundled package that has one."""
    rows = []
    for path in sorted(BUNDLED.glob("*/metrics.json")):
        report = json.loads(path.read_bytes()).get("content")
        if report is None:
            continue
        of = {g: [r for r in report["rows"] if r["group"] == g] for g in ("clean", "fit", "test")}
        row = {"model": f"`{report['model']}`"}
        for group, title in (("clean", "undegraded"), ("fit", "fitted kinds"), ("test", "unseen")):
            plain, robust = (
                fmean(each["precision"][name] for each in of[group])
                for name in ("euclidean", "mean")
            )
            row[f"precision@10, {title}, %"] = f"{plain:.1f} → {robust:.1f}"
        for group, title in (("fit", "fitted"), ("validation", "validation"), ("test", "unseen")):
            share = report["recovered"][group]
            row[f"recovered, {title}"] = interval([share[k] for k in ("value", "low", "high")], 2)
        known = [each for each in of["fit"] if each["severity"] <= 4] + of["clean"]
        for name, title in (("coverage", "90 % regions"), ("joint", "90 % regions, joint")):
            shares = [each[name][1] for each in known]
            unseen = fmean(each[name][1] for each in of["test"])
            row[title] = f"{min(shares):.2f} to {max(shares):.2f}; {unseen:.2f}"
        row["errors, Spearman"] = f"{report['error_correlation']:.2f}"
        if report["uncertainty_auroc"] is not None:
            values = (report["former_auroc"], report["uncertainty_auroc"])
            row["wrong neighbours, AUROC of the uncertainty"] = " → ".join(
                f"{value:.3f}" for value in values if value is not None
            )
        rows.append(row)
    heads = list(rows[0]) if rows else ["model"]
    return markdown(heads, [[row.get(head, "") for head in heads] for row in rows])


def ranking() -> str:
    """precision@10 by model, gallery and queries; a column per ranking that differs from others."""
    titles = {
        ("encoder", "mean"): "`mean`",
        ("encoder", "trusted"): "`trusted`",
        ("content", "mean"): "`mean`, content",
        ("content", "trusted"): "`trusted`, content",
        ("content", "robust"): "`robust`",
        ("content", "robust, no log"): "`robust` without log",
    }
    with (RESULTS / "ranking.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] in _WHOLE]
    body: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        key = (f"`{row['model']}`", _gallery(row), _WHOLE[row["kind"]].format(row["list"]))
        if row["gallery"] != "undegraded" and key[1:] != ("half degraded (fit)", "fit kinds"):
            continue  # in the file only; the table is long enough
        cells = body.setdefault(key, {})
        title = titles.get((row["posterior"], row["metric"]))
        if title is not None and row["measure"] == "precision@10, %":
            cells[title] = f"{float(row['value']):.1f}"
        if title == "`robust`" and row["measure"] == "gain over trusted":
            values = (float(row[name]) for name in ("value", "low", "high"))
            cells["`robust` − `trusted`"] = interval([*values], 1)
        if title == "`robust`" and row["measure"] == "recall@10, %":
            cells["recall, %"] = f"{float(row['value']):.1f}"
    heads = [*titles.values(), "`robust` − `trusted`", "recall, %"]
    lines = [[*key, *(cells.get(head, "") for head in heads)] for key, cells in body.items()]
    return markdown(["model", "gallery", "queries", *heads], lines, text=3)


#: Names of the queries whose results are not of a single kind.
_WHOLE = {"undegraded": "undegraded", "mean of kinds": "{} kinds"}


def _gallery(row: Mapping[str, str]) -> str:
    return row["gallery"] + (f" ({row['list']})" if row["gallery"] != "undegraded" else "")


def interval(values: Sequence[float], digits: int) -> str:
    value, low, high = (f"{each:.{digits}f}" for each in values)
    return f"{value} [{low}, {high}]"


def server_settings() -> str:
    """One row per setting of the server."""
    body = []
    for name in (name for names in SECTIONS.values() for name in names):
        field = Settings.model_fields[name]
        default = "" if field.default in (None, ()) else field.default
        shown = ",".join(default) if isinstance(default, tuple) else f"{default}"
        body.append([f"`{variable(name)}`", shown.removesuffix(".0"), field.description or ""])
    return markdown(["variable", "default", "meaning"], body, text=3)


def server_metrics() -> str:
    """One row per metric of the server."""
    body = [
        [f"`{each.name}`", each.type, ", ".join(f"`{x}`" for x in each.labels), each.meaning]
        for each in FAMILIES
    ]
    return markdown(["metric", "type", "labels", "meaning"], body, text=4)


def server_logs() -> str:
    """One row per member of the server's log lines."""
    events = {"any": "all", "request": "requests", "log": "other lines"}
    body = [
        [f"`{name}`", events[event], meaning]
        for event, members in MEMBERS.items()
        for name, meaning in members.items()
    ]
    return markdown(["member", "in", "meaning"], body, text=3)


def http_errors() -> str:
    """One row per kind of problem of the server's HTTP API."""
    body = [
        [
            f"`{name}`",
            str(kind.status),
            kind.meaning,
            kind.action,
            f"`{error_type(f'urn:repzoo:problem:{name}', kind.status).__name__}`",
        ]
        for name, kind in KINDS.items()
    ]
    heads = ["`type`, after `urn:repzoo:problem:`", "status", "meaning", "what to do"]
    return markdown([*heads, "in the Python client"], body, text=5)


COMPUTED: Mapping[str, Callable[[], str]] = {
    "zoo": zoo,
    "zoo-summary": zoo_summary,
    "commands": commands,
    "methods": methods,
    "published": published,
    "content": content,
    "http-errors": http_errors,
    "ranking": ranking,
    "server-logs": server_logs,
    "server-metrics": server_metrics,
    "server-settings": server_settings,
    "uncertainty": lambda: uncertainty("another label"),
    "uncertainty-answers": lambda: uncertainty("same picture, undegraded"),
}

if __name__ == "__main__":
    main()
