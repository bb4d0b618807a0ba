"""What the gates go by in each output form: its measures, and when a case counts as served."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitors.detection import box_brier, case_f1, class_f1, f1
from monitors.findings import (
    agreement,
    case_set_f1,
    finding_brier,
    finding_nll,
    finding_recall,
    present,
    set_f1,
)
from monitors.measures import Measure, accuracy, balanced_accuracy, brier, mean_over_cases, nll
from monitors.overlap import case_dice, dice, pixel_brier, pixel_nll, structure_dice
from monitors.protocols import Boxes, Findings, Float, Int, Record, Regions, Scores

Said = tuple[str, Measure]
"""A measure, and the name that a judgement gives it."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One output form.

    quality: what a version is judged by; plain: the same with every case counting alike; losses: proper ones, smaller
    being better, by which probabilities are judged. worth: records -> [n] in 0..1, NaN where there is no label; from
    `served` on a case counts as served, and one that was and isn't any more `flipped`. parts: records -> [n, p] in 0..1
    of the classes, findings or structures, named `part` and numbered from `first`, in what `parts_in` says; NaN where
    the part is not in the case. cells: {measure: records -> how many cases tell of each thing that it counts alike},
    where that is not all cases of one.
    """

    quality: Said
    plain: Said
    losses: Sequence[Said]
    worth: Callable[[Any], Float]
    served: float
    flipped: str
    parts: Callable[[Any], Float]
    parts_in: str
    part: str
    first: int
    cells: Mapping[Measure, Callable[[Any], Int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Worths:
    """Records of cases whose worth is known already: value [n], 0..1; unit [n], the patient. They have no form."""

    value: Float
    unit: NDArray[np.str_]

    @property
    def known(self) -> NDArray[np.bool_]:
        return np.ones(len(self.value), dtype=bool)

    def __len__(self) -> int:
        return len(self.value)

    def take(self, which: NDArray) -> Worths:
        return Worths(value=self.value[which], unit=self.unit[which])

    def once(self, make: Callable[[Any], Any]) -> Any:
        return make(self)


def mean_worth(worths: Worths, weights: Float | None = None) -> Float:
    """[B], 0..1."""
    return mean_over_cases(worths, weights, worths.value)


def _right(scores: Scores) -> Float:
    right = (scores.probability.argmax(axis=1) == scores.target).astype(np.float64)
    return np.where(scores.known, right, np.nan)


def _right_per_class(scores: Scores) -> Float:
    """[n, c]: of each class its own cases only."""
    own = scores.target[:, None] == np.arange(scores.probability.shape[1])
    return np.where(own, _right(scores)[:, None], np.nan)


FORMS: Mapping[type, Form] = {
    Scores: Form(
        quality=("balanced accuracy", balanced_accuracy),
        plain=("accuracy", accuracy),
        losses=(("Brier score", brier), ("log-loss", nll)),
        worth=_right,
        served=1.0,
        flipped="were right and are wrong now",
        parts=_right_per_class,
        parts_in="recall",
        part="class",
        first=0,
        cells={balanced_accuracy: lambda scores: np.unique(scores.target, return_counts=True)[1]},
    ),
    Findings: Form(
        quality=("balanced accuracy of findings", finding_recall),
        plain=("F1 of findings", set_f1),
        losses=(("findings' Brier score", finding_brier), ("findings' log-loss", finding_nll)),
        worth=case_set_f1,
        served=0.5,
        flipped="had an F1 of 0.5 or more and have less now",
        parts=agreement,
        parts_in="agreement",
        part="finding",
        first=0,
        cells={finding_recall: present},
    ),
    Regions: Form(
        quality=("Dice", dice),
        plain=("Dice", dice),
        losses=(("pixels' Brier score", pixel_brier), ("pixels' log-loss", pixel_nll)),
        worth=case_dice,
        served=0.5,
        flipped="had a Dice of 0.5 or more and have less now",
        parts=structure_dice,
        parts_in="Dice",
        part="structure",
        first=1,
    ),
    Boxes: Form(
        quality=("F1 at IoU 0.5", f1),
        plain=("F1 at IoU 0.5", f1),
        losses=(("boxes' Brier score", box_brier),),
        worth=case_f1,
        served=0.5,
        flipped="had an F1 of 0.5 or more and have less now",
        parts=class_f1,
        parts_in="F1",
        part="class",
        first=0,
    ),
}
"""Boxes are judged by the mean F1 of the cases and not by mAP, which is no mean over patients: what one of them adds to
it hangs on the scores of all others, and flips, groups and classes need a worth of each. Findings are judged at the
answer that is given, and not by AUROC, which stays while every probability falls below a half."""


def form_of(before: Record, after: Record) -> Form:
    """Raises ValueError where the two are of different output forms, or of none."""
    if type(before) is not type(after) or type(before) not in FORMS:
        known = ", ".join(kind.__name__ for kind in FORMS)
        raise ValueError(
            f"{type(before).__name__} and {type(after).__name__} can't be compared: give two records of one of {known}"
        )
    return FORMS[type(before)]


def cells(measure: Measure, record: Record) -> Int:
    """How many cases tell of each thing that the measure counts alike: of all cases one, unless the form says more."""
    form = FORMS.get(type(record))
    count = form.cells.get(measure) if form else None
    return np.array([len(record)]) if count is None else count(record)
