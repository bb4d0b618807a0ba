"""Curation: copies and suspicious labels are left out before a batch is composed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from strategies.data.rehearsal import Rehearsal
from strategies.protocols import Batches, DataMechanism, Lesson


class Curated:
    """Another data mechanism, on the lesson without near-duplicates (`copies`) and suspicious labels (`suspicious`).

    What is left out is counted in the candidate's record.
    Single cases are left out, new and remembered: whoever else of the patient is there stays, and is replayed whole.
    """

    name = "curated"

    def __init__(self, inner: DataMechanism | None = None, alike: float = 0.995) -> None:
        self.inner, self.alike = inner or Rehearsal(), alike
        self.remembers = self.inner.remembers

    def batches(self, lesson: Lesson, batch: int, seed: int) -> Batches:
        """Raises ValueError where no new case is left."""
        copied = copies(lesson.features(), lesson.label, self.alike)
        doubted = suspicious(lesson.label, lesson.domain, lesson.logits()) & ~copied
        rows = np.flatnonzero(~copied & ~doubted)
        left = _only(lesson, rows)
        if not left.new:
            raise ValueError("Every new case is a copy of another with another label: there is nothing to learn from.")
        counts = {"copies": int(copied.sum()), "suspicious_labels": int(doubted.sum())}
        return _Left(self.inner.batches(left, batch, seed), rows.tolist(), counts)


class _Left:
    """Batches of what is left, in the rows of the whole lesson."""

    def __init__(self, inner: Batches, rows: Sequence[int], counts: dict[str, int]) -> None:
        self.inner, self.rows, self.counts = inner, rows, counts

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[Sequence[int]]:
        for batch in self.inner:
            yield [self.rows[row] for row in batch]

    def record(self) -> dict[str, Any]:
        return {"left_out": self.counts}


def copies(features: NDArray[np.floating], label: NDArray[np.integer], alike: float) -> NDArray[np.bool_]:
    """features [n, d], label [n] -> bool [n]: all but the first of cases whose features, less the mean of all, have a
    cosine of at least `alike`; where their labels disagree, all of them.

    Files that are equal byte for byte never get here: the intake knows them.
    """
    from scipy.sparse.csgraph import connected_components
    from sklearn.neighbors import radius_neighbors_graph

    centred = features - features.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(min=1e-12)
    near = radius_neighbors_graph(unit, float(np.sqrt(2 - 2 * alike)))  # |u - v|^2 = 2 - 2 cos
    _, group = connected_components(near, directed=False)
    first = np.zeros(len(group), dtype=bool)
    first[np.unique(group, return_index=True)[1]] = True
    disagree = [len(np.unique(label[(group == g) & (label >= 0)])) > 1 for g in range(group.max() + 1)]
    return ~first | np.array(disagree)[group]


def suspicious(
    label: NDArray[np.integer], domain: NDArray[np.str_], logits: NDArray[np.floating], at_most: float = 0.2
) -> NDArray[np.bool_]:
    """label [n], domain [n], logits [n, k] -> bool [n]: labels that are probably wrong (Northcutt and others 2021).

    A class is possible for a case where its probability reaches the mean of those labelled so; the label is suspicious
    where the likeliest possible class is another. All within a domain. Where more than `at_most` of a class are, it is
    the model that does not know this class there, on a new scanner for one, and none is suspicious.
    The method wants answers of a model that never saw the case: of remembered cases it finds fewer.
    """
    probability = softmax(logits.astype(np.float64), axis=1)
    found = np.zeros(len(label), dtype=bool)
    for name in np.unique(domain):
        here = np.flatnonzero((domain == name) & (label >= 0))
        given, said = label[here], probability[here]
        usual = np.array([said[given == c, c].mean() if (given == c).any() else np.inf for c in range(said.shape[1])])
        sure = np.where(said >= usual, said, -1.0)
        doubted = (sure.max(axis=1) >= 0) & (sure.argmax(axis=1) != given)
        for c in np.unique(given):
            if doubted[given == c].mean() <= at_most:
                found[here[doubted & (given == c)]] = True
    return found


def _only(lesson: Lesson, rows: NDArray[np.integer]) -> Lesson:
    new = int((rows < lesson.new).sum())
    return replace(
        lesson,
        label=lesson.label[rows],
        domain=lesson.domain[rows],
        patient=lesson.patient[rows],
        new=new,
        remembered=int((rows < lesson.new + lesson.remembered).sum()) - new,
        logits=lambda: lesson.logits()[rows],
        features=lambda: lesson.features()[rows],
    )
