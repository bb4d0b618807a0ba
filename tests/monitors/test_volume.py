"""The case volume: weekly cycles are usual, floods and silence are not, and ticks without times say nothing."""

from __future__ import annotations

import numpy as np
from streams import DIMENSION, MONDAY, batch, reference, silent_day

from monitors import Batch, CaseVolume
from monitors.evidence import NOTHING


def day_of(day: int, cases: int, start: int = 1) -> Batch:
    return batch(np.zeros((cases, DIMENSION)), np.full((cases, 3), 1 / 3), start, tick_time=MONDAY + day * 86_400.0)


def watching() -> CaseVolume:
    monitor = CaseVolume()
    monitor.fit(reference(np.random.default_rng(0), 20))
    return monitor


def fed(days: int, seed: int = 0) -> tuple[CaseVolume, list[float]]:
    """A feed of some 20 cases on weekdays and 5 at weekends, and the evidence after each day."""
    rng, monitor, logs = np.random.default_rng(seed), watching(), []
    for day in range(days):
        logs.append(monitor.update(day_of(day, int(rng.poisson(20 if day % 7 < 5 else 5)))).log_e)
    return monitor, logs


def test_quiet_weekends_are_usual() -> None:
    """Ten weeks with a strong weekly cycle stay below the evidence of one false alarm a year, in 9 of 10 feeds."""
    loud = sum(max(fed(70, seed)[1]) >= np.log(365) for seed in range(10))

    assert loud <= 1


def test_a_flood_is_as_unusual_as_silence() -> None:
    """A week of five times the cases is evidence, and the statistic tells its direction."""
    monitor, before = fed(70)
    for day in range(70, 75):
        signal = monitor.update(day_of(day, 100))

    assert signal.log_e > before[-1] + 3
    assert signal.statistic > 0


def test_silence_is_told_with_its_direction_and_onset() -> None:
    """The evidence mostly begins at the first silent day: with the case that did not come after the last one."""
    onsets = []
    for seed in range(5):
        monitor, _ = fed(70, seed)
        monitor.update(day_of(70, 20, start=1001))
        for day in range(71, 78):
            signal = monitor.update(silent_day(day))
        onsets.append(signal.since)

    assert signal.log_e > np.log(365)
    assert signal.statistic < 0
    assert onsets.count(1021) >= 3


def test_ticks_that_count_cases_say_nothing() -> None:
    """Ten cases a tick is ten by construction."""
    monitor = watching()
    for t in range(30):
        signal = monitor.update(batch(np.zeros((10, DIMENSION)), np.full((10, 3), 1 / 3), 1 + 10 * t))

    assert signal.log_e == NOTHING
    assert signal.evidence["guarantee"] == "nothing: no tick was a day"
