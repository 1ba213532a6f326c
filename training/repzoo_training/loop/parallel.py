"""Data parallelism seen from the trainer: processes that train one model together.

``torchrun`` starts them; each has its share of every batch. torch's DistributedDataParallel takes
the mean of their gradients, batch normalisation and the losses themselves look across processes
(see :mod:`repzoo_training.distributed.batch_norm` and :mod:`repzoo_training.distributed.gather`), and the first
process alone writes the run. Where nothing is distributed, everything here does nothing.
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
    "unwrap",
]

#: How long a process waits for the others before it gives them up.
TIMEOUT = timedelta(minutes=10)
T = TypeVar("T")


def local_device(kind: torch.device | str | None = None) -> torch.device:
    """The device of this process: of several on one machine each has a GPU of its own.

    Args:
        kind: ``cuda``, ``cpu``, or a device with its number; by default CUDA if there is any.

    Raises:
        RunError: if ``torchrun`` started more processes here than there are GPUs.
    """
    device = torch.device(kind or ("cuda" if torch.cuda.is_available() else "cpu"))
    local = os.environ.get("LOCAL_RANK")
    if device.type != "cuda" or device.index is not None or local is None:
        return device
    if int(local) >= torch.cuda.device_count():
        raise RunError(
            f"torchrun started process {local} here, counted from 0, but there are only "
            f"{torch.cuda.device_count()} GPUs: lower --nproc-per-node, or give --device cpu"
        )
    return torch.device("cuda", int(local))


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Meet the processes that ``torchrun`` started with this one, if it did.

    Tensors on a GPU go by NCCL, others by gloo.
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
    # Not after an error: leaving in good order could wait for processes that are gone.
    yield
    dist.destroy_process_group()


def data_parallel(objective: Objective, device: torch.device) -> nn.Module:
    """What to call in place of ``objective`` so that gradients are means over processes.

    Its batch normalisation is synchronised in place.
    """
    synchronize(objective, device)
    if world_size() == 1:
        return objective
    with warnings.catch_warnings():
        # Buffers are equal everywhere by themselves. Older torch knows no newer name for this.
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        return DistributedDataParallel(objective, broadcast_buffers=False)


def unwrap(model: nn.Module) -> Objective:
    """The objective in what :func:`data_parallel` returned."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    return cast(Objective, inner)


def from_first(decide: Callable[[], T]) -> T:
    """What ``decide`` returns, or raises, in the first process; the others do not call it."""
    if world_size() == 1:
        return decide()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = decide()
        except Exception as error:  # told to all, and raised by all
            outcome[1] = error
    dist.broadcast_object_list(outcome, device=torch.device("cpu"))
    if outcome[1] is not None:
        raise outcome[1]
    return cast(T, outcome[0])


def first_then_all(make: Callable[[], T]) -> T:
    """What ``make`` makes here, once the first process has made it: what is downloaded, once."""
    made: list[T] = []
    from_first(lambda: made.append(make()))
    return made[0] if made else make()


def mean_over_processes(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as numbers; waits for the device."""
    values = torch.stack([term.detach().float() for term in terms.values()])
    if world_size() > 1:
        dist.all_reduce(values)
        values /= world_size()
    return dict(zip(terms, values.tolist(), strict=True))


class Pulse:
    """What all processes do at the same step though each has a clock and signals of its own.

    A message of three numbers a few times a second, on the CPU, so that no GPU is waited for. How
    many steps lie between two of them is for the first process to say, in the message itself.

    Args:
        step: from which it counts.
    """

    SECONDS = 0.25

    def __init__(self, step: int) -> None:
        self._met, self._steps = step, 1
        self._time = time.monotonic()

    def __call__(self, step: int, signal: int, save: bool) -> tuple[int, bool]:
        """A signal that any process got, and whether the first wants to save.

        Args:
            step: counts up by one.
            signal: this process's, or 0.
            save: matters in the first process.
        """
        if world_size() == 1:
            return signal, save
        if step < self._met + self._steps:
            return 0, False
        now = time.monotonic()
        pace = int(self.SECONDS * self._steps / max(now - self._time, 1e-6))
        first = rank() == 0
        # At most doubled: one quick step proves little.
        steps = max(1, min(2 * self._steps, pace)) if first else 0
        message = torch.tensor([signal, save and first, steps])
        dist.all_reduce(message, dist.ReduceOp.MAX)
        signal, wanted, self._steps = message.tolist()
        self._met, self._time = step, now
        return signal, bool(wanted)
