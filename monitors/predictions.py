"""Have the model's answers changed? A chart over the outputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from monitors.chart import Chart, finite
from monitors.protocols import Batch, Float, OtherVersion, Reference, Signal


class PredictionStream:
    """The mean of the model's probabilities and of their entropy, by a multivariate chart (see Chart).

    Where the probabilities of a reference case sum to 1 they are of classes that exclude each other; else each is of a
    finding of its own, and the entropy is the sum of theirs. What a change of prevalence moves first: the probabilities
    of a black box tell it (Lipton and others 2018). With a dozen classes and a reference of some 60 patients it is deaf
    to all but gross changes.

    `statistic` is Hotelling's T^2; `threshold` belongs to `log_e`.
    """

    name = "prediction"

    def __init__(self, run_length: float = 365.0) -> None:
        self.run_length = run_length

    def fit(self, reference: Reference) -> None:
        """Only `reference.calibrate` is read: a model is surer of what it was trained on. Raises ValueError on NaN, and
        where it is empty."""
        ranked = reference.calibrate
        self.version = ranked.version
        self.exclusive = sum_to_one(ranked.outputs)
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
        """[n, c] -> [n, c] or [n, c + 1]: the probabilities (of classes, all but the last), and their entropy."""
        if batch.version != self.version:
            raise OtherVersion(
                f"the reference was observed with {self.version} and the tick with {batch.version}: fit anew"
            )
        p = np.asarray(finite(batch, batch.outputs, "outputs"), dtype=np.float64)
        entropy = _surprise(p) if self.exclusive else _surprise(p) + _surprise(1.0 - p)
        return np.column_stack([p[:, : p.shape[1] - self.exclusive], entropy.sum(axis=1)])


def sum_to_one(outputs: Float) -> bool:
    """Whether the probabilities [n, c] are of classes that exclude each other."""
    return bool(np.allclose(np.nansum(outputs, axis=1), 1.0, atol=1e-3))


def free(outputs: Float) -> int:
    """How many of the c probabilities [n, c] don't follow from the others."""
    return outputs.shape[1] - sum_to_one(outputs)


def _surprise(p: Float) -> Float:
    return -p * np.log(np.clip(p, 1e-12, 1.0))
