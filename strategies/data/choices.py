"""Which remembered cases are replayed, where not all are: whole patients, at most `size` cases.

Pure functions of the lesson's facts and the seed. avalanche's storage policies draw single cases, so that a patient may
be half in and half out, and keep state between trainings; what is remembered for good is the agent's here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from strategies.memory import drawn, in_turns
from strategies.protocols import Lesson

Choice = Callable[[Lesson, int, int], Sequence[int]]  # (lesson, size, seed) -> rows, sorted


def by_domain(lesson: Lesson, size: int, seed: int) -> list[int]:
    """As even over domains, and within a domain over classes, as whole patients allow (`memory.balanced_by_domain`)."""
    return ranked(lesson, size, lambda patient, domain, label: drawn(seed, patient))


def by_class(lesson: Lesson, size: int, seed: int) -> list[int]:
    """As even over classes as whole patients allow, whichever domain they are of."""
    one = replace(lesson, domain=np.full(len(lesson), "any"))
    return by_domain(one, size, seed)


def by_patient(lesson: Lesson, size: int, seed: int) -> list[int]:
    """Every patient has the same chance, whether of one image or of fifty."""
    return while_they_fit(lesson, size, sorted(rows_of(lesson), key=lambda patient: drawn(seed, patient)))


def reservoir(lesson: Lesson, size: int, seed: int) -> list[int]:
    """Every case has the same chance, as in a reservoir (Vitter 1985, algorithm R), and brings its patient along.

    A key is drawn for each case and the largest are kept: the same sample, of cases in any order.
    """

    def best(patient: str) -> bytes:
        return max(drawn(seed, f"{patient}\n{i}") for i in range(len(of[patient])))

    of = rows_of(lesson)
    return while_they_fit(lesson, size, sorted(of, key=best, reverse=True))


def ranked(lesson: Lesson, size: int, rank: Callable[[str, str, str], Any]) -> list[int]:
    """Even over domains and classes; of those of one domain and class the patients of least rank."""
    rows = _remembered(lesson)
    domain, label, patient = (column[rows].tolist() for column in (lesson.domain, lesson.label, lesson.patient))
    return sorted(map(int, in_turns([str(row) for row in rows], domain, label, patient, size, rank)))


def while_they_fit(lesson: Lesson, size: int, patients: Iterable[str]) -> list[int]:
    """The remembered rows of these patients in turn, passing over those that don't fit any more."""
    of = rows_of(lesson)
    kept: list[int] = []
    for patient in patients:
        if len(kept) + len(of[patient]) <= size:
            kept += of[patient]
    return sorted(kept)


def rows_of(lesson: Lesson) -> dict[str, list[int]]:
    """The remembered rows of each patient."""
    found: dict[str, list[int]] = defaultdict(list)
    for row in _remembered(lesson):
        found[str(lesson.patient[row])].append(row)
    return found


def _remembered(lesson: Lesson) -> list[int]:
    return list(range(lesson.new, lesson.new + lesson.remembered))
