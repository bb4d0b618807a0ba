"""Boxes matched with true ones, and the measures of the output form *boxes*: `measure(boxes, weights[B, n]) -> [B]`.

A case's weight is the weight of its boxes, said and true, so that patients are drawn anew as in monitors.measures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monitors.measures import mean_over_cases, ratio, weights_of
from monitors.protocols import Boxes, Float, Int

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
"""False positives per image at which sensitivity is read."""
ROWS = 2**20
"""Weights of boxes that are worked on at a time."""

Said = tuple[Float, Float, Int]
Truth = tuple[Float, Int]


def match(said: Float, scores: Float, labels: Int, true: Float, true_labels: Int) -> NDArray[np.bool_]:
    """[m, 10]: whether each said box found a true box of its class, at the IoU thresholds 0.5, 0.55, ..., 0.95.

    said [m, 4], true [t, 4]: x0, y0, x1, y1 in any unit, an area being (x1 - x0) * (y1 - y0); scores [m], labels [m],
    true_labels [t]. As COCO does it (Lin and others 2014): in the order of their scores boxes take the true box of
    largest IoU that nobody has taken yet, if that reaches the threshold; ties go to the one that stands first among
    said boxes, and last among true ones. Without true boxes nothing is matched; without said ones [0, 10] comes back.
    A box of no area finds nothing. COCO drops all but the best hundred boxes of an image; here all of them count.
    """
    said, true = np.reshape(said, (-1, 4)), np.reshape(true, (-1, 4))
    found = np.zeros((len(said), len(IOUS)), dtype=bool)
    if not len(said) or not len(true):
        return found
    overlap = np.where(np.asarray(labels)[:, None] == np.asarray(true_labels), iou(said, true), -1.0)
    free = np.ones((len(IOUS), len(true)), dtype=bool)
    for box in np.argsort(-np.asarray(scores), kind="stable"):
        left = np.where(free, overlap[box], -1.0)
        best = len(true) - 1 - left[:, ::-1].argmax(axis=1)
        reached = np.flatnonzero(left.max(axis=1) >= np.minimum(IOUS, 1 - 1e-10))
        found[box, reached] = True
        free[reached, best[reached]] = False
    return found


def iou(one: Float, other: Float) -> Float:
    """[m, t]: intersection over union of boxes [m, 4] and [t, 4], 0 where both have no area."""
    low, high = np.maximum(one[:, None, :2], other[:, :2]), np.minimum(one[:, None, 2:], other[:, 2:])
    shared = np.clip(high - low, 0.0, None).prod(axis=2)
    area, area_other = (np.clip(b[:, 2:] - b[:, :2], 0.0, None).prod(axis=1) for b in (one, other))
    return np.nan_to_num(ratio(shared, area[:, None] + area_other - shared))


def boxes(
    said: Sequence[Said], true: Sequence[Truth | None], unit: NDArray[np.str_], classes: int, threshold: float = 0.5
) -> Boxes:
    """The records of n cases: of each what was said (boxes [m, 4], scores [m], labels [m]), and what is true (boxes
    [t, 4], labels [t]), None where nobody knows."""
    nothing: Truth = (np.empty((0, 4)), np.empty(0, int))
    matched = [match(*one, *(nothing if of is None else of)) for one, of in zip(said, true, strict=True)]
    counts = [np.bincount(np.asarray((of or nothing)[1], int), minlength=classes) for of in true]
    return Boxes(
        case=np.repeat(np.arange(len(said)), [len(m) for m in matched]),
        label=np.concatenate([np.asarray(one[2], int) for one in said] or [np.empty(0, int)]),
        score=np.concatenate([np.asarray(one[1], float) for one in said] or [np.empty(0)]),
        matched=np.concatenate([*matched, np.zeros((0, len(IOUS)), dtype=bool)]),
        true=np.array(counts, dtype=int).reshape(-1, classes),
        known=np.array([of is not None for of in true], dtype=bool),
        unit=np.asarray(unit, dtype=np.str_),
        threshold=threshold,
    )


def map50(boxes: Boxes, weights: Float | None = None) -> Float:
    """Mean over the classes present (with weight) of the average precision at IoU 0.5, 0..1; NaN where there is no true
    box."""
    return _mean_precision(boxes, weights, 1)


def map(boxes: Boxes, weights: Float | None = None) -> Float:
    """COCO's mAP: average precision at IoU 0.5, 0.55, ..., 0.95, mean over them and the classes present (with weight).

    Precision, made to fall, is read at 101 recalls from 0 to 1 (Lin and others 2014).
    """
    return _mean_precision(boxes, weights, len(IOUS))


def froc(boxes: Boxes, weights: Float | None = None) -> Float:
    """Mean sensitivity, 0..1, at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per image, as in LUNA16 (Setio and others
    2017), but a box is found at IoU 0.5, and the boxes of all classes are counted together.

    At a rate it is the largest that some score gives with no more false positives; where scores tie, false positives
    are taken first. NaN where there is no true box.
    """
    w = np.asarray(weights_of(boxes, weights), dtype=np.float64)
    order = np.lexsort((boxes.matched[:, 0], -boxes.score))
    hit, true = boxes.matched[order, 0], w @ boxes.true.sum(axis=1)
    found = np.empty(len(w))
    for rows in _blocks(len(w), len(order)):
        mine = w[rows][:, boxes.case[order]]
        caught, wrong = np.cumsum(mine * hit, axis=1), np.cumsum(mine * ~hit, axis=1)
        wrong /= np.maximum(w[rows].sum(axis=1, keepdims=True), 1e-12)
        at = [np.where(wrong <= rate, caught, 0.0).max(axis=1, initial=0.0) for rate in RATES]
        found[rows] = np.mean(at, axis=0)
    return ratio(found, true)


def f1(boxes: Boxes, weights: Float | None = None) -> Float:
    """Mean over the cases of the case's F1, 0..1; see `case_f1`."""
    return mean_over_cases(boxes, weights, boxes.once(_read_f1))


def box_brier(boxes: Boxes, weights: Float | None = None) -> Float:
    """Mean over the cases of the squared error of their boxes' scores, by the number of true boxes (at least 1).

    A said box is right or wrong by IoU 0.5, and a true box that no box found was given the score 0. So one of score 0
    costs nothing, and a box that is said with the chance that it is right is never worse than one that is not said.
    """
    return mean_over_cases(boxes, weights, boxes.once(_squared_error))


def case_f1(boxes: Boxes) -> Float:
    """[n], 0..1: F1 at IoU 0.5 of the boxes whose score reaches the record's threshold, all classes counted together.

    1 where nothing is true and nothing is said; NaN where nobody knows what is true.
    """
    return boxes.once(_case_f1)


def class_f1(boxes: Boxes) -> Float:
    """[n, c], 0..1: F1 of each class as in `case_f1`; NaN where a class is neither true nor said."""
    shown = boxes.score >= boxes.threshold
    said, hit = (_per_class(boxes, which) for which in (shown, shown & boxes.matched[:, 0]))
    return np.where(boxes.known[:, None], ratio(2.0 * hit, said + boxes.true), np.nan)


def _case_f1(boxes: Boxes) -> Float:
    shown = boxes.score >= boxes.threshold
    said, hit = (_per_class(boxes, which).sum(axis=1) for which in (shown, shown & boxes.matched[:, 0]))
    whole = ratio(2.0 * hit, said + boxes.true.sum(axis=1))
    return np.where(boxes.known, np.where(np.isnan(whole), 1.0, whole), np.nan)


def _per_class(boxes: Boxes, which: NDArray[np.bool_]) -> Float:
    """[n, c]: how many of these boxes [m]."""
    counts = np.zeros(boxes.true.shape)
    np.add.at(counts, (boxes.case[which], boxes.label[which]), 1.0)
    return counts


def _read_f1(boxes: Boxes) -> Float:
    return np.nan_to_num(case_f1(boxes))


def _squared_error(boxes: Boxes) -> Float:
    hit = boxes.matched[:, 0]
    of_boxes = np.bincount(boxes.case, (boxes.score - hit) ** 2, minlength=len(boxes))
    true = boxes.true.sum(axis=1)
    missed = true - np.bincount(boxes.case, hit, minlength=len(boxes))
    return np.where(boxes.known, (of_boxes + missed) / np.maximum(true, 1), 0.0)


def _mean_precision(boxes: Boxes, weights: Float | None, levels: int) -> Float:
    """[B], over the first IoU thresholds."""
    w = np.asarray(weights_of(boxes, weights), dtype=np.float64)
    true, rankings = w @ boxes.true, boxes.once(_rankings)
    found = np.zeros(len(w))
    for label, order in enumerate(rankings):
        for rows in _blocks(len(w), len(order)):
            mine, there = w[rows][:, boxes.case[order]], true[rows, label]
            total = np.cumsum(mine, axis=1)
            for level in range(levels):
                hits = np.cumsum(mine * boxes.matched[order, level], axis=1)
                found[rows] += _average_precision(hits, total, there) / levels
    return ratio(found, (true > 0).sum(axis=1))


def _average_precision(hits: Float, total: Float, true: Float) -> Float:
    """[b] of the hits and the boxes so far [b, m] and the true ones [b]; 0 where there are none of these.

    Each of the 101 recalls is read at the first box that reaches it.
    """
    precision = hits / np.maximum(total, 1e-12)
    falling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = np.nan_to_num(ratio(hits, np.broadcast_to(true[:, None], hits.shape)))
    passed = np.searchsorted(RECALLS, recall, side="right")
    return (np.diff(passed, axis=1, prepend=0) * falling).sum(axis=1) / len(RECALLS)


def _rankings(boxes: Boxes) -> list[Int]:
    """Of each class its boxes, the highest score first."""
    order = np.argsort(-boxes.score, kind="stable")
    return [order[boxes.label[order] == label] for label in range(boxes.true.shape[1])]


def _blocks(rows: int, boxes: int) -> list[slice]:
    step = max(1, ROWS // max(boxes, 1))
    return [slice(start, start + step) for start in range(0, rows, step)]
