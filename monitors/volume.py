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
SETTLED = 60
"""Days from which a feed that stops is told of within a week or two."""


class CaseVolume:
    """Counts per day, ranked among the past days of their kind (Monday to Friday, Saturday and Sunday; UTC).

    A day's statistic is the distance of its count, on the square-root scale of counts, from the median of all days of
    its kind, itself included; its rank gives the p-value (theorem, under exchangeability of days of one kind). The past
    days are the stream's own: a reference is a sample of patients, and its counts say nothing of the feed's. Only ticks
    with a `tick_time` are read: an empty one is a silent day, a tick that is a count of cases says nothing.

    `statistic` is today's count less the usual one, in square roots; `threshold` belongs to `log_e`.
    """

    name = "volume"

    def __init__(self, run_length: float = 365.0) -> None:
        self.run_length = run_length

    def fit(self, reference: Reference) -> None:
        """Begins with no past days; nothing of the reference is read."""
        self.counts = np.array([], dtype=float)
        self.weekend = np.array([], dtype=bool)
        self.tick = 0
        self.cases = 0
        self.unusual = 0.0
        self.detector = EDetector()

    def update(self, batch: Batch) -> Signal:
        self.tick += 1
        if not np.isnan(batch.tick_time):
            first = int(batch.index[0]) if len(batch) else self.cases + 1
            self._take(len(batch), bool(is_weekend(np.array([batch.tick_time // DAY]))[0]), first)
        self.cases = int(batch.index[-1]) if len(batch) else self.cases
        return Signal(
            monitor=self.name,
            log_e=self.detector.log_e,
            statistic=self.unusual,
            threshold=float(np.log(self.run_length)),
            n=len(batch),
            since=self.detector.since,
            evidence={"guarantee": self._guarantee(), "days": len(self.counts)},
        )

    def begin_anew(self) -> None:
        """Forgets the evidence, and not the days that it ranks among."""
        self.detector = EDetector()

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
        rng = np.random.default_rng(self.tick)
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
        if not len(self.counts):
            return "nothing: no tick was a day"
        promise = "theorem, under exchangeability of days of one kind"
        return promise if len(self.counts) >= SETTLED else f"{promise}; slow, with {len(self.counts)} days seen"


def is_weekend(day: Float | NDArray[np.integer]) -> NDArray[np.bool_]:
    """Day 0 of the epoch was a Thursday."""
    return (np.asarray(day, dtype=np.int64) + 3) % 7 >= 5
