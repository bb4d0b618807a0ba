"""The worth of masks that nobody has drawn yet, by the model's own expectation."""

from __future__ import annotations

import numpy as np
import pytest

from monitors import expected_worth


def cases(rng, n, fall=0.0):
    """Worths around 0.85, and expectations that see half of each answer's luck."""
    luck = rng.normal(0, 0.05, n)
    worth = np.clip(0.85 - fall + luck + rng.normal(0, 0.05, n), 0, 1)
    return worth, np.clip(0.9 - fall + luck, 0, 1), np.array([f"p{i}" for i in range(n)])


def test_the_band_holds_the_truth_where_the_expectation_falls_as_the_worth_does():
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        worth, sure, unit = cases(rng, 80)
        true, new_sure, new_unit = cases(rng, 60, fall=0.2)
        found = expected_worth(worth, sure, unit, new_sure, new_unit)
        held += found.low <= true.mean() <= found.high
        assert found.before == pytest.approx(worth.mean())
    assert held >= 54  # 95 % of 60 is 57


def test_labels_that_are_missing_are_left_out_and_too_few_give_no_estimate():
    rng = np.random.default_rng(0)
    worth, sure, unit = cases(rng, 60)
    _, new_sure, new_unit = cases(rng, 40)
    whole = expected_worth(worth[:30], sure[:30], unit[:30], new_sure, new_unit)
    worth[30:] = np.nan
    assert expected_worth(worth, sure, unit, new_sure, new_unit).value == whole.value
    worth[10:] = np.nan
    few = expected_worth(worth, sure, unit, new_sure, new_unit)
    assert few.value is None and "10 labelled patients" in few.says
    assert expected_worth(worth, sure, unit, new_sure[:5], new_unit[:5]).value is None


def test_the_same_patients_again_and_again_are_no_more_evidence():
    rng = np.random.default_rng(1)
    worth, sure, unit = cases(rng, 60)
    _, new_sure, new_unit = cases(rng, 40)
    once = expected_worth(worth, sure, unit, new_sure, new_unit)
    often = expected_worth(np.tile(worth, 9), np.tile(sure, 9), np.tile(unit, 9), np.tile(new_sure, 9),
                           np.tile(new_unit, 9))  # fmt: skip
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.3)
