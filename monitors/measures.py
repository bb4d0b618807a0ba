"""Measures of the output form *scores*: every one is `measure(scores, weights[B, n]) -> [B]`.

Bootstrap over patients, inverse-probability weights of an audit arm, prevalence weights and subgroups are all only
weights. Without weights every case counts once and [1] comes back. Cases without a label have no weight. NaN where a
measure is undefined: no labelled case, or one class only where two are needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitors.protocols import Float, Int, Record, Scores

Measure = Callable[[Any, Float | None], Float]

BINS = 15
CLIP = 1e-6
"""Log-loss and the log-odds are taken of probabilities no nearer to 0 and 1 than this."""


def accuracy(scores: Scores, weights: Float | None = None) -> Float:
    """Share of cases whose most probable class is the target, 0..1."""
    hits, total = (weights_of(scores, weights) @ scores.once(_hits)).T
    return ratio(hits, total)


def balanced_accuracy(scores: Scores, weights: Float | None = None) -> Float:
    """Mean recall over the classes present (with weight), 0..1."""
    w, right = weights_of(scores, weights), scores.once(_right)
    member = _members(scores, w.dtype)
    total, hit = w @ member, w @ (member * right[:, None])
    present = total > 0
    recall = np.divide(hit, total, out=np.zeros(hit.shape), where=present)
    return ratio(recall.sum(axis=1), present.sum(axis=1))


def auroc(scores: Scores, weights: Float | None = None) -> Float:
    """Area under the ROC curve, ties counting half: of class 1 with two classes, else the mean of one against the rest
    over the classes present."""
    w = weights_of(scores, weights)
    areas = np.stack([area(w, ranking) for ranking in scores.once(_rankings)])
    defined = ~np.isnan(areas)
    return ratio(np.where(defined, areas, 0.0).sum(axis=0), defined.sum(axis=0))


def ece(scores: Scores, weights: Float | None = None) -> Float:
    """Expected calibration error of the top probability, 15 bins of equal width (Guo and others 2017), 0..1.

    It is far from 0 on few cases even of a perfect model (0.04 at n = 500): see ece_debiased.
    """
    binned = weights_of(scores, weights) @ scores.once(_gaps)
    return ratio(np.abs(binned[:, :BINS]).sum(axis=1), binned[:, BINS])


def ece_debiased(scores: Scores, weights: Float | None = None) -> Float:
    """Root of the squared calibration error less its expected sampling noise, floored at 0 (Kumar and others 2019).

    Per bin of total weight W and mean gap g, g^2 is reduced by the variance of the mean of its gaps, with the bin's
    effective number of cases W^2 / sum w^2. A display, not a gate.
    """
    w, residual = weights_of(scores, weights), _right(scores) - scores.probability.max(axis=1)
    total, squares = w @ _binned(scores, np.ones(len(scores))), (w * w) @ _binned(scores, np.ones(len(scores)))
    mean = ratio(w @ _binned(scores, residual), total)
    variance = np.maximum(ratio(w @ _binned(scores, residual**2), total) - mean**2, 0.0)
    effective = ratio(total**2, squares)
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = np.where(effective > 1, variance / (effective - 1), mean**2)
    squared = np.nansum(np.maximum(total, 0.0) * (mean**2 - noise), axis=1)
    return np.sqrt(np.maximum(ratio(squared, w.sum(axis=1)), 0.0))


def brier(scores: Scores, weights: Float | None = None) -> Float:
    """Mean squared distance of the probabilities from the truth; halved for two classes, so that it lies in 0..1."""
    return mean_over_cases(scores, weights, squared_error(scores))


def nll(scores: Scores, weights: Float | None = None) -> Float:
    """Mean log-loss in nats; probabilities are clipped at 1e-6."""
    return mean_over_cases(scores, weights, log_loss(scores))


def calibration_slope(scores: Scores, weights: Float | None = None) -> Float:
    """Slope of the logistic regression of being right on the log-odds of the top probability (Cox 1958).

    1 for a calibrated model, below 1 for an over-confident one; with two classes, of class 1 on its own log-odds.
    """
    return _logistic(scores, weights)[:, 1]


def calibration_in_the_large(scores: Scores, weights: Float | None = None) -> Float:
    """What happened less what was foretold, on average: share of right answers (class 1, with two) less probability."""
    odds, happened = _events(scores)
    return mean_over_cases(scores, weights, happened - 1.0 / (1.0 + np.exp(-odds)))


def squared_error(scores: Scores) -> Float:
    """[n] per case; the terms of `brier`."""
    p = np.asarray(scores.probability, dtype=np.float64)
    error = ((p - _members(scores, p.dtype)) ** 2).sum(axis=1)
    return error / 2.0 if p.shape[1] == 2 else error


def log_loss(scores: Scores) -> Float:
    """[n] per case, in nats; the terms of `nll`."""
    said = np.asarray(scores.probability, dtype=np.float64)[np.arange(len(scores)), np.maximum(scores.target, 0)]
    return -np.log(np.clip(said, CLIP, 1.0))


def weights_of(record: Record, weights: Float | None) -> Float:
    """[B, n], those of cases without a label 0."""
    labelled = record.known
    w = np.ones((1, len(record))) if weights is None else np.atleast_2d(weights)
    return w if labelled.all() else w * labelled.astype(w.dtype)


def _right(scores: Scores) -> Float:
    return (scores.probability.argmax(axis=1) == scores.target).astype(np.float32)


def _members(scores: Scores, dtype: np.dtype) -> Float:
    return (scores.target[:, None] == np.arange(scores.probability.shape[1])).astype(dtype)


def mean_over_cases(record: Record, weights: Float | None, values: Float) -> Float:
    """[B] of values [n] that are finite, whether or not there is a label."""
    w = weights_of(record, weights)
    return ratio(w @ values.astype(w.dtype), w.sum(axis=1))


def _binned(scores: Scores, values: Float) -> Float:
    """[n, BINS], each case's value in its bin of the top probability."""
    placed = np.zeros((len(scores), BINS), dtype=np.float32)
    bins = np.clip(np.ceil(scores.probability.max(axis=1) * BINS).astype(int) - 1, 0, BINS - 1)
    placed[np.arange(len(scores)), bins] = values
    return placed


def _hits(scores: Scores) -> Float:
    """[n, 2]: whether each case was answered rightly, and 1, which sums up to the weight."""
    return np.column_stack([scores.once(_right), np.ones(len(scores), dtype=np.float32)])


def _gaps(scores: Scores) -> Float:
    """[n, BINS + 1]: what each case was answered less what was said of it, in its bin, and 1."""
    gaps = _binned(scores, scores.once(_right) - scores.probability.max(axis=1))
    return np.column_stack([gaps, np.ones(len(scores), dtype=np.float32)])


class Ranking(NamedTuple):
    """The positives in order of their score, the negatives in theirs, and how many of these lie below each positive.

    `upper` counts ties too; it is None where there are none.
    """

    above: Int
    below: Int
    lower: Int
    upper: Int | None


def _rankings(scores: Scores) -> list[Ranking]:
    """Of class 1 with two classes, else of each class against the rest."""
    if scores.probability.shape[1] == 2:
        return [rank(scores.probability[:, 1], scores.target == 1)]
    return [rank(p, scores.target == c) for c, p in enumerate(scores.probability.T)]


def rank(score: Float, positive: NDArray[np.bool_]) -> Ranking:
    """score [n], positive [n]: what `area` goes by, derived once for all weights."""
    order = np.argsort(score, kind="stable")
    above, below = order[positive[order]], order[~positive[order]]
    lower, upper = (np.searchsorted(score[below], score[above], side=side) for side in ("left", "right"))
    return Ranking(above, below, lower, None if np.array_equal(lower, upper) else upper)


def area(w: Float, ranking: Ranking) -> Float:
    """Mann-Whitney: the weight of pairs in which the positive stands above the negative, over all pairs."""
    above, below, lower, upper = ranking
    mass, total = w.T[above], _running(w.T, below)
    under = total[lower]
    if upper is not None:
        under = (under + total[upper]) / 2
    won = np.einsum("pb,pb->b", mass, under)
    return ratio(won, mass.sum(axis=0).astype(np.float64) * total[-1])


def _running(w: Float, rows: Int) -> Float:
    """[len(rows) + 1, b]: the sum of the first 0, 1, 2, ... of these rows of w [n, b].

    By blocks of about the root of their number, because numpy's cumsum goes down one column after the other.
    """
    n = len(rows)
    step = math.isqrt(n) + 1
    total = np.zeros((-(-n // step) * step + 1, w.shape[1]), dtype=w.dtype)
    np.take(w, rows, axis=0, out=total[1 : n + 1], mode="clip")
    blocks = total[1:].reshape(-1, step, w.shape[1])
    for i in range(1, step):
        blocks[:, i] += blocks[:, i - 1]
    for before, block in itertools.pairwise(blocks):
        block += before[-1]
    return total[: n + 1]


def _events(scores: Scores) -> tuple[Float, Float]:
    """(log-odds [n] of what was foretold, whether it happened [n])."""
    p = np.asarray(scores.probability, dtype=np.float64)
    said = np.clip(p[:, 1] if p.shape[1] == 2 else p.max(axis=1), CLIP, 1 - CLIP)
    happened = (scores.target == 1).astype(np.float64) if p.shape[1] == 2 else _right(scores).astype(np.float64)
    return np.log(said / (1 - said)), happened


def _logistic(scores: Scores, weights: Float | None, steps: int = 25) -> Float:
    """[B, 2] intercept and slope, by Newton's method from (0, 0); NaN where the outcomes are all alike."""
    w = np.asarray(weights_of(scores, weights), dtype=np.float64)
    odds, happened = _events(scores)
    design = np.column_stack([np.ones(len(odds)), odds])
    found = np.zeros((len(w), 2))
    for _ in range(steps):
        p = 1.0 / (1.0 + np.exp(-np.clip(found @ design.T, -30, 30)))
        gradient = (w * (happened - p)) @ design
        information = np.einsum("bn,ni,nj->bij", w * p * (1 - p), design, design) + 1e-9 * np.eye(2)
        found = found + np.clip(np.linalg.solve(information, gradient[:, :, None])[:, :, 0], -2, 2)
    share = ratio(w @ happened, w.sum(axis=1))
    found[~((share > 0) & (share < 1))] = np.nan
    return found


def ratio(top: Float, bottom: Float) -> Float:
    """NaN where the bottom is not above 0."""
    top = np.asarray(top, dtype=np.float64)
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=np.asarray(bottom) > 0)
