"""The classifier's bets: what yesterday's cases taught is seen in today's, and nothing is seen where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest
from streams import batch, reference, see

from monitors import ClassifierBet


def fitted(n: int = 400, run_length: float = 365.0) -> ClassifierBet:
    monitor = ClassifierBet(run_length)
    monitor.fit(reference(np.random.default_rng(0), n, transform=400))
    return monitor


def alarm(monitor: ClassifierBet, shift: float, ticks: int, seed: int = 1, start: int = 0) -> int | None:
    """The first tick of ten cases at which it alarms."""
    rng = np.random.default_rng(seed)
    for t in range(start, start + ticks):
        signal = monitor.update(batch(*see(rng, 10, shift), start=1 + 10 * t))
        if signal.log_e >= signal.threshold:
            return t
    return None


def test_a_shift_is_found_and_its_onset_named() -> None:
    """After thirty quiet ticks, at one false alarm in 365, within ten ticks; the onset is of those."""
    monitor = fitted()
    assert alarm(monitor, 0.0, 30) is None
    found = alarm(monitor, 0.5, 10, 2, 30)
    assert found is not None
    signal = monitor.update(batch(*see(np.random.default_rng(3), 10, 0.5), start=2001))
    assert signal.since is not None and 280 < signal.since <= 10 * (found + 1)
    assert signal.statistic > 0.6


@pytest.mark.parametrize("known", [40, 200])
def test_ranks_stay_those_of_chance_although_bags_are_small_and_classifiers_learn(known: int) -> None:
    """Thousands of new cases and few known ones: from a bag that stayed as it was they would be told for ever."""
    monitor, rng, ranks = fitted(known), np.random.default_rng(5), []
    for t in range(4_000):
        ranks.append(monitor.update(batch(*see(rng, 1), start=1 + t)).statistic)
    assert kstest(ranks, "uniform").pvalue > 0.001
    means = np.array(ranks).reshape(40, 100).mean(axis=1)
    assert means.std() == pytest.approx(1 / np.sqrt(1200), rel=0.35), "neighbours know nothing of each other"


def test_it_keeps_what_it_promises_with_twenty_known_cases() -> None:
    """At one false alarm in 200 ticks twenty sites of 200 ticks each have twenty at most, and here far fewer."""
    alarms = 0
    for seed in range(20):
        monitor = ClassifierBet(200.0)
        monitor.fit(reference(np.random.default_rng(seed), 40, transform=60))
        alarms += alarm(monitor, 0.0, 200, 1000 + seed) is not None
    assert alarms <= 10


def test_a_scanner_that_the_reference_knows_is_no_news() -> None:
    """Two scanners that look different take turns; each is compared with its own known cases."""
    rng, known = np.random.default_rng(0), reference(np.random.default_rng(0), 200, transform=400)
    scanner = np.where(np.arange(200) % 2 == 0, "one", "other")
    known.calibrate.embedding[scanner == "other"] += 2.0
    monitor = ClassifierBet()
    monitor.fit(
        type(known)(
            transform=known.transform,
            calibrate=batch(known.calibrate.embedding, known.calibrate.outputs, start=-500_000, stratum=scanner),
        )
    )
    for t in range(80):
        name = ("one", "other")[t // 8 % 2]
        x, p = see(rng, 10)
        signal = monitor.update(batch(x + 2.0 * (name == "other"), p, start=1 + 10 * t, stratum=np.full(10, name)))
        assert signal.log_e < signal.threshold
    for t in range(80, 95):
        x, p = see(rng, 10)
        signal = monitor.update(batch(x + 3.0, p, start=1 + 10 * t, stratum=np.full(10, "a third")))
    assert signal.log_e >= signal.threshold


def test_one_patient_can_not_be_parted() -> None:
    """Two folds need two patients."""
    one = reference(np.random.default_rng(0), 4)
    one.calibrate.unit[:] = "the same"
    with pytest.raises(ValueError, match="two patients"):
        ClassifierBet().fit(one)
