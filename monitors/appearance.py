"""Do the images look as before: as sharp, as noisy, as bright? A chart over the numbers of image quality."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from monitors.chart import WEIGHT, Chart, finite
from monitors.embedding import PATIENTS_PER_COMPONENT
from monitors.protocols import Batch, Float, Reference, Signal
from monitors.quality import NAMES
from monitors.state import check_version, joined, part
from monitors.whitening import Whitener

REACH = 4.0  # standard deviations at which a number is cut off: one odd image is no drift
LEAST = 1e-3  # standard deviation of a number, whatever its unit: less is no variation
USUAL = 1.349  # quartiles of a normal distribution lie as many standard deviations apart


class QualityStream:
    """The means of what `quality` measures of each image, in principal components, by a multivariate chart (see Chart).

    Numbers are scaled by median and quartiles and cut off, and components are whitened and cut off again; both are
    learnt on `reference.transform`, centre and covariance on `reference.calibrate`. There is one component for every
    PATIENTS_PER_COMPONENT calibration patients, and one column more for how far off their plane an image lies. What
    never varied in n patients is given the variance of one in n at the cut: a first image of another size is then
    unusual, and not infinitely so.

    `statistic` is Hotelling's T^2; `threshold` belongs to `log_e`; evidence names the `measure` that moved most.
    """

    name = "quality"

    def __init__(self, run_length: float = 365.0) -> None:
        self.run_length = run_length

    def fit(self, reference: Reference) -> None:
        """Raises ValueError with fewer than two transform cases, no calibration case, NaN, or no image quality."""
        learnt, ranked = reference.transform, reference.calibrate
        x = np.asarray(finite(learnt, learnt.quality, "quality"), dtype=np.float64)
        if not x.size:
            raise ValueError("the reference has no image quality: make the workspace anew with 'init'")
        low, self.centre, high = np.quantile(x, (0.25, 0.5, 0.75), axis=0)
        spread = np.where(high > low, (high - low) / USUAL, x.std(axis=0))
        self.scale = np.maximum(spread, LEAST)
        most = max(1, min(x.shape[1], len({*ranked.unit.tolist()}) // PATIENTS_PER_COMPONENT))
        self.see = Whitener(self._scaled(learnt), most)
        self.usual = self._scaled(ranked).mean(axis=0)
        self.mean = np.zeros(x.shape[1])
        self.chart = Chart(floor=REACH**2 / max(1, len(ranked)))
        self.chart.fit(self._columns(self._scaled(ranked)), ranked.unit, ranked.stratum)

    def update(self, batch: Batch) -> Signal:
        if len(batch):
            seen = self._scaled(batch)
            self.chart.update(self._columns(seen), batch)
            weights = WEIGHT * (1 - WEIGHT) ** np.arange(len(seen) - 1, -1, -1)
            self.mean = (1 - WEIGHT) ** len(seen) * self.mean + weights @ (seen - self.usual)
        driver = {} if self.chart.since is None else {"measure": NAMES[int(np.abs(self.mean).argmax())]}
        return self.chart.signal(self.name, self.run_length, len(batch), **driver)

    def state(self) -> dict[str, NDArray]:
        return joined({"mean": self.mean}, chart=self.chart.state())

    def restore(self, state: Mapping[str, NDArray]) -> None:
        check_version(state)
        self.chart.restore(part(state, "chart"))
        self.mean = np.array(state["mean"])

    def _scaled(self, batch: Batch) -> Float:
        """[n, q] in robust standard deviations."""
        x = np.asarray(finite(batch, batch.quality, "quality"), dtype=np.float64)
        if x.shape[1] != len(self.centre):
            raise ValueError(f"the tick has {x.shape[1]} numbers of image quality and the reference {len(self.centre)}")
        return np.clip((x - self.centre) / self.scale, -REACH, REACH)

    def _columns(self, scaled: Float) -> Float:
        return np.clip(self.see(scaled), -REACH, REACH)
