"""The gates: pure rules over paired records before and after an update, each with a margin, a burden and a level.

Every interval is over patients, of the change for the better (after less before), unless the gate says otherwise.
"""

from __future__ import annotations

import numpy as np

from monitors.alpha import quantile
from monitors.forms import form_of
from monitors.intervals import Change, decide, labelled, paired_change, patients
from monitors.measures import calibration_in_the_large, calibration_slope
from monitors.protocols import Burden, Judgement, Record, Scores, Verdict

__all__ = ["Gain", "Forgetting", "Calibration", "NegativeFlips"]

RESAMPLES = 2000
LEAST = 12
"""Patients below which a gate says nothing: from there on the intervals keep their level (tests/monitors)."""
SLOPE_DECIDES = 200
"""Patients from which the calibration slope and calibration-in-the-large are told."""


class Gain:
    """Is the candidate better where it should be? It must be shown to rise by more than `margin`; with the burden
    NO_HARM_FOUND, it must not be shown to rise by less.

    Shown in balanced accuracy, or in accuracy while balanced accuracy has not fallen, each at half the level: among few
    patients a class of two or three makes balanced accuracy too coarse to show anything, and accuracy alone would
    praise a model that gives up a rare class. Regions and boxes have one measure, at the whole level (monitors.forms).
    The one gate that an incumbent does not pass against itself. It answers INSUFFICIENT while a true gain of `margin` +
    5 points could be missed with more than one chance in five.
    """

    name = "gain"
    worthwhile = 0.05

    def __init__(
        self,
        margin: float = 0.0,
        burden: Burden = Burden.NON_INFERIORITY,
        alpha: float = 0.05,
        min_n: int = LEAST,
        seed: int = 0,
    ) -> None:
        self.margin, self.burden, self.alpha, self.min_n, self.seed = margin, burden, alpha, min_n, seed

    def judge(self, before: Record, after: Record) -> Judgement:
        form = form_of(before, after)
        (what, quality), two = form.quality, form.plain != form.quality
        alpha = self.alpha / 2 if two else self.alpha
        change = paired_change(quality, before, after, better=1, resamples=RESAMPLES, seed=self.seed)
        low, high = change.interval(alpha)
        needed = max(self.min_n, change.needed(self.worthwhile, alpha)) if change.n else self.min_n
        if two and change.n and low <= self.margin and change.change >= 0:
            name, measure = form.plain
            plain = paired_change(measure, before, after, better=1, resamples=RESAMPLES, seed=self.seed)
            if plain.interval(alpha)[0] > self.margin:
                change, what = plain, name
                low, high = change.interval(alpha)
        enough = change.n >= self.min_n
        if enough and high <= self.margin:
            verdict, missing = Verdict.FAIL, None
        elif enough and (low > self.margin or self.burden is Burden.NO_HARM_FOUND):
            verdict, missing = Verdict.PASS, None
        elif change.n >= needed:
            verdict, missing = Verdict.FAIL, None
        else:
            verdict, missing = Verdict.INSUFFICIENT, needed
        return judgement(self.name, what, change, alpha, self.margin, verdict, missing)


class Forgetting:
    """Is it as good as before where it was good? Paired non-inferiority in balanced accuracy, in the mean Dice of
    regions, in the mean F1 of boxes.

    Judged against the original as well as against the live version, small losses cannot add up unseen.
    """

    name = "forgetting"

    def __init__(
        self,
        margin: float = 0.05,
        burden: Burden = Burden.NON_INFERIORITY,
        alpha: float = 0.05,
        min_n: int = LEAST,
        seed: int = 0,
    ) -> None:
        self.margin, self.burden, self.alpha, self.min_n, self.seed = margin, burden, alpha, min_n, seed

    def judge(self, before: Record, after: Record) -> Judgement:
        what, quality = form_of(before, after).quality
        change = paired_change(quality, before, after, better=1, resamples=RESAMPLES, seed=self.seed)
        verdict, missing = decide(change, self.margin, self.alpha, self.burden, self.min_n)
        return judgement(self.name, what, change, self.alpha, self.margin, verdict, missing)


class Calibration:
    """Are the probabilities as good as before? Paired non-inferiority in Brier score and in log-loss, both.

    Of regions it is those of the pixels; of boxes the Brier score alone: the log-loss of a box that was never said has
    no bound. The worse of the two gives the verdict; of scores, slope and calibration-in-the-large are told from 200
    patients on.
    """

    name = "calibration"

    def __init__(
        self,
        margin: float = 0.02,
        margin_nll: float = 0.05,
        burden: Burden = Burden.NON_INFERIORITY,
        alpha: float = 0.05,
        min_n: int = LEAST,
        seed: int = 0,
    ) -> None:
        self.margin, self.margin_nll, self.burden = margin, margin_nll, burden
        self.alpha, self.min_n, self.seed = alpha, min_n, seed

    def judge(self, before: Record, after: Record) -> Judgement:
        worst: Judgement | None = None
        losses, margins = form_of(before, after).losses, (self.margin, self.margin_nll)
        for (what, measure), margin in zip(losses, margins, strict=False):
            change = paired_change(measure, before, after, better=-1, resamples=RESAMPLES, seed=self.seed)
            verdict, missing = decide(change, margin, self.alpha, self.burden, self.min_n)
            found = judgement(self.name, what, change, self.alpha, margin, verdict, missing, self._shape(after))
            if worst is None or ORDER.index(found.verdict) > ORDER.index(worst.verdict):
                worst = found
        assert worst is not None
        return worst

    @staticmethod
    def _shape(after: Record) -> str:
        after = labelled(after)
        if not isinstance(after, Scores) or patients(after) < SLOPE_DECIDES:
            return ""
        slope, large = float(calibration_slope(after)[0]), float(calibration_in_the_large(after)[0])
        return f"; slope {slope:.2f}, in the large {large:+.3f}"


class NegativeFlips:
    """How many patients were answered rightly before and wrongly now? Their share must stay within `margin`.

    The interval is of that share, exact (Clopper and Pearson 1934); a patient flips where one of their cases does. One
    of regions or boxes is answered rightly from a Dice or an F1 of 0.5 on.
    """

    name = "negative-flips"

    def __init__(
        self,
        margin: float = 0.05,
        burden: Burden = Burden.NON_INFERIORITY,
        alpha: float = 0.05,
        min_n: int = LEAST,
    ) -> None:
        self.margin, self.burden, self.alpha, self.min_n = margin, burden, alpha, min_n

    def judge(self, before: Record, after: Record) -> Judgement:
        from scipy.special import betaincinv

        form = form_of(before, after)
        before, after = labelled(before), labelled(after)
        flipped = (form.worth(before) >= form.served) & ~(form.worth(after) >= form.served)
        n, k = patients(before), len(np.unique(before.unit[flipped]))
        low = float(betaincinv(k, n - k + 1, self.alpha)) if k else 0.0
        high = float(betaincinv(k + 1, n - k, 1 - self.alpha)) if k < n else 1.0
        share = k / n if n else None
        needed = max(self.min_n, _patients_for_share(share or 0.0, self.margin, self.alpha))
        if n < self.min_n:
            verdict = Verdict.INSUFFICIENT
        elif low > self.margin:
            verdict = Verdict.FAIL
        elif self.burden is Burden.NO_HARM_FOUND or high < self.margin:
            verdict = Verdict.PASS
        else:
            verdict = Verdict.FAIL if n >= needed else Verdict.INSUFFICIENT
        missing = needed if verdict is Verdict.INSUFFICIENT else None
        says = f"{k} of {n} patients {form.flipped}, between {low:.1%} and {high:.1%}, allowed {self.margin:.1%}"
        return Judgement(
            gate=self.name,
            verdict=verdict,
            n=n,
            before=0.0 if n else None,
            after=share,
            interval=(low, high) if n else None,
            margin=self.margin,
            says=says + _wanting(missing),
            needed=missing,
        )


ORDER = [Verdict.PASS, Verdict.INSUFFICIENT, Verdict.FAIL]
"""From best to worst: of several findings the worst speaks."""


def judgement(
    gate: str,
    what: str,
    change: Change,
    alpha: float,
    margin: float,
    verdict: Verdict,
    needed: int | None,
    aside: str = "",
) -> Judgement:
    """In words: `what` was measured, what `change` it showed, at which level, and `aside`, which begins with "; "."""
    if not change.n:
        return Judgement(
            gate=gate,
            verdict=verdict,
            n=0,
            before=None,
            after=None,
            interval=None,
            margin=margin,
            says="there is no labelled patient" + _wanting(needed),
            needed=needed,
        )
    low, high = change.interval(alpha)
    says = (
        f"{what} {change.before:.3f} before, {change.after:.3f} after, on {change.n} patients; change for the better "
        f"between {low:+.3f} and {high:+.3f}, margin {margin:.3f}{aside}{_wanting(needed)}"
    )
    return Judgement(
        gate=gate,
        verdict=verdict,
        n=change.n,
        before=change.before,
        after=change.after,
        interval=(low, high),
        margin=margin,
        says=says,
        needed=needed,
    )


def _wanting(needed: int | None) -> str:
    return "" if needed is None else f"; about {needed} labelled patients would decide"


def _patients_for_share(share: float, margin: float, alpha: float) -> int:
    """Patients with which a share like the one seen (at most half the margin) would be shown to be below the margin."""
    supposed = min(share, margin / 2)
    z = quantile(1 - alpha) + quantile(0.8)
    return int(
        np.ceil(max(z**2 * margin * (1 - margin) / (margin - supposed) ** 2, np.log(alpha) / np.log(1 - margin)))
    )
