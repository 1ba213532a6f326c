"""Format a comparison as a text table, a markdown table, or plain values for JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from repzoo.report import lay_out

from repzoo_training.comparison.rows import Board, Estimate, Row
from repzoo_training.objectives import find_method
from repzoo_training.results.published import SIZES, SOURCES, subject

__all__ = ["Format", "board_data", "board_table", "format_estimate"]

Format: TypeAlias = Literal["text", "markdown"]

#: Short names of measures in the order of the columns. Other measures keep their names.
NAMES = {
    "knn_cosine": "k-NN cos",
    "knn_euclidean": "k-NN euc",
    "linear": "linear",
    "mlp": "MLP",
    "gmm_accuracy": "GMM",
    "gmm_nmi": "NMI",
    "style_position linear_fit": "position R²",
    "style_scale linear_fit": "scale R²",
    "style_flip linear_fit": "flip",
    "style_colour linear_fit": "colour R²",
    "style_crop invariance": "invariance to crops",
    "style_colour invariance": "to colour",
    "reconstruction": "own MSE",
    "decoder_reconstruction": "frozen MSE",
}
#: Variants of other measures. JSON has them, but the table has no room for them.
_LEFT_OUT = (
    "gmm_ari",
    *(f"style_{task} knn_fit" for task in ("position", "scale", "flip", "colour")),
)
#: A baseline for all accuracies, which does not depend on the method and is printed once.
BASELINE = "majority"
_TASKS = {"knn": "k-NN", "linear": "linear", "mlp": "MLP", "hair-colour mlp": "hair colour, MLP"}


@dataclass(frozen=True)
class _Column:
    head: str
    cells: tuple[str, ...]
    number: bool = True

    @property
    def empty(self) -> bool:
        return not any(self.cells)

    @property
    def constant(self) -> bool:
        return len(set(self.cells)) == 1


def board_table(board: Board, form: Format = "text", width: int | None = None) -> str:
    """Return a title, a table with one row per method and budget, and notes on its numbers.

    Facts that are the same in every row are part of the title instead of a column.

    Args:
        board: The rows.
        form: The format.
        width: The length of the lines of a text table that has more columns than fit.
    """
    facts, costs = [], []
    for column in _costs(board.rows):
        if column.constant and len(board.rows) > 1:
            facts.append(f"{column.head} {column.cells[0]}")
        else:
            costs.append(column)
    numbers = [
        column
        for column in (*_measures(board), *_collapse(board.rows), *_published(board.rows))
        if not column.empty
    ]
    labels = tuple(row.label + _mark(row) for row in board.rows)
    columns = [_Column("method", labels, number=False), *costs, *numbers]
    title = f"{board.dataset}: {board.n_train:,} training and {board.n_test:,} test images"
    facts = [title, *facts, *_baseline(board)]
    notes = _notes(board)
    if form == "markdown":
        head, *rest = facts
        caption = f"**{head}**" + "".join(f"; {fact}" for fact in rest)
        return "\n\n".join([caption, _markdown(columns), *notes]) + "\n"
    return "\n".join(["; ".join(facts), "", _text(columns, width), "", *notes]) + "\n"


def board_data(board: Board) -> dict[str, Any]:
    """Return all numbers as plain values, unrounded."""
    report = board.rows[0].first.report
    return {
        "dataset": board.dataset,
        "n_train": board.n_train,
        "n_test": board.n_test,
        "train_sha256": report.train_sha256,
        "test_sha256": report.test_sha256,
        "content": board.content,
        "rows": [_row_data(row) for row in board.rows],
    }


def format_estimate(estimate: Estimate | None) -> str:
    """Format as ``97.7 ± 0.2``: accuracies in per cent, squared errors in thousandths."""
    if estimate is None:
        return ""
    scale, digits = {"accuracy": (100, 1), "mean squared error": (1000, 1)}.get(
        estimate.unit, (1, 2)
    )
    value = round(scale * estimate.value, digits) + 0.0  # no -0.00
    return f"{value:.{digits}f} ± {scale * estimate.error:.{digits}f}"


def _row_data(row: Row) -> dict[str, Any]:
    recipe = row.first.recipe
    return {
        "label": row.label,
        "method": row.method,
        "family": find_method(row.method).family,
        "recipe": recipe.name,
        "seeds": [run.recipe.seed for run in row.runs],
        "dim": recipe.latent_dim,
        "network": recipe.network.model_dump(mode="json"),
        "views_per_image": recipe.views_per_image,
        "views": [run.views for run in row.runs],
        "wall_seconds": [run.wall_seconds for run in row.runs],
        "devices": [run.record.device_name for run in row.runs],
        "unfinished": [run.unfinished for run in row.runs],
        "collapse": [run.collapse for run in row.runs],
        "measures": {
            name: {
                "value": each.value,
                "standard_error": each.error,
                "standard_error_of": "seeds" if each.seeds > 1 else "test set",
            }
            for name, each in row.estimates.items()
        },
        "published": [
            {
                "source": SOURCES[each.source].title,
                "setting": SOURCES[each.source].setting,
                "task": each.task,
                "per_cent": each.value,
                "standard_error": each.error,
            }
            for each in row.published
        ],
    }


def _costs(rows: Sequence[Row]) -> list[_Column]:
    def column(head: str, cell: Callable[[Row], str], *, number: bool = True) -> _Column:
        return _Column(head, tuple(map(cell, rows)), number)

    return [
        column("encoder", lambda row: _network(row), number=False),
        column("D", lambda row: str(row.first.report.dim)),
        column("J", lambda row: str(row.first.recipe.views_per_image)),
        column("views", lambda row: _range([run.views for run in row.runs], _count)),
        column("time", lambda row: _range([run.wall_seconds for run in row.runs], _duration)),
        column("device", lambda row: row.first.record.device_name, number=False),
        column("seeds", lambda row: str(len(row.runs))),
    ]


def _measures(board: Board) -> list[_Column]:
    found = dict.fromkeys(
        name for row in board.rows for name in row.estimates if name not in (BASELINE, *_LEFT_OUT)
    )
    names = [*(name for name in NAMES if name in found), *(n for n in found if n not in NAMES)]
    return [
        _Column(
            NAMES.get(name, name.replace("_", " ")),
            tuple(format_estimate(row.estimates.get(name)) for row in board.rows),
        )
        for name in names
    ]


def _collapse(rows: Sequence[Row]) -> list[_Column]:
    def cell(row: Row, name: str) -> str:
        if not all(name in run.collapse for run in row.runs):
            return ""
        return f"{row.average(lambda run: float(run.collapse[name])):.1f}"

    return [
        _Column(head, tuple(cell(row, name) for row in rows))
        for head, name in (("RankMe", "rankme"), ("eff. rank", "effective_rank"))
    ]


def _published(rows: Sequence[Row]) -> list[_Column]:
    kinds = dict.fromkeys((each.source, each.task) for row in rows for each in row.published)
    columns = []
    for source, task in kinds:
        cells = []
        for row in rows:
            found = [p for p in row.published if (p.source, p.task) == (source, task)]
            error = f" ± {found[0].error:.1f}" if found and found[0].error is not None else ""
            cells.append(f"{found[0].value:.1f}{error}" if found else "")
        columns.append(_Column(f"{SOURCES[source].title}: {_TASKS[task]}", tuple(cells)))
    return columns


def _baseline(board: Board) -> list[str]:
    baseline = board.rows[0].estimates.get(BASELINE)
    if baseline is None:
        return []
    what = {"class": "class", "attributes": "answer"}.get(str(board.content), "answer")
    return [f"always the most common {what}: {100 * baseline.value:.1f} %"]


def _notes(board: Board) -> list[str]:
    seeds = {len(row.runs) for row in board.rows}
    one = "± is the standard error due to the size of the test set, one seed"
    several = "± is the standard error over seeds"
    if seeds == {1}:
        errors = one + "."
    elif 1 in seeds:
        errors = f"{several}, or with one seed that due to the size of the test set."
    else:
        errors = several + "."
    content = {"class": "", "attributes": " They are averages over all attributes.", None: ""}
    of = content.get(board.content, f" The task is {board.content}.")
    notes = [f"Accuracies in per cent, last checkpoint, frozen representation.{of} {errors}"]
    notes += _meanings(board)
    if any(row.collapsed for row in board.rows):
        notes.append("!! collapsed during training.")
    if any(run.unfinished for row in board.rows for run in row.runs):
        notes.append("* unfinished: trained on fewer views than the recipe plans.")
    sources = dict.fromkeys(each.source for row in board.rows for each in row.published)
    settings = {SOURCES[source].setting: SOURCES[source].title for source in sources}
    notes += [f"{title.split(',')[0]}: {setting}." for setting, title in settings.items()]
    sizes = SIZES.get(subject(board.dataset) or "")
    if sources and sizes not in (None, (board.n_train, board.n_test)):
        notes.append(
            "Published numbers are about all {:,} training and {:,} test images.".format(*sizes)
        )
    return notes


def _meanings(board: Board) -> list[str]:
    """Explain the columns whose headings are not clear on their own."""
    there = {name for row in board.rows for name in row.estimates}
    meanings = (
        ("gmm_accuracy", "GMM and NMI measure clusters found without labels"),
        (
            "style_position linear_fit",
            "position, scale, flip: how well a linear model predicts the crop and flip of a view",
        ),
        (
            "style_colour linear_fit",
            "colour: the same for brightness, contrast, saturation and hue of a view",
        ),
        (
            "style_crop invariance",
            "invariance: 1 if all views of an image have one embedding, 0 if they are as far apart "
            "as different images",
        ),
        ("reconstruction", "MSE of pixels in [0, 1], in thousandths"),
        ("decoder_reconstruction", "frozen MSE: of a decoder trained on the frozen representation"),
    )
    said = [meaning for name, meaning in meanings if name in there]
    watched = any(row.first.collapse for row in board.rows)
    if watched:
        said.append("RankMe and effective rank: last values from training")
    return ["; ".join(said) + "."] if said else []


def _mark(row: Row) -> str:
    return " !!" * row.collapsed + " *" * any(run.unfinished for run in row.runs)


def _network(row: Row) -> str:
    spec = row.first.recipe.network
    if spec.options:  # a user's own network
        return " ".join([spec.kind, *(f"{key}={value}" for key, value in spec.options.items())])
    return f"{spec.kind} {'-'.join(map(str, spec.widths))}"


def _range(values: Sequence[float], form: Callable[[float], str]) -> str:
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low}–{high}"


def _count(value: float) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.0f}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < 6000 else f"{seconds / 3600:.1f}h"


def _markdown(columns: Sequence[_Column]) -> str:
    lines = [
        [column.head for column in columns],
        ["---:" if column.number else "---" for column in columns],
        *zip(*(column.cells for column in columns), strict=True),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(columns: Sequence[_Column], width: int | None) -> str:
    cells = [(column.head, *column.cells) for column in columns]
    numbers = {i for i, column in enumerate(columns) if column.number}
    return lay_out(cells, numbers, width)
