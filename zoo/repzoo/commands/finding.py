"""`zoo find` and `zoo diff`: search and compare packages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from repzoo.cache.cache import Cache
from repzoo.catalogue.differences import Comparison, MeasurePair, compare_cards
from repzoo.catalogue.listing import Card, Listing, listings, listings_of_cache, look_up
from repzoo.catalogue.search import Condition, Criteria, parse_size
from repzoo.commands.arguments import hub_option
from repzoo.errors import InvalidInput
from repzoo.hubs.opening import open_hub
from repzoo.packages.metrics import Measure, measures
from repzoo.report import Report, format_bytes, format_table, reporting

__all__ = ["diff", "find"]


def _parse(parser: Any) -> Any:
    """Return an option callback that parses values and reports invalid ones as wrong usage."""

    def parse(_ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(map(parser, value))
            return None if value is None else parser(value)
        except InvalidInput as error:
            raise click.BadParameter(str(error)) from None

    return parse


@click.command()
@click.argument("words", metavar="[WORD]...", nargs=-1)
@hub_option
@click.option("--cached", is_flag=True, help="Search the cache instead of a hub.")
@click.option("--method", help="Training method, such as vicreg.")
@click.option("--dataset", help="Training data set, such as cifar10.")
@click.option("--task", help="Task with a probe.")
@click.option("--has-posterior", is_flag=True, help="Only models with a posterior.")
@click.option("--has-decoder", is_flag=True, help="Only models with a decoder.")
@click.option("--has-uncertainty", is_flag=True, help="Only models with a calibrated uncertainty.")
@click.option(
    "--max-size",
    metavar="SIZE",
    callback=_parse(parse_size),
    help="Largest size of the package, such as 50MB.",
)
@click.option(
    "--metric",
    "conditions",
    metavar="BOUND",
    multiple=True,
    callback=_parse(Condition.parse),
    help="Condition such as 'knn>0.9' or 'reconstruction<0.02'. Results are sorted by the first.",
)
@click.option(
    "--sort",
    type=click.Choice(["metric", "name", "size"]),
    help="Sort order.  [default: metric if --metric is given, otherwise name]",
)
@reporting
def find(
    words: tuple[str, ...],
    hub_spec: str | None,
    cached: bool,
    sort: str | None,
    **criteria: Any,
) -> Report:
    """Find packages by their properties and metrics.

    Every WORD must occur in the name, the summary or the recipe. Metrics are named as in zoo diff,
    or by the first part of their name: knn is the better of knn_cosine and knn_euclidean.
    """
    wanted = Criteria(text=" ".join(words) or None, **criteria)
    if cached and hub_spec is not None:
        raise click.UsageError("--cached cannot be combined with --hub")
    if sort == "metric" and not wanted.conditions:
        raise click.UsageError("--sort metric requires --metric")
    cache = Cache()
    if cached:
        where, lines = f"the cache {cache.path}", listings_of_cache(cache)
    else:
        hub = open_hub(hub_spec)
        where, lines = hub.spec, listings(hub, cache)
    found = [(line, line.card) for line in lines if line.card and wanted.fits(line.card)]
    found.sort(key=lambda each: _rank(each[1], wanted, sort))
    if not found:
        return Report([], _no_match(where, lines, wanted))
    header = ["NAME", "REVISION", "SIZE", "METHOD", "DATA", "DIM", "HAS"]
    header += [condition.name.upper() for condition in wanted.conditions]
    return Report(
        [_data(line, card, wanted) for line, card in found],
        format_table((_row(card, wanted) for _, card in found), header),
    )


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@hub_option
@click.option("--all", "everything", is_flag=True, help="Also show what is equal.")
@reporting
def diff(a: str, b: str, hub_spec: str | None, everything: bool) -> Report:
    """Compare the config, metrics and files of two packages.

    A and B are NAME[@REV], hf://ORG/NAME[@REV] or a path. Lines that differ start with ≠, or with ≈
    if they differ by at most two standard errors. An asterisk marks the better of two numbers that
    were measured on the same data with the same protocol.
    """
    cache = Cache()
    one, two = (look_up(each, hub_spec, cache) for each in (a, b))
    result = compare_cards(one.card, two.card)
    sides = [
        {"name": each.card.config.name, "revision": each.card.revision, "from": each.where}
        for each in (one, two)
    ]
    data = {
        "a": sides[0],
        "b": sides[1],
        "config": {
            key: {"a": left, "b": right, "same": left == right}
            for key, (left, right) in result.config.items()
        },
        "metrics": {pair.key: _pair_data(pair) for pair in result.measures},
        "files": {
            "added": list(result.added),
            "removed": list(result.removed),
            "changed": list(result.changed),
            "unchanged": list(result.unchanged),
        },
    }
    heads = [f"{side['name']} {side['revision'][:12]}" for side in sides]
    return Report(data, _describe(result, heads, one.card, two.card, everything))


def _rank(card: Card, wanted: Criteria, sort: str | None) -> Any:
    name = card.config.name
    if sort == "name" or (sort is None and not wanted.conditions):
        return name
    if sort == "size":
        return card.manifest.size, name
    first = wanted.conditions[0]
    measure = first.best(measures(card.metrics), wanted.task)
    assert measure is not None
    return (measure.value if first.sign.startswith("<") else -measure.value), name


def _row(card: Card, wanted: Criteria) -> tuple[str, ...]:
    config, found = card.config, measures(card.metrics)
    return (
        config.name,
        card.revision[:12],
        format_bytes(card.manifest.size),
        config.method,
        config.dataset,
        str(config.latent_dim),
        card.abilities or "-",
        *(_number(condition.best(found, wanted.task)) for condition in wanted.conditions),
    )


def _data(line: Listing, card: Card, wanted: Criteria) -> dict[str, Any]:
    found = measures(card.metrics)
    best = (condition.best(found, wanted.task) for condition in wanted.conditions)
    return line.data() | {
        "dataset": card.config.dataset,
        "metrics": {measure.key: measure.value for measure in best if measure is not None},
    }


def _no_match(where: str, lines: Sequence[Listing], wanted: Criteria) -> str:
    """Say that no package matches, and list the existing values of the requested properties."""
    cards = [line.card for line in lines if line.card is not None]
    known = {}
    if wanted.method is not None:
        known["methods"] = {card.config.method for card in cards}
    if wanted.dataset is not None:
        known["data sets"] = {card.config.dataset for card in cards}
    if wanted.task is not None:
        known["tasks"] = {probe.task for card in cards for probe in card.config.probes}
    if wanted.conditions:
        known["metrics"] = {key for card in cards for key in measures(card.metrics)}
    hints = [f"\n{what}: {', '.join(sorted(names)) or 'none'}" for what, names in known.items()]
    return f"None of the {len(lines)} packages in {where} matches.{''.join(hints)}"


def _pair_data(pair: MeasurePair) -> dict[str, Any]:
    return {
        "a": None if pair.a is None else pair.a.value,
        "b": None if pair.b is None else pair.b.value,
        "same": pair.same,
        "comparable": pair.comparable,
        "better": pair.better,
        "within_error": pair.within_error,
    }


def _describe(result: Comparison, heads: list[str], a: Card, b: Card, everything: bool) -> str:
    rows = [("", "", heads[0], heads[1])]

    def section(title: str, lines: list[tuple[str, str, str, str]]) -> None:
        shown = [line for line in lines if everything or line[0]]
        if shown:
            rows.extend([("", "", "", ""), ("", title, "", ""), *shown])

    section(
        "CONFIG",
        [
            ("" if left == right else "≠", key, _value(left), _value(right))
            for key, (left, right) in result.config.items()
        ],
    )
    section(
        "METRICS",
        [
            (
                "" if pair.same else "≈" if pair.within_error else "≠",
                pair.key,
                _number(pair.a) + (" *" if pair.better == "a" else ""),
                _number(pair.b) + (" *" if pair.better == "b" else ""),
            )
            for pair in result.measures
        ],
    )
    changed = {*result.added, *result.removed, *result.changed}
    section(
        "FILES",
        [
            ("≠" if name in changed else "", name, _file(a, name), _file(b, name))
            for name in sorted({*changed, *result.unchanged})
        ],
    )
    if len(rows) == 1:
        return f"{heads[0]} and {heads[1]} are equal."
    return format_table(rows)


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def _number(measure: Measure | None) -> str:
    if measure is None:
        return "-"
    error = "" if measure.standard_error is None else f" ± {measure.standard_error:.2g}"
    return f"{measure.value:.4g}{error}"


def _file(card: Card, name: str) -> str:
    entry = card.manifest.files.get(name)
    return "-" if entry is None else f"{format_bytes(entry.size)}, {entry.sha256[:8]}"
