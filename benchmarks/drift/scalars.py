"""river's detectors, as they come: each watches one number per case, keeps no reference, and compares a stream's newer
part with its older one.

The numbers lie in [0, 1], as ADWIN's bound asks for. How strictly a detector has to be set to be silent is its
statistic: until its first alarm it is in the same state at every setting.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift.lengths import Chart

if TYPE_CHECKING:
    from benchmarks.drift.charts import Cases

Float = NDArray[np.floating]
DELTA, ALPHA, HEIGHT = 0.002, 0.005, 50.0  # river's defaults: of ADWIN, KSWIN, Page-Hinkley
HELD, RECENT = 100, 30  # cases of KSWIN's window, and of either sample
DELTAS = (0.999, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, DELTA, 1e-3, 1e-4, 1e-6, 1e-9, 1e-13, 1e-18)
HEIGHTS = (2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 27, 30, 33, 36, 40, 45, HEIGHT, 56, 63, 71, 80, 100)


def adwin(cases: Cases) -> Chart:
    """ADWIN (Bifet and Gavalda 2007) over the rank of the Mahalanobis distance: minus the log of its delta."""
    return _adwin(distance(cases))


def adwin_of_component(cases: Cases) -> Chart:
    """The same over the rank of the first principal component."""
    return _adwin(_ranks(cases.known[:, -1], cases.z[..., -1]))


def adwin_of_entropy(cases: Cases) -> Chart:
    """The same over the entropy of the model's answer, in bits."""
    p = np.clip(cases.score, 1e-12, 1 - 1e-12)
    return _adwin(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)))


def kswin(cases: Cases) -> Chart:
    """KSWIN (Raab and others 2020) over the rank of the Mahalanobis distance: minus the log of its p-value, as river
    has it, by its own draws; but the distance of two samples of one size has few values, and a test for each is enough.
    """
    return kswin_of(distance(cases), cases.seed)


def kswin_of(values: Float, seed: int) -> Chart:
    """[n, s] -> [n, s]: minus the log of KSWIN's p-value after each number, 0 before its window is full."""
    from scipy.stats import ks_2samp

    part = np.arange(RECENT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=RuntimeWarning)  # scipy tells where it takes the asymptotic one
        surprise = -np.log([ks_2samp(part, part + k).pvalue for k in range(RECENT + 1)])
    found = np.zeros(values.shape)
    for stream in range(values.shape[1]):
        rng, seen = random.Random(seed), values[:, stream]
        for t in range(HELD - 1, len(seen)):
            window = seen[t - HELD + 1 : t + 1]
            drawn, recent = np.sort(window[rng.sample(range(HELD - RECENT), RECENT)]), np.sort(window[-RECENT:])
            at = np.concatenate([drawn, recent])
            apart = np.searchsorted(drawn, at, side="right") - np.searchsorted(recent, at, side="right")
            found[t, stream] = surprise[np.abs(apart).max()]
    return found


def page_hinkley(cases: Cases) -> Chart:
    """River's Page-Hinkley, upwards and downwards, over the rank of the Mahalanobis distance: its threshold."""
    from river.drift import PageHinkley

    return _strictest(lambda height: PageHinkley(threshold=height), HEIGHTS, distance(cases))


def distance(cases: Cases) -> Float:
    """[n, s]: the rank of the squared Mahalanobis distance among the reference's."""
    return _ranks((cases.known**2).sum(axis=1), (cases.z**2).sum(axis=2))


def _adwin(values: Float) -> Chart:
    from river.drift import ADWIN

    return _strictest(lambda level: ADWIN(delta=float(np.exp(-level))), [-np.log(delta) for delta in DELTAS], values)


def _strictest(make: Callable[[float], Any], levels: Sequence[float], values: Float) -> Chart:
    """[n, s] -> [n, s]: the highest of the levels at which a detector alarms for the first time just there, else 0."""
    found = np.zeros(values.shape)
    for stream in range(values.shape[1]):
        numbers = values[:, stream].tolist()
        for level in sorted(levels):
            reached = _first(make(level), numbers)
            if reached == len(numbers):
                break  # what is stricter still is silent, too
            found[reached, stream] = level
    return found


def _first(detector: Any, numbers: Sequence[float]) -> int:
    """The place of the first alarm; their count where there is none."""
    for t, value in enumerate(numbers):
        detector.update(value)
        if detector.drift_detected:
            return t
    return len(numbers)


def _ranks(known: Float, seen: Float) -> Float:
    return np.searchsorted(np.sort(known), seen) / len(known)
