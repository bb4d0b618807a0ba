"""Run lengths: how long a chart is silent while nothing changes, and how soon it speaks once something has.

A chart is an array [n, s]: its statistic after each of n cases of s streams. It alarms where it reaches its threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Chart = NDArray[np.floating]
STEPS = 40  # of a bisection


def first_passage(chart: Chart, threshold: float) -> NDArray[np.float64]:
    """[s]: after how many cases each stream alarms first; infinite where it never does."""
    reached = chart >= threshold
    return np.where(reached.any(axis=0), reached.argmax(axis=0) + 1.0, np.inf)


def run_length(charts: Sequence[Chart], threshold: float) -> float:
    """Cases watched over alarms, on streams without a change that end with their first alarm or are cut off: the
    maximum likelihood estimate of the mean where the time to an alarm is exponential. Infinite without an alarm."""
    watched = alarms = 0.0
    for chart in charts:
        passage = first_passage(chart, threshold)
        watched += np.minimum(passage, len(chart)).sum()
        alarms += np.isfinite(passage).sum()
    return watched / alarms if alarms else np.inf


def threshold_for(charts: Sequence[Chart], wanted: float) -> float:
    """The lowest threshold with a run length of at least `wanted` cases on these streams without a change."""
    low = min(float(c[np.isfinite(c)].min()) for c in charts)  # a window that is not full yet has no reading
    high = max(float(c.max()) for c in charts) + 1e-6
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if run_length(charts, middle) >= wanted else (middle, high)
    return high


def together(quiet: Mapping[str, Sequence[Chart]], wanted: float) -> dict[str, float]:
    """Thresholds of several charts of which the first to alarm decides: all have the same run length alone, the
    shortest with which they have `wanted` cases together."""
    low, high = 1.0, 2.0 * len(quiet)
    for _ in range(STEPS // 3):
        middle = (low + high) / 2
        found = {name: threshold_for(charts, middle * wanted) for name, charts in quiet.items()}
        low, high = (low, middle) if _any(quiet, found, wanted) >= wanted else (middle, high)
    return {name: threshold_for(charts, high * wanted) for name, charts in quiet.items()}


def _any(quiet: Mapping[str, Sequence[Chart]], thresholds: Mapping[str, float], wanted: float) -> float:
    return run_length(first_of(quiet, thresholds), 1.0)


def first_of(charts: Mapping[str, Sequence[Chart]], thresholds: Mapping[str, float]) -> list[Chart]:
    """The charts as one that is 1 where any of them alarms, else 0."""
    return [
        np.any([chart >= thresholds[name] for name, chart in zip(charts, at, strict=True)], axis=0).astype(float)
        for at in zip(*charts.values(), strict=True)
    ]


def delay(charts: Sequence[Chart], threshold: float, onset: int, horizon: int) -> tuple[float, float]:
    """(mean cases from the onset to the alarm, share alarmed by then) of the streams that were silent before it; one
    that stays silent counts as the horizon. NaN where none was silent."""
    found: list[float] = []
    for chart in charts:
        silent = ~(chart[:onset] >= threshold).any(axis=0)
        found += first_passage(chart[onset : onset + horizon], threshold)[silent].tolist()
    if not found:
        return np.nan, np.nan
    return float(np.mean(np.minimum(found, horizon))), float(np.mean(np.isfinite(found)))
