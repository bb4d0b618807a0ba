"""Resampling patients: the weights that every measure takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from monitors.measures import Measure
from monitors.protocols import Float, Scores

CHUNK = 100


def patient_weights(unit: NDArray[np.str_], resamples: int, seed: int) -> Iterator[Float]:
    """Yields float32 [b, n] in chunks that sum to `resamples` rows: how often each case's patient was drawn.

    Patients are drawn with replacement, as many as there are; a patient's cases are drawn together.
    """
    patients, of = np.unique(unit, return_inverse=True)
    n, rng = len(patients), np.random.default_rng(seed)
    small = np.uint16 if n <= 2**16 else np.uint32
    alone = n == len(unit)
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        drawn = rng.integers(0, n, (rows, n), dtype=small) + np.arange(0, rows * n, n)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float32)
        yield counts if alone else counts[:, of]


def paired(
    measure: Measure, before: Scores, after: Scores, resamples: int = 2000, seed: int = 0
) -> tuple[Float, Float]:
    """The measure on the same resampled patients before and after: two arrays [resamples]. Raises ValueError unless
    both are of the same cases."""
    return tuple(paired_all([measure], before, after, resamples, seed)[:, 0])


def paired_all(measures: list[Measure], before: Scores, after: Scores, resamples: int = 2000, seed: int = 0) -> Float:
    """[2, measures, resamples] of several measures in one go, all of them in the same draw."""
    if not np.array_equal(before.unit, after.unit):
        raise ValueError("before and after are not of the same cases")
    order = np.argsort(before.probability[:, -1], kind="stable")
    both = [_take(scores, order) for scores in (before, after)]
    chunks = [
        np.stack([np.stack([measure(scores, w) for measure in measures]) for scores in both])
        for w in patient_weights(both[0].unit, resamples, seed)
    ]
    return np.concatenate(chunks, axis=2)


def _take(scores: Scores, order: NDArray[np.integer]) -> Scores:
    """The same cases in another order: sorted by one model's score, its AUROC needs no gather."""
    return Scores(probability=scores.probability[order], target=scores.target[order], unit=scores.unit[order])
