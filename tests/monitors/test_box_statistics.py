"""What a detector's scores tell without labels: shares that move with counts and with doubt, and an expected F1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors import count_shares, expected_f1

SCORES = st.lists(st.floats(0, 1), max_size=30).map(np.array)


@given(SCORES, st.integers(1, 4))
def test_shares_are_a_simplex_and_a_box_of_score_zero_changes_nothing(scores: np.ndarray, classes: int) -> None:
    labels = np.arange(len(scores)) % classes
    shares = count_shares(scores, labels, classes)
    assert shares.shape == (classes + 1,) and (shares >= 0).all() and shares.sum() == pytest.approx(1)
    more = count_shares(np.append(scores, 0.0), np.append(labels, 0), classes)
    assert more == pytest.approx(shares)


def test_shares_move_with_counts_with_doubt_and_with_the_class() -> None:
    """Nothing found is all none; more found leave less of it; doubt goes to none; classes have what is theirs."""
    assert count_shares(np.empty(0), np.empty(0, int), 2).tolist() == [0, 0, 1]
    few, many = (count_shares(np.ones(n), np.zeros(n, int), 2) for n in (8, 16))
    assert few.tolist() == pytest.approx([8 / 9, 0, 1 / 9]) and many.tolist() == pytest.approx([16 / 17, 0, 1 / 17])
    doubted = count_shares(np.full(8, 0.5), np.zeros(8, int), 2)
    assert doubted.tolist() == pytest.approx([2 / 5, 0, 3 / 5])
    mixed = count_shares(np.ones(4), np.array([0, 1, 1, 1]), 2)
    assert mixed.tolist() == pytest.approx([0.2, 0.6, 0.2])


@given(SCORES)
def test_the_expected_f1_is_one(scores: np.ndarray) -> None:
    assert 0 <= expected_f1(scores) <= 1


def test_the_expected_f1_is_that_of_boxes_that_are_right_as_often_as_they_say() -> None:
    """Beside a simulation; and by hand where nothing is shown, or all is sure."""
    assert expected_f1(np.ones(3)) == 1 and expected_f1(np.empty(0)) == 1
    assert expected_f1(np.array([0.4, 0.2])) == pytest.approx(0.6 * 0.8)
    scores = np.random.default_rng(0).random(20)
    right = np.random.default_rng(1).random((4000, 20)) < scores
    shown = scores >= 0.5
    f1 = 2 * right[:, shown].sum(axis=1) / (shown.sum() + right.sum(axis=1))
    assert expected_f1(scores) == pytest.approx(f1.mean(), abs=0.01)
