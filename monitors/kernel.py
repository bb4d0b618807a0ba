"""Has what the sensor sees changed in any way a kernel tells? A chart over random features of its embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from monitors.chart import Chart, finite
from monitors.embedding import COMPONENTS, PATIENTS_PER_COMPONENT, seen_by
from monitors.protocols import Batch, Float, Reference, Signal
from monitors.whitening import Whitener, squared_distances

FEATURES = 64
SHOWN = 512  # transform cases that the bandwidth is the median over
SEED = 2007


class KernelMean:
    """The mean of random Fourier features (Rahimi and Recht 2007) of the whitened embedding, by a chart (see Chart).

    The features are cos(w x + b), b uniform and w Gaussian of variance 2 / m per coordinate: products of them have the
    expectation exp(-|x - y|^2 / m), a Gaussian kernel, and their mean tells its mean embedding. m is the median squared
    distance between cases of `reference.transform` (Gretton and others 2012). An exponentially weighted mean of them
    costs the same per case whatever came before (NEWMA, Keriven and others 2020), and Hotelling's T^2 of it is the
    kernel Fisher discriminant ratio (Harchaoui and others 2008).

    There are at most FEATURES of them, and one for every PATIENTS_PER_COMPONENT calibration patients. Experimental: it
    has no share of the budget; what it moves is in `homeostat bench drift`.

    `statistic` is Hotelling's T^2; `threshold` belongs to `log_e`.
    """

    name = "kernel"

    def __init__(self, run_length: float = 365.0) -> None:
        self.run_length = run_length

    def fit(self, reference: Reference) -> None:
        """Raises ValueError with fewer than two transform cases, no calibration case, NaN, or two sensors."""
        learnt, ranked = reference.transform, reference.calibrate
        self.sensor = learnt.sensor
        self.see = Whitener(finite(learnt, learnt.embedding, "embedding"), COMPONENTS)
        places, rng = self.see(learnt.embedding[:SHOWN]), np.random.default_rng(SEED)
        between = squared_distances(places, places)[np.triu_indices(len(places), 1)]
        most = max(1, min(FEATURES, len({*ranked.unit.tolist()}) // PATIENTS_PER_COMPONENT))
        scale = np.sqrt(2 / max(float(np.median(between)), 1e-12))  # cases that are all alike have no distance
        self.frequencies = scale * rng.standard_normal((places.shape[1], most))
        self.phases = rng.uniform(0, 2 * np.pi, most)
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
        """[n, d] -> [n, features], each between -1 and 1."""
        return np.cos(self.see(seen_by(self.sensor, batch)) @ self.frequencies + self.phases)
