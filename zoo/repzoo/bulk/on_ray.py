"""Computing parts on a Ray cluster: each worker runs `repzoo.bulk.parts` on some of them.

Workers need ``repzoo[ray]``, the model under the same name, the source, and the output's folder.
On several machines that means object stores and a hub, or shared disks.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repzoo.bulk.decoding import Decoders
from repzoo.bulk.job import Job
from repzoo.bulk.parts import FinishedPart, embed_parts
from repzoo.bulk.places import Place
from repzoo.errors import MissingExtra, RepzooError, RevisionChanged
from repzoo.loading import load
from repzoo.packages.reference import is_path

__all__ = ["embed_on_ray"]


def embed_on_ray(
    job: Job, parts: list[int], folder: Place, model: str, hub: str | None, workers: int | None
) -> Iterator[FinishedPart]:
    """Write the files of parts; yield each part once its file exists, in any order.

    Args:
        job: The description of the run.
        parts: The numbers of the parts.
        folder: The folder of the parts.
        model: The argument of `repzoo.load` on each worker.
        hub: The hub of a model that is given by name.
        workers: The number of workers, with one core each. Default: the cores of the cluster.

    Raises:
        MissingExtra: If Ray is not installed.
        RepzooError: If a worker fails.
    """
    # Ray sends usage statistics unless this is set before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        # By name, so that type checkers do not need Ray.
        ray: Any = importlib.import_module("ray")
        data: Any = importlib.import_module("ray.data")
    except ImportError as error:
        raise MissingExtra("zoo embed --engine ray", "ray", error) from error
    if not parts:
        return
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
    try:
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        count = workers or int(ray.cluster_resources().get("CPU", 1))
        where = str(folder)
        # Workers run in other working directories.
        model = _absolute(model) if is_path(model, named=hub is not None) else model
        hub = hub and _absolute(hub)
        rows = [{"part": part} for part in parts]
        todo = data.from_items(rows, override_num_blocks=len(rows))
        made = todo.map_batches(
            _Worker,
            fn_constructor_args=(job, where, model, hub),
            batch_size=1,
            compute=data.ActorPoolStrategy(min_size=1, max_size=min(count, len(parts))),
            num_cpus=1,
        )
        for row in made.iter_rows():
            yield FinishedPart(int(row["part"]), int(row["images"]), int(row["failed"]))
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RepzooError(f"a worker of the Ray cluster failed: {reason}") from error
    finally:
        if started:
            ray.shutdown()


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).absolute())


class _Worker:
    """Embeds parts, one at a time, in one process of a cluster."""

    def __init__(self, job: Job, folder: str, model: str, hub: str | None) -> None:
        self._job = job
        self._folder = Place.of(folder)
        provider: Any = "cuda" if job.provider == "CUDAExecutionProvider" else "cpu"
        self._encoder = load(model, hub=hub, provider=provider, threads=1)
        if self._encoder.revision != job.revision:
            raise RevisionChanged(
                f"{model} is {self._encoder.revision[:12]} here, not {job.revision[:12]}"
            )
        self._decoders = Decoders(self._encoder.config.input, workers=0)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        numbers = [int(part) for part in batch["part"]]
        done = list(embed_parts(self._job, numbers, self._folder, self._encoder, self._decoders))
        columns = zip(*done, strict=True)
        return {
            name: list(column) for name, column in zip(FinishedPart._fields, columns, strict=True)
        }
