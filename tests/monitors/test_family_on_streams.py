"""All default monitors together: the false-alarm budget holds on unchanged streams, and changes are found."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from monitors import Batch, Monitor, Reference, Signal, default_monitors, family

sys.path.append(str(Path(__file__).parents[1] / "golden"))

from run_lengths import ratio, site_year
from streams import MONDAY, batch, reference, see, silent_day


def watching(promised: float, n: int = 166, seed: int = 0, timed: bool = True) -> list[Monitor]:
    monitors = default_monitors(promised, timed=timed)
    fixed = reference(np.random.default_rng((seed, 9)), n)
    for monitor in monitors:
        monitor.fit(fixed)
    return monitors


def read(monitors: list[Monitor], tick: Batch, promised: float) -> Signal:
    return family([monitor.update(tick) for monitor in monitors], None, promised)


def alarmed(signal: Signal) -> bool:
    return signal.log_e >= signal.threshold


def test_the_budget_holds_over_many_references() -> None:
    """Twenty small references: the realised run length of all monitors together is what was promised, or longer."""
    value, error, alarms = ratio(40, 10, references=20, streams=1)

    assert alarms >= 15
    assert value + 2 * error >= 1.0
    assert value - 2 * error <= 3.0


def test_the_budget_holds_with_several_images_per_patient_and_a_weekly_cycle() -> None:
    """Three images of each patient, days of the week with other volumes: no more alarms than promised."""
    several, daily = (ratio(60, 12, references=12, streams=1, **kind) for kind in ({"several": True}, {"daily": True}))

    assert several[0] + 2 * several[1] >= 1.0
    assert daily[0] + 2 * daily[1] >= 1.0


def test_clusters_cycles_and_batches_by_scanner_stay_within_the_budget() -> None:
    """Forty sites with three images per patient, quiet weekends and a scanner a day, two periods of the budget each:
    no more alarms than the eighty that the budget allows, by Poisson's 95 % bound; and some, or it would be deaf."""
    alarms = sum(site_year(166, 30, 60, seed) for seed in range(40))

    assert 10 <= alarms <= 95


@pytest.mark.parametrize("n", [20, 83, 166])
def test_another_hospital_is_noticed_soon(n: int) -> None:
    """At one false alarm a year, with four monitors sharing it, a gross change alarms within 2 ticks of 10 cases; with
    20 reference patients, of whom hardly anything is known, in four streams of five."""
    promised, delays, false = 365.0, [], 0
    for seed in range(5):
        rng, monitors = np.random.default_rng(seed), watching(promised, n, seed)
        false += sum(alarmed(read(monitors, batch(*see(rng, 10), start=1 + 10 * t), promised)) for t in range(15))
        for t in range(15, 25):
            if alarmed(read(monitors, batch(*see(rng, 10, shift=2.0), start=1 + 10 * t), promised)):
                delays.append(10 * (t - 14))
                break

    assert false == 0
    assert len(delays) >= (4 if n == 20 else 5), delays
    assert n == 20 or max(delays) <= 20, delays


@pytest.mark.parametrize("fixed", [True, False])
def test_the_two_logits_of_a_black_box_are_enough_to_see_its_answers_move(fixed: bool) -> None:
    """Where nothing but answers is seen, two numbers that are one (the other constant, or its opposite): fifteen quiet
    ticks pass without an alarm, and answers that lean to one class raise one within three."""

    def see_logits(rng: np.random.Generator, n: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        z = 6.0 * rng.choice([-1, 1], n) + 2.0 * rng.standard_normal(n) + shift
        logits = np.column_stack([np.zeros(n), z] if fixed else [-z / 2, z / 2])
        return logits, np.column_stack([1 / (1 + np.exp(z)), 1 / (1 + np.exp(-z))])

    for seed in range(5):
        rng, monitors = np.random.default_rng(seed), default_monitors(365.0, timed=False)
        learnt, ranked = (batch(*see_logits(rng, n), start=s) for n, s in ((200, -1_000_000), (166, -500_000)))
        for monitor in monitors:
            monitor.fit(Reference(transform=learnt, calibrate=ranked))
        shifts = [0.0] * 15 + [-4.0] * 3
        told = [
            alarmed(read(monitors, batch(*see_logits(rng, 10, shift), start=1 + 10 * t), 365.0))
            for t, shift in enumerate(shifts)
        ]
        assert not any(told[:15]) and any(told[15:]), (seed, told)


def test_a_stream_that_starts_changed_is_noticed() -> None:
    """The charts learn nothing from the stream that they could mistake a change for."""
    rng, monitors = np.random.default_rng(0), watching(365.0)

    assert any(alarmed(read(monitors, batch(*see(rng, 10, 2.0), start=1 + 10 * t), 365.0)) for t in range(4))


def test_the_onset_is_dated_to_the_change() -> None:
    """`since` names a case near the 151st, the first of the new site: within 30 cases in the middle of streams."""
    onsets = []
    for seed in range(7):
        rng, monitors = np.random.default_rng(seed), watching(365.0, seed=seed)
        for t in range(18):
            signal = read(monitors, batch(*see(rng, 10, 2.0 * (t >= 15)), start=1 + 10 * t), 365.0)
        assert signal.since is not None
        onsets.append(signal.since)

    assert 121 <= np.median(onsets) <= 161


def test_a_creep_is_caught() -> None:
    """A slow ramp is not normalised away by a pool that goes along with the stream."""
    rng, monitors, caught = np.random.default_rng(2), watching(365.0, timed=False), None
    for t in range(120):
        signal = read(monitors, batch(*see(rng, 10, 0.02 * max(t - 20, 0)), start=1 + 10 * t), 365.0)
        if alarmed(signal):
            caught = t
            break

    assert caught is not None
    assert caught > 20


def test_a_feed_that_stops_is_an_alarm() -> None:
    """No data must not look like no drift: after 60 days of cases, silence alarms within ten days, and not before."""
    rng, monitors, start, quiet = np.random.default_rng(3), watching(365.0), 1, None
    for day in range(70):
        tick = silent_day(day)
        if day < 60:
            n = rng.poisson(10 if day % 7 < 5 else 4)
            tick = batch(*see(rng, n), start=start, tick_time=MONDAY + day * 86_400.0)
            start += n
        if quiet is None and alarmed(read(monitors, tick, 365.0)):
            quiet = day

    assert quiet is not None
    assert quiet >= 61


def test_a_small_reference_says_what_it_cannot_promise() -> None:
    """Twelve reference patients are watched with, and the evidence tells that nothing is promised."""
    monitors = watching(365.0, n=12)
    rng = np.random.default_rng(0)
    readings = [m.update(batch(*see(rng, 10))) for m in monitors if m.name != "volume"]

    assert all("nothing is promised with 12 reference patients" in str(s.evidence["guarantee"]) for s in readings)


def test_cases_go_by_and_the_state_stays_as_large() -> None:
    """Whatever the number of cases, no array of any monitor's state grows past the pool's capacity."""
    rng, monitors = np.random.default_rng(0), watching(365.0, n=1000)
    sizes = []
    for t in range(16):
        read(monitors, batch(*see(rng, 20), start=1 + 20 * t), 365.0)
        sizes.append(sum(a.nbytes for m in monitors for a in m.state().values()))

    assert max(sizes[6:]) <= 1.02 * sizes[5]
