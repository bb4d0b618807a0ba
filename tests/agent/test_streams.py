"""Known and new domains share one budget of false alarms, whenever the new ones come."""

from __future__ import annotations

import numpy as np
import pytest

from agent.drift.detect import SILENT, weights
from agent.drift.domains import KNOWN, NEW
from monitors import EDetector, Signal, family

STREAMS = [KNOWN] * 3 + [NEW] * 3
PROMISED = 40  # ticks


def signal(detector: EDetector) -> Signal:
    """Of one of six monitors, each with a sixth of the budget."""
    return Signal(monitor="one", log_e=detector.log_e, statistic=0.0, threshold=float(np.log(6 * PROMISED)), n=10)


def run_length(rng: np.random.Generator, arrival: int) -> int:
    """Ticks to the first alarm of six charts on uniform p-values; three of them start at tick `arrival`."""
    charts = [(stream, EDetector()) for stream in STREAMS]
    for tick in range(1, 100 * PROMISED):
        for stream, chart in charts:
            if stream == KNOWN or tick >= arrival:
                chart.update(1.0 - rng.random(), tick)
        heard = [(s, one) for s, c in charts if (one := signal(c)).log_e > SILENT or s == KNOWN]
        arrived = any(stream == NEW for stream, _ in heard)
        rule = family([one for _, one in heard], weights(heard, arrived, PROMISED), PROMISED)
        if rule.log_e >= rule.threshold:
            return tick
    return 100 * PROMISED


@pytest.mark.parametrize("arrival", [1, 15, 10_000])
def test_the_budget_holds_whenever_new_domains_come(arrival):
    """At once, in the middle, or never: the mean run length is at least what was promised."""
    rng = np.random.default_rng(arrival)
    lengths = [run_length(rng, arrival) for _ in range(120)]
    assert np.mean(lengths) >= PROMISED


def test_nothing_is_given_to_a_stream_that_brings_no_case():
    """A site without new scanners loses no speed of detection by them."""
    known = [(KNOWN, signal(EDetector()))] * 3
    assert weights(known, arrived=False, ticks=PROMISED) == pytest.approx([1 / 3] * 3)
    assert weights(known, arrived=True, ticks=PROMISED) == pytest.approx([1 / 6] * 3)
