"""Resampling is of patients, exact in distribution, and paired."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monitors import Scores, accuracy, auroc, ece, paired, paired_all, patient_weights


def scores(n: int, seed: int, noise: float = 1.0) -> Scores:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, n)
    p = 1 / (1 + np.exp(-2 * (target - 0.5) - noise * np.random.default_rng((seed, 1)).standard_normal(n)))
    return Scores(probability=np.column_stack([1 - p, p]), target=target, unit=np.arange(n).astype(np.str_))


@pytest.mark.parametrize("n", [5, 60, 2000])
def test_counts_are_multinomial(n: int) -> None:
    """Every resample draws n patients, each of them Binomial(n, 1/n) times, and any two with correlation -1/(n-1)."""
    weights = np.concatenate(list(patient_weights(np.arange(n).astype(np.str_), 60_000 // n + 500, 0)))
    values, counts = np.unique(np.minimum(weights, 4), return_counts=True)
    expected = np.append(stats.binom.pmf(np.arange(4), n, 1 / n), stats.binom.sf(3, n, 1 / n)) * weights.size

    assert (weights.sum(axis=1) == n).all()
    np.testing.assert_allclose(counts, expected[values.astype(int)], rtol=0.06, atol=5 * np.sqrt(expected.min()))
    assert weights.var() == pytest.approx(1 - 1 / n, rel=0.05)


def test_a_patients_cases_are_drawn_together() -> None:
    """Weights of one patient's images are one and the same."""
    weights = np.concatenate(list(patient_weights(np.array(["a", "b", "a", "c"]), 200, 0)))

    assert (weights[:, 0] == weights[:, 2]).all()
    assert set((weights[:, 0] + weights[:, 1] + weights[:, 3]).tolist()) == {3.0}


def test_the_spread_is_that_of_the_textbook() -> None:
    """The bootstrap's standard error of an accuracy is sqrt(p (1 - p) / n)."""
    records = scores(500, 0)
    was, _ = paired(accuracy, records, records, 2000)
    p = accuracy(records)[0]

    assert was.std() == pytest.approx(np.sqrt(p * (1 - p) / 500), rel=0.06)


def test_before_and_after_are_resampled_alike() -> None:
    """Two equal models differ by nothing in every resample, by every measure."""
    found = paired_all([ece, accuracy, auroc], scores(300, 1), scores(300, 1), 150)

    assert found.shape == (2, 3, 150)
    np.testing.assert_array_equal(found[0], found[1])


def test_other_cases_are_refused() -> None:
    """A paired comparison of different patients would be nonsense."""
    with pytest.raises(ValueError, match="same cases"):
        paired(accuracy, scores(30, 0), scores(40, 0))
