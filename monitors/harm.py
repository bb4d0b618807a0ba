"""Harm of the version that is live: shown by labels, at any time; shown to be absent; and collapse, without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitors.alpha import quantile
from monitors.protocols import Float, Judgement, Verdict
from monitors.state import check_version, joined


class PairedHarm:
    """Evidence that the promoted version is wrong more often than the previous one, valid whenever it is looked at.

    Per labelled patient d = (previous right) - (promoted right) in [-1, 1]. While E[d] <= margin, the wealth of a
    bettor, the product of 1 + bet * (d - margin), is a non-negative supermartingale, and so is its mean over `bets`
    (Waudby-Smith and Ramdas 2024): it ever reaches 1 / alpha with probability at most alpha.
    """

    def __init__(self, margin: float = 0.02, alpha: float = 0.05) -> None:
        self.margin, self.alpha = margin, alpha
        self.bets = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
        self._log = np.zeros(len(self.bets))
        self._highest = 0.0
        self.n = 0

    def update(self, promoted_right: float, previous_right: float) -> bool:
        """Takes one labelled patient, 0..1 or bool each (the share of right answers), in the order in which labels
        came; returns `harmful`. Raises ValueError outside 0..1."""
        if not (0 <= promoted_right <= 1 and 0 <= previous_right <= 1):
            raise ValueError(f"correctness lies in 0..1, not {promoted_right} and {previous_right}")
        lost = float(previous_right) - float(promoted_right)
        self._log = self._log + np.log1p(self.bets * (lost - self.margin))
        self._highest = max(self._highest, self.log_e)
        self.n += 1
        return self.harmful

    @property
    def log_e(self) -> float:
        return float(np.logaddexp.reduce(self._log) - np.log(len(self.bets)))

    @property
    def harmful(self) -> bool:
        """Whether harm beyond the margin has been shown, now or at an earlier label."""
        return self._highest >= -np.log(self.alpha)

    def state(self) -> dict[str, NDArray]:
        return joined({"log": self._log, "highest": np.array(self._highest), "n": np.array(self.n)})

    def restore(self, state: Mapping[str, NDArray]) -> None:
        check_version(state)
        self._log, self._highest = np.array(state["log"], dtype=float), float(state["highest"])
        self.n = int(state["n"])


@dataclass(frozen=True)
class Correction:
    """What the confidence of all patients of today adds to the accuracy of the labelled ones: `shift`, the difference
    that it foretells between the two, `error`, its standard error, and `unexplained`, the variance that is left among
    the labelled ones, as a share of that of right and wrong (1: all of it)."""

    shift: float = 0.0
    error: float = 0.0
    unexplained: float = 1.0


def by_confidence(approved: tuple[Float, Float], labelled: tuple[Float, Float], today: Float) -> Correction:
    """The correction of the labelled patients' accuracy to those of today, most of whom have no label yet.

    approved [m], labelled [n]: (the share of right answers, the mean confidence) of each patient, 0..1; today [q]: mean
    confidence. The difference of the mean confidences, times the slope of accuracy on confidence, is added: a control
    variate, or prediction-powered inference (Angelopoulos and others 2023, arXiv 2301.09633 and 2311.01453). Labels are
    weeks old: where the images have become worse since, confidence has mostly fallen meanwhile, and says so. The slope
    is learnt at the approval and not from the labels that are judged, so that the estimate has no bias whatever the
    slope is: theorem, where the labelled patients are a fair sample of today's. A wrong slope costs power only.
    """
    (was_right, was_sure), (right, sure) = approved, labelled
    spread = float(np.var(was_sure)) if len(was_sure) else 0.0
    slope = float(np.cov(was_right, was_sure, bias=True)[0, 1]) / spread if spread > 1e-9 else 0.0
    accuracy = float(np.mean(right))
    left = float(np.var(right - slope * sure)) / (accuracy * (1 - accuracy)) if 0 < accuracy < 1 else 1.0
    error = abs(slope) * float(np.std(today)) / np.sqrt(len(today))
    return Correction(slope * float(np.mean(today) - np.mean(sure)), error, left)


def unharmed(
    approved: tuple[float, int],
    since: tuple[float, int],
    margin: float,
    alpha: float,
    correction: Correction = Correction(),
) -> Judgement:
    """Is the accuracy since a change at most `margin` below the approved one? PASS where that is shown at level alpha.

    Each: (the patients' shares of right answers, 0..1, added up; patients), two samples of different patients. The
    interval of the difference adds a right and a wrong patient to each sample (Agresti and Caffo 2000), which keeps its
    level from some ten patients on; a patient with several cases counts as one. `correction` moves the second sample
    to the patients of today.
    """
    n, m = since[1], approved[1]
    if not n or not m:
        says = "there is no labelled patient"
        return Judgement(gate="unharmed", verdict=Verdict.INSUFFICIENT, n=n, before=None, after=None, interval=None,
                         margin=margin, says=says, needed=None)  # fmt: skip
    shares = [(right + 1) / (size + 2) for right, size in (approved, since)]
    was, now = (p * (1 - p) / (size + 2) for p, size in zip(shares, (m, n), strict=True))
    error = np.sqrt(was + correction.unexplained * now + correction.error**2)
    change, reach = float(shares[1] - shares[0] + correction.shift), float(quantile(1 - alpha) * error)
    low, high = change - reach, change + reach
    verdict = Verdict.PASS if low > -margin else Verdict.FAIL if high < -margin else Verdict.INSUFFICIENT
    before, after = approved[0] / m, since[0] / n + correction.shift
    says = (
        f"accuracy {before:.3f} on the {m} patients of the approval, {after:.3f} on {n} since the change; change "
        f"between {low:+.3f} and {high:+.3f}, margin {margin:.3f}"
    )
    return Judgement(gate="unharmed", verdict=verdict, n=n, before=before, after=after, interval=(low, high),
                     margin=margin, says=says, needed=None)  # fmt: skip


def collapse(outputs: Float, reference_outputs: Float, cases: int = 20, exclusive: bool = True) -> str | None:
    """What is wrong with the outputs [n, c] whatever the cases were, in one sentence; None where nothing is.

    Probabilities that are not finite, of another number of classes than the reference's [m, c], outside 0..1 or, of
    classes that are `exclusive`, not summing to 1; or one and the same answer to the last `cases` cases of a model that
    used to tell cases apart.
    """
    if outputs.ndim != 2 or outputs.shape[1] != reference_outputs.shape[1]:
        return f"outputs have shape {outputs.shape[1:]} and the reference's have {reference_outputs.shape[1:]}"
    if not np.isfinite(outputs).all():
        return f"{int(np.sum(~np.isfinite(outputs).all(axis=1)))} outputs hold NaN or infinity"
    too_much = outputs.sum(axis=1) - 1 if exclusive else np.maximum(outputs - 1, 0)
    if len(outputs) and (outputs.min() < -1e-6 or np.abs(too_much).max() > 1e-3):
        return f"outputs are not probabilities{' that sum to 1' * exclusive}"
    last = outputs[-cases:]
    told_apart = len(reference_outputs) >= cases and np.ptp(reference_outputs, axis=0).max() > 1e-3
    if told_apart and len(last) >= cases and np.ptp(last, axis=0).max() < 1e-6:
        return f"the last {len(last)} cases were all given the same answer"
    return None
