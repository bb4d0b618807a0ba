"""Has what the sensor sees changed? A kernel two-sample statistic over the stream."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from monitors.blocks import BlockTest, finite
from monitors.evidence import EDetector
from monitors.protocols import Batch, Float, Int, Reference, Signal
from monitors.state import check_version, joined, part
from monitors.whitening import Whitener, squared_distances

SHOWN = 512
"""Reference cases that the window's statistic is computed against: it is for people and decides nothing."""


class KernelTwoSample:
    """Maximum mean discrepancy with a Gaussian kernel (Gretton and others 2012) on the pinned sensor's embeddings.

    `statistic` is the unbiased MMD^2 of the last `window` cases against the fixed reference. The evidence ranks the
    MMD of each tick's block (see BlockTest). Whitening and bandwidth (the median distance) are learnt on
    `reference.transform`. `threshold` belongs to `log_e`: the log of `run_length`, the ticks to a false alarm if this
    monitor decided alone.
    """

    name = "embedding"

    def __init__(self, run_length: float = 365.0, window: int = 50, seed: int = 0) -> None:
        self.run_length = run_length
        self.window = window
        self.seed = seed

    def fit(self, reference: Reference) -> None:
        """Raises ValueError with fewer than two transform cases, NaN, or two sensors."""
        learnt, ranked = reference.transform, reference.calibrate
        self.sensor = learnt.sensor
        self.whiten = Whitener(finite(learnt, learnt.embedding, "embedding"))
        z = self.whiten(learnt.embedding[:SHOWN])
        self.gamma = 1.0 / max(float(np.median(squared_distances(z, z))), 1e-6)
        pool = self._see(ranked) if len(ranked) else z[:0]
        self.blocks = BlockTest(self._block_mmd, self.seed)
        self.blocks.fit(pool, ranked.unit, ranked.stratum)
        self.shown = pool[:SHOWN] if len(pool) >= 2 else z
        within = self._kernel(self.shown, self.shown)
        self.within = float((within.sum() - np.trace(within)) / (len(within) * (len(within) - 1)))
        self.detector = EDetector()
        self.recent = pool[:0]

    def update(self, batch: Batch) -> Signal:
        if len(batch):
            z = self._see(batch)
            self.recent = np.concatenate([self.recent, z])[-self.window :]
            compared = self.blocks.p_value(z, batch.unit, batch.stratum)
            if compared is not None:
                self.detector.update(compared[0], int(batch.index[0]))
        return Signal(
            monitor=self.name,
            log_e=self.detector.log_e,
            statistic=self._window_mmd(),
            threshold=float(np.log(self.run_length)),
            n=len(batch),
            since=self.detector.since,
            evidence=self.blocks.guarantee(),
        )

    def state(self) -> dict[str, NDArray]:
        return joined({"recent": self.recent}, blocks=self.blocks.state(), detector=self.detector.state())

    def restore(self, state: Mapping[str, NDArray]) -> None:
        check_version(state)
        self.recent = np.array(state["recent"])
        self.blocks.restore(part(state, "blocks"))
        self.detector.restore(part(state, "detector"))

    def _see(self, batch: Batch) -> Float:
        if len(batch) and batch.sensor != self.sensor:
            raise ValueError(f"the reference was seen by {self.sensor} and the tick by {batch.sensor}: fit a new epoch")
        return self.whiten(finite(batch, batch.embedding, "embedding"))

    def _kernel(self, a: Float, b: Float) -> Float:
        kernel = squared_distances(a, b)
        kernel *= -self.gamma
        return np.exp(kernel, out=kernel)

    def _block_mmd(self, union: Float, members: Int) -> Float:
        """[u, k], [s, b] -> [s]: MMD^2 of each subset against the whole union, up to a constant."""
        kernel = self._kernel(union, union)
        to_all = kernel.mean(axis=0)
        size = members.shape[1]
        first, second = np.triu_indices(size, 1)
        pairs = members[:, first] * len(union) + members[:, second]
        return 2.0 * kernel.ravel()[pairs].sum(axis=1) / size**2 - 2.0 * to_all[members].mean(axis=1)

    def _window_mmd(self) -> float:
        n = len(self.recent)
        if n < 2:
            return 0.0
        kernel = self._kernel(self.recent, self.recent)
        within = (kernel.sum() - np.trace(kernel)) / (n * (n - 1))
        return float(within + self.within - 2.0 * self._kernel(self.recent, self.shown).mean())
