"""The chart over the outputs: river's detector, with a threshold that keeps its promise."""

from __future__ import annotations

import numpy as np
import pytest
from streams import batch, reference, see

from monitors import PredictionStream
from monitors.predictions import _new_chart, chart_height


def test_rivers_chart_waits_as_long_as_was_simulated() -> None:
    """river's own Page-Hinkley, on Exp(1) input from another seed, runs as long as promised, or a little longer."""
    rng, waits = np.random.default_rng(99), []
    for _ in range(150):
        chart, ticks = _new_chart(chart_height(100.0)), 0
        while not chart.drift_detected:
            chart.update(float(rng.exponential()))
            ticks += 1
        waits.append(ticks)

    assert 0.85 <= np.mean(waits) / 100.0 <= 1.7


def test_the_height_grows_with_the_promise() -> None:
    """A rarer false alarm asks for a higher chart."""
    assert chart_height(20.0) < chart_height(100.0) < chart_height(500.0)


def test_the_alarm_of_the_chart_alone_spends_the_whole_budget() -> None:
    """At the chart's alarm `log_e` is at the monitor's threshold or above; the tick after, the chart has restarted."""
    rng, monitor = np.random.default_rng(0), PredictionStream(100.0)
    monitor.fit(reference(rng))
    readings = [monitor.update(batch(*see(rng, 10, 3.0), start=1 + 10 * t)) for t in range(6)]
    alarms = [r for r in readings if r.statistic > 1.0]

    assert alarms
    assert all(r.log_e >= r.threshold for r in alarms)


def test_a_surer_model_is_a_change_even_with_the_same_answers() -> None:
    """The entropy is watched too: outputs sharpened to certainty alarm though every argmax stays."""
    rng, monitor = np.random.default_rng(0), PredictionStream(365.0)
    monitor.fit(reference(rng))
    for t in range(6):
        x, p = see(rng, 10)
        sharp = p**8 / (p**8).sum(axis=1, keepdims=True)
        signal = monitor.update(batch(x, sharp, start=1 + 10 * t))

    assert signal.log_e > 2.0


@pytest.mark.parametrize("classes", [1, 2, 9])
def test_any_number_of_classes_is_read(classes: int) -> None:
    """Constant columns, two classes or nine: nothing is singular."""
    rng = np.random.default_rng(0)
    monitor = PredictionStream(100.0)
    answers = [rng.dirichlet(np.ones(classes), n) for n in (40, 60, 10)]
    fixed = [batch(np.zeros((len(p), 1)), p, start=100 * i) for i, p in enumerate(answers)]
    monitor.fit(type(reference(rng))(transform=fixed[0], calibrate=fixed[1]))

    assert np.isfinite(monitor.update(fixed[2]).log_e)
