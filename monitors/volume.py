"""Do as many cases come as on other days? Silence is a change too."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from monitors.evidence import EDetector
from monitors.protocols import Batch, Float, Reference, Signal
from monitors.state import check_version, joined, part

DAY = 86_400.0
CAPACITY = 1024


class CaseVolume:
    """Counts per day, ranked among the past days of their kind (Monday to Friday, Saturday and Sunday; UTC).

    A day's statistic is the distance of its count, on the square-root scale of counts, from the median of all days of
    its kind, itself included; its rank gives the p-value (theorem, under exchangeability of days of one kind). Only
    ticks with a `tick_time` are read: an empty one is a silent day, a tick that is a count of cases says nothing.

    `statistic` is today's count less the usual one, in square roots; `threshold` belongs to `log_e`.
    """

    name = "volume"

    def __init__(self, run_length: float = 365.0, seed: int = 0) -> None:
        self.run_length = run_length
        self.seed = seed

    def fit(self, reference: Reference) -> None:
        """Reads `time` of the calibration part; days between its first and its last without a case count as silent."""
        time = reference.calibrate.time
        days = np.floor(time[~np.isnan(time)] / DAY).astype(np.int64)
        every = np.arange(days.min(), days.max() + 1) if len(days) else np.array([], dtype=np.int64)
        self.counts = np.array([np.sum(days == day) for day in every], dtype=float)[-CAPACITY:]
        self.weekend = _weekend(every)[-CAPACITY:]
        self.reference = len(self.counts)
        self.tick = 0
        self.cases = 0
        self.unusual = 0.0
        self.detector = EDetector()

    def update(self, batch: Batch) -> Signal:
        self.tick += 1
        if not np.isnan(batch.tick_time):
            first = int(batch.index[0]) if len(batch) else self.cases + 1
            self._take(len(batch), bool(_weekend(np.array([batch.tick_time // DAY]))[0]), first)
        self.cases = int(batch.index[-1]) if len(batch) else self.cases
        return Signal(
            monitor=self.name,
            log_e=self.detector.log_e,
            statistic=self.unusual,
            threshold=float(np.log(self.run_length)),
            n=len(batch),
            since=self.detector.since,
            evidence={"guarantee": self._guarantee(), "reference": self.reference},
        )

    def state(self) -> dict[str, NDArray]:
        own = {
            "counts": self.counts,
            "weekend": self.weekend,
            "numbers": np.array([self.tick, self.cases]),
            "unusual": np.array(self.unusual),
        }
        return joined(own, detector=self.detector.state())

    def restore(self, state: Mapping[str, NDArray]) -> None:
        check_version(state)
        self.counts, self.weekend = np.array(state["counts"]), np.array(state["weekend"])
        self.tick, self.cases = (int(v) for v in state["numbers"])
        self.unusual = float(state["unusual"])
        self.detector.restore(part(state, "detector"))

    def _take(self, count: int, weekend: bool, first: int) -> None:
        rng = np.random.default_rng((self.seed, self.tick))
        self.counts = np.append(self.counts, float(count))
        self.weekend = np.append(self.weekend, weekend)
        roots = np.sqrt(self.counts[self.weekend == weekend])
        away = roots - np.median(roots)
        distance = np.abs(away)
        above, ties = np.sum(distance > distance[-1]), np.sum(distance == distance[-1])
        p = (above + (1.0 - rng.random()) * ties) / len(roots)
        self.unusual = float(away[-1])
        self.detector.update(float(p), first)
        if len(self.counts) > CAPACITY:
            kept = np.sort(rng.permutation(len(self.counts))[:CAPACITY])
            self.counts, self.weekend = self.counts[kept], self.weekend[kept]

    def _guarantee(self) -> str:
        if not self.reference:
            return "nothing: the reference has no times"
        promise = "theorem, under exchangeability of days of one kind"
        return promise if self.reference >= 60 else f"{promise}; slow, with {self.reference} reference days"


def _weekend(day: Float | NDArray[np.integer]) -> NDArray[np.bool_]:
    """Day 0 of the epoch was a Thursday."""
    return (np.asarray(day, dtype=np.int64) + 3) % 7 >= 5
