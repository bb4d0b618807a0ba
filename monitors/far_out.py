"""Is this case at all like what the model was made for? Another modality or anatomy is refused, one case at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from monitors.chart import Chart, finite
from monitors.embedding import seen_by
from monitors.protocols import Batch, Float, Int, Reference, Signal
from monitors.whitening import squared_distances

NEIGHBOURS = 5
TINY = 1e-9
LEARNT = 2048
"""Cases of the transform part that neighbours are looked for among."""


class FarOut:
    """Distance to the nearest reference cases in the sensor's standardised space, and the line that far cases cross.

    A case is far out where the logarithm of the mean distance to its five nearest cases of `reference.transform` is
    more than `reach` standard deviations above the calibration cases' mean. The default lets other hospitals' images of
    the same kind pass (docs/false-alarms.md tells what it refuses). As a monitor it watches the same
    distance by a chart (see Chart) over minus the logarithm of its rank among the calibration cases': it sees a spread
    or a subgroup that leaves the mean where it was, and no single case can say more than the farthest of these.

    `statistic` is the share of far-out cases in the tick; `threshold` belongs to `log_e`.
    """

    name = "far-out"

    def __init__(self, run_length: float = 365.0, reach: float = 4.5) -> None:
        self.run_length = run_length
        self.reach = reach

    def fit(self, reference: Reference) -> None:
        """Raises ValueError with fewer than two transform cases, NaN, or two sensors."""
        learnt, ranked = reference.transform, reference.calibrate
        self.sensor = learnt.sensor
        if len(learnt) < 2:
            raise ValueError(f"the reference's transform part needs two cases or more, not {len(learnt)}")
        x = np.asarray(finite(learnt, learnt.embedding, "embedding"), dtype=np.float64)
        spread = x.std(axis=0)
        self.mean, self.scale = x.mean(axis=0), spread + 0.1 * float(np.median(spread)) + 1e-9
        self.known = self._place(x[:LEARNT])
        usual = self._see(ranked)
        logs = np.log(usual + TINY)
        self.usual = np.sort(usual)
        self.chart = Chart()
        self.chart.fit(_surprise(self._farther(usual) - 1, len(usual)), ranked.unit, ranked.stratum)
        self.limit = float(np.exp(logs.mean() + self.reach * logs.std()))

    def distance(self, embedding: Float) -> Float:
        """[n, d] -> [n], mean distance to the five nearest reference cases, in standardised units."""
        if not len(embedding):
            return np.empty(0)
        squares = squared_distances(self._place(embedding), self.known)
        k = min(NEIGHBOURS, squares.shape[1])
        return np.sqrt(np.partition(squares, k - 1, axis=1)[:, :k]).mean(axis=1).astype(np.float64)

    def far(self, embedding: Float) -> NDArray[np.bool_]:
        """[n, d] -> [n]: the cases that no answer should be given for."""
        return self.distance(embedding) > self.limit

    def update(self, batch: Batch) -> Signal:
        distance = self._see(batch)
        if len(batch):
            self.chart.update(_surprise(self._farther(distance), len(self.usual) + 1), batch)
        far = int(np.sum(distance > self.limit))
        share = far / len(batch) if len(batch) else 0.0
        return replace(self.chart.signal(self.name, self.run_length, len(batch), far=far), statistic=share)

    def state(self) -> dict[str, NDArray]:
        return self.chart.state()

    def restore(self, state: Mapping[str, NDArray]) -> None:
        self.chart.restore(state)

    def _farther(self, distance: Float) -> Int:
        """[n] -> [n]: how many calibration cases are as far or farther."""
        return len(self.usual) - np.searchsorted(self.usual, distance)

    def _place(self, embedding: Float) -> Float:
        return ((embedding - self.mean) / self.scale).astype(np.float32)

    def _see(self, batch: Batch) -> Float:
        return self.distance(seen_by(self.sensor, batch))


def _surprise(farther: Int, places: int) -> Float:
    """[n], 0..places - 1 -> [n, 1]: minus the log of the rank; a calibration case is not ranked against itself."""
    return -np.log((farther + 0.5) / places)[:, None]
