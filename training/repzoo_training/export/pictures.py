"""Draw the pictures in ``figures/`` of a package from the outputs of its graphs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from repzoo.files import write_atomically
from repzoo.runtime.encoder import Encoder

from repzoo_training.data import ImageDataset
from repzoo_training.evaluation.knn import nearest
from repzoo_training.views.views import Views, ViewSpec
from repzoo_training.watching.figures import COLUMNS, grid, save_png

__all__ = ["NEIGHBOURS", "draw_decoded", "draw_neighbours", "draw_samples", "draw_views"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

#: Number of rows in ``walk.png``.
WALKS = 4

#: Number of nearest training images drawn below each test image.
NEIGHBOURS = 5

#: Things in ``views``, the views of each that are given at most, and the new ones.
THINGS, GIVEN, NEW = 4, 3, 8
#: Photographs would take ten times as many bytes as PNG.
_JPEG_QUALITY = 70

#: Frame of a neighbour whose class differs from that of its query.
_RED = (0.85, 0.1, 0.1)


def draw_decoded(figures: Path, encoder: Encoder, examples: Pixels) -> None:
    """Draw ``reconstructions.png``, ``samples.png`` and ``walk.png`` of a package with a decoder.

    Reconstructions are rows of images with their reconstructions below. Each row of the walk goes
    in equal steps from the embedding of one image to that of another.

    Args:
        figures: the folder for the pictures.
        encoder: the encoder and decoder of the package.
        examples: uint8 ``[N, H, W, C]``. They are repeated if there are fewer than 30.
    """
    examples = examples[np.arange(3 * COLUMNS) % len(examples)]
    originals = examples.reshape(3, COLUMNS, *examples.shape[1:])
    decoded = encoder.reconstruct(examples).images.reshape(originals.shape)
    pairs = np.stack([originals.astype(np.float32) / 255, decoded], axis=1)  # [3, 2, K, H, W, C]
    save_png(figures / "reconstructions.png", pairs.reshape(6, *originals.shape[1:]))
    draw_samples(figures, encoder)
    ends = encoder.embed(examples[: 2 * WALKS]).reshape(2, WALKS, 1, -1)  # [2, R, 1, D]
    steps = np.linspace(0, 1, COLUMNS, dtype=np.float32)[:, None]  # [K, 1]
    latents = (1 - steps) * ends[0] + steps * ends[1]  # [R, K, D]
    walk = encoder.generate(latents=latents.reshape(WALKS * COLUMNS, -1)).images
    save_png(figures / "walk.png", walk.reshape(WALKS, COLUMNS, *walk.shape[1:]))


def draw_samples(figures: Path, encoder: Encoder) -> None:
    """Draw ``samples.png`` of a package with a decoder: images generated from its prior."""
    samples = encoder.generate(4 * COLUMNS, seed=0).images
    save_png(figures / "samples.png", samples.reshape(4, COLUMNS, *samples.shape[1:]))


def draw_neighbours(
    figures: Path, encoder: Encoder, train: ImageDataset, train_z: Floats, test: ImageDataset
) -> None:
    """Draw ``neighbours.png``: a row of test images, each above its nearest training images.

    If both splits have labels, a neighbour of another class than its query has a red frame.

    Args:
        figures: the folder for the pictures.
        encoder: the encoder of the package. Its ``config.metric`` is the distance.
        train: the training images.
        train_z: embeddings of the first M training images, float32 ``[M, D]``.
        test: the test images. The first ten are the queries.
    """
    queries = test.images[:COLUMNS]
    found = nearest(
        torch.from_numpy(train_z),
        torch.from_numpy(encoder.embed(queries)),
        k=min(NEIGHBOURS, len(train_z)),
        distance=encoder.config.metric,
        progress=False,
    )
    neighbours = torch.cat(list(found)).numpy().T  # [k, Q]
    rows = _colours(np.stack([queries, *train.images[neighbours]]))  # [1 + k, Q, H, W, 3]
    if train.labels is not None and test.labels is not None:
        wrong = train.labels[neighbours] != test.labels[: len(queries)]
        for row, column in np.argwhere(wrong):
            _frame(rows[1 + row, column])
    save_png(figures / "neighbours.png", rows, first_row_apart=True)


def draw_views(figures: Path, encoder: Encoder, examples: Pixels, views: ViewSpec) -> None:
    """Draw ``views.png`` of a package trained with SimVAE, or ``views.jpg`` if it has colours.

    Each thing has two rows: one view of it, and three. On their right are new views, with the
    content at its posterior mean, and in each column the same style.

    Args:
        figures: the folder for the picture.
        encoder: the encoder and decoder of the package.
        examples: uint8 ``[N, H, W, C]``, of which the first four are shown in views.
        views: the recipe's views. Binarising is left out, because the encoder's graph does it.
    """
    spec = views.model_copy(update={"binarize": None})
    images = torch.from_numpy(examples[:THINGS]).movedim(3, 1)  # [T, C, H, W]
    made = Views(spec, examples.shape[1:3])(images, GIVEN, torch.Generator().manual_seed(0))
    seen = made.movedim(2, 4).numpy()  # [T, J, H, W, C]
    pixels = (seen * 255).round().astype(np.uint8)
    given = np.ones((2 * len(seen), *seen.shape[1:]), np.float32)  # white where there is no view
    given[0::2, :1], given[1::2] = seen[:, :1], seen
    new = np.stack(
        [
            encoder.generate(NEW, content=thing[:count], seed=0, vary="style").images
            for thing in pixels
            for count in (1, GIVEN)
        ]
    )
    left, right = (np.asarray(grid(part)) for part in (given, new))
    gap = np.full((len(left), 16, *left.shape[2:]), 255, np.uint8)
    sheet = Image.fromarray(np.concatenate([left, gap, right], axis=1))
    buffer = io.BytesIO()
    if sheet.mode == "L":
        sheet.save(buffer, "PNG", optimize=True)
    else:
        sheet.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    name = "views.png" if sheet.mode == "L" else "views.jpg"
    write_atomically(figures / name, buffer.getvalue())


def _colours(images: Pixels) -> Floats:
    rgb = np.broadcast_to(images, (*images.shape[:-1], 3))
    return rgb.astype(np.float32) / np.float32(255)


def _frame(image: Floats) -> None:
    width = max(1, min(image.shape[:2]) // 28)
    for side in (image[:width], image[-width:], image[:, :width], image[:, -width:]):
        side[:] = _RED
