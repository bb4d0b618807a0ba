"""A detector of menelaus, where that is installed (the optional group `peers`); the others of its are also river's."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.drift.lengths import Chart

if TYPE_CHECKING:
    from benchmarks.drift.charts import Cases

BATCH = 100  # cases between two looks


def installed() -> bool:
    return find_spec("menelaus") is not None


def hdddm(cases: Cases) -> Chart:
    """HDDDM (Ditzler and Polikar 2011), Hellinger distances of the features' histograms between batches, by its own
    settings: 1 where it alarms first, else 0."""
    from menelaus.data_drift import HDDDM

    found = np.zeros((cases.n, cases.streams))
    for stream in range(cases.streams):
        detector = HDDDM()
        detector.set_reference(np.asarray(cases.reference.x, dtype=np.float64))
        for end in range(BATCH, cases.n + 1, BATCH):
            detector.update(cases.x[end - BATCH : end, stream])
            if detector.drift_state == "drift":
                found[end - 1, stream] = 1.0
                break
    return found
