"""Dice of cases and structures against values worked out by hand, and its definitions where a mask is empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors import MEASURES_OF_REGIONS, Regions, case_dice, dice, dice_per_structure, pixel_brier, pixel_nll, regions


def of(overlap: list, label: list[int] | None = None) -> Regions:
    """Cases of which (both, said, true) are given for every structure; the losses are 0.1, 0.2, ..."""
    n = len(overlap)
    losses = 0.1 * np.arange(1, n + 1)
    rows = np.column_stack([np.array(overlap, float).reshape(n, -1), losses, 2 * losses])
    return regions(rows, np.array(label or [0] * n), np.arange(n).astype(np.str_))


# Two structures: both found; one invented; one missed; none in either; none in either and no mask.
FIVE = [
    [(8, 10, 10), (3, 6, 4)],
    [(5, 5, 5), (0, 7, 0)],
    [(0, 0, 9), (2, 2, 2)],
    [(0, 0, 0), (0, 0, 0)],
    [(np.nan, 4, np.nan), (np.nan, 0, np.nan)],
]
BY_HAND = [(0.8 + 0.6) / 2, 0.5, 0.5, 1.0]
RECORDS = of(FIVE, [0, 0, 0, 0, -1])


def test_dice_of_a_case_is_the_mean_of_the_structures_that_are_there() -> None:
    """What is invented and what is missed count 0, what is in neither is left out, and nothing rightly left empty is 1;
    a case without a mask has none."""
    np.testing.assert_allclose(case_dice(RECORDS), [*BY_HAND, np.nan])
    np.testing.assert_allclose(dice_per_structure(RECORDS), [[(0.8 + 1 + 0) / 3, (0.6 + 0 + 1) / 3]])


def test_means_are_over_the_cases_that_have_a_mask() -> None:
    """Losses of pixels as well as Dice; a mask that nobody drew is neither right nor wrong."""
    assert dice(RECORDS) == pytest.approx([np.mean(BY_HAND)])
    assert pixel_brier(RECORDS) == pytest.approx([0.25])
    assert pixel_nll(RECORDS) == pytest.approx([0.5])
    assert all(np.isnan(measure(of(FIVE, [-1] * 5))[0]) for measure in MEASURES_OF_REGIONS)
    assert np.isnan(dice_per_structure(of([[(0, 0, 0), (1, 1, 1)]]))).tolist() == [[True, False]]


def test_rows_with_another_number_of_columns_are_refused() -> None:
    """Three numbers per structure and two losses."""
    with pytest.raises(ValueError, match="6 is no such number"):
        regions(np.zeros((2, 6)), np.zeros(2), np.array(["a", "b"]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_weights_are_repeated_cases(seed: int, structures: int) -> None:
    """Any integer weights give each of the three measures what repeating the cases gives; cases without a mask stay
    without weight, and `take` takes them whole."""
    rng = np.random.default_rng(seed)
    said, true = (rng.integers(0, 4, (20, structures)) * rng.integers(0, 2, (20, structures)) for _ in range(2))
    both = np.minimum(said, true) * rng.integers(0, 2, said.shape)
    records = of(np.stack([both, said, true], axis=2).tolist(), rng.integers(-1, 1, 20).tolist())
    weights = rng.integers(0, 4, 20)
    again = records.take(np.repeat(np.arange(20), weights))

    assert len(MEASURES_OF_REGIONS) == 3
    assert len(again) == weights.sum()
    for measure in (*MEASURES_OF_REGIONS, dice_per_structure):
        found = measure(records, np.stack([weights, np.ones(20)]).astype(float))
        np.testing.assert_allclose(found[0], measure(again)[0], err_msg=measure.__name__)
        np.testing.assert_allclose(found[1], measure(records)[0], err_msg=measure.__name__)
