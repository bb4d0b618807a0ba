"""Rehearsal through avalanche: what goes into a batch, and which patients are rehearsed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from told import lesson

from strategies.data import SHARES, NewCases, Rehearsal, by_roots


@dataclass
class Listed:
    """Examples without images: the data mechanisms never look at one."""

    label: np.ndarray
    patient: np.ndarray
    domain: np.ndarray

    @classmethod
    def of(cls, n: int, domain: str, per_patient: int = 1) -> Listed:
        patient = np.array([f"{domain}-{i // per_patient}" for i in range(n)])
        return cls(np.arange(n) % 2, patient, np.full(n, domain))

    def __len__(self) -> int:
        return len(self.label)

    def image(self, i: int) -> np.ndarray:
        raise AssertionError(f"image {i} was read to compose a batch")


def epochs(batches, n: int = 2) -> list[list[list[int]]]:
    return [[[int(i) for i in batch] for batch in batches] for _ in range(n)]


def test_rehearsal_mixes_new_and_remembered_by_halves() -> None:
    """An epoch shows every new case once, beside remembered ones in each batch."""
    first, second = epochs(
        Rehearsal(20, least=3).batches(lesson(Listed.of(24, "new"), Listed.of(60, "home")), 16, seed=0)
    )
    for epoch in (first, second):
        assert sorted(i for batch in epoch for i in batch if i < 24) == list(range(24))
        assert all(4 <= sum(i >= 24 for i in batch) <= 8 for batch in epoch)
    assert first != second


@pytest.mark.parametrize(("new", "remembered", "of_16"), [(16, 144, 4), (100, 200, 7), (2, 400, 1), (64, 64, 8)])
def test_new_and_remembered_may_share_a_batch_by_the_roots_of_their_numbers(
    new: int, remembered: int, of_16: int
) -> None:
    """On trial: a few new cases are not half of all that is gone through."""
    memory = Listed.of(remembered, "home")
    mechanism = Rehearsal(share=by_roots)
    *full, _ = epochs(mechanism.batches(lesson(Listed.of(new, "new"), memory), 16, seed=0), 1)[0]
    assert {sum(i < new for i in batch) for batch in full} == {of_16}
    assert Counter(map(len, full)).most_common(1)[0][0] == 16 == max(map(len, full))


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_no_share_gives_new_cases_more_than_half(new: int, remembered: int) -> None:
    assert all(0 < share(new, remembered) <= 0.5 for share in SHARES) and len(SHARES) == 2


def test_few_new_cases_come_often_enough_to_be_learnt() -> None:
    """Ten cases are no two steps an epoch: they come again until there are sixteen, beside all that is remembered."""
    for epoch in epochs(Rehearsal().batches(lesson(Listed.of(10, "new"), Listed.of(60, "home")), 16, seed=0)):
        assert len(epoch) >= 16
        assert set(Counter(i for batch in epoch for i in batch if i < 10).values()) == {13}
        assert len({i for batch in epoch for i in batch if i >= 10}) == 60


def test_rehearsal_is_bounded_and_keeps_patients_whole() -> None:
    """No more than `size` remembered cases are replayed; a patient's three images come all or not at all."""
    memory = Listed.of(60, "home", per_patient=3)
    seen = {
        i - 8
        for epoch in epochs(Rehearsal(20).batches(lesson(Listed.of(8, "new"), memory), 16, 0), 9)
        for b in epoch
        for i in b
    }
    patients = Counter(memory.patient[i] for i in seen if i >= 0)
    assert len(patients) == 6
    assert set(patients.values()) == {3}


def test_same_seed_same_batches() -> None:
    """A training that is repeated sees the same cases in the same order; another seed another order."""
    new, memory = Listed.of(10, "new"), Listed.of(30, "home")
    for mechanism in (Rehearsal(12), NewCases()):
        twins = [epochs(mechanism.batches(lesson(new, memory), 4, seed)) for seed in (5, 5, 6)]
        assert twins[0] == twins[1] != twins[2]


def test_without_a_memory_rehearsal_is_the_new_cases() -> None:
    """An empty memory is no error: the first update of a foreign base has nothing to rehearse."""
    new, nothing = Listed.of(10, "new"), Listed.of(0, "home")
    assert epochs(Rehearsal().batches(lesson(new, nothing), 4, 1)) == epochs(
        NewCases().batches(lesson(new, nothing), 4, 1)
    )


def test_new_cases_come_once_an_epoch_in_even_batches() -> None:
    """Nine cases in batches of four make three batches of three: none of one, which batch norm could not take."""
    for epoch in epochs(NewCases().batches(lesson(Listed.of(9, "new"), Listed.of(0, "home")), 4, 0)):
        assert [len(batch) for batch in epoch] == [3, 3, 3]
        assert sorted(i for batch in epoch for i in batch) == list(range(9))
