"""Synthetic embedding streams with a known change, and the oracle that knows both densities.

A mixture of five sources and two classes with a decaying spectrum. After the onset: `mean` moves by one Mahalanobis
unit; `cov` scales eight eigen-directions by 1.25; `subpop` takes a quarter of the cases from an unseen source three
units away; `prevalence` goes from 0.15 to 0.40; `ramp` moves the mean by two units over 600 cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHIFTS = ("mean", "cov", "subpop", "prevalence", "ramp")
WEIGHTS = np.array([0.35, 0.25, 0.20, 0.12, 0.08])
PREVALENCE, NEW_PREVALENCE, SCALE, SHARE, RAMP = 0.15, 0.40, 1.25, 0.25, 600

Float = NDArray[np.floating]


class Stream(NamedTuple):
    """n cases in order: embeddings x [n, d] float32, the model's probability of class 1 [n], the class [n] bool."""

    x: Float
    score: Float
    label: NDArray[np.bool_]


class World:
    """One mixture. `score` is the Bayes rule of the unchanged world, so it is calibrated before a change of prevalence
    and not after it. Raises ValueError below 12 dimensions: `cov` needs them."""

    def __init__(self, seed: int = 7, dim: int = 64) -> None:
        if dim < 12:
            raise ValueError("the covariance shift needs 12 dimensions or more")
        g = np.random.default_rng(seed)
        q = np.linalg.qr(g.standard_normal((dim, dim)))[0]
        spectrum = 1 / (1 + np.arange(dim) / 8.0)
        self.seed, self.dim = seed, dim
        self.factor = q * np.sqrt(spectrum)  # the covariance within a source is factor @ factor.T
        self.inverse = np.linalg.inv(self.factor)
        self.sources = (g.standard_normal((len(WEIGHTS), dim)) * 0.6 * np.sqrt(spectrum)) @ q.T
        self.class_offset, self.shift, self.new_source = (self._direction(g, k) for k in (2.0, 1.0, 3.0))
        self.scaled = np.arange(4, 12)

    def _direction(self, g: np.random.Generator, length: float) -> Float:
        z = g.standard_normal(self.dim)
        return self.factor @ (z / np.linalg.norm(z) * length)

    def stream(self, n: int, seed: int | Sequence[int], shift: str | None = None, onset: int = 0) -> Stream:
        """`shift` acts from case `onset` on. Raises ValueError on a shift that is not of SHIFTS."""
        if shift is not None and shift not in SHIFTS:
            raise ValueError(f"a shift is one of {', '.join(SHIFTS)}, not {shift!r}")
        g = np.random.default_rng((*np.atleast_1d(seed).tolist(), 20251122))
        after = np.arange(n) >= onset if shift else np.zeros(n, bool)
        source = g.choice(len(WEIGHTS), n, p=WEIGHTS)
        label = g.random(n) < np.where(after & (shift == "prevalence"), NEW_PREVALENCE, PREVALENCE)
        z = g.standard_normal((n, self.dim))
        if shift == "cov":
            z[np.ix_(after, self.scaled)] *= SCALE
        x = z @ self.factor.T + self.sources[source] + label[:, None] * self.class_offset
        if shift == "mean":
            x[after] += self.shift
        elif shift == "subpop":
            x[after & (g.random(n) < SHARE)] += self.new_source
        elif shift == "ramp":
            x += np.clip((np.arange(n) - onset) / RAMP, 0, 1)[:, None] * 2 * self.shift
        return Stream(x.astype(np.float32), self.score(x), label)

    def score(self, x: Float) -> Float:
        one, zero = (
            _log_sum([self._log_normal(x, m + c) + np.log(w) for m, w in zip(self.sources, WEIGHTS, strict=True)])
            for c in (self.class_offset, 0 * self.class_offset)
        )
        return 1 / (1 + np.exp(zero - one) * (1 - PREVALENCE) / PREVALENCE)

    def log_ratio(self, x: Float, shift: str) -> Float:
        """[n, d] -> [n]: the true log-likelihood ratio of after to before. Raises ValueError for a ramp, which has no
        single density after the change."""
        if shift not in SHIFTS or shift == "ramp":
            raise ValueError(f"there is no oracle for {shift!r}")
        return self._log_density(x, shift) - self._log_density(x, None)

    def _log_density(self, x: Float, shift: str | None) -> Float:
        prevalence = NEW_PREVALENCE if shift == "prevalence" else PREVALENCE
        offsets = {"mean": [(1.0, self.shift)], "subpop": [(1 - SHARE, 0 * self.shift), (SHARE, self.new_source)]}
        return _log_sum(
            [
                self._log_normal(x, m + c + o, shift == "cov") + np.log(w * p * share)
                for m, w in zip(self.sources, WEIGHTS, strict=True)
                for c, p in ((0 * self.class_offset, 1 - prevalence), (self.class_offset, prevalence))
                for share, o in offsets.get(shift or "", [(1.0, 0 * self.shift)])
            ]
        )

    def _log_normal(self, x: Float, mean: Float, scaled: bool = False) -> Float:
        r = (x - mean) @ self.inverse.T
        if scaled:
            r[:, self.scaled] /= SCALE
        return -0.5 * (r * r).sum(axis=1) - (len(self.scaled) * np.log(SCALE) if scaled else 0.0)


def _log_sum(terms: list[Float]) -> Float:
    stacked = np.stack(terms)
    top = stacked.max(axis=0)
    return top + np.log(np.exp(stacked - top).sum(axis=0))
