"""Measures of the output form *findings*: what each case was said to have of several that don't exclude each other.

`measure(findings, weights[B, n]) -> [B]`, as `monitors.measures` has it. A finding is answered with yes from a
probability of POINT on. Means over findings take each alike, however rare it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monitors.measures import BINS, CLIP, Ranking, area, mean_over_cases, rank, ratio, weights_of
from monitors.protocols import Findings, Float, Int

POINT = 0.5  # probability


def case_set_f1(findings: Findings) -> Float:
    """[n], 0..1: of each case the F1 of the set that was said of it (the example-based F1 of Tsoumakas and Katakis
    2007); 1 where there was rightly said to be none, NaN without a label.

    What a case rightly has not counts for nothing: of a dozen rare findings a model that finds none would else be right
    in nearly all.
    """
    said, true = _said(findings), findings.target
    both, total = (said & true).sum(axis=1), said.sum(axis=1) + true.sum(axis=1)
    f1 = np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)
    return np.where(findings.known, f1, np.nan)


def set_f1(findings: Findings, weights: Float | None = None) -> Float:
    """Mean over the cases of `case_set_f1`, 0..1."""
    return mean_over_cases(findings, weights, np.nan_to_num(case_set_f1(findings)))


def exact_match(findings: Findings, weights: Float | None = None) -> Float:
    """Share of the cases of which every finding was answered rightly (subset accuracy), 0..1."""
    return mean_over_cases(findings, weights, np.where(_right(findings).all(axis=1), 1.0, 0.0))


def finding_recall(findings: Findings, weights: Float | None = None) -> Float:
    """Balanced accuracy of findings, 0..1: the mean of the share of right answers to each finding where it is there and
    where it isn't, over those of the two that there are (with weight)."""
    total, right = _cells(findings, weights)
    present = total > 0
    recall = np.divide(right, total, out=np.zeros(right.shape), where=present)
    return ratio(recall.sum(axis=1), present.sum(axis=1))


def finding_auroc(findings: Findings, weights: Float | None = None) -> Float:
    """Mean over the findings of the area under the ROC curve, ties counting half; one that no case has, or every case,
    has none and is left out. NaN where all are."""
    return _mean(auroc_per_finding(findings, weights))


def auroc_per_finding(findings: Findings, weights: Float | None = None) -> Float:
    """[B, c]: of each finding, NaN where no case has it, or every one."""
    w = weights_of(findings, weights)
    return np.stack([area(w, ranking) for ranking in findings.once(_rankings)], axis=1)


def finding_ece(findings: Findings, weights: Float | None = None) -> Float:
    """Mean over the findings of `ece_per_finding`, 0..1."""
    return _mean(ece_per_finding(findings, weights))


def ece_per_finding(findings: Findings, weights: Float | None = None) -> Float:
    """[B, c]: of each finding the expected calibration error of its probability, 15 bins of equal width, 0..1."""
    w, p = weights_of(findings, weights), np.asarray(findings.probability, dtype=np.float64)
    bins = np.clip(np.ceil(p * BINS).astype(int) - 1, 0, BINS - 1)
    gaps, error = (findings.target - p) * findings.known[:, None], np.zeros((len(w), p.shape[1]))
    for c in range(p.shape[1]):
        placed = np.zeros((len(p), BINS))
        placed[np.arange(len(p)), bins[:, c]] = gaps[:, c]
        error[:, c] = ratio(np.abs(w @ placed).sum(axis=1), w.sum(axis=1))
    return error


def finding_brier(findings: Findings, weights: Float | None = None) -> Float:
    """Mean over cases and findings of the squared distance of the probability from the truth, 0..1."""
    squares = (np.asarray(findings.probability, dtype=np.float64) - findings.target) ** 2
    return mean_over_cases(findings, weights, squares.mean(axis=1))


def finding_nll(findings: Findings, weights: Float | None = None) -> Float:
    """Mean over cases and findings of the log-loss, nats; probabilities are clipped at 1e-6."""
    p = np.asarray(findings.probability, dtype=np.float64)
    of_truth = np.clip(np.where(findings.target, p, 1.0 - p), CLIP, 1.0)
    return mean_over_cases(findings, weights, -np.log(of_truth).mean(axis=1))


def agreement(findings: Findings) -> Float:
    """[n, c] of each case and finding that was said or is true: 1 where it is both, else 0; NaN where it is neither."""
    said, true = _said(findings), findings.target
    return np.where((said | true) & findings.known[:, None], (said & true).astype(np.float64), np.nan)


def present(findings: Findings) -> Int:
    """How many cases tell of each finding that it is there, and that it isn't, for those of the two that there are."""
    have = (findings.target & findings.known[:, None]).sum(axis=0)
    counts = np.concatenate([have, findings.known.sum() - have])
    return counts[counts > 0]


def _said(findings: Findings) -> NDArray[np.bool_]:
    return np.asarray(findings.probability) >= POINT


def _right(findings: Findings) -> NDArray[np.bool_]:
    return _said(findings) == findings.target


def _members(findings: Findings) -> Float:
    """[n, 2 * 2 c]: who has each finding and who has not, and then who of these was answered rightly."""
    member = np.concatenate([findings.target, ~findings.target], axis=1)
    right = np.tile(_right(findings), 2)
    return np.concatenate([member, member & right], axis=1).astype(np.float32)


def _cells(findings: Findings, weights: Float | None) -> tuple[Float, Float]:
    """([B, 2 c], [B, 2 c]): the weight of the cases with each finding and without, and of the right ones of them."""
    w = weights_of(findings, weights)
    total, right = np.split(w @ findings.once(_members).astype(w.dtype), 2, axis=1)
    return total, right


def _rankings(findings: Findings) -> list[Ranking]:
    return [rank(p, true) for p, true in zip(np.asarray(findings.probability).T, findings.target.T, strict=True)]


def _mean(values: Float) -> Float:
    """[B] of [B, c], over those that are defined."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1))
