"""The chart's run length is what it says, for a site that has one reference and does not know the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import batch

from monitors.chart import BUSY, REMEMBERED, SPACINGS, Chart, first_of_each, simulated

DIMENSION = 6


def names(n: int, start: int = 0) -> np.ndarray:
    return np.array([f"p{i}" for i in range(start, start + n)])


def tick(n: int, start: int = 0, units: np.ndarray | None = None, stratum: np.ndarray | None = None) -> object:
    return batch(np.zeros((n, 1)), np.zeros((n, 1)), start=start + 1, units=units, stratum=stratum)


def fitted(rng: np.random.Generator, n: int = 200, strata: np.ndarray | None = None, offset: float = 0.0) -> Chart:
    chart = Chart()
    chart.fit(rng.standard_normal((n, DIMENSION)) + offset, names(n), np.full(n, "all") if strata is None else strata)
    return chart


def waited(chart: Chart, rng: np.random.Generator, wanted: float, n: int, most: int) -> tuple[int, bool]:
    """(ticks of n unchanged patients, whether the chart reached a run length of `wanted` ticks within `most`)."""
    for t in range(most):
        chart.update(rng.standard_normal((n, DIMENSION)), tick(n, n * t))
        if chart.log_run_length >= np.log(wanted):
            return t + 1, True
    return most, False


@pytest.mark.parametrize(("n", "per_tick", "at_most"), [(60, 1, 1.7), (200, 1, 1.7), (200, 10, 1.7), (500, 30, 2.5)])
def test_the_promise_is_kept_on_average_over_references(n: int, per_tick: int, at_most: float) -> None:
    """Sixty sites with a reference each: ticks watched over false alarms is what was promised. With the true mean and
    covariance taken for known, 60 patients would give half of it. Many patients a tick are read by two means."""
    wanted, found = 60.0, []
    for site in range(60):
        rng = np.random.default_rng((n, per_tick, site))
        found.append(waited(fitted(rng, n), rng, wanted, per_tick, 600))
    alarms = sum(alarmed for _, alarmed in found)
    ratio = sum(ticks for ticks, _ in found) / alarms / wanted

    assert alarms >= 55
    assert 0.7 <= ratio <= at_most, ratio


def test_estimation_error_of_one_reference_is_counted() -> None:
    """The same height says less where the reference is small: the run length to it is shorter."""
    rng = np.random.default_rng(0)
    small, large = (
        simulated(rng.standard_normal((n, DIMENSION)).astype(np.float32).tobytes(), DIMENSION, 0.04) for n in (40, 2000)
    )
    at = 30.0

    assert np.interp(at, small[0], small[1]) < np.interp(at, large[0], large[1]) - 0.5


def test_rarer_looks_take_fewer_looks_to_a_height_less_often() -> None:
    """Looks far apart are nearly independent, and each is as likely to be high: they wait for fewer looks."""
    table = simulated(np.random.default_rng(0).standard_normal((500, 2)).astype(np.float32).tobytes(), 2, 0.04)
    at = [float(np.interp(12.0, table[0], logs)) for logs in table[1:]]

    assert len(at) == len(SPACINGS)
    assert at[0] > at[2] > at[4] - 0.3


def test_a_patient_counts_once() -> None:
    """Three images of one patient are one observation, also where the visit straddles two ticks."""
    chart = fitted(np.random.default_rng(0))
    chart.update(np.ones((3, DIMENSION)), tick(3, units=np.array(["a", "a", "a"])))
    heights = chart.heights.tolist()
    chart.update(9 * np.ones((2, DIMENSION)), tick(2, units=np.array(["a", "a"])))

    assert (chart.heights.tolist(), chart.pace) == (heights, 1)


def test_strata_have_centres_of_their_own() -> None:
    """Weekend cases only, which differ from weekday cases, are nothing unusual among weekends."""
    rng = np.random.default_rng(1)
    strata = np.where(np.arange(280) % 7 > 4, "weekend", "weekday")
    chart = Chart()
    chart.fit(rng.standard_normal((280, DIMENSION)) + 3.0 * (strata == "weekend")[:, None], names(280), strata)
    chart.update(rng.standard_normal((10, DIMENSION)) + 3.0, tick(10, stratum=np.full(10, "weekend")))
    usual = chart.log_run_length
    chart.update(rng.standard_normal((10, DIMENSION)) + 3.0, tick(10, 10, stratum=np.full(10, "weekday")))

    assert usual < np.log(20)
    assert chart.log_run_length > np.log(1000)


def test_a_stratum_that_the_reference_hardly_knows_is_compared_with_the_largest() -> None:
    """A new scanner is not excused by being declared a stratum of its own."""
    rng = np.random.default_rng(0)
    chart = fitted(rng)
    chart.update(rng.standard_normal((10, DIMENSION)) + 3.0, tick(10, stratum=np.full(10, "new scanner")))

    assert chart.log_run_length > np.log(1000)


@given(st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_tick_is_its_patients_one_after_the_other(n: int, seed: int) -> None:
    """How cases are cut into ticks changes when a decision falls, and not what the chart has seen."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, DIMENSION))
    whole, single = fitted(np.random.default_rng(0)), fitted(np.random.default_rng(0))
    whole.update(x, tick(n))
    for i in range(n):
        single.update(x[i : i + 1], tick(1, i))

    assert whole.heights == pytest.approx(single.heights)
    assert whole.means == pytest.approx(single.means)


def test_a_faint_shift_adds_up_over_the_days_of_a_busy_feed() -> None:
    """Thirty patients a day, a third of a standard deviation: the mean of 33 patients forgets one day by the next."""
    days = {BUSY: [], 1000: []}
    for site in range(12):
        for busy, found in days.items():
            rng = np.random.default_rng(site)
            chart = fitted(rng, 240)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("monitors.chart.BUSY", busy)
                for day in range(100):
                    faint = rng.standard_normal((30, DIMENSION)) + 0.33 * (np.arange(DIMENSION) == 0)
                    chart.update(faint, tick(30, 30 * day))
                    if chart.log_run_length >= np.log(600):
                        break
            found.append(day + 1)

    assert np.mean(days[BUSY]) < 0.8 * np.mean(days[1000]), days


def test_an_onset_is_that_of_the_mean_that_is_read() -> None:
    """Where two are read, the evidence and the onset are of the higher one."""
    rng, chart = np.random.default_rng(3), fitted(np.random.default_rng(3))
    for day in range(10):
        chart.update(rng.standard_normal((30, DIMENSION)) + 3.0 * (day > 7), tick(30, 30 * day))
    signal = chart.signal("any", 600.0, 30)

    assert signal.statistic == max(chart.heights)
    assert signal.since == chart.since == 241


def test_constant_features_say_nothing_until_they_change() -> None:
    """A column that never varied is no division by zero, and a change of it is as much evidence as there can be."""
    chart = Chart()
    chart.fit(np.ones((50, 2)), names(50), np.full(50, "all"))
    chart.update(np.ones((5, 2)), tick(5))
    before = chart.log_run_length
    chart.update(np.full((5, 2), 1.5), tick(5, 5))

    assert before < np.log(2)
    assert np.log(1e6) < chart.log_run_length < np.inf


def test_ten_thousand_cases_at_once_are_one_look() -> None:
    """A backlog is read like any tick."""
    rng = np.random.default_rng(0)
    chart = fitted(rng)
    chart.update(rng.standard_normal((10_000, DIMENSION)), tick(10_000))

    assert np.isfinite(chart.log_run_length)
    assert chart.log_run_length < np.log(1000)


def test_the_state_stays_as_large() -> None:
    """However many cases have come, a few arrays of fixed size are kept."""
    rng, chart, sizes = np.random.default_rng(0), fitted(np.random.default_rng(0)), []
    for t in range(30):
        chart.update(rng.standard_normal((20, DIMENSION)), tick(20, 20 * t))
        assert chart.log_run_length > -1
        sizes.append(sum(array.nbytes for array in chart.state().values()))

    assert len(chart.recent) == REMEMBERED
    assert max(sizes[5:]) == min(sizes[5:])


def test_an_empty_reference_is_refused() -> None:
    """There is nothing to compare with."""
    with pytest.raises(ValueError, match="empty"):
        Chart().fit(np.empty((0, 1)), names(0), names(0))


def test_first_of_each_keeps_the_order() -> None:
    """Positions come in the order of observation, not of the names."""
    assert first_of_each(np.array(["z", "a", "z", "b"])).tolist() == [0, 1, 3]
    assert first_of_each(np.array(["z", "a", "z", "b"]), ["a"]).tolist() == [0, 3]
