"""When did it change? The change point that an alarm's cases speak for, and the others that they do not rule out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitors.attribution import FEWEST, features, taken
from monitors.chart import first_of_each
from monitors.far_out import FarOut
from monitors.predictions import free
from monitors.protocols import Batch, Float, Int, Reference

LEVEL = 0.9
"""Share of the changes that the interval is to cover."""

QUANTILE = 0.95  # of the bootstrap: its streams were not chosen by an alarm, which sees a change by its lucky cases
DRAWS, SEED = 400, 2026
MEMORY = 33  # patients that a chart remembers: it rises late, by about as many
RIDGE = 1e-4  # of the largest variance


@dataclass(frozen=True, kw_only=True)
class Onset:
    """The first changed case, by its index, and the LEVEL interval of it, both ends included."""

    case: int
    low: int
    high: int


def onset(reference: Reference, cases: Batch, since: int) -> Onset | None:
    """The change point of `cases`, a stream's since its charts began anew, in order; `since` is a chart's guess of it.

    Each patient is one observation: the first of its cases, reduced to one number along the direction in which cases
    moved since the guess. That direction is of every other patient and is read on those between, both ways round, so
    that the search doesn't find itself. The point is the most likely one for a jump of the mean (Hinkley 1970), the
    reference's patients standing before the stream. The interval holds the points whose log-likelihood is within a
    threshold of it (Siegmund 1988): a QUANTILE of what streams made anew from the residuals, with this jump at this
    point, lack at it (bootstrap, as by Huskova and Kirch 2008). Simulated, under independent patients and one jump; of
    a slow change it is where one jump would fit best.

    While fewer than twice FEWEST patients follow the point nobody can say whether all cases changed or some: then the
    interval reaches back by the MEMORY of the chart. None with fewer than FEWEST in the reference or since the guess.
    Cases with NaN are left out. Raises ValueError where the reference's transform part is too small (two cases).
    """
    whole = np.isfinite(cases.embedding).all(axis=1) & np.isfinite(cases.outputs).all(axis=1)
    cases = taken(cases, np.flatnonzero(whole))
    cases = taken(cases, first_of_each(cases.unit))
    known = taken(reference.calibrate, first_of_each(reference.calibrate.unit))
    guess = int(np.searchsorted(cases.index, since))
    if min(len(known), len(cases) - guess) < FEWEST:
        return None
    after = np.arange(len(cases)) >= guess - MEMORY
    before, seen = _whitened(reference, known, cases)
    usual, along = _along(before, seen, after)
    return _located(usual, along, cases.index)


def _whitened(reference: Reference, known: Batch, cases: Batch) -> tuple[Float, Float]:
    """Components, distance and answers of both, with mean 0 and covariance I in the reference."""
    distance = FarOut()
    distance.fit(reference)
    see = features(reference, distance)
    before, seen = (np.column_stack([see(side), side.outputs[:, : free(known.outputs)]]) for side in (known, cases))
    values, vectors = np.linalg.eigh(np.cov(before.T).reshape(before.shape[1], -1))
    whiten = vectors / np.sqrt(np.maximum(values, 0.0) + RIDGE * values[-1] + 1e-12)
    return (before - before.mean(axis=0)) @ whiten, (seen - before.mean(axis=0)) @ whiten


def _along(before: Float, seen: Float, after: NDArray[np.bool_]) -> tuple[Float, Float]:
    """(reference [2 n], stream [m]) in standard deviations of the reference, each half along the other's direction.

    Of a direction's coordinates those within a standard error are noise: they are drawn to zero by one (Donoho and
    Johnstone 1994).
    """
    usual, along = [], np.empty(len(seen))
    half = np.cumsum(after) % 2 == 0
    for learn, read in ((half, ~half), (~half, half)):
        moved = seen[learn & after].mean(axis=0)
        error = 1 / np.sqrt((learn & after).sum())
        direction = np.sign(moved) * np.maximum(np.abs(moved) - error, 0.0)
        direction = direction if direction.any() else moved
        own = before @ direction
        spread = own.std() + 1e-12
        usual.append(own / spread)
        along[read] = seen[read] @ direction / spread
    return np.concatenate(usual), along


def _located(usual: Float, along: Float, index: Int) -> Onset:
    rng = np.random.default_rng(SEED)
    n, m = len(usual) // 2, len(along)
    found = _likelihood(along[None], n)[0]
    at = int(found.argmax())
    jump = along[at:].mean() - along[:at].sum() / (n + at)
    still, moved = np.concatenate([usual, along[:at]]), along[at:]
    few = len(moved) < 2 * FEWEST
    still, moved = still - still.mean(), still - still.mean() if few else moved - moved.mean()
    made = np.concatenate([rng.choice(still, (DRAWS, at)), rng.choice(moved, (DRAWS, m - at)) + jump], axis=1)
    made += rng.standard_normal((DRAWS, 1)) / np.sqrt(n)  # the reference's mean errs, too
    likely = _likelihood(made, n)
    lacking = np.quantile(likely.max(axis=1) - likely[:, at], QUANTILE)
    inside = np.flatnonzero(found >= found[at] - lacking)
    low = max(0, int(inside[0]) - MEMORY) if few else int(inside[0])
    return Onset(case=int(index[at]), low=int(index[low]), high=int(index[inside[-1]]))


def _likelihood(along: Float, n: int) -> Float:
    """[s, m] -> [s, m]: log-likelihood ratio of a jump upwards at each case to none, unit variance, both means unknown;
    n reference patients of mean 0 stand before."""
    m = along.shape[1]
    earlier = n + np.arange(m)
    later = m - np.arange(m)
    total = along.sum(axis=1, keepdims=True)
    sums = np.cumsum(along, axis=1) - along
    jump = (total - sums) / later - sums / earlier
    return np.maximum(jump, 0.0) ** 2 * earlier * later / (n + m) / 2
