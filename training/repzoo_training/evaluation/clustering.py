"""Clustering by a Gaussian mixture with one component per class, fitted without labels.

Embeddings are standardised first, as for the probes. The Hungarian algorithm matches components to
classes one to one on the training labels, so nothing is chosen on the test set.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

from repzoo_training.evaluation.inputs import standardise
from repzoo_training.evaluation.report import Measure, Protocol

__all__ = ["cluster", "match", "measure_clusters"]

#: Fits from different starting points; the most likely one counts.
STARTS = 3
ITERATIONS = 100
#: Added to the diagonal of every covariance; embeddings are standardised.
REGULARISATION = 1e-4
#: Largest number of training embeddings that a mixture is fitted to.
MOST_ROWS = 20_000
#: Resamplings of the test set for the standard errors of NMI and ARI.
RESAMPLINGS = 100

Integers = NDArray[np.int64]


def measure_clusters(
    train_z: NDArray[np.floating],
    train_y: Integers,
    test_z: NDArray[np.floating],
    test_y: Integers,
    *,
    classes: int,
    task: str,
    seed: int = 0,
) -> tuple[Measure, Measure, Measure]:
    """Measure ``gmm_accuracy``, ``gmm_nmi`` and ``gmm_ari`` of test embeddings.

    Args:
        train_z: embeddings that the mixture is fitted to and matched on, float ``[M, D]``.
        train_y: their labels, int64 ``[M]`` in ``[0, classes)``.
        test_z: test embeddings, float ``[N, D]``.
        test_y: their labels, int64 ``[N]``.
        classes: number of classes, and of components of the mixture.
        task: name of the task.
        seed: decides the mixture's starts and the resampling.
    """
    train_c, test_c = cluster(train_z, test_z, components=classes, seed=seed)
    protocol: Protocol = {
        "components": classes,
        "covariance": "full",
        "inputs": "standardised",
        "starts": STARTS,
        "fitted on": min(len(train_z), MOST_ROWS),
        "seed": seed,
    }
    right = (match(train_c, train_y, classes)[test_c] == test_y).astype(np.float64)
    accuracy = Measure.of_scores(
        "gmm_accuracy",
        right,
        unit="accuracy",
        protocol={**protocol, "matching": "Hungarian, on train"},
        task=task,
    )
    samples = np.random.default_rng(seed).integers(0, len(test_y), (RESAMPLINGS, len(test_y)))

    def shared(name: str, what: str) -> Measure:
        score = {"nmi": normalized_mutual_info_score, "ari": adjusted_rand_score}[name]
        resampled = [score(test_y[rows], test_c[rows]) for rows in samples]
        return Measure(
            name=f"gmm_{name}",
            task=task,
            value=float(score(test_y, test_c)),
            standard_error=float(np.std(resampled)),
            n=len(test_y),
            unit="adjusted Rand index" if name == "ari" else "normalised mutual information",
            protocol={**protocol, "average": what, "standard error": "bootstrap"},
        )

    return accuracy, shared("nmi", "arithmetic"), shared("ari", "chance-corrected")


def cluster(
    train_z: NDArray[np.floating], test_z: NDArray[np.floating], *, components: int, seed: int = 0
) -> tuple[Integers, Integers]:
    """Return the most likely component of each embedding, int64 ``[M]`` and ``[N]``."""
    train_z, test_z = standardise(train_z, test_z)
    rows = np.random.default_rng(seed).permutation(len(train_z))[:MOST_ROWS]
    mixture = GaussianMixture(
        components,
        covariance_type="full",
        reg_covar=REGULARISATION,
        n_init=STARTS,
        init_params="k-means++",
        max_iter=ITERATIONS,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # The number of iterations is part of the protocol. Embeddings may coincide.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(train_z[rows])
    return mixture.predict(train_z), mixture.predict(test_z)


def match(clusters: Integers, labels: Integers, classes: int) -> Integers:
    """Return the class of each cluster, int64 ``[classes]``: the best one-to-one match."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (clusters, labels), 1)
    result: Integers = linear_sum_assignment(counts, maximize=True)[1].astype(np.int64)
    return result
