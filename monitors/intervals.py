"""The interval of a paired change, and the verdict that it and a burden of proof lead to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from monitors.alpha import quantile
from monitors.bootstrap import paired
from monitors.forms import cells
from monitors.measures import Measure
from monitors.protocols import Burden, Float, Record, Scores, Verdict

Held = TypeVar("Held", bound=Record)

POWER = 0.8
NEVER = 2**31  # patients


@dataclass(frozen=True, kw_only=True)
class Change:
    """A paired change for the better (positive) or worse, after less before, with its standard error over patients and
    its skewness: the third cumulant of the change over its variance, 0 where that is not read."""

    before: float
    after: float
    change: float
    error: float
    n: int
    skew: float = 0.0

    def interval(self, alpha: float) -> tuple[float, float]:
        """Lower and upper bound, each of level alpha on its side.

        A skewed change reaches farther on the side of its tail, by Johnson's correction (1978); it is never taken off
        on the other side.
        """
        z = quantile(1 - alpha)
        reach, lean = z * self.error, self.skew * (1 + 2 * z**2) / 6
        return self.change - reach + min(lean, 0.0), self.change + reach + max(lean, 0.0)

    def needed(self, margin: float, alpha: float) -> int:
        """Patients with which a change of 0 would be shown to be above -margin, with power 0.8, at this spread; NEVER
        where there is no margin, or where so many looks were taken that no level is left of alpha."""
        z = quantile(1 - alpha) + quantile(POWER)
        needed = self.n * (z * self.error / margin) ** 2 if margin > 0 else math.inf
        return math.ceil(min(needed, NEVER))


def paired_change(measure: Measure, before: Record, after: Record, *, better: int, resamples: int, seed: int) -> Change:
    """`better` is 1 where larger is better, -1 where smaller is.

    The error is the bootstrap's over patients, and beside it that of the one discordant patient (per class, where
    classes count alike) who has not been seen yet: Agresti and Min (2005) add such cells, so that few patients without
    a difference prove little. Of continuous worths the cell is as large, a difference of 1: a mask or a box that is
    lost altogether is one, and among a dozen patients the rare case that it happens to is mostly not seen; without
    the cell a loss at the margin passed there in half the trials. Such losses make the change skewed as well. That is
    read of all records but Scores, of which plans were declared with the interval that they have.
    Cases without a label are left out. Raises ValueError where the two are not of the same cases.
    """
    before, after = labelled(before), labelled(after)
    n = patients(before)
    if n == 0:
        return Change(before=math.nan, after=math.nan, change=math.nan, error=math.inf, n=0)
    was, now = paired(measure, before, after, resamples, seed)
    differences = better * (now - was)
    counts = cells(measure, before)
    # One patient may lose several findings at once, and is at least as much as where all cases are of one thing.
    unseen = max(np.sum((len(before) / (n * counts)) ** 2) / len(counts) ** 2, 1 / n**2)
    error = float(np.sqrt(np.nanvar(differences) + unseen))
    third = float(np.nanmean((differences - np.nanmean(differences)) ** 3))
    start, end = float(measure(before, None)[0]), float(measure(after, None)[0])
    return Change(
        before=start,
        after=end,
        change=better * (end - start),
        error=error,
        n=n,
        skew=0.0 if isinstance(before, Scores) else third / error**2,
    )


def decide(change: Change, margin: float, alpha: float, burden: Burden, min_n: int) -> tuple[Verdict, int | None]:
    """(verdict, patients needed where it is INSUFFICIENT).

    NON_INFERIORITY passes where the lower bound is above -margin, and fails where the upper bound is not, or where as
    many patients as would have shown it did not. NO_HARM_FOUND fails only where the upper bound is below -margin.
    """
    needed = max(min_n, change.needed(margin, alpha)) if change.n else min_n
    if change.n < min_n:
        return Verdict.INSUFFICIENT, needed
    low, high = change.interval(alpha)
    if high < -margin:
        return Verdict.FAIL, None
    if burden is Burden.NO_HARM_FOUND or low > -margin:
        return Verdict.PASS, None
    return (Verdict.FAIL, None) if change.n >= needed else (Verdict.INSUFFICIENT, needed)


def labelled(record: Held) -> Held:
    """The cases that have a label."""
    known = record.known
    return record if known.all() else record.take(known)


def patients(record: Record) -> int:
    return len(np.unique(record.unit))


def wilson(
    hit: NDArray[np.bool_] | Float, weight: Float, unit: NDArray[np.str_], level: float = 0.95
) -> tuple[float, float, float]:
    """(lower bound, share, upper bound) of cases that hit [n], each with its weight; NaN where none has any. A
    hit may be a share, 0..1, which varies no more than one that is whole.

    Wilson's interval (1927) on the effective number of patients (sum w)^2 / sum w^2 (Kish 1965), w being a patient's
    cases together: it has a width where every case hit.
    """
    total = float(weight.sum())
    if total <= 0:
        return math.nan, math.nan, math.nan
    _, of = np.unique(unit, return_inverse=True)
    n = total**2 / float((np.bincount(of, weights=weight) ** 2).sum())
    p, z = float(weight @ hit) / total, quantile(0.5 + level / 2)
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return middle - reach, p, middle + reach
