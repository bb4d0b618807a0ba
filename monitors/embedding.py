"""Has what the sensor sees moved? A chart over its embeddings."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import NDArray

from monitors.chart import Chart, finite
from monitors.protocols import Batch, Float, Reference, Signal
from monitors.whitening import Whitener

COMPONENTS = 64
PATIENTS_PER_COMPONENT = 8


class EmbeddingMean:
    """The mean of the pinned sensor's embedding in its principal components, by a multivariate chart (see Chart).

    Components are learnt on `reference.transform`, their centre and covariance on `reference.calibrate`: a sensor that
    was trained on the former sees the latter otherwise. They are at most COMPONENTS, and one for every
    PATIENTS_PER_COMPONENT calibration patients: more would be estimated so badly that the chart had to be deaf.

    `statistic` is Hotelling's T^2; `threshold` belongs to `log_e`: the log of `run_length`, the ticks to a false alarm
    if this monitor decided alone. Another `name` is for a second one, on another reference.
    """

    name = "embedding"

    def __init__(self, run_length: float = 365.0, name: str = name) -> None:
        self.run_length, self.name = run_length, name

    def fit(self, reference: Reference) -> None:
        """Raises ValueError with fewer than two transform cases, no calibration case, NaN, or two sensors."""
        learnt, ranked = reference.transform, reference.calibrate
        self.sensor = learnt.sensor
        most = max(1, min(COMPONENTS, len({*ranked.unit.tolist()}) // PATIENTS_PER_COMPONENT))
        self.see = Whitener(finite(learnt, learnt.embedding, "embedding"), most)
        self.chart = Chart()
        self.chart.fit(self._see(ranked), ranked.unit, ranked.stratum)

    def update(self, batch: Batch) -> Signal:
        if len(batch):
            self.chart.update(self._see(batch), batch)
        return self.chart.signal(self.name, self.run_length, len(batch))

    def state(self) -> dict[str, NDArray]:
        return self.chart.state()

    def restore(self, state: Mapping[str, NDArray]) -> None:
        self.chart.restore(state)

    def _see(self, batch: Batch) -> Float:
        return self.see(seen_by(self.sensor, batch))


def seen_by(sensor: str, batch: Batch) -> Float:
    """[n, d] the embeddings of a batch. Raises ValueError where they are another sensor's, or hold NaN."""
    if len(batch) and batch.sensor != sensor:
        raise ValueError(f"the reference was seen by {sensor} and the tick by {batch.sensor}: fit a new epoch")
    return finite(batch, batch.embedding, "embedding")
