"""What answers are worth where nobody has labelled, by what the model expects of them itself: masks, boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monitors.estimates import FEWEST, LEVEL, DoC, Estimate, resampled
from monitors.protocols import Float


def expected_worth(
    worth: Float, sure: Float, unit: NDArray[np.str_], new_sure: Float, new_unit: NDArray[np.str_]
) -> Estimate:
    """The mean worth (Dice) of new answers, by that of the reference's labelled ones.

    worth, sure [n]: what each was worth, NaN without a label, and what the model expected; new_sure [m] of the new
    cases; unit, new_unit their patients. Difference of confidences (Guillory and others 2021): it falls as much as the
    expectation does. low, high: 95 % over patients of both sides drawn anew, with the scatter of single answers.
    """
    known = np.isfinite(worth) & np.isfinite(sure)
    there = np.isfinite(new_sure)
    labelled, patients = len(np.unique(unit[known])), len(np.unique(new_unit[there]))
    if min(labelled, patients) < FEWEST:
        says = f"no estimate from {labelled} labelled patients and {patients} new ones: it takes {FEWEST} of each"
        return Estimate(n=patients, by_class=(), says=says)
    rule = DoC().learn(sure[known], worth[known], resampled(unit[known], 0))
    weights = resampled(new_unit[there], 1)
    means = (rule(new_sure[there]) * weights).sum(axis=1) / weights.sum(axis=1)
    scatter = float(np.std(worth[known] - sure[known])) / np.sqrt(patients)
    means[1:] += scatter * np.random.default_rng(2).standard_normal(len(means) - 1)
    low, high = np.quantile(means[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value, low, high = np.clip([means[0], low, high], 0.0, 1.0)
    return Estimate(
        before=float(worth[known].mean()),
        value=float(value),
        low=float(low),
        high=float(high),
        n=patients,
        by_class=(),
        says=DoC.assumption.replace("accuracy", "what answers are worth"),
    )
