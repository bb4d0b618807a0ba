"""E-detectors keep their promise on uniform p-values, and the family rule is one mean over them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors import Batch, CaseVolume, EDetector, Reference, Signal, as_before, family
from monitors.evidence import FINEST, NOTHING


def signal(name: str, log_e: float, since: int | None = None, threshold: float = 0.0) -> Signal:
    return Signal(monitor=name, log_e=log_e, statistic=0.0, threshold=threshold, n=10, since=since)


@pytest.mark.parametrize("kappa", [0.1, 0.25, 0.5, 0.8])
def test_every_calibrator_has_expectation_one(kappa: float) -> None:
    """The e-value of a uniform p-value integrates to 1, so no evidence is made out of nothing."""
    p = np.concatenate([[FINEST / 2], np.geomspace(FINEST, 1, 4_001)])
    values = []
    for each in p:
        detector = EDetector((kappa,))
        detector.update(float(each), 1)
        values.append(np.exp(detector.log_e))
    values = np.array(values)

    assert values[0] * FINEST + np.trapezoid(values[1:], p[1:]) == pytest.approx(1.0, abs=1e-3)


def test_the_mean_run_length_is_at_least_what_was_promised() -> None:
    """On uniform p-values M reaches c after at least c ticks on average, and not after many times c."""
    rng, promised, waits = np.random.default_rng(0), 50, []
    for _ in range(120):
        detector, ticks = EDetector(), 0
        while detector.log_e < np.log(promised):
            detector.update(1.0 - rng.random(), ticks)
            ticks += 1
        waits.append(ticks)

    assert 0.9 <= np.mean(waits) / promised <= 2.0


def test_the_onset_is_where_the_evidence_began() -> None:
    """Small p-values from the 21st tick on date the onset to that tick's first case; before, none is named."""
    rng, detector = np.random.default_rng(3), EDetector()
    for tick in range(20):
        detector.update(rng.uniform(0.2, 1.0), 10 * tick + 1)
    before = detector.since
    for tick in range(20, 24):
        detector.update(0.002, 10 * tick + 1)

    assert (before, detector.since) == (None, 201)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=6))
def test_the_family_is_the_highest_of_the_readings(logs: list[float]) -> None:
    """Monitors set for equal shares: the highest reading, and each would have to wait as many times longer alone."""
    alone = float(np.log(365.0 * len(logs)))
    rule = family([signal(f"m{i}", log, threshold=alone) for i, log in enumerate(logs)])

    assert rule.log_e == pytest.approx(max(logs) - np.log(len(logs)), abs=1e-6)


def test_the_family_names_its_threshold_and_who_leads() -> None:
    """The threshold is the log of the ticks per false alarm; lead and onset are those of the largest share."""
    rule = family([signal("calm", -2.0), signal("loud", 9.0, since=31)], [0.5, 0.5], 200)

    assert (rule.threshold, rule.evidence["lead"], rule.since) == (np.log(200), "loud", 31)


def test_weight_that_is_not_given_out_counts_as_silence() -> None:
    """A monitor that could not be heard keeps its share, so leaving it out never raises the evidence."""
    heard = family([signal("a", 5.0)], [0.25])

    assert heard.log_e == pytest.approx(5.0 + np.log(0.25))


def test_no_monitor_at_all_is_no_evidence() -> None:
    """While every episode is open nothing is left to read, and that is not an error."""
    assert family([]).log_e == NOTHING


@pytest.mark.parametrize("weights", [[1.0], [0.7, 0.7], [-0.1, 1.0]])
def test_weights_that_would_break_the_promise_are_refused(weights: list[float]) -> None:
    """Weights are one per signal, not negative, and sum to 1 at most."""
    with pytest.raises(ValueError, match="weights"):
        family([signal("a", 0.0), signal("b", 0.0)], weights)


@pytest.mark.parametrize("p", [0.0, -0.1, 1.1, float("nan")])
def test_what_is_no_p_value_is_refused(p: float) -> None:
    """A p-value of 0 would be infinite evidence."""
    with pytest.raises(ValueError, match="p-value"):
        EDetector().update(p, 1)


def days(counts: list[int]) -> list[Batch]:
    """Days with so many cases, from a Thursday on."""
    return [
        Batch(index=np.arange(1, n + 1), unit=np.full(n, "", np.str_), stratum=np.full(n, "", np.str_),
              time=np.zeros(n), outputs=np.zeros((n, 2)), embedding=np.zeros((n, 2)), version="v", sensor="s",
              tick_time=t * 86400.0)
        for t, n in enumerate(counts)
    ]  # fmt: skip


@pytest.mark.parametrize(("lately", "answer"), [(20, True), (8, False), (0, False)])
def test_a_feed_is_as_before_or_it_is_not(lately: int, answer: bool) -> None:
    """Four weeks as usual, at less than half, and silent; without days on either side nothing can be said."""
    rng = np.random.default_rng(1)
    before, after = (days(rng.poisson(mean, n).tolist()) for mean, n in ((20, 60), (lately, 28)))
    empty = days([])[:0]
    nobody = Batch(index=np.zeros(0, int), unit=np.zeros(0, np.str_), stratum=np.zeros(0, np.str_), time=np.zeros(0),
                   outputs=np.zeros((0, 2)), embedding=np.zeros((0, 2)), version="v", sensor="s")  # fmt: skip

    def monitor() -> CaseVolume:
        made = CaseVolume()
        made.fit(Reference(transform=nobody, calibrate=nobody))
        return made

    assert as_before(monitor(), before, after) is answer
    assert not as_before(monitor(), empty, after) and not as_before(monitor(), before, empty)
