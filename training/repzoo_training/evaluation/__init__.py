"""Evaluate representations: one protocol for every method, run and package.

>>> from repzoo_training.evaluation import evaluate_dataset
>>> evaluation = evaluate_dataset(encoder, train, test)     # anything with .embed(images)
>>> print(evaluation.report.table())
>>> evaluation.report.model_dump_json(indent=2)             # with the protocol of every number
>>> evaluation.heads                                        # the fitted probes, ready to export
"""

from __future__ import annotations

from repzoo_training.evaluation.knn import knn_predict
from repzoo_training.evaluation.probes import Head, linear_probe, mlp_probe
from repzoo_training.evaluation.protocol import (
    DEFAULT_GROUPS,
    Evaluation,
    evaluate,
    evaluate_dataset,
)
from repzoo_training.evaluation.report import EvaluationReport, Group, Measure
from repzoo_training.evaluation.representation import (
    Representation,
    reconstruction_errors,
    represent,
)
from repzoo_training.evaluation.runs import evaluate_run
from repzoo_training.evaluation.seeds import pool_seeds

__all__ = [
    "DEFAULT_GROUPS",
    "Evaluation",
    "EvaluationReport",
    "Group",
    "Head",
    "Measure",
    "Representation",
    "evaluate",
    "evaluate_dataset",
    "evaluate_run",
    "knn_predict",
    "linear_probe",
    "mlp_probe",
    "pool_seeds",
    "reconstruction_errors",
    "represent",
]
