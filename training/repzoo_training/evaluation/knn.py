"""Exact k nearest neighbours, in chunks, on the CPU or the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.errors import InvalidInput
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from repzoo_training.evaluation.inputs import Embeddings, Labels, default_device, on_device

__all__ = ["NEIGHBOURS", "Distance", "knn_predict", "nearest"]

Distance = Literal["cosine", "euclidean"]

#: k, fixed in advance. The SimVAE authors' code tries k = 1 to 20 and reports the best on the test
#: set. 15 lies in that range and is odd, so a vote on a yes-or-no label never ties.
NEIGHBOURS = 15

#: Values in memory per chunk of queries: 128 MiB of float32.
_CHUNK_VALUES = 2**25

#: Extra candidates beyond k whose exact distance is computed.
_SPARE = 10


def knn_predict(
    train_z: Embeddings,
    train_y: Labels,
    test_z: Embeddings,
    *,
    k: int = NEIGHBOURS,
    distance: Distance = "euclidean",
    device: torch.device | str | None = None,
    progress: bool = True,
) -> NDArray[np.int64] | NDArray[np.bool_]:
    """Predict labels by a majority vote of the ``k`` nearest training embeddings, one vote each.

    Args:
        train_z: training embeddings, float ``[M, D]``.
        train_y: int64 ``[M]``, or bool ``[M, A]`` for a separate vote on each of A labels.
        test_z: test embeddings, float ``[N, D]``.
        k: number of neighbours, at most M.
        distance: distance between embeddings.
        device: where to compute; by default the GPU if there is one.
        progress: show a progress bar on a terminal.

    Returns:
        int64 ``[N]``, the first of the classes with most votes, or bool ``[N, A]``.

    Raises:
        InvalidInput: If the shapes do not match, or k is not in 1 to M.
    """
    place = default_device(device)
    train, labels = on_device(train_z, train_y, place)
    test, _ = on_device(test_z, None, place)
    classes = int(labels.max()) + 1 if labels.ndim == 1 else 0
    predicted = []
    for neighbours in nearest(train, test, k=k, distance=distance, progress=progress):
        voters = labels[neighbours]  # [n, k] or [n, k, A]
        if classes:
            predicted.append(F.one_hot(voters, classes).sum(dim=1).argmax(dim=1))
        else:
            predicted.append(2 * voters.sum(dim=1) > k)
    result: NDArray[np.int64] | NDArray[np.bool_] = torch.cat(predicted).cpu().numpy()
    return result


def nearest(
    train: Tensor, test: Tensor, *, k: int, distance: Distance, progress: bool
) -> Iterator[Tensor]:
    """Yield the ``k`` nearest rows of ``train [M, D]`` for chunks of ``test [N, D]``.

    One matrix product finds candidates by ‖a‖² − 2ab + ‖b‖², up to rounding. For these, a few more
    than k, the exact distances Σ(a − b)² are computed.

    Yields:
        Row numbers int64 ``[n, k]``, nearest first. The n of all chunks add up to N.
    """
    if not 1 <= k <= len(train):
        raise InvalidInput(f"k is {k}; expected 1 to {len(train)}, the number of training images")
    if train.shape[1] != test.shape[1]:
        raise InvalidInput(f"embeddings have {train.shape[1]} and {test.shape[1]} dimensions")
    if distance == "cosine":  # on the unit sphere ‖a − b‖² = 2 − 2 cos(a, b): the same order
        train, test = F.normalize(train), F.normalize(test)
    centre = train.mean(dim=0)  # smaller numbers cancel less
    train, test = train - centre, test - centre
    squared = (train**2).sum(dim=1)
    candidates = min(k + _SPARE, len(train))
    rows = max(1, _CHUNK_VALUES // max(len(train), candidates * train.shape[1]))
    hidden = None if progress else True
    with _full_precision():
        for start in tqdm(range(0, len(test), rows), f"k-NN, {distance}", disable=hidden):
            query = test[start : start + rows]  # [n, D]
            # ‖b‖² is constant within a row, so it does not change the order.
            near = torch.addmm(squared, query, train.T, alpha=-2).topk(
                candidates, dim=1, largest=False
            )
            exact = ((train[near.indices] - query[:, None]) ** 2).sum(dim=2)
            order = exact.sort(dim=1, stable=True).indices[:, :k]
            yield near.indices.gather(1, order)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Compute float32 products without TF32 or bfloat16, whatever training has chosen."""
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)
