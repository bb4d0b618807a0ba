"""Do the means of two samples of features differ, and how far apart are they?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monitors.protocols import Float

ROUNDING = 1e-12  # variance of features of the order of 1 that are all the same


@dataclass(frozen=True)
class Apart:
    """Hotelling's T^2 as an F of k and `rest` degrees of freedom; its non-centrality is `scale` times the squared
    Mahalanobis distance between the means."""

    f: float
    k: int
    rest: float
    scale: float

    @property
    def p(self) -> float:
        from scipy.stats import f

        return float(f.sf(self.f, self.k, self.rest)) if self.rest >= 1 and self.k else 1.0

    def at_least(self, level: float) -> float:
        """The squared distance that the true one exceeds but for an error of `level`."""
        return self._squared(1 - level) if self.rest >= 1 and self.k else 0.0

    def at_most(self, level: float) -> float:
        """The squared distance that the true one stays below but for an error of `level`: infinite where nothing is
        known."""
        return self._squared(level) if self.rest >= 1 and self.k else float("inf")

    def _squared(self, share: float) -> float:
        """By the non-central F distribution (Reiser 2001, Confidence intervals for the Mahalanobis distance)."""
        from scipy.optimize import brentq
        from scipy.special import ncfdtr

        def over(noncentrality: float) -> float:
            return float(ncfdtr(self.k, self.rest, noncentrality, self.f)) - share

        if over(0.0) <= 0:
            return 0.0
        most = max(1.0, 2 * self.k * self.f)
        while over(most) > 0:
            most *= 2
        return float(brentq(over, 0.0, most)) / self.scale


def apart(known: Float, new: Float, weights: Float | None = None) -> Apart:
    """Hotelling's two-sample statistic of known [n, k] and new [m, k].

    weights [n], not negative: known cases stand for others; their covariance and their effective number (Kish 1965,
    (sum w)^2 / sum w^2) are those under the weights.
    """
    w = np.full(len(known), 1 / len(known)) if weights is None else weights / weights.sum()
    n, m = 1 / float((w**2).sum()), len(new)
    centre = w @ known
    off, own = known - centre, new - new.mean(axis=0)
    within = (n * (off * w[:, None]).T @ off + own.T @ own) / max(1.0, n + m - 2)
    values, vectors = np.linalg.eigh(within)
    kept = values > max(1e-9 * values[-1], ROUNDING)
    k, difference = int(kept.sum()), (new.mean(axis=0) - centre) @ vectors[:, kept]
    rest, scale = n + m - k - 1, n * m / (n + m)
    squared = float((difference**2 / values[kept]).sum()) * scale
    return Apart(squared * rest / (max(k, 1) * max(1.0, n + m - 2)), k, rest, scale)


def hotelling(known: Float, new: Float, weights: Float | None = None) -> float:
    """The p-value of the test that the means of known [n, k] and new [m, k] are equal (see `apart`)."""
    return apart(known, new, weights).p
