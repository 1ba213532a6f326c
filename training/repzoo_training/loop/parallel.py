"""Data parallelism in the trainer: several processes train one model.

``torchrun`` starts the processes, and each gets its share of every batch. DistributedDataParallel
averages their gradients. Batch normalisation and losses communicate across processes; see
:mod:`repzoo_training.distributed.batch_norm` and :mod:`repzoo_training.distributed.gather`. Only
the first process writes the run. With a single process, everything in this module does nothing.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from repzoo_training.distributed.batch_norm import synchronize
from repzoo_training.distributed.gather import rank, world_size
from repzoo_training.errors import RunError
from repzoo_training.objectives import Objective

__all__ = [
    "Pulse",
    "data_parallel",
    "first_then_all",
    "from_first",
    "local_device",
    "mean_over_processes",
    "processes",
]

#: How long a process waits for the others before it fails.
TIMEOUT = timedelta(minutes=10)
T = TypeVar("T")


def local_device(kind: torch.device | str | None = None) -> torch.device:
    """Return the device of this process; several processes on one machine get one GPU each.

    Args:
        kind: ``cuda``, ``cpu``, or a numbered device. By default CUDA if it is available.

    Raises:
        RunError: If ``torchrun`` started more processes on this machine than it has GPUs.
    """
    device = torch.device(kind or ("cuda" if torch.cuda.is_available() else "cpu"))
    local = os.environ.get("LOCAL_RANK")
    if device.type != "cuda" or device.index is not None or local is None:
        return device
    if int(local) >= torch.cuda.device_count():
        raise RunError(
            f"torchrun started {int(local) + 1} or more processes on this machine, which has "
            f"{torch.cuda.device_count()} GPUs: lower --nproc-per-node, or use --device cpu"
        )
    return torch.device("cuda", int(local))


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the process group of ``torchrun``, if it started this process.

    GPU tensors are sent with NCCL, CPU tensors with gloo.
    """
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    launched = all(name in os.environ for name in needed) and os.environ["WORLD_SIZE"] != "1"
    if not launched or dist.is_initialized():
        yield
        return
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=TIMEOUT)
    # Not after an error: destroying the group could wait for processes that no longer exist.
    yield
    dist.destroy_process_group()


def data_parallel(objective: Objective, device: torch.device) -> nn.Module:
    """Return the module to call instead of ``objective``, so that gradients are averaged.

    Batch normalisation layers of ``objective`` are synchronised in place.
    """
    synchronize(objective, device)
    if world_size() == 1:
        return objective
    with warnings.catch_warnings():
        # All processes compute the same buffers. Older torch has no other name for this option.
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        return DistributedDataParallel(objective, broadcast_buffers=False)


def from_first(decide: Callable[[], T]) -> T:
    """Return what ``decide`` returns in the first process, or raise what it raises there.

    Other processes do not call ``decide``.
    """
    if world_size() == 1:
        return decide()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = decide()
        except Exception as error:  # sent to all processes, and raised in all of them
            outcome[1] = error
    dist.broadcast_object_list(outcome, device=torch.device("cpu"))
    if outcome[1] is not None:
        raise outcome[1]
    return cast(T, outcome[0])


def first_then_all(make: Callable[[], T]) -> T:
    """Call ``make`` in the first process, then in the others, so that downloads happen once."""
    made: list[T] = []
    from_first(lambda: made.append(make()))
    return made[0] if made else make()


def mean_over_processes(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Return scalars as numbers, averaged over processes; waits for the device."""
    values = torch.stack([term.detach().float() for term in terms.values()])
    if world_size() > 1:
        dist.all_reduce(values)
        values /= world_size()
    return dict(zip(terms, values.tolist(), strict=True))


class Pulse:
    """Synchronises signals and checkpoints, so that all processes act on them at the same step.

    Each process has its own clock and receives its own signals. A few times per second, the
    processes exchange a message of three numbers, on the CPU, so that nothing waits for a GPU. The
    first process decides how many steps pass until the next message, and says so in the message.

    Args:
        step: The step to start counting from.
    """

    SECONDS = 0.25

    def __init__(self, step: int) -> None:
        self._met, self._steps = step, 1
        self._time = time.monotonic()

    def __call__(self, step: int, signal: int, save: bool) -> tuple[int, bool]:
        """Return a signal that any process received, and whether the first one wants to save.

        Args:
            step: The current step; increases by one per call.
            signal: The signal that this process received, or 0.
            save: Whether to save. Only the first process's value counts.
        """
        if world_size() == 1:
            return signal, save
        if step < self._met + self._steps:
            return 0, False
        now = time.monotonic()
        pace = int(self.SECONDS * self._steps / max(now - self._time, 1e-6))
        first = rank() == 0
        # At most double: a single fast step is weak evidence.
        steps = max(1, min(2 * self._steps, pace)) if first else 0
        message = torch.tensor([signal, save and first, steps])
        dist.all_reduce(message, dist.ReduceOp.MAX)
        signal, wanted, self._steps = message.tolist()
        self._met, self._time = step, now
        return signal, bool(wanted)
