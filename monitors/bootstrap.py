"""Resampling patients: the weights that every measure takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from monitors.measures import Measure
from monitors.protocols import Float, Record

CHUNK = 2**20
"""Weights that are drawn at a time: some 4 MiB, about what a processor's cache holds."""


def patient_weights(unit: NDArray[np.str_], resamples: int, seed: int) -> Iterator[Float]:
    """Yields float32 [b, n] in chunks that sum to `resamples` rows: how often each case's patient was drawn.

    In memory a case's weights lie side by side (Fortran's order), so that a measure that sorts the cases moves them
    whole.

    Patients are drawn with replacement, as many as there are; a patient's cases are drawn together. Counts that are
    Poisson with a mean a little below 1, filled up by single draws to n in all, are multinomial like n single draws and
    take a third of the time; the table of 2^16 steps that they are read from is off by 1e-5.
    """
    patients, of = np.unique(unit, return_inverse=True)
    n, rng = len(patients), np.random.default_rng(seed)
    table = _poisson_table(max(0.0, 1.0 - 5.0 / np.sqrt(n)))
    step = max(1, CHUNK // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        sixteen_bits = rng.bit_generator.random_raw(-(-n * rows // 4)).view(np.uint16)[: n * rows]
        counts = table.take(sixteen_bits, mode="clip").reshape(n, rows)  # clip: no index is out of bounds to look for
        missing = np.maximum(n - counts.sum(axis=0).astype(np.int64), 0)
        drawn = rng.integers(0, n, missing.sum()) * rows + np.repeat(np.arange(rows), missing)
        np.add.at(counts.reshape(-1), drawn, np.float32(1))
        yield (counts if n == len(unit) else counts[of]).T


def _poisson_table(mean: float) -> Float:
    """Counts at the mid-points of 2^16 equal steps of probability."""
    terms = np.cumprod(np.concatenate([[np.exp(-mean)], mean / np.arange(1, 20)]))
    return np.searchsorted(np.cumsum(terms), (np.arange(2**16) + 0.5) / 2**16).astype(np.float32)


def paired(
    measure: Measure, before: Record, after: Record, resamples: int = 2000, seed: int = 0
) -> tuple[Float, Float]:
    """The measure on the same resampled patients before and after: two arrays [resamples]. Raises ValueError unless
    both are of the same cases."""
    return tuple(paired_all([measure], before, after, resamples, seed)[:, 0])


def paired_all(measures: list[Measure], before: Record, after: Record, resamples: int = 2000, seed: int = 0) -> Float:
    """[2, measures, resamples] of several measures in one go, all of them in the same draw."""
    if not np.array_equal(before.unit, after.unit):
        raise ValueError("before and after are not of the same cases")
    chunks = [
        np.stack([np.stack([measure(scores, w) for measure in measures]) for scores in (before, after)])
        for w in patient_weights(before.unit, resamples, seed)
    ]
    return np.concatenate(chunks, axis=2)
