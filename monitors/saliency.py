"""Does a model look where people marked the finding: the pointing game and IoU of its attribution maps, and what a fall
of them means while its answers stay as good.

A map is read by the order of its places alone, so maps of any method and scale can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitors.bootstrap import patient_weights
from monitors.forms import Worths, mean_worth
from monitors.gates import LEAST, RESAMPLES, judgement
from monitors.intervals import Change, decide, paired_change, patients, wilson
from monitors.measures import Measure, balanced_accuracy
from monitors.protocols import Burden, Float, Judgement, Record, Scores, Verdict

TOLERANCE = 0.03
"""Of the image's longer side: the 15 pixels that Zhang and others (2018) allow in images of some 500."""


class Localised(NamedTuple):
    """Of one map beside one mask, each 0..1: whether its maximum falls on the mask, and the IoU of its highest places
    with the mask; what a map of no meaning would have of both on average, and whether the image's middle is on it."""

    pointing: float
    iou: float
    pointing_by_chance: float
    iou_by_chance: float
    centre: float


def localised(attribution: Float, mask: NDArray[np.bool_], tolerance: float = TOLERANCE) -> Localised | None:
    """attribution [h, w], mask [h, w]; None where the mask is empty: there is nothing to point at.

    Pointing game (Zhang and others 2018): 1 where the map's maximum lies on the mask or within `tolerance`, a share of
    the longer side. IoU: of the mask and as many of the map's highest pixels as the mask has, so that no threshold is
    chosen. Pixels of the same value share alike: a flat map has what chance has, the share of the image that hits, and,
    of a mask that covers the share a, about a / (2 - a). Raises ValueError for two shapes, or a map that holds NaN.
    """
    attribution, mask = np.asarray(attribution), np.asarray(mask, dtype=bool)
    if attribution.shape != mask.shape:
        raise ValueError(f"the map has the shape {attribution.shape} and the mask {mask.shape}")
    if not np.isfinite(attribution).all():
        raise ValueError("the map holds NaN or infinity")
    area = int(mask.sum())
    if not area:
        return None
    near = _near(mask, tolerance * max(mask.shape))
    threshold = np.partition(attribution.ravel(), -area)[-area]
    above, tied = attribution > threshold, attribution == threshold
    both = (above & mask).sum() + (area - above.sum()) * (tied & mask).sum() / tied.sum()
    covered = mask.mean()
    return Localised(
        pointing=float(near[attribution == attribution.max()].mean()),
        iou=float(both / (2 * area - both)),
        pointing_by_chance=float(near.mean()),
        iou_by_chance=float(covered / (2 - covered)),
        centre=float(near[mask.shape[0] // 2, mask.shape[1] // 2]),
    )


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What one version answered, of every labelled case, and where it looked, of those with a mask: [n] of
    `unit`, the patient; pointing and iou are those of Localised."""

    scores: Scores
    pointing: Worths
    iou: Worths

    @classmethod
    def of(cls, scores: Scores, found: Sequence[Localised], unit: NDArray[np.str_]) -> Looked:
        """found [m] of the cases with a mask, whose patients are unit [m]."""
        values = np.array(found, dtype=np.float64).reshape(-1, len(Localised._fields))
        return cls(
            scores=scores, pointing=Worths(value=values[:, 0], unit=unit), iou=Worths(value=values[:, 1], unit=unit)
        )

    @property
    def n(self) -> int:
        """Patients with a mask."""
        return patients(self.pointing)

    def intervals(self, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Of each measure, over patients: Wilson's of the pointing game, which has a width where every map hits, and
        the bootstrap's quantiles of the others."""
        ends = (1 - level) / 2, (1 + level) / 2
        low, _, high = wilson(self.pointing.value, np.ones(len(self.pointing)), self.pointing.unit, level)
        found = {"pointing_game": (low, high)}
        measured: list[tuple[str, Measure, Record]] = [
            ("iou", mean_worth, self.iou),
            ("balanced_accuracy", balanced_accuracy, self.scores),
        ]
        for name, measure, record in measured:
            drawn = [measure(record, weights) for weights in patient_weights(record.unit, RESAMPLES, seed)]
            lower, upper = np.nanquantile(np.concatenate(drawn), ends)
            found[name] = float(lower), float(upper)
        return found


class Shortcut:
    """Does a version look elsewhere than an earlier one while its answers are as good? FAIL where it does.

    Answers that stay right for another reason are what a shortcut is (Geirhos and others 2020; of chest films DeGrave
    and others 2021). Localisation fell where, of the same patients, the pointing game or the IoU is shown to be more
    than `margin` below, each at half of `alpha`; the answers held where balanced accuracy, as measured, is no more
    than that below. Where both fell it is no shortcut but harm, and the gates' business. INSUFFICIENT below `min_n`
    patients with a mask.
    """

    name = "shortcut"

    def __init__(self, margin: float = 0.05, alpha: float = 0.05, min_n: int = LEAST, seed: int = 0) -> None:
        self.margin, self.alpha, self.min_n, self.seed = margin, alpha, min_n, seed

    def judge(self, before: Looked, after: Looked) -> Judgement:
        """Tells of the measure that fell the most, beside its reach. Raises ValueError where the two are not of the
        same cases."""
        ways = (("pointing game", before.pointing, after.pointing), ("IoU", before.iou, after.iou))
        found = [(what, self._change(mean_worth, *pair), self.alpha / 2) for what, *pair in ways]
        what, change, alpha = min(found, key=lambda one: one[1].interval(one[2])[1])
        verdict, needed = decide(change, self.margin, alpha, Burden.NO_HARM_FOUND, self.min_n)
        quality = self._change(balanced_accuracy, before.scores, after.scores)
        low, high = quality.interval(self.alpha)
        aside = (
            f"; balanced accuracy {quality.before:.3f} before, {quality.after:.3f} after ({low:+.3f} to {high:+.3f})"
        )
        if verdict is Verdict.FAIL and quality.change < -self.margin:
            verdict, aside = Verdict.PASS, f"{aside}: both fell, so this is no shortcut but harm"
        return judgement(self.name, what, change, alpha, self.margin, verdict, needed, aside)

    def _change(self, measure: Measure, before: Record, after: Record) -> Change:
        return paired_change(measure, before, after, better=1, resamples=RESAMPLES, seed=self.seed)


def _near(mask: NDArray[np.bool_], reach: float) -> NDArray[np.bool_]:
    """The pixels no farther than `reach` pixels from the mask."""
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(~mask) <= reach
