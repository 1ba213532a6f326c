"""Draw the pictures of a board to a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from repzoo.files import write_atomically
from tqdm import tqdm

from repzoo_training.comparison.figures import (
    Strip,
    attributes_figure,
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
    """Draw every picture for which the board has numbers.

    Args:
        board: the board.
        images: source of the test images, and of training images for decoders.
        folder: where to write the pictures. It is created if it does not exist.
        decoders: train a decoder on each frozen representation without one, and keep it in the
            run's folder. Otherwise such methods have no reconstructions.
        progress: show progress bars on a terminal.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "knn": content_figure(board),
        "content-style": content_style_figure(board),
        "attributes": attributes_figure(board),
        "collapse": collapse_figure(board),
    }
    strips = _strips(board, images, decoders, progress)
    if len(strips) > 1:
        pictures["reconstructions"] = reconstructions_figure(
            strips,
            f"{board.dataset}: test images and their reconstructions from each representation",
        )
    written = []
    for name, picture in pictures.items():
        if picture is not None:
            written.append(folder / f"{name}.png")
            write_atomically(written[-1], picture)
    return written


def folder_names(boards: Sequence[Board]) -> list[str]:
    """Return a folder name per board: "." for a single board, else one after its data set."""
    if len(boards) == 1:
        return ["."]
    plain = [re.sub(r"[^a-z0-9._-]+", "-", board.dataset.lower()).strip("-.") for board in boards]
    return [
        name if plain.count(name) == 1 and name else f"{name or 'images'}-{number}"
        for number, name in enumerate(plain, 1)
    ]


def _strips(board: Board, images: Images, decoders: bool, progress: bool) -> Sequence[Strip]:
    """Return the first test images, and their reconstructions by the first run of every row."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    strips: list[Strip] = []
    for row in tqdm(board.rows, "drawing", unit="row", disable=None if progress else True):
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
