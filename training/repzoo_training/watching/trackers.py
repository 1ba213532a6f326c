"""Send the reports of a run to TensorBoard, Weights & Biases, MLflow, or a tracker of your own.

>>> train(recipe, images, "runs/mnist", trackers=[MyTracker()])

A run that is resumed continues in the same place: the identifiers that a service gave it are kept
in ``RUN/trackers.json``. A tracker that cannot start stops the run before it begins. One that fails
later, for example because its server is gone, is reported once and dropped; training goes on.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from repzoo.errors import MissingExtra
from repzoo.files import write_atomically

from repzoo_training.errors import RunError
from repzoo_training.run import Run, RunRecord

__all__ = ["TRACKERS", "Tracker", "Trackers"]


class Tracker(Protocol):
    """Where the reports of a run go."""

    def start(self, run: Run, record: RunRecord, step: int) -> None:
        """Begin, or continue after ``step`` steps. Values of later steps may be sent again."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take the values of a step: loss and its terms, learning rate, speed, collapse."""

    def finish(self, *, complete: bool) -> None:
        """End. A run that is not complete was interrupted or failed, and may continue."""


class TensorBoard:
    """Writes ``RUN/tensorboard``, for ``tensorboard --logdir RUN``."""

    def start(self, run: Run, record: RunRecord, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("--track tensorboard", "tensorboard", error) from error
        # Hides what an interrupted run wrote after its last checkpoint.
        self._writer: Any = SummaryWriter(run.path / "tensorboard", purge_step=step + 1)
        self._writer.add_text("recipe", f"```json\n{record.recipe.model_dump_json(indent=2)}\n```")

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, *, complete: bool) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Reports to the project ``repzoo``, or to the one in ``WANDB_PROJECT``."""

    def start(self, run: Run, record: RunRecord, step: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtra("--track wandb", "wandb", error) from error
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "repzoo"),
            name=run.path.name,
            id=_identifier(run, "wandb", lambda: uuid.uuid4().hex),
            resume="allow",
            dir=run.path,
            config=record.model_dump(mode="json"),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        # Steps that were logged before an interruption are ignored; their values are the same.
        self._run.log(dict(values), step=step)

    def finish(self, *, complete: bool) -> None:
        self._run.finish(exit_code=0 if complete else 1)


class MLflow:
    """Reports to the server in ``MLFLOW_TRACKING_URI``, in the experiment ``repzoo``.

    ``MLFLOW_EXPERIMENT_NAME`` chooses another experiment.
    """

    def start(self, run: Run, record: RunRecord, step: int) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtra("--track mlflow", "mlflow", error) from error
        client = mlflow.MlflowClient()

        def create() -> str:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "repzoo")
            found = client.get_experiment_by_name(name)
            experiment = client.create_experiment(name) if found is None else found.experiment_id
            made: str = client.create_run(experiment, run_name=run.path.name).info.run_id
            return made

        self._client: Any = client
        self._id = _identifier(run, "mlflow", create)
        if not client.get_run(self._id).data.params:
            for key, value in record.recipe.model_dump(mode="json").items():
                client.log_param(self._id, key, json.dumps(value)[:500])
        client.update_run(self._id, status="RUNNING")

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def finish(self, *, complete: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if complete else "KILLED")


#: The trackers of ``zoo train --track``, by name.
TRACKERS: Mapping[str, Callable[[], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


class Trackers:
    """Sends the numbers of a run to all of its trackers, in a ``with``.

    Raises:
        MissingExtra: On entering, if the library of a tracker is not installed.
        RunError: On entering, if a tracker cannot start.
    """

    def __init__(self, trackers: Iterable[Tracker], run: Run, record: RunRecord, step: int) -> None:
        self._wanted = list(trackers)
        self._run, self._record, self._step = run, record, step
        self._started: list[Tracker] = []

    def __enter__(self) -> Trackers:
        for tracker in self._wanted:
            try:
                tracker.start(self._run, self._record, self._step)
            except Exception as error:
                self._finish(complete=False)
                if isinstance(error, MissingExtra):
                    raise
                raise RunError(f"{_name(tracker)} cannot start: {error}") from error
            self._started.append(tracker)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._finish(complete=kind is None)

    def _finish(self, *, complete: bool) -> None:
        for tracker in list(self._started):
            self._try(tracker, partial(tracker.finish, complete=complete))

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Send the numbers among ``values``."""
        numbers = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and name != "step"
        }
        for tracker in list(self._started):
            self._try(tracker, partial(tracker.log, numbers, step))

    def _try(self, tracker: Tracker, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._started.remove(tracker)
            print(
                f"warning: {_name(tracker)} failed and gets no more reports of this run ({error}); "
                f"{self._run.metrics_file} has them all",
                file=sys.stderr,
            )


def _name(tracker: Tracker) -> str:
    return type(tracker).__name__


def _identifier(run: Run, tracker: str, create: Callable[[], str]) -> str:
    """Return the identifier of the run at a service, from the run folder or a new one."""
    path = run.path / "trackers.json"
    known = json.loads(path.read_bytes()) if path.exists() else {}
    if tracker not in known:
        known[tracker] = create()
        write_atomically(path, json.dumps(known).encode() + b"\n")
    return str(known[tracker])
