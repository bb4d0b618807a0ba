"""Have the model's answers changed? A stream detector over the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from monitors.blocks import BlockTest, finite
from monitors.evidence import EDetector
from monitors.protocols import Batch, Float, Int, OtherVersion, Reference, Signal
from monitors.state import check_version, joined, part

if TYPE_CHECKING:
    from river.drift import PageHinkley

ALLOWANCE = 1.0
"""What the chart lets pass: a tick counts against the null where -log p exceeds its mean 1 by more than this."""

HEAD_START = 100
"""Ticks at exactly the null's mean that the chart begins with, so that its running mean cannot learn a change first."""


class PredictionStream:
    """river's Page-Hinkley chart (Page 1954) over the outputs, on a scale on which its false alarms can be promised.

    Each tick's outputs are ranked by the block test (Hotelling's T^2 of probabilities and their entropy); under the
    null -log p is Exp(1) whatever the model, so the chart's threshold for a run length A is found by simulation once,
    with no error from the reference in it. A chart that alarms after at least A ticks from any state it can be in is
    an e-detector that reads A at its alarm and 0 otherwise, restarted there; its mean with the Shiryaev-Roberts
    reading of the same p-values is `log_e`. A is twice `run_length`, so that the chart's alarm alone is enough.

    `statistic` is the chart's height as a share of its threshold; `threshold` belongs to `log_e`.
    """

    name = "prediction"

    def __init__(self, run_length: float = 365.0, seed: int = 0) -> None:
        self.run_length = run_length
        self.seed = seed

    def fit(self, reference: Reference) -> None:
        """Only `reference.calibrate` is read: a model is surer of what it was trained on. Raises ValueError on NaN, and
        where it is empty."""
        self.version = reference.calibrate.version
        self.height = chart_height(2.0 * self.run_length)
        self.blocks = BlockTest(_hotelling, self.seed)
        ranked = reference.calibrate
        self.blocks.fit(self._see(ranked), ranked.unit, ranked.stratum)
        self.detector = EDetector()
        self.chart = _new_chart(self.height)
        self.alarmed = False

    def update(self, batch: Batch) -> Signal:
        if len(batch):
            compared = self.blocks.p_value(self._see(batch), batch.unit, batch.stratum)
            if compared is not None:
                self._take(compared[0], int(batch.index[0]))
        both = [self.detector.log_e, float(np.log(2.0 * self.run_length)) if self.alarmed else -np.inf]
        risen = self.chart._sum_increase - self.chart._min_increase
        return Signal(
            monitor=self.name,
            log_e=float(np.logaddexp.reduce(both) - np.log(2.0)),
            statistic=float(risen / self.height),
            threshold=float(np.log(self.run_length)),
            n=len(batch),
            since=self.detector.since,
            evidence=self.blocks.guarantee() | {"chart": "simulated, under independent ticks"},
        )

    def state(self) -> dict[str, NDArray]:
        mean = self.chart._x_mean
        heights = [mean.n, mean.get(), self.chart._sum_increase, self.chart._min_increase, float(self.alarmed)]
        return joined({"chart": np.array(heights)}, blocks=self.blocks.state(), detector=self.detector.state())

    def restore(self, state: Mapping[str, NDArray]) -> None:
        check_version(state)
        n, mean, self.chart._sum_increase, self.chart._min_increase, alarmed = (float(v) for v in state["chart"])
        self.chart._x_mean.n, self.chart._x_mean._mean = int(n), mean
        self.alarmed = bool(alarmed)
        self.blocks.restore(part(state, "blocks"))
        self.detector.restore(part(state, "detector"))

    def _take(self, p: float, index: int) -> None:
        self.detector.update(p, index)
        if self.alarmed:
            self.chart = _new_chart(self.height)
        self.chart.update(float(-np.log(p)))
        self.alarmed = bool(self.chart.drift_detected)

    def _see(self, batch: Batch) -> Float:
        """[n, c] -> [n, c + 1]: the probabilities and their entropy."""
        if batch.version != self.version:
            raise OtherVersion(
                f"the reference was observed with {self.version} and the tick with {batch.version}: fit anew"
            )
        p = np.asarray(finite(batch, batch.outputs, "outputs"), dtype=np.float64)
        return np.column_stack([p, -(p * np.log(np.clip(p, 1e-12, 1.0))).sum(axis=1)])


def _hotelling(union: Float, members: Int) -> Float:
    """[u, k], [s, b] -> [s]: squared distance of the subset's mean from the union's, in the union's own covariance."""
    centred = union - union.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(union))
    z = centred @ (vectors / np.sqrt(np.maximum(values, 0.0) + 1e-4 * values[-1] + 1e-12))
    return (z[members].mean(axis=1) ** 2).sum(axis=1)


def _new_chart(height: float) -> PageHinkley:
    from river.drift import PageHinkley

    chart = PageHinkley(min_instances=1, delta=ALLOWANCE, threshold=height, alpha=1.0, mode="up")
    for _ in range(HEAD_START):
        chart.update(1.0)
    return chart


@cache
def chart_height(run_length: float, runs: int = 256, seed: int = 2024) -> float:
    """The Page-Hinkley threshold whose mean run length on Exp(1) input is at least `run_length` ticks.

    By simulation; the two standard errors that the simulation may be wrong by are added to what is asked for.
    """
    rng = np.random.default_rng(seed)
    ticks = int(3 * run_length) + 1
    risen = np.empty((runs, ticks), dtype=np.float32)
    for run in range(runs):
        x = rng.exponential(size=ticks)
        mean = (HEAD_START + np.cumsum(x)) / (HEAD_START + np.arange(1, ticks + 1))
        path = np.cumsum(x - mean - ALLOWANCE)
        risen[run] = np.maximum.accumulate(path - np.minimum(np.minimum.accumulate(path), 0.0))
    low, high = 0.0, float(risen.max())
    for _ in range(40):
        middle = (low + high) / 2
        alarmed = risen[:, -1] > middle
        waited = np.where(alarmed, np.argmax(risen > middle, axis=1) + 1, ticks).sum()
        events = int(alarmed.sum())
        enough = waited / (events + 2.0 * np.sqrt(events) + 1.0) >= run_length
        low, high = (low, middle) if enough else (middle, high)
    return high
