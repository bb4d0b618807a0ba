"""The online block test: is this tick's block of patients a random draw from all patients seen so far?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from monitors.protocols import Batch, Float, Int

Statistic = Callable[[Float, Int], Float]
"""(features [u, k] of the pool and the block together, members [s, b] of s subsets) -> [s], large where unusual.

It may use the union only as a set: whatever it learns must not depend on who stands in the block.
"""

FEW = 20
"""A stratum with fewer reference patients than this is compared with the largest one."""

CAPACITY = 1024
LARGEST_BLOCK = 64
DRAWS = 999


class BlockTest:
    """One p-value per tick: the rank of the block's statistic among random subsets of pool and block together.

    Theorem, under exchangeability of patients within strata: the p-values are independent and uniform, for ever,
    although the pool is used again and again. (Given the union as a set, and all that comes later, the block is a
    random subset of it, so p is uniform; later p-values depend on the union only as a set, and so are independent of
    it. The union is cut back to `CAPACITY` at random, without regard to who is new, which keeps the argument.) This is
    the conformal test of Vovk, Gammerman and Shafer (2022, chapter 8), with blocks in place of single cases.

    The draws of a tick come from (seed, number of the tick), so that a restored test continues identically.
    """

    def __init__(self, statistic: Statistic, seed: int) -> None:
        self.statistic = statistic
        self.seed = seed

    def fit(self, features: Float, units: NDArray[np.str_], strata: NDArray[np.str_]) -> None:
        """features [n, k], one row per case of the calibration part; the first case of each patient is kept.

        Raises ValueError where there is no case.
        """
        if not len(features):
            raise ValueError("the reference's calibration part is empty: there is nothing to rank among")
        first = first_of_each(units)
        names, counts = np.unique(strata[first], return_counts=True)
        enough = counts >= FEW
        self.strata = {str(name): code for code, name in enumerate(names[enough])}
        self.largest = int(np.argmax(counts[enough])) if enough.any() else 0
        self.tick = 0
        self._features, self._codes = self._cut(features[first], self._code(strata[first]), self._rng())
        self._recent: NDArray = np.array([], dtype=np.str_)
        self.reference = len(self._codes)

    def p_value(self, features: Float, units: NDArray[np.str_], strata: NDArray[np.str_]) -> tuple[float, int] | None:
        """(p, patients compared) of a tick's cases, or None where it holds no new patient.

        One case per patient, the first. A patient of the tick before is left out: one visit may straddle two ticks.
        """
        self.tick += 1
        first = first_of_each(units)
        first = first[~np.isin(units[first], self._recent)][:LARGEST_BLOCK]
        self._recent = np.unique(units)
        if not len(first):
            return None
        rng = self._rng()
        codes = self._code(strata[first])
        union = np.concatenate([self._features, features[first]])
        union_codes = np.concatenate([self._codes, codes])
        block = np.arange(len(self._codes), len(union))
        members = np.empty((DRAWS + 1, len(first)), dtype=np.int64)
        for code in np.unique(codes):
            places = np.flatnonzero(codes == code)
            candidates = np.flatnonzero(union_codes == code)
            members[1:, places] = candidates[subsets(rng, len(candidates), len(places), DRAWS)]
        members[0] = block
        values = self.statistic(union, members)
        above, ties = np.sum(values[1:] > values[0]), np.sum(values[1:] == values[0])
        p = (above + (1.0 - rng.random()) * (ties + 1)) / (DRAWS + 1)
        self._features, self._codes = self._cut(union, union_codes, rng)
        return float(p), len(first)

    def state(self) -> dict[str, NDArray]:
        return {
            "pool": self._features,
            "codes": self._codes,
            "recent": self._recent,
            "tick": np.array(self.tick),
        }

    def restore(self, state: Mapping[str, NDArray]) -> None:
        self._features = np.array(state["pool"])
        self._codes = np.array(state["codes"])
        self._recent = np.array(state["recent"], dtype=np.str_)
        self.tick = int(state["tick"])

    def guarantee(self) -> dict[str, str | int]:
        """What may be promised, in words, for a signal's evidence."""
        promise = "theorem, under exchangeability of patients within strata"
        if self.reference < FEW:
            promise += f"; power is not promised with {self.reference} reference patients"
        return {"guarantee": promise, "reference": self.reference}

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.tick))

    def _code(self, strata: NDArray[np.str_]) -> Int:
        return np.array([self.strata.get(str(s), self.largest) for s in strata], dtype=np.int64)

    @staticmethod
    def _cut(features: Float, codes: Int, rng: np.random.Generator) -> tuple[Float, Int]:
        if len(codes) <= CAPACITY:
            return features, codes
        kept = np.sort(rng.permutation(len(codes))[:CAPACITY])
        return features[kept], codes[kept]


def first_of_each(units: NDArray[np.str_]) -> Int:
    """Positions of the first case of each unit, in order."""
    return np.sort(np.unique(units, return_index=True)[1])


def subsets(rng: np.random.Generator, n: int, size: int, draws: int) -> Int:
    """[draws, size] uniformly random subsets of range(n) (Floyd's algorithm, all draws at once)."""
    chosen = np.full((draws, size), -1, dtype=np.int64)
    for place, last in enumerate(range(n - size, n)):
        pick = rng.integers(0, last + 1, draws)
        chosen[:, place] = np.where((chosen == pick[:, None]).any(axis=1), last, pick)
    return chosen


def finite(batch: Batch, values: Float, what: str) -> Float:
    """The values as they are. Raises ValueError where one is NaN or infinite."""
    if not np.isfinite(values).all():
        raise ValueError(f"{what} of the tick of case {batch.index[0]} holds NaN or infinity")
    return values
