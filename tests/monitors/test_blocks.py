"""The block test's p-values are uniform and independent, whatever is watched and however long."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monitors.blocks import CAPACITY, BlockTest, first_of_each, subsets


def mean(union: np.ndarray, members: np.ndarray) -> np.ndarray:
    return union[members, 0].mean(axis=1)


def names(n: int, start: int = 0) -> np.ndarray:
    return np.array([f"p{i}" for i in range(start, start + n)])


def fitted(rng: np.random.Generator, n: int, seed: int = 0, strata: np.ndarray | None = None) -> BlockTest:
    test = BlockTest(mean, seed)
    test.fit(rng.standard_normal((n, 1)), names(n), np.full(n, "all") if strata is None else strata)
    return test


def test_subsets_are_uniform_and_without_repetition() -> None:
    """Each of the ten pairs of five is drawn as often as any other."""
    drawn = subsets(np.random.default_rng(0), 5, 2, 20_000)
    kinds, counts = np.unique(np.sort(drawn, axis=1), axis=0, return_counts=True)

    assert len(kinds) == 10
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("n", [20, 166])
def test_p_values_are_uniform_and_independent_of_those_before(n: int) -> None:
    """Over many references, ticks 1, 4 and 8 are uniform, and neighbours in time uncorrelated, reused pool or not."""
    p = np.empty((120, 8))
    for run in range(len(p)):
        rng = np.random.default_rng((n, run))
        test = fitted(rng, n, seed=run)
        for tick in range(p.shape[1]):
            found = test.p_value(rng.standard_normal((10, 1)), names(10, 1000 + 10 * tick), np.full(10, "all"))
            assert found is not None
            p[run, tick] = found[0]

    for tick in (0, 3, 7):
        assert stats.kstest(p[:, tick], "uniform").pvalue > 0.001
    assert abs(np.corrcoef(p[:, :-1].ravel(), p[:, 1:].ravel())[0, 1]) < 4 / np.sqrt(p[:, 1:].size)


def test_only_the_first_case_of_a_patient_counts() -> None:
    """Three images of one patient are one observation, and a patient of the tick before is left out."""
    rng = np.random.default_rng(0)
    test = fitted(rng, 50)
    units = np.array(["a", "a", "a", "b"])
    first = test.p_value(rng.standard_normal((4, 1)), units, np.full(4, "all"))
    again = test.p_value(rng.standard_normal((2, 1)), np.array(["b", "c"]), np.full(2, "all"))
    nobody_new = test.p_value(rng.standard_normal((1, 1)), np.array(["c"]), np.full(1, "all"))

    assert (first is not None and first[1], again is not None and again[1], nobody_new) == (2, 1, None)


def test_ranks_are_taken_within_strata() -> None:
    """A tick of weekend cases only, which differ from weekday cases, is nothing unusual among weekends."""
    p = []
    for run in range(120):
        rng = np.random.default_rng(run)
        strata = np.where(np.arange(140) % 7 > 4, "weekend", "weekday")
        test = BlockTest(mean, run)
        test.fit(rng.standard_normal((140, 1)) + 3.0 * (strata == "weekend")[:, None], names(140), strata)
        found = test.p_value(rng.standard_normal((10, 1)) + 3.0, names(10, 500), np.full(10, "weekend"))
        assert found is not None
        p.append(found[0])

    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_a_stratum_that_the_reference_hardly_knows_is_compared_with_the_largest() -> None:
    """A new scanner is not excused by being declared a stratum of its own."""
    rng = np.random.default_rng(0)
    test = fitted(rng, 100)
    found = test.p_value(rng.standard_normal((10, 1)) + 5.0, names(10, 500), np.full(10, "new scanner"))

    assert found is not None
    assert found[0] < 0.005


def test_memory_stays_flat() -> None:
    """The pool is cut back to its capacity at random, so ten thousand cases take no more room than one thousand."""
    rng = np.random.default_rng(0)
    test = fitted(rng, 2000)
    sizes = []
    for tick in range(20):
        test.p_value(rng.standard_normal((64, 1)), names(64, 5000 + 64 * tick), np.full(64, "all"))
        sizes.append(len(test.state()["pool"]))

    assert set(sizes) == {CAPACITY}


def test_an_empty_reference_is_refused() -> None:
    """There is nothing to rank among."""
    with pytest.raises(ValueError, match="empty"):
        BlockTest(mean, 0).fit(np.empty((0, 1)), names(0), names(0))


def test_first_of_each_keeps_the_order() -> None:
    """Positions come in the order of observation, not of the names."""
    assert first_of_each(np.array(["z", "a", "z", "b"])).tolist() == [0, 1, 3]
