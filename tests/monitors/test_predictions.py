"""The chart over the outputs: another mix, another sureness, any number of classes."""

from __future__ import annotations

import numpy as np
import pytest
from streams import batch, reference, see

from monitors import PredictionStream


def test_more_positives_are_noticed() -> None:
    """Answers of the same sureness in another mix: what a change of prevalence looks like from outside."""
    rng, monitor = np.random.default_rng(0), PredictionStream(365.0)
    monitor.fit(reference(rng))
    for t in range(8):
        x, p = see(rng, 60)
        rare = np.flatnonzero(p.argmax(axis=1) != 0)[:2]
        chosen = np.concatenate([rare, np.flatnonzero(p.argmax(axis=1) == 0)[:8]])
        signal = monitor.update(batch(x[chosen], p[chosen], start=1 + 10 * t))

    assert signal.log_e >= signal.threshold


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


def test_findings_that_do_not_exclude_each_other_are_watched_one_by_one() -> None:
    """Two findings, a case may have both or none: the second alone comes more often, and is noticed; the last column
    is no remainder."""
    rng = np.random.default_rng(0)

    def findings(n: int, start: int, more: float = 0.0):
        chance = np.where(rng.random((n, 2)) < (0.3, 0.1 + more), 0.9, 0.1)
        return batch(np.zeros((n, 1)), np.clip(chance + 0.05 * rng.standard_normal((n, 2)), 0, 1), start=start)

    monitor = PredictionStream(365.0)
    monitor.fit(type(reference(rng))(transform=findings(50, -1000), calibrate=findings(300, -500)))
    quiet = [monitor.update(findings(10, 1 + 10 * t)) for t in range(8)]
    loud = [monitor.update(findings(10, 101 + 10 * t, more=0.3)) for t in range(8)]

    assert max(s.log_e for s in quiet) < quiet[0].threshold <= max(s.log_e for s in loud)
