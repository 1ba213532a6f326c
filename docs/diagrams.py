"""Draw the diagrams and a chart of the documentation, in one style, as SVG in ``docs/diagrams``.

    python docs/diagrams.py            # rewrite docs/diagrams/*.svg
    python docs/diagrams.py --check    # exit with 1 if a file is stale

The files need no script, font or other file. They are narrow enough for a phone, and follow the
reader's preference for light or dark.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

FOLDER = Path(__file__).with_name("diagrams")
BUNDLED = Path(__file__).parents[1] / "zoo" / "bundled"

WIDTH = 440
_MARGIN = 16
_BOX = 286  # the width of a step
_LINE = 17  # the height of a line of text
_GAP = 26  # between two steps

_STYLE = """
  .page { fill: #ffffff; stroke: #d5d9e0 }
  .box { fill: #eef1fb; stroke: #5262bc }
  .end { fill: #5262bc; stroke: #5262bc }
  .line { stroke: #6b7280; fill: none }
  .head { fill: #6b7280 }
  text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #374151 }
  .title { font-weight: 600; font-size: 14px; fill: #111827 }
  .inverse { font-weight: 600; font-size: 14px; fill: #ffffff }
  .exit { fill: #a3261b }
  .start { fill: #ffffff; stroke: #5262bc; stroke-width: 2 }
  .grid { stroke: #d5d9e0 }
  .gain { stroke: #5262bc; stroke-width: 3 }
  .goal { stroke: #111827; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #1e2129; stroke: #3b4150 }
    .box { fill: #2a3046; stroke: #8c9bf0 }
    .end { fill: #8c9bf0; stroke: #8c9bf0 }
    .line { stroke: #9aa3b2 }
    .head { fill: #9aa3b2 }
    text { fill: #d1d5db }
    .title { fill: #f3f4f6 }
    .inverse { fill: #14161c }
    .exit { fill: #ff9d91 }
    .start { fill: #1e2129; stroke: #8c9bf0 }
    .grid { stroke: #3b4150 }
    .gain { stroke: #8c9bf0 }
    .goal { stroke: #f3f4f6 }
  }
"""


class Step(NamedTuple):
    """One step of a way: what happens, and what ends it early."""

    title: str
    note: str
    exits: Sequence[str] = ()


class Box(NamedTuple):
    """One part of a map, at a place."""

    title: str
    note: str
    x: int
    y: int
    width: int
    height: int


REQUEST = (
    Step("Connection", "The head arrives within a time and a size.", ["408, 431"]),
    Step("Access", "The API key is known, and has not used up its rate.", ["401, 429"]),
    Step("Body", "It is read up to a number of bytes. The deadline runs.", ["413"]),
    Step(
        "Parsing",
        "JSON, a form or safetensors become images and options of one operation of one model.",
        ["400, 415", "404, 409"],
    ),
    Step(
        "Decoding",
        "Files become pixels of the model's size. Large images have threads of their own.",
        ["422, 413", "429"],
    ),
    Step(
        "Queue",
        "Each model and operation has one. If it is full, the request is refused at once. Rows of "
        "clients that hang up leave it.",
        ["429", "504"],
    ),
    Step("Batch", "All rows that wait run together, about 10 ms of work, on ONNX Runtime."),
    Step("Encoding", "Each request gets its rows, in the format that it accepts."),
)

BATCH = (
    Step("Data set", "All images are in memory on the device: uint8 [N, C, H, W]."),
    Step(
        "Images",
        "B of them are drawn by the seed and the number of the step, so that a resumed "
        "run sees the same ones.",
    ),
    Step(
        "Views",
        "Each image gets J random views, augmented as one tensor: [B, J, C, H, W]. With "
        "--group-by, other views are of other images of the group.",
    ),
    Step(
        "Encoder",
        "Embeddings [B·J, D]; for generative methods, the mean and log variance of a posterior.",
    ),
    Step(
        "Objective",
        "The loss of the method. Generative methods decode latents to pixels; others "
        "compare the embeddings of all processes.",
    ),
    Step(
        "Update",
        "Gradients are averaged over micro-batches and processes. The learning rate "
        "depends on the step, never on the clock.",
        ["not finite"],
    ),
    Step(
        "Report",
        "Losses, collapse statistics and pictures, at regular steps. Checkpoints, at "
        "regular times.",
    ),
)

PULL = (
    Step(
        "Name",
        "--hub, REPZOO_HUB, the bundled packages, the hub of an earlier pull or the "
        "catalogue says where the name is looked up.",
    ),
    Step(
        "Commit", "The hub resolves the tag to one commit. All files come from it.", ["not found"]
    ),
    Step(
        "Manifest",
        "Its SHA-256 is the revision. It is compared with the first pull of this tag, "
        "and with the signature.",
        ["changed", "not signed"],
    ),
    Step(
        "Cache",
        "If the revision is there and intact, the pull is done. Otherwise, one process "
        "at a time installs it.",
    ),
    Step(
        "Files",
        "Files of other revisions are reused, and partial files continued. The rest is "
        "fetched, four at a time.",
    ),
    Step(
        "Hashes",
        "Every file must have the size and SHA-256 of the manifest. A bad file is "
        "fetched once more.",
        ["damaged"],
    ),
    Step("Content", "Records and graphs are read and checked; nothing runs.", ["not valid"]),
    Step("Rename", "The package becomes visible, all files at once."),
    Step(
        "First load",
        "A package that is not bundled runs once in a process with limits, against "
        "its golden outputs.",
        ["rejected"],
    ),
)

MAP = (
    Box("your application", "any language", 16, 16, 196, 52),
    Box("repzoo_client", "HTTP client, and retrieval on Milvus", 228, 16, 196, 70),
    Box("repzoo_serving", "the server: zoo serve", 16, 132, 196, 52),
    Box("repzoo_index", "zoo index", 228, 132, 196, 52),
    Box("repzoo_training", "zoo train, evaluate, export, import, calibrate", 16, 236, 196, 70),
    Box("repzoo", "packages, cache, hubs, ONNX Runtime: zoo pull, verify, embed", 228,
        236, 196, 88),
    Box("hubs", "huggingface.co, a folder, or zoo hub serve", 228, 380, 196, 70),
    Box("packages", "folders of ONNX graphs, measurements and a card", 16, 380, 196, 70),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; fail if stale")
    check = parser.parse_args().check
    stale = []
    for name, svg in drawings().items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != svg:
            stale.append(path)
            if not check:
                path.write_text(svg)
    for path in stale:
        print(f"{'stale' if check else 'written'}: {path}")
    if check and stale:
        sys.exit("run `python docs/diagrams.py` and commit the result")


def drawings() -> dict[str, str]:
    """Return the SVG text of every diagram, by file name."""
    return {
        "request.svg": way("A request's way through the server", "request", REQUEST, "response"),
        "batch.svg": way("A batch's way through training", "zoo train", BATCH, "next step"),
        "pull.svg": way("A package's way into the cache", "zoo pull", PULL, "ready to run"),
        "architecture.svg": architecture(),
        "recovery.svg": recovery(),
    }


def way(name: str, start: str, steps: Sequence[Step], end: str) -> str:
    """Draw steps from top to bottom, with the reasons to stop at their right."""
    out: list[str] = []
    middle = _MARGIN + _BOX // 2
    y = _MARGIN + 4
    out += [*_pill(start, middle, y), *_arrow(middle, y + 30, middle, y + 30 + _GAP)]
    y += 30 + _GAP
    for step in steps:
        lines = _wrap(step.note, 36)
        height = 36 + _LINE * len(lines)
        out.append(_rectangle("box", _MARGIN, y, _BOX, height))
        out += _text(_MARGIN + 14, y + 23, step.title, lines)
        if step.exits:
            center = y + height // 2
            right = _MARGIN + _BOX
            out += _arrow(right, center, right + 34, center)
            top = center + 4 - _LINE * (len(step.exits) - 1) // 2
            for i, text in enumerate(step.exits):
                out.append(_words("exit", right + 40, top + i * _LINE, text))
        y += height
        out += _arrow(middle, y, middle, y + _GAP)
        y += _GAP
    out += _pill(end, middle, y)
    described = "; ".join(f"{step.title}: {step.note}" for step in steps)
    return _svg(name, described, y + 30 + _MARGIN + 4, out)


def architecture() -> str:
    """Draw the import packages, and what they exchange."""
    out: list[str] = []
    for box in MAP:
        kind = "box" if box.title.startswith("repzoo") else "page"
        out.append(_rectangle(kind, box.x, box.y, box.width, box.height))
        lines = _wrap(box.note, 25)
        out += _text(box.x + 12, box.y + 22, box.title, lines)
    out += [
        *_arrow(114, 68, 114, 132),
        _words("", 122, 104, "HTTP"),
        *_arrow(228, 70, 190, 132),
        *_arrow(326, 132, 326, 86),
        *_arrow(326, 184, 326, 236),
        *_arrow(212, 168, 250, 236),
        *_arrow(212, 280, 228, 280),
        *_arrow(114, 306, 114, 380),
        _words("", 122, 348, "exports"),
        *_arrow(326, 380, 326, 324),
        _words("", 334, 357, "pulls"),
        *_arrow(212, 415, 228, 415),
    ]
    described = "; ".join(f"{box.title}: {box.note}" for box in MAP)
    return _svg("The parts of repzoo", described, 466, out)


def _wrap(text: str, width: int) -> list[str]:
    """Split text into lines, but never within brackets, which hold shapes."""
    text = re.sub(r"\[.*?\]", lambda shape: shape[0].replace(" ", "\u00a0"), text)
    return textwrap.wrap(text, width)


def recovery() -> str:
    """Draw what content means find for degraded queries, for every bundled package."""
    left, right, row = 176, WIDTH - 24, 21

    def x(precision: float) -> float:
        return left + (right - left) * precision / 100

    out = [
        _words("title", _MARGIN, 34, "precision@10, %"),
        *_legend(60),
    ]
    reports = [json.loads(path.read_bytes()) for path in sorted(BUNDLED.glob("*/metrics.json"))]
    reports = [report["content"] for report in reports if "content" in report]
    described = []
    y = 100
    for group, title in (("fit", "degraded by the fitted kinds"), ("test", "by unseen kinds")):
        out.append(_words("title", _MARGIN, y, title))
        bottom = y + 14 + row * len(reports)
        for percent in (0, 25, 50, 75, 100):
            out.append(_line("grid", x(percent), y + 10, x(percent), bottom))
            label = f'<text x="{x(percent):.1f}" y="{bottom + 16}" text-anchor="middle">{percent}'
            out.append(f"{label}</text>")
        for i, report in enumerate(reports):
            center = y + 24 + row * i
            plain, content = (_precision(report, group, name) for name in ("euclidean", "mean"))
            goal = _precision(report, "clean", "euclidean")
            out += [
                _words("", _MARGIN, center + 5, report["model"]),
                _line("gain", x(plain), center, x(content), center),
                f'<circle class="start" cx="{x(plain):.1f}" cy="{center}" r="4.5"/>',
                f'<circle class="end" cx="{x(content):.1f}" cy="{center}" r="4.5"/>',
                _line("goal", x(goal), center - 7, x(goal), center + 7),
            ]
            described.append(
                f"{report['model']}, {title}: {plain:.0f} by embeddings, {content:.0f} by content "
                f"means, {goal:.0f} undegraded"
            )
        y = bottom + 56
    return _svg("What content means recover", "; ".join(described), y - 28, out)


def _precision(report: dict[str, Any], group: str, name: str) -> float:
    """Return the mean precision@10 of one group of degradations, in per cent."""
    return fmean(each["precision"][name] for each in report["rows"] if each["group"] == group)


def _legend(y: int) -> list[str]:
    return [
        f'<circle class="start" cx="{_MARGIN + 5}" cy="{y - 4}" r="4.5"/>',
        _words("", _MARGIN + 16, y, "embedding"),
        f'<circle class="end" cx="{_MARGIN + 113}" cy="{y - 4}" r="4.5"/>',
        _words("", _MARGIN + 124, y, "content mean"),
        _line("goal", _MARGIN + 240, y - 11, _MARGIN + 240, y + 3),
        _words("", _MARGIN + 250, y, "undegraded queries"),
    ]


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _svg(name: str, described: str, height: int, body: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img">'
    )
    page = f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>'
    lines = [
        head,
        f"<title>{escape(name)}</title>",
        f"<desc>{escape(described)}</desc>",
        f"<style>{_STYLE}</style>",
        page,
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _rectangle(kind: str, x: int, y: int, width: int, height: int, radius: int = 6) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}"/>'


def _pill(text: str, middle: int, y: int) -> list[str]:
    label = f'<text class="inverse" x="{middle}" y="{y + 20}" text-anchor="middle">{text}</text>'
    return [_rectangle("end", middle - 60, y, 120, 30, 15), label]


def _text(x: int, y: int, title: str, lines: Sequence[str]) -> list[str]:
    rest = [_words("", x, y + 20 + i * _LINE, line) for i, line in enumerate(lines)]
    return [_words("title", x, y, title), *rest]


def _words(kind: str, x: int, y: int, text: str) -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text{attribute} x="{x}" y="{y}">{escape(text)}</text>'


def _arrow(x1: int, y1: int, x2: int, y2: int) -> list[str]:
    """Draw a line with a head at its second end."""
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    ux, uy = (x2 - x1) / length, (y2 - y1) / length
    bx, by = x2 - 8 * ux, y2 - 8 * uy
    corners = (x2, y2), (bx - 4 * uy, by + 4 * ux), (bx + 4 * uy, by - 4 * ux)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return [
        f'<line class="line" x1="{x1}" y1="{y1}" x2="{bx:.1f}" y2="{by:.1f}"/>',
        f'<polygon class="head" points="{points}"/>',
    ]


if __name__ == "__main__":
    main()
