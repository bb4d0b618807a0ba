"""Herding: the remembered cases whose mean is that of all (iCaRL, Rebuffi and others 2017)."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from strategies.data.choices import ranked, rows_of
from strategies.protocols import Lesson


def herding(lesson: Lesson, size: int, seed: int) -> list[int]:
    """Even over domains and classes; of each the patients whose cases come, one patient after the other, nearest to
    the mean of all, in features of length 1.

    Where every patient has one case and there is one domain, these are iCaRL's exemplars. No seed enters.
    """
    features = lesson.features()
    features = features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
    cells: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for patient, rows in sorted(rows_of(lesson).items()):
        for row in rows:
            cells[str(lesson.domain[row]), str(lesson.label[row])][patient].append(row)
    place: dict[tuple[str, str, str], int] = {}
    for cell, patients in cells.items():
        sums = np.stack([features[rows].sum(axis=0) for rows in patients.values()])
        counts = np.array([len(rows) for rows in patients.values()])
        names = list(patients)
        place |= {(names[i], *cell): turn for turn, i in enumerate(_herded(sums, counts, size))}
    return ranked(lesson, size, lambda patient, domain, label: (place.get((patient, domain, label), size), patient))


def _herded(sums: NDArray[np.floating], counts: NDArray[np.integer], most: int) -> list[int]:
    """sums [p, d] of the features of counts [p] cases of each patient -> the first `most` patients."""
    mean = sums.sum(axis=0) / counts.sum()
    total, n = np.zeros(sums.shape[1]), 0
    left = np.ones(len(sums), dtype=bool)
    order: list[int] = []
    for _ in range(min(most, len(sums))):
        means = (total + sums) / (n + counts)[:, None]
        i = int(np.where(left, np.square(means - mean).sum(axis=1), np.inf).argmin())
        order.append(i)
        total, n, left[i] = total + sums[i], n + counts[i], False
    return order
