"""How many answers are right where nobody has labelled: estimates from the model's own confidence.

An estimate alerts and says how much harm a change may do. It approves nothing: each is right under an assumption only,
and the assumption fails in just the changes that do most harm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from monitors.bootstrap import patient_weights
from monitors.measures import CLIP
from monitors.prevalence import mixes, under
from monitors.protocols import Findings, Float, Int, Scores

FEWEST = 20  # patients on either side, and labelled ones for a rule of a class's own
RESAMPLES = 400
LEVEL = 0.95  # of the band
POINT = 0.5  # a finding is answered with yes from this probability on
STEPS, CLOSE = 25, 1e-6  # of Newton's method at most, and the step at which it ends

Band = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The share of right answers, 0..1, `before` by the reference's labels and `value` as estimated of the new cases.

    low, high: 95 % band of what labels of these cases, or of patients like them, would show. Patients of both sides are
    drawn anew, so that the error of one reference is in it, and so is the luck of the labels, as if a patient's answers
    were right or wrong together; what the assumption misses is not. All are None where there is no estimate; `says`
    then tells why, and else what the estimate assumes.
    n: new patients. by_class: (value, low, high) of the cases that were answered with each class, or of each finding
    where they don't exclude each other; None for one with fewer than 20 patients on a side.
    """

    n: int
    by_class: tuple[Band | None, ...]
    says: str
    before: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None


@runtime_checkable
class Estimator(Protocol):
    """A rule that reads off a confidence the chance that the answer is right; `assumption` says when it may.

    other_mix: the chances are then taken for those under the new cases' prevalence, see `estimate`.

    learn(confidence [n] in 0..1, right [n] of 0 and 1, weights [b, n]) returns, for every row of weights, the rule
    learnt under it: confidences [m] -> chances [b, m], whose weighted mean is the estimate.
    """

    name: str
    assumption: str
    other_mix: bool

    def learn(self, confidence: Float, right: Float, weights: Float) -> Callable[[Float], Float]: ...


class CBPE:
    """Confidence-based performance estimation (NannyML 2022): the mean of the calibrated chances of being right.

    Exact of calibrated probabilities only, so they are calibrated first: a logistic regression of being right on the
    log-odds of the confidence (Platt 1999), with a Gaussian prior of variance 1 around slope 1 and intercept 0, which
    is the confidence as it is. On the reference itself the estimate is the accuracy, but for the prior.

    other_mix: the classes may come in another mix, which is estimated and told apart from other changes by nobody but
    the caller: where they don't, or images look different too, the estimate is worse for it.
    """

    name = "CBPE"
    assumption = (
        "holds where an answer of the same confidence is right as often as before; blind to diseases that look "
        "different now, to a model that is sure of images it has never seen, and to another prevalence"
    )

    def __init__(self, other_mix: bool = False) -> None:
        self.other_mix = other_mix
        if other_mix:
            self.name = "CBPE, another mix"
            self.assumption = (
                "holds where the classes come in another mix and each looks as before; blind to diseases that look "
                "different now, and to a model that is sure of images it has never seen"
            )

    def learn(self, confidence: Float, right: Float, weights: Float) -> Callable[[Float], Float]:
        odds = _log_odds(confidence)
        slope, intercept = np.ones(len(weights)), np.zeros(len(weights))
        for _ in range(STEPS):
            p = _logistic(slope, intercept, odds)
            miss, bend = weights * (right - p), weights * p * (1 - p)
            down = (miss @ odds + 1 - slope, miss.sum(axis=1) - intercept)
            aa, ab, bb = bend @ odds**2 + 1, bend @ odds, bend.sum(axis=1) + 1
            whole = aa * bb - ab**2
            steps = np.clip([(bb * down[0] - ab * down[1]) / whole, (aa * down[1] - ab * down[0]) / whole], -1, 1)
            slope, intercept = slope + steps[0], intercept + steps[1]
            if np.abs(steps).max() < CLOSE:
                break
        return lambda new: _logistic(slope, intercept, _log_odds(new))


class ATC:
    """Average thresholded confidence (Garg and others 2022): the share of answers above a confidence, which is the one
    that as many of the reference's answers lie below as are wrong."""

    name = "ATC"
    assumption = (
        "holds where as many answers are wrong as are unsure, as in the reference; fails under another prevalence and "
        "with a model that is sure of images it has never seen"
    )
    other_mix = False

    def learn(self, confidence: Float, right: Float, weights: Float) -> Callable[[Float], Float]:
        order = np.argsort(confidence, kind="stable")
        below = np.cumsum(weights[:, order], axis=1)
        wrong = weights @ (1 - right)
        at = np.minimum((below <= wrong[:, None] + 1e-9).sum(axis=1), len(order) - 1)
        threshold = np.where(wrong >= below[:, -1], np.inf, confidence[order][at])
        return lambda new: (new >= threshold[:, None]).astype(np.float64)


class DoC:
    """Difference of confidences (Guillory and others 2021): accuracy falls as much as the mean confidence does.

    Confidences are taken as they are; of calibrated ones this would be CBPE.
    """

    name = "DoC"
    assumption = (
        "holds where accuracy falls as much as the mean confidence does; fails under another prevalence and with a "
        "model that is sure of images it has never seen"
    )
    other_mix = False

    def learn(self, confidence: Float, right: Float, weights: Float) -> Callable[[Float], Float]:
        gap = weights @ (right - confidence) / weights.sum(axis=1)
        return lambda new: new + gap[:, None]


def estimate(
    how: Estimator, known: Scores | Findings, probability: Float, unit: NDArray[np.str_], by_class: bool = False
) -> Estimate:
    """The accuracy at new cases, probability [m, c] and their patients [m], by what is `known` of the reference.

    known.target [n] is a class, -1 where unknown; or known are Findings, or Scores whose target [n, c] is 1, 0 or -1
    for each finding: then rows don't sum to 1, a finding is answered with yes from 0.5 on, and the accuracy is the mean
    over findings.
    by_class: a rule per answered class (Li and others 2022) where it has 20 labelled patients, or per finding and
    answer; of findings each has a rule of its own anyway. Where `how` asks for another mix, the chances are those under
    the new prevalence, which is estimated anew under every draw, of findings one by one. Cases with NaN are left out.
    Raises ValueError where the two sides have not the same classes.
    """
    target = known.target if isinstance(known, Scores) else np.where(known.known[:, None], known.target, -1)
    classes, several = known.probability.shape[1], target.ndim == 2
    if len(probability) and probability.shape[1] != classes:
        raise ValueError(f"{probability.shape[1]} classes can't be compared with {classes}")
    old = _asked(known.probability, known.unit, several, target)
    new = _asked(probability, unit, several)
    labelled = max((_patients(old, known) for known in np.isfinite(old.right).T), default=0)
    patients = _patients(new)
    if min(labelled, patients) < FEWEST or (classes == 1 and not several):
        says = f"no estimate from {labelled} labelled patients and {patients} new ones: it takes {FEWEST} of each"
        if classes == 1:
            says = "no estimate of a model that knows one class only"
        return Estimate(n=patients, by_class=(None,) * classes, says=says)
    weights = resampled(new.unit, 1)
    chances = _chances(how, old, new, (resampled(old.unit, 0), weights), by_class)
    value, low, high = _band(chances, weights, patients)
    taught = np.isfinite(chances[0]).all(axis=0)
    return Estimate(
        before=float(np.nanmean(old.right[:, taught], axis=0).mean()),
        value=value,
        low=low,
        high=high,
        n=patients,
        by_class=tuple(_of_class(c, old, new, chances, weights, several) for c in range(classes)),
        says=how.assumption,
    )


class _Asked(NamedTuple):
    """[n, k] of the questions that each case was asked: which class it is (k is 1), or of k findings whether it has
    them. `right` is 1, 0, or NaN where nobody knows, `truth` then -1; said [n, k, a]: of each possible answer."""

    unit: NDArray[np.str_]
    answer: Int
    confidence: Float
    right: Float
    truth: Int
    said: Float


def _asked(probability: Float, unit: NDArray[np.str_], several: bool, target: NDArray | None = None) -> _Asked:
    """Without the cases that have NaN, or no label where there are labels."""
    p = np.asarray(probability, dtype=np.float64)
    if several:
        answer, said = (p >= POINT).astype(np.int64), np.stack([1 - p, p], axis=2)
    else:
        answer, said = p.argmax(axis=1)[:, None], p[:, None, :]
    kept, truth = np.isfinite(p).all(axis=1), np.full(answer.shape, -1)
    if target is not None:
        truth = target if several else target[:, None]
        kept &= (truth >= 0).any(axis=1)
    right = np.where(truth >= 0, answer == truth, np.nan)
    return _Asked(unit[kept], answer[kept], said.max(axis=2)[kept], right[kept], truth[kept], said[kept])


def resampled(unit: NDArray[np.str_], seed: int) -> Float:
    """[1 + RESAMPLES, n]: every case once, and the weights of patients drawn anew."""
    return np.vstack([np.ones((1, len(unit))), *patient_weights(unit, RESAMPLES, seed)])


def _chances(how: Estimator, old: _Asked, new: _Asked, drawn: tuple[Float, Float], by_class: bool) -> Float:
    """[b, m, k] of every new answer, to be right; NaN of a finding with too few labelled patients. drawn: the weights
    [b, n] of the reference's cases and [b, m] of the new ones."""
    weights = drawn[0]
    found = np.full((len(weights), *new.answer.shape), np.nan)
    for k in range(new.answer.shape[1]):
        known = np.isfinite(old.right[:, k])
        rules = [(known, np.ones(len(new.unit), dtype=bool))]
        if by_class:
            rules += [(known & (old.answer[:, k] == a), new.answer[:, k] == a) for a in np.unique(new.answer[:, k])]
        for taught, read in rules:  # a class with few patients keeps to the rule of all, which is the first
            if _patients(old, taught) >= FEWEST:
                rule = how.learn(old.confidence[taught, k], old.right[taught, k], weights[:, taught])
                found[:, read, k] = rule(new.confidence[read, k])
        if how.other_mix and _patients(old, known) >= FEWEST:
            mix = mixes(old.said[:, k], old.truth[:, k], new.said[:, k], *drawn)
            found[:, :, k] = under(mix, found[:, :, k], new.answer[:, k], new.said[:, k])
    return found


def _of_class(c: int, old: _Asked, new: _Asked, chances: Float, weights: Float, several: bool) -> Band | None:
    if several:
        known, here = np.isfinite(old.right[:, c]), np.ones(len(new.unit), dtype=bool)
        chances = chances[:, :, c : c + 1]
    else:
        known, here = old.answer[:, 0] == c, new.answer[:, 0] == c
    patients = _patients(new, here)
    if min(_patients(old, known), patients) < FEWEST:
        return None
    return _band(chances[:, here], weights[:, here], patients)


def _band(chances: Float, weights: Float, patients: int) -> Band:
    """The weighted mean of the chances by the first row, and the quantiles of the others', each with its own luck."""
    chance, total = np.nanmean(chances, axis=2), weights.sum(axis=1)
    means = (chance * weights).sum(axis=1) / total
    likely = np.clip(chance, 0.0, 1.0)
    luck = np.sqrt((likely * (1 - likely) * weights).sum(axis=1) / total / patients)
    drawn = means + luck * np.random.default_rng(2).standard_normal(len(means))
    low, high = np.quantile(drawn[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value, low, high = np.clip([means[0], low, high], 0.0, 1.0)
    return float(value), float(low), float(high)


def _patients(asked: _Asked, which: NDArray[np.bool_] | None = None) -> int:
    return len(np.unique(asked.unit if which is None else asked.unit[which]))


def _log_odds(confidence: Float) -> Float:
    p = np.clip(np.asarray(confidence, dtype=np.float64), CLIP, 1 - CLIP)
    return np.log(p / (1 - p))


def _logistic(slope: Float, intercept: Float, odds: Float) -> Float:
    """[b], [b], [n] -> [b, n]."""
    return 1 / (1 + np.exp(-np.clip(np.outer(slope, odds) + intercept[:, None], -30, 30)))
