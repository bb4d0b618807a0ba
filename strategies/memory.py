"""Which cases are rehearsed: a pure function of what is there, so a crash, a retry or another order changes nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any


def balanced_by_domain(
    case_ids: Sequence[str],
    domains: Sequence[str],
    labels: Sequence[str | int],
    patients: Sequence[str],
    size: int,
    seed: int = 0,
) -> list[str]:
    """Chooses at most `size` cases, as even over domains, and within a domain over classes, as whole patients allow.

    The four sequences are parallel, one entry per case; patients are pseudonyms. Each turn goes to the domain with the
    fewest kept cases, in it to the class with the fewest, in it to the next patient of a pseudo-random order; all cases
    of that patient come along, or none where they don't fit any more. The order hangs on (seed, patient) alone, so the
    result knows no order of input, and a patient seldom leaves a memory that grows. Returns the kept ids, sorted.
    Raises ValueError on a negative size, unequal lengths or doubled ids.
    """
    return in_turns(case_ids, domains, labels, patients, size, lambda patient, domain, label: drawn(seed, patient))


def in_turns(
    case_ids: Sequence[str],
    domains: Sequence[str],
    labels: Sequence[str | int],
    patients: Sequence[str],
    size: int,
    rank: Callable[[str, str, str], Any],
) -> list[str]:
    """As `balanced_by_domain`, in an order of one's own.

    Of the patients with a case of a class of a domain the one is next whose rank(patient, domain, class) is least.
    """
    if size < 0:
        raise ValueError(f"the memory's size is {size}: it can't be negative")
    if len({len(case_ids), len(domains), len(labels), len(patients)}) != 1:
        raise ValueError("case ids, domains, labels and patients must have one entry per case")
    if len(set(case_ids)) != len(case_ids):
        raise ValueError("a case id occurs twice among the cases to remember")
    cases: dict[str, list[str]] = defaultdict(list)
    cells: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)  # patient -> cases per (domain, class)
    for case_id, domain, label, patient in zip(case_ids, domains, labels, patients, strict=True):
        cases[patient].append(case_id)
        cells[patient][domain, str(label)] += 1

    waiting: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))  # domain -> class -> patients
    for patient, inside in cells.items():
        for cell in inside:
            waiting[cell[0]][cell[1]].append(patient)
    for in_domain, classes in waiting.items():
        for of_class, unordered in classes.items():
            unordered.sort(key=lambda patient: rank(patient, in_domain, of_class), reverse=True)
    of_domain: Counter[str] = Counter()
    of_cell: Counter[tuple[str, str]] = Counter()
    kept: list[str] = []
    decided: set[str] = set()
    while waiting:
        domain = _fewest(waiting, of_domain)
        label = min(waiting[domain], key=lambda label: (of_cell[domain, label], label))
        patient = waiting[domain][label].pop()
        if not waiting[domain][label]:
            del waiting[domain][label]
        if not waiting[domain]:
            del waiting[domain]
        if patient in decided:
            continue
        decided.add(patient)
        if len(kept) + len(cases[patient]) <= size:
            kept += cases[patient]
            of_cell.update(cells[patient])
            for (of, _), count in cells[patient].items():
                of_domain[of] += count
    return sorted(kept)


def _fewest(names: Iterable[str], counts: Counter[str]) -> str:
    return min(names, key=lambda name: (counts[name], name))


def drawn(seed: int, patient: str) -> bytes:
    """A pseudo-random key: patients sorted by it are in an order that only the seed and their names decide."""
    return sha256(f"{seed}\n{patient}".encode()).digest()
