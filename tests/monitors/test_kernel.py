"""The kernel's chart: what leaves the mean where it was is seen, and it is the same kernel for everybody."""

from __future__ import annotations

import dataclasses

import numpy as np
from streams import batch, reference, see

from monitors import KernelMean
from monitors.whitening import squared_distances


def fitted(n: int = 400) -> KernelMean:
    monitor = KernelMean(365.0)
    monitor.fit(reference(np.random.default_rng(0), n, transform=400))
    return monitor


def test_a_wider_spread_with_the_same_mean_is_noticed() -> None:
    """What a chart over means of the embedding itself can't see: all cases twice as far from the middle."""
    rng, monitor = np.random.default_rng(1), fitted()
    middle = see(rng, 2000)[0].mean(axis=0)
    for t in range(12):
        x, p = see(rng, 10)
        signal = monitor.update(batch(middle + 2 * (x - middle), p, start=1 + 10 * t))
    assert signal.log_e >= signal.threshold


def test_it_keeps_quiet_while_nothing_changes() -> None:
    """Sixty ticks of the same world stay below one alarm in a year of decisions."""
    rng, monitor = np.random.default_rng(2), fitted()
    signals = [monitor.update(batch(*see(rng, 10), start=1 + 10 * t)) for t in range(60)]
    assert max(signal.log_e for signal in signals) < signals[0].threshold


def test_features_stand_for_the_kernel_that_is_promised() -> None:
    """With many of them products are near exp(-|x - y|^2 / m), m the median squared distance."""
    monitor, x = fitted(), see(np.random.default_rng(3), 40)[0]
    places = monitor.see(x)
    scale = np.mean(monitor.frequencies**2) / 2  # one over m, as it was drawn
    rng = np.random.default_rng(4)
    monitor.frequencies = np.sqrt(2 * scale) * rng.standard_normal((places.shape[1], 20_000))
    monitor.phases = rng.uniform(0, 2 * np.pi, 20_000)
    features = monitor._see(dataclasses.replace(batch(x, np.ones((40, 1))), sensor="pinned"))
    assert np.abs(2 * features @ features.T / 20_000 - np.exp(-scale * squared_distances(places, places))).max() < 0.05


def test_there_are_as_many_features_as_the_patients_bear() -> None:
    """Eight calibration patients each: more would be estimated so badly that the chart had to be deaf."""
    assert (fitted(400).frequencies.shape[1], fitted(80).frequencies.shape[1], fitted(5).frequencies.shape[1]) == (
        50, 10, 1)  # fmt: skip
