"""Dynamic memory, which keeps every style of image (Hofmanninger and others 2020, Perkonigg and others 2021)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from strategies.data.choices import rows_of
from strategies.memory import drawn
from strategies.protocols import Lesson


def by_style(lesson: Lesson, size: int, seed: int) -> list[int]:
    """Patients enter in an order drawn by the seed; when the memory is full, the earlier of the two of the newcomer's
    class that are most alike in style leaves. So what is common gives way to itself, and a rare scanner's images stay.

    In the papers the one leaves that is most like the newcomer: then each of a rare style puts out the one before it.
    There style is the Gram matrices of early layers. Here it is the pooled features, less the mean of their class and
    each divided by its spread, as a lesson holds no layers: it tells apart what the encoder has not learnt to overlook.
    A patient's class is its commonest one, its style the mean of its cases.
    """
    of = rows_of(lesson)
    order = sorted((patient for patient in of if len(of[patient]) <= size), key=lambda patient: drawn(seed, patient))
    if not order:
        return []
    known = np.array([row for patient in order for row in of[patient]])
    features, label = lesson.features().astype(np.float64), lesson.label
    style = np.zeros_like(features)
    for name in np.unique(label[known]):
        alike = known[label[known] == name]
        style[alike] = features[alike] - features[alike].mean(axis=0)
    spread = style[known].std(axis=0)
    style /= np.where(spread > 0, spread, 1.0)
    count = np.array([len(of[patient]) for patient in order])
    main = np.array([_commonest(label[of[patient]]) for patient in order])
    mean = np.stack([style[of[patient]].mean(axis=0) for patient in order])
    apart = np.where(main[:, None] == main, cdist(mean, mean), np.inf)
    np.fill_diagonal(apart, np.inf)
    inside: list[int] = []
    for newcomer in range(len(order)):
        inside.append(newcomer)
        while count[inside].sum() > size:
            same = [i for i in inside if main[i] == main[newcomer]]
            among = same if len(same) > 1 else inside
            pair = np.unravel_index(apart[np.ix_(among, among)].argmin(), (len(among), len(among)))
            inside.remove(among[min(pair)])
    return sorted(row for i in inside for row in of[order[i]])


def _commonest(label: NDArray[np.integer]) -> int:
    """Of equals the least; a label may be any number, as sets of findings are."""
    names, counts = np.unique(label, return_counts=True)
    return int(names[counts.argmax()])
