"""The pictures of a board, drawn to a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from repzoo.files import write_atomically

from repzoo_training.comparison.figures import (
    Strip,
    collapse_figure,
    content_figure,
    content_style_figure,
    reconstructions_figure,
)
from repzoo_training.comparison.rows import Board
from repzoo_training.comparison.runs import Images
from repzoo_training.evaluation.frozen_decoder import with_frozen_decoder
from repzoo_training.loop.trained import TrainedModel
from repzoo_training.watching.figures import COLUMNS

__all__ = ["draw", "folder_names"]


def draw(
    board: Board,
    images: Images,
    folder: Path,
    *,
    decoders: bool = True,
    progress: bool = True,
) -> list[Path]:
    """Draw every picture that the board's numbers allow.

    Args:
        board: what to draw.
        images: where test images come from, and training images for decoders.
        folder: where to; made if missing.
        decoders: train a decoder on each frozen representation without one, to see what it holds.
            They are kept in the runs' folders. Without, such methods have no reconstructions.
        progress: show bars, on a terminal only.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "knn": content_figure(board),
        "content-style": content_style_figure(board),
        "collapse": collapse_figure(board),
    }
    strips = _strips(board, images, decoders, progress)
    if len(strips) > 1:
        pictures["reconstructions"] = reconstructions_figure(
            strips, f"{board.dataset}: test images, and what each representation keeps of them"
        )
    written = []
    for name, picture in pictures.items():
        if picture is not None:
            written.append(folder / f"{name}.png")
            write_atomically(written[-1], picture)
    return written


def folder_names(boards: Sequence[Board]) -> list[str]:
    """A folder for the pictures of each board: none of its own for one, else by its data set."""
    if len(boards) == 1:
        return ["."]
    plain = [re.sub(r"[^a-z0-9._-]+", "-", board.dataset.lower()).strip("-.") for board in boards]
    return [
        name if plain.count(name) == 1 and name else f"{name or 'images'}-{number}"
        for number, name in enumerate(plain, 1)
    ]


def _strips(board: Board, images: Images, decoders: bool, progress: bool) -> Sequence[Strip]:
    """The first test images, and their reconstruction by the first seed of every row."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    strips: list[Strip] = []
    for row in board.rows:
        run = row.first
        train, test = images.of(run.path, run.record)
        shown = test.images[:COLUMNS]
        if not strips:
            originals = shown.astype(np.float32) / np.float32(255)
            strips.append(Strip("originals", "", originals))
        model = TrainedModel(run.path, device)
        own = model.decoder is not None
        if not own:
            if not decoders:
                continue
            model = with_frozen_decoder(run.path, model, train, progress=progress)
        decoded = model.reconstruct(shown).images
        note = "own decoder" if own else "decoder on the frozen encoder"
        strips.append(Strip(row.label, note, decoded))
    return strips
