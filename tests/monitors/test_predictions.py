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
